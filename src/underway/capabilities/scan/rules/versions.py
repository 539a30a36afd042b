"""How versions order, for each packaging system: a version's text to a key that compares.

Keys of one order compare with ``<``; keys of different orders do not. Each function raises
``ValueError`` for text that is no version of its system. Parsed keys are kept, since the same
versions are compared again and again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from packaging.version import InvalidVersion, Version

Key = Any
"""Comparable within one order."""

LENGTH_LIMIT = 256
_KEPT = 65_536


def _plain(text: str) -> str:
    text = text.strip()
    if not text or len(text) > LENGTH_LIMIT or not text.isascii():
        raise ValueError(f"no version: {text[:40]!r}")
    return text


# Source: Debian Policy 5.6.12; deb-version(7). Letters sort before other characters, ~ before the
# end of the text; digits as numbers.
@lru_cache(_KEPT)
def dpkg(text: str) -> Key:
    """Debian's order: epoch, upstream version, revision."""
    text = _plain(text)
    epoch, colon, rest = text.rpartition(":") if text.count(":") == 1 else text.partition(":")
    if not colon:
        epoch, rest = "0", text
    if not epoch.isdigit() or not rest or re.search(r"[^A-Za-z0-9.+~:_-]", rest):
        raise ValueError(f"no Debian version: {text!r}")
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch), _dpkg_part(upstream if dash else rest), _dpkg_part(revision if dash else "0")


_DPKG_PIECE = re.compile(r"(\D*)(\d*)")
_DPKG_END = ((0,), 0)


def _dpkg_part(text: str) -> tuple[Any, ...]:
    pieces = [
        ((*map(_dpkg_character, letters), 0), int(digits or 0))
        for letters, digits in _DPKG_PIECE.findall(text)
        if letters or digits
    ]
    return (*pieces, _DPKG_END)


