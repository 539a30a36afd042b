"""Semantic versions: ``semver("1.2.3").isLessThan(semver("2.0.0"))``.

Source: semver.org 2.0.0; Kubernetes reference, "Common Expression Language in Kubernetes", semver
library.
"""

from __future__ import annotations

import re
from typing import Any

from underway.api.objects import Object

SEMVER = "semver"
_NUMBER = r"(0|[1-9]\d*)"
_WORD = r"[0-9A-Za-z-]+"
_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-({_WORD}(?:\.{_WORD})*))?(?:\+{_WORD}(?:\.{_WORD})*)?",
    re.ASCII,
)

Precedence = tuple[int, int, int, bool, list[tuple[bool, int, str]]]


def parse(text: str) -> Precedence:
    """What a version is compared by.

    Raises:
        ValueError: it is no semantic version.
    """
    match = _VERSION.fullmatch(text)
    if match is None or len(text) > 256:
        raise ValueError(f"parsing semver: invalid version {text!r}")
    *numbers, pre = match.groups()
    words = pre.split(".") if pre else []
    if any(len(word) > 1 and word.isdecimal() and word[0] == "0" for word in words):
        raise ValueError(f"parsing semver: numeric identifier with leading zero in {text!r}")
    # Numbers come before words, and a version after all of its pre-releases.
    ranked = [(not w.isdecimal(), int(w) if w.isdecimal() else 0, w) for w in words]
    major, minor, patch = (int(number) for number in numbers)
    return major, minor, patch, not words, ranked


def normalized(text: str) -> str:
    """A version with what people leave out: no ``v``, all three numbers, no leading zeros."""
    text = text.removeprefix("v")
    rest = re.search(r"[-+]", text)
    core, tail = (text[: rest.start()], text[rest.start() :]) if rest else (text, "")
    parts = core.split(".")
    parts += ["0"] * (3 - len(parts))
    return ".".join(p.lstrip("0") or "0" if p.isdecimal() else p for p in parts) + tail


def value(text: str, normalize: bool = False) -> Object:
    """The value of ``semver(text)``."""
    text = normalized(text) if normalize else text
    parse(text)
    return {SEMVER: text}


def is_version(text: str, normalize: bool = False) -> bool:
    """``isSemver(text)``."""
    try:
        value(text, normalize)
    except ValueError:
        return False
    return True


def of(given: Any) -> Precedence:
    """What a value made by ``value`` is compared by.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(given, dict) or SEMVER not in given:
        raise ValueError("no such overload: the value is no semver")
    return parse(given[SEMVER])


def declare(add: Any, types: Any) -> None:
    """Declare what is the versions' own; comparisons are shared with quantities."""
    made, text, boolean = types.Map(types.STRING, types.DYN), types.STRING, types.BOOL
    for more in ([], [boolean]):
        add("semver", made, [text, *more], value)
        add("isSemver", boolean, [text, *more], is_version)
    add("major", types.INT, [made], lambda given: of(given)[0], of=SEMVER)
    add("minor", types.INT, [made], lambda given: of(given)[1], of=SEMVER)
    add("patch", types.INT, [made], lambda given: of(given)[2], of=SEMVER)
