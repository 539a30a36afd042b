"""Quantities: ``100m``, ``1.5Gi``, ``2e3``, exactly.

Source: Kubernetes apimachinery ``pkg/api/resource`` (the serialisation format in its package
documentation): a signed decimal number and one of three families of suffixes. The canonical form
has no fraction, the largest suffix that loses nothing, and a precision of one nano.
"""

from __future__ import annotations

import builtins
import math
import re
from fractions import Fraction
from functools import lru_cache

MESSAGE = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)
MAX_LENGTH = 64  # characters; keeps exponents and their powers small

_PATTERN = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:(?P<binary>[KMGTPE]i)|(?P<decimal>[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,3}))?"
)
_BINARY = {name: 1024**power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX = {0: "", **{power: name for name, power in _DECIMAL.items()}}
_NANO = 10**9
_LARGEST = 2**63 - 1  # what is larger counts as this

Text = str | int | float


def _parse(text: Text) -> tuple[Fraction, str]:
    """Value and family: ``decimal``, ``binary`` or ``exponent``."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(MESSAGE)  # noqa: TRY004  # callers map one kind of error
    return _parse_text(str(text).strip())


@lru_cache(4096)  # the same few amounts stand in thousands of pods
def _parse_text(written: str) -> tuple[Fraction, str]:
    match = _PATTERN.fullmatch(written) if len(written) <= MAX_LENGTH else None
    if match is None:
        raise ValueError(MESSAGE)
    number = Fraction(match["number"].rstrip("."))
    family = "decimal"
    if match["binary"]:
        number, family = number * _BINARY[match["binary"]], "binary"
    elif match["decimal"]:
        number *= Fraction(10) ** _DECIMAL[match["decimal"]]
    elif match["exponent"]:
        number, family = number * Fraction(10) ** int(match["exponent"]), "exponent"
    if (number * _NANO).denominator != 1:  # finer than a nano: away from zero
        nanos = math.ceil(abs(number) * _NANO)
        number = Fraction(nanos if number > 0 else -nanos, _NANO)
    return max(min(number, Fraction(_LARGEST)), Fraction(-_LARGEST)), family


def parse(text: Text) -> Fraction:
    """The exact value.

    Raises:
        ValueError: it is no quantity; the message is the API server's.
    """
    return _parse(text)[0]


def canonical(text: Text) -> str:
    """The quantity as the API server writes it: ``1000m`` -> ``1``, ``1.5Gi`` -> ``1536Mi``.

    Raises:
        ValueError: it is no quantity.
    """
    value, family = _parse(text)
    return format_value(value, family)


def format_value(value: Fraction, family: str = "decimal") -> str:
    """A value in canonical form; ``family`` is ``decimal``, ``binary`` or ``exponent``."""
    if value == 0:
        return "0"
    if family == "binary" and abs(value) >= 1024 and value.denominator == 1:
        number, suffix = value.numerator, ""
        for name in _BINARY:
            if number % 1024:
                break
            number, suffix = number // 1024, name
        return f"{number}{suffix}"
    number, power = (value * _NANO).numerator, -9
    while number % 1000 == 0 and power < 18:
        number, power = number // 1000, power + 3
    if family == "exponent":
        return f"{number}e{power}" if power else str(number)
    return f"{number}{_DECIMAL_SUFFIX[power]}"


def cpu_millis(text: Text) -> int:
    """Thousandths of a CPU, rounded up.

    Raises:
        ValueError: it is no quantity.
    """
    return math.ceil(parse(text) * 1000)


def bytes(text: Text) -> int:  # noqa: A001  # reads as ``quantity.bytes`` where it is called
    """Bytes (or any whole units), rounded up.

    Raises:
        ValueError: it is no quantity.
    """
    return math.ceil(parse(text))


def is_quantity(text: object) -> builtins.bool:
    """Whether ``text`` is a quantity."""
    try:
        _parse(text)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True