def _dpkg_character(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


# Source: rpm rpmio/rpmvercmp.c; rpm-version(7). ~ sorts before the end, ^ after it but before
# anything else, letters before digits; what stands between segments does not count.
@lru_cache(_KEPT)
def rpm(text: str) -> Key:
    """RPM's order: epoch, version, release."""
    text = _plain(text)
    epoch, colon, rest = text.partition(":")
    if not colon:
        epoch, rest = "0", text
    if not epoch.isdigit() or not rest:
        raise ValueError(f"no RPM version: {text!r}")
    version, _, release = rest.partition("-")
    return int(epoch), _rpm_part(version), _rpm_part(release)


_RPM_PIECE = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


def _rpm_part(text: str) -> tuple[tuple[Any, ...], ...]:
    return (*map(_rpm_piece, _RPM_PIECE.findall(text)), (-1,))


def _rpm_piece(piece: str) -> tuple[Any, ...]:
    if piece == "~":
        return (-2,)
    if piece == "^":
        return (0,)
    return (2, int(piece)) if piece.isdigit() else (1, piece)


# Source: apk-tools src/version.c. A component with leading zeros sorts by how many it has; what
# follows an equal beginning is newer, unless it is a suffix of a version before the release.
_APK = re.compile(
    r"(?P<digits>\d+(?:\.\d+)*)(?P<letter>[a-z]?)"
    r"(?P<suffixes>(?:_(?:alpha|beta|pre|rc|cvs|svn|git|hg|p)\d*)*)"
    r"(?:~[0-9a-f]+)?(?:-r(?P<revision>\d+))?"
)
_APK_BEFORE = {"alpha": 0, "beta": 1, "pre": 2, "rc": 3}
_APK_AFTER = {"cvs": 0, "svn": 1, "git": 2, "hg": 3, "p": 4}
_APK_END, _APK_REVISION, _APK_NUMBER, _APK_SUFFIX, _APK_LETTER, _APK_DIGITS = range(1, 7)


@lru_cache(_KEPT)
def apk(text: str) -> Key:
    """Alpine's order."""
    match = _APK.fullmatch(_plain(text))
    if match is None:
        raise ValueError(f"no Alpine version: {text!r}")
    first, *others = match["digits"].split(".")
    pieces: list[tuple[int, Any]] = [(_APK_DIGITS, int(first))]
    for digits in others:
        zeros = len(digits) - len(digits.lstrip("0"))
        if zeros:
            pieces.append((_APK_DIGITS, -zeros))
        if digits[zeros:]:
            pieces.append((_APK_DIGITS, int(digits)))
    if match["letter"]:
        pieces.append((_APK_LETTER, match["letter"]))
    for name, number in re.findall(r"_([a-z]+)(\d*)", match["suffixes"]):
        before = name in _APK_BEFORE
        pieces.append((0, _APK_BEFORE[name]) if before else (_APK_SUFFIX, _APK_AFTER[name]))
        if number:
            pieces.append((_APK_NUMBER, int(number)))
    if match["revision"]:
        pieces.append((_APK_REVISION, int(match["revision"])))
    return (*pieces, (_APK_END, 0))


# Source: PEP 440.
@lru_cache(_KEPT)
def pep440(text: str) -> Key:
    """Python's order."""
    try:
        return Version(_plain(text))
    except InvalidVersion as error:
        raise ValueError(str(error)) from error


# Source: semver.org 2.0.0, section 11; npm and Go add a leading v, missing parts count as 0.
_SEMVER = re.compile(
    r"[vV=]*\s*(\d+)(?:\.(\d+))?(?:\.(\d+))?((?:\.\d+)*)(?:-?([0-9A-Za-z][0-9A-Za-z.-]*))?(?:\+\S*)?"
)


@lru_cache(_KEPT)
def semver(text: str) -> Key:
    """The order of npm, Go, crates and everything else that says semantic versioning."""
    match = _SEMVER.fullmatch(_plain(text))
    if match is None:
        raise ValueError(f"no semantic version: {text!r}")
    numbers = [int(each or 0) for each in match.group(1, 2, 3)]
    numbers += [int(each) for each in match[4].split(".")[1:]]
    while len(numbers) > 3 and not numbers[-1]:
        numbers.pop()
    if not match[5]:
        return tuple(numbers), (1,)
    identifiers = (
        (0, int(each), "") if each.isdigit() else (1, 0, each) for each in match[5].split(".")
    )
    return tuple(numbers), (0, *identifiers)


# Source: Maven Artifact ComparableVersion (Maven POM reference, "Version Order Specification").
_MAVEN_QUALIFIERS = {
    "alpha": 0, "beta": 1, "milestone": 2, "rc": 3, "cr": 3, "snapshot": 4, "": 5, "final": 5,
    "ga": 5, "release": 5, "sp": 6,
}  # fmt: skip
_MAVEN_TOKEN = re.compile(r"([.-]?)(\d+|[^\d.-]+)|([.-])")
_MAVEN_SHORT = {"a": "alpha", "b": "beta", "m": "milestone"}


@lru_cache(_KEPT)
def maven(text: str) -> Key:
    """Maven's order."""
    return _maven_list(_maven_tokens(_plain(text).lower()))


def _maven_tokens(text: str) -> list[Any]:
    """Nested lists of numbers and qualifiers: a dash, or a change of kind, opens a new list."""
    root: list[Any] = []
    here = root
    index, start, length = 0, 0, len(text)
    is_digit = False

    def opened() -> list[Any]:
        inner: list[Any] = []
        here.append(inner)
        return inner

    def word(value: str, followed_by_digit: bool) -> str:
        return _MAVEN_SHORT.get(value, value) if followed_by_digit else value

    while index < length:
        character = text[index]
        if character in ".-":
            if index == start:
                here.append(0)
            else:
                value = text[start:index]
                here.append(int(value) if is_digit else word(value, False))
            start = index + 1
            if character == "-":
                _maven_normalise(here)
                here = opened()
        elif character.isdigit():
            if not is_digit and index > start:
                # 1.a2 is 1-a-2: a word, and what follows it, stand in lists of their own.
                here = opened() if here else here
                here.append(word(text[start:index], True))
                start = index
                here = opened()
            is_digit = True
        else:
            if is_digit and index > start:
                here.append(int(text[start:index]))
                start = index
                _maven_normalise(here)
                here = opened()
            is_digit = False
        index += 1
    if length > start:
        value = text[start:]
        here = opened() if here and not is_digit else here
        here.append(int(value) if is_digit else word(value, False))
    _maven_normalise_all(root)
    return root


def _maven_null(item: Any) -> bool:
    return item == 0 or item == [] or (isinstance(item, str) and _MAVEN_QUALIFIERS.get(item) == 5)


def _maven_normalise(items: list[Any]) -> None:
    """Take trailing nothings off, looking past a list at the end."""
    index = len(items) - 1
    while index >= 0:
        if _maven_null(items[index]):
            del items[index]
        elif not isinstance(items[index], list):
            break
        index -= 1


def _maven_normalise_all(items: list[Any]) -> None:
    for each in items:
        if isinstance(each, list):
            _maven_normalise_all(each)
    _maven_normalise(items)


class _MavenKey:
    """A list of items; the shorter is filled up with nothings where it is compared."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __lt__(self, other: _MavenKey) -> bool:
        return _maven_compare(self.items, other.items) < 0

    def __le__(self, other: _MavenKey) -> bool:
        return _maven_compare(self.items, other.items) <= 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _MavenKey) and _maven_compare(self.items, other.items) == 0

    def __hash__(self) -> int:
        return hash(str(self.items))


def _maven_list(items: list[Any]) -> Key:
    return _MavenKey(items)


def _maven_compare(left: Any, right: Any) -> int:
    if left is None:
        return -_maven_compare(right, None) if right is not None else 0
    if right is None:
        return _maven_against_nothing(left)
    rank_left, rank_right = _maven_rank(left), _maven_rank(right)
    if rank_left != rank_right:
        return -1 if rank_left < rank_right else 1
    if isinstance(left, int):
        return (left > right) - (left < right)
    if isinstance(left, str):
        first, second = _maven_word(left), _maven_word(right)
        return (first > second) - (first < second)
    for index in range(max(len(left), len(right))):
        one = left[index] if index < len(left) else None
        two = right[index] if index < len(right) else None
        result = _maven_compare(one, two)
        if result:
            return result
    return 0


def _maven_against_nothing(item: Any) -> int:
    if isinstance(item, int):
        return int(item != 0)
    if isinstance(item, str):
        mine, release = _maven_word(item), _maven_word("")
        return (mine > release) - (mine < release)
    for each in item:
        result = _maven_compare(each, None)
        if result:
            return result
    return 0


def _maven_rank(item: Any) -> int:
    """Words before lists before numbers."""
    return 2 if isinstance(item, int) else 0 if isinstance(item, str) else 1


def _maven_word(text: str) -> tuple[int, str]:
    known = _MAVEN_QUALIFIERS.get(text)
    return (known, "") if known is not None else (7, text)


# Source: Gem::Version (docs.ruby-lang.org): words sort before numbers, trailing zeros do not count.
_GEM = re.compile(r"[0-9]+(?:\.[0-9a-zA-Z]+)*(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?")


@lru_cache(_KEPT)
def gem(text: str) -> Key:
    """RubyGems' order."""
    text = _plain(text)
    if _GEM.fullmatch(text) is None:
        raise ValueError(f"no gem version: {text!r}")
    pieces = re.findall(r"[0-9]+|[a-zA-Z]+", text.replace("-", ".pre."))
    return (*_gem_trimmed(pieces), (1, 0, ""))


def _gem_trimmed(pieces: list[str]) -> list[tuple[int, int, str]]:
    """Zeros before the first word, and at the end, go."""
    first_word = next((i for i, each in enumerate(pieces) if not each.isdigit()), len(pieces))
    numbers, rest = pieces[:first_word], pieces[first_word:]
    for part in (numbers, rest):
        while part and part[-1].isdigit() and not int(part[-1]):
            part.pop()
    return [(1, int(each), "") if each.isdigit() else (0, 0, each) for each in numbers + rest]


ORDERS: dict[str, Callable[[str], Key]] = {
    "dpkg": dpkg, "rpm": rpm, "apk": apk, "pep440": pep440, "semver": semver, "maven": maven,
    "gem": gem,
}  # fmt: skip
"""The orders by name."""
