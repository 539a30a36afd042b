"""``printf`` with Go's verbs.

Source: Go ``fmt`` package documentation, "Printing".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from underway.wire.gotemplate_literals import display, float_text, quoted, type_name

WIDEST = 1_000_000  # as in Go: a width or precision beyond it is bad
_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?:\[(?P<i1>[^\]]*)\])?(?P<width>\*|\d+)?"
    r"(?P<dot>\.(?:\[(?P<i2>[^\]]*)\])?(?P<precision>\*|\d+)?)?(?:\[(?P<i3>[^\]]*)\])?(?P<verb>.)?",
    re.DOTALL,
)
_BASES = {"b": "b", "o": "o", "O": "o", "x": "x", "X": "X", "d": "d"}
_PREFIXES = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}


@dataclass(slots=True)
class _Spec:
    verb: str
    flags: str
    width: int
    precision: int

    def pad(self, text: str, *, zeros: bool = False) -> str:
        missing = self.width - len(text)
        if missing <= 0:
            return text
        if "-" in self.flags:
            return text + " " * missing
        if zeros and "0" in self.flags:
            sign = text[:1] if text[:1] in "+- " else ""
            return sign + "0" * missing + text[len(sign) :]
        return " " * missing + text


class _Arguments:
    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values
        self.at = 0
        self.reordered = False

    def choose(self, index: str | None) -> bool:
        """Follow an explicit ``[n]``; False where it is none."""
        if index is None:
            return True
        self.reordered = True
        if not index.isdecimal() or not 1 <= int(index) <= len(self.values):
            return False
        self.at = int(index) - 1
        return True

    def take_int(self) -> int | None:
        if self.at >= len(self.values):
            return None
        found = self.values[self.at]
        self.at += 1
        fits = isinstance(found, int) and not isinstance(found, bool) and abs(found) <= WIDEST
        return found if fits else None


def sprintf(layout: str, values: Sequence[Any]) -> str:
    """The text of a layout with its values; mistakes show in the text, as in Go."""
    arguments = _Arguments(values)
    text = _VERB.sub(lambda found: _one(found, arguments), layout)
    if not arguments.reordered and arguments.at < len(values):
        rest = (
            "<nil>" if each is None else f"{type_name(each)}={display(each)}"
            for each in values[arguments.at :]
        )
        text += f"%!(EXTRA {', '.join(rest)})"
    return text


def sprint(values: Sequence[Any]) -> str:
    """Values one after the other, with a space between two of which neither is a string."""
    found: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            found.append(" ")
        found.append(display(value))
    return "".join(found)


def _one(found: re.Match[str], arguments: _Arguments) -> str:
    verb, flags = found["verb"], found["flags"]
    fine = arguments.choose(found["i1"])
    before, width = "", 0
    if found["width"] == "*":
        taken = arguments.take_int()
        before = "%!(BADWIDTH)" if taken is None else ""
        width = taken or 0
        if width < 0:
            flags, width = flags + "-", -width
    elif found["width"]:
        width = int(found["width"])
        if width > WIDEST:
            before, width = "%!(BADWIDTH)", 0
    precision = -1
    if found["dot"]:
        fine = arguments.choose(found["i2"]) and fine
        precision = 0
        if found["precision"] == "*":
            taken = arguments.take_int()
            before += "%!(BADPREC)" if taken is None else ""
            precision = -1 if taken is None or taken < 0 else taken
        elif found["precision"]:
            precision = int(found["precision"])
            if precision > WIDEST:
                before, precision = f"{before}%!(BADPREC)", -1
    fine = arguments.choose(found["i3"]) and fine
    if not verb:
        return f"{before}%!(NOVERB)"
    if verb == "%":
        return f"{before}%"
    if not fine:
        return f"{before}%!{verb}(BADINDEX)"
    if arguments.at >= len(arguments.values):
        return f"{before}%!{verb}(MISSING)"
    value = arguments.values[arguments.at]
    arguments.at += 1
    return before + _write(value, _Spec(verb, flags, width, precision))


def _write(value: Any, spec: _Spec) -> str:
    verb = spec.verb
    if verb == "T":
        return spec.pad(type_name(value))
    if value is None:
        return spec.pad("<nil>") if verb == "v" else f"%!{verb}(<nil>)"
    if verb == "v" and "#" in spec.flags:
        return spec.pad(display(value, sharp=True))
    if verb == "v":
        spec.flags = spec.flags.replace("+", "")  # asks for more of a struct, not for a sign
    text: str | None = None
    match value:
        case bool():
            text = spec.pad(display(value)) if verb in "tv" else None
        case int():
            text = _integer(value, spec)
        case float():
            text = _float(value, spec)
        case str():
            text = _string(value, spec)
        case Mapping():
            pairs = (
                f"{_write(key, spec)}:{_inner(value[key], spec)}" for key in sorted(value, key=str)
            )
            return f"map[{' '.join(pairs)}]"
        case list() | tuple():
            return f"[{' '.join(_inner(each, spec) for each in value)}]"
        case _ if verb in "vs":
            text = spec.pad(str(value))
    return f"%!{verb}({type_name(value)}={display(value)})" if text is None else text


def _inner(value: Any, spec: _Spec) -> str:
    return spec.pad("<nil>") if value is None else _write(value, spec)


def _integer(value: int, spec: _Spec) -> str | None:
    verb = "d" if spec.verb == "v" else spec.verb
    if verb == "c":
        return spec.pad(chr(value) if 0 <= value <= 0x10FFFF else "�")
    if verb == "q":
        letter = chr(value) if 0 <= value <= 0x10FFFF else "�"
        return spec.pad(quoted(letter, ascii_only="+" in spec.flags, quote="'"))
    if verb == "U":
        text = f"U+{value:04X}"
        shown = 0 <= value <= 0x10FFFF and chr(value).isprintable()
        return spec.pad(f"{text} '{chr(value)}'" if "#" in spec.flags and shown else text)
    if verb not in _BASES:
        return None
    digits = format(abs(value), _BASES[verb])
    if spec.precision >= 0:
        digits = "" if spec.precision == 0 and value == 0 else digits.zfill(spec.precision)
    prefix = "0o" if verb == "O" else _PREFIXES.get(verb, "") if "#" in spec.flags else ""
    sign = "-" if value < 0 else "+" if "+" in spec.flags else " " if " " in spec.flags else ""
    zeros = spec.precision < 0 and "-" not in spec.flags and "0" in spec.flags
    if zeros:
        digits = digits.zfill(spec.width - len(sign))
    return spec.pad(f"{sign}{prefix}{digits}")


def _float(value: float, spec: _Spec) -> str | None:
    verb = spec.verb
    if verb not in "veEfFgG":
        return None
    shown = {"v": "g", "F": "f"}.get(verb, verb)
    if shown in "eEfF":
        precision = 6 if spec.precision < 0 else spec.precision
        text = float_text(value, shown, precision)
    elif spec.precision >= 0:
        text = float_text(value, shown, spec.precision or 1)
    else:
        text = float_text(value)
        if verb == "G":
            text = text.upper()
    if "+" in spec.flags and text[0] not in "+-":
        text = f"+{text}"
    elif " " in spec.flags and text[0] not in "+-":
        text = f" {text}"
    return spec.pad(text, zeros=True)


def _string(text: str, spec: _Spec) -> str | None:
    verb = spec.verb
    if verb in "xX":
        data = text.encode("utf-8", "surrogateescape")
        if spec.precision >= 0:
            data = data[: spec.precision]
        found = data.hex(" ") if " " in spec.flags else data.hex()
        if "#" in spec.flags and found:
            found = " ".join(f"0x{each}" for each in found.split(" "))
        return spec.pad(found.upper() if verb == "X" else found)
    if verb not in "svq":
        return None
    if spec.precision >= 0:
        text = text[: spec.precision]
    if verb == "q":
        plain = "#" in spec.flags and "`" not in text and text.isprintable()
        text = f"`{text}`" if plain else quoted(text, ascii_only="+" in spec.flags)
    return spec.pad(text, zeros=True)
