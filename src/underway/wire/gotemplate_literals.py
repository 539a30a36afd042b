"""Go's constants as they are written, and values as Go's ``fmt`` writes them.

Source: Go language specification, "Lexical elements"; Go ``fmt`` package documentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.?))",
    re.DOTALL,
)
_SIMPLE = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
}
_WRITTEN = {value: f"\\{name}" for name, value in _SIMPLE.items() if name not in "'\""}
_LARGE = 6  # the exponent from which on the shortest form shows one
MAX_INT, MIN_INT = 2**63 - 1, -(2**63)


def string_value(written: str) -> str:
    """The string that a Go string constant means.

    Raises:
        ValueError: it has an escape that Go does not know.
    """
    if written[0] == "`":
        return written[1:-1].replace("\r", "")
    return _unescaped(written[1:-1], written[0])


def _unescaped(text: str, quote: str) -> str:
    if "\\" not in text:
        return text
    other = '"' if quote == "'" else "'"

    def replace(found: re.Match[str]) -> str:
        simple, byte, short, long, octal, wrong = found.groups()
        if wrong is not None or simple == other:
            raise ValueError("invalid syntax")
        if simple:
            return _SIMPLE[simple]
        return chr(int(octal, 8) if octal else int(byte or short or long, 16))

    return _ESCAPE.sub(replace, text)


def number_value(written: str) -> int | float:
    """The number that a Go constant (also ``'a'``) means.

    Raises:
        ValueError: it is none, or too large for 64 bits.
    """
    if written[0] == "'":
        found = _unescaped(written[1:-1], "'")
        if len(found) != 1:
            raise ValueError(f"malformed character constant: {written}")
        return ord(found)
    text = written.replace("_", "")
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    try:
        if digits[:2] in ("0x", "0X"):
            if "p" in digits.lower() or "." in digits:
                return sign * float.fromhex(digits)
            value = int(digits, 16)
        elif digits[:2] in ("0o", "0O", "0b", "0B"):
            value = int(digits, 0)
        elif any(letter in digits for letter in ".eE"):
            return sign * float(digits)
        elif len(digits) > 1 and digits[0] == "0":
            value = int(digits, 8)
        else:
            value = int(digits)
    except ValueError as error:
        raise ValueError(f'bad number syntax: "{written}"') from error
    if not MIN_INT <= sign * value <= MAX_INT:
        raise ValueError(f"integer overflow: {written}")
    return sign * value


def quoted(text: str, *, ascii_only: bool = False, quote: str = '"') -> str:
    """A string as ``%q`` writes it."""
    found = []
    for letter in text:
        if letter == quote or letter == "\\":
            found.append(f"\\{letter}")
        elif letter in _WRITTEN:
            found.append(_WRITTEN[letter])
        elif letter.isprintable() and (letter.isascii() or not ascii_only):
            found.append(letter)
        elif ord(letter) < 0x80:
            found.append(f"\\x{ord(letter):02x}")
        elif ord(letter) < 0x10000:
            found.append(f"\\u{ord(letter):04x}")
        else:
            found.append(f"\\U{ord(letter):08x}")
    return f"{quote}{''.join(found)}{quote}"


def float_text(value: float, verb: str = "g", precision: int = -1) -> str:
    """A float as ``strconv.FormatFloat`` writes it; -1 is the fewest digits that name it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if precision >= 0 or verb in "fF":
        if verb in "fF":
            return f"{value:.{precision if precision >= 0 else 6}f}"
        return f"{value:.{precision}{verb}}"
    digits, exponent = _shortest(value)
    if verb in "eE":
        head = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
        return _sign(value) + f"{head}{verb}{exponent:+03d}"
    if exponent < -4 or exponent >= _LARGE:
        head = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
        return _sign(value) + f"{head}e{exponent:+03d}"
    if exponent < 0:
        return _sign(value) + "0." + "0" * (-exponent - 1) + digits
    if len(digits) <= exponent + 1:
        return _sign(value) + digits + "0" * (exponent + 1 - len(digits))
    return _sign(value) + f"{digits[: exponent + 1]}.{digits[exponent + 1 :]}"


def _sign(value: float) -> str:
    return "-" if math.copysign(1.0, value) < 0 else ""


def _shortest(value: float) -> tuple[str, int]:
    """The fewest digits that name the value, and the exponent of the first."""
    if value == 0:
        return "0", 0
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, rest = mantissa.partition(".")
    rest = "" if rest == "0" else rest
    digits = (whole + rest).lstrip("0")
    place = len(whole) - 1 if whole != "0" else -(len(rest) - len(rest.lstrip("0"))) - 1
    return digits.rstrip("0") or "0", place + int(exponent or 0)


def type_name(value: Any) -> str:
    """Go's name for the type of a value."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case Mapping():
            return "map[string]interface {}"
        case list() | tuple():
            return "[]interface {}"
    return type(value).__name__


def display(value: Any, *, sharp: bool = False, top: bool = True) -> str:
    """A value as ``%v`` writes it, or as ``%#v`` does."""
    match value:
        case None:
            return "interface {}(nil)" if sharp and not top else "<nil>"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return float_text(value)
        case str():
            return quoted(value) if sharp else value
        case Mapping():
            pairs = [
                ":".join(display(each, sharp=sharp, top=False) for each in (key, value[key]))
                for key in sorted(value, key=_sortable)
            ]
            if sharp:
                return f"map[string]interface {{}}{{{', '.join(pairs)}}}"
            return f"map[{' '.join(pairs)}]"
        case list() | tuple():
            items = [display(each, sharp=sharp, top=False) for each in value]
            if sharp:
                return f"[]interface {{}}{{{', '.join(items)}}}"
            return f"[{' '.join(items)}]"
    return str(value)


def _sortable(key: Any) -> tuple[str, Any]:
    return (type(key).__name__, key)
