"""``.dockerignore``: which files of a build context are left out.

Patterns are Go's ``filepath.Match`` plus ``**``; the last one that matches decides, and ``!``
takes a file back in. Source: BuildKit ``docs/reference.md`` (".dockerignore file"),
moby/patternmatcher.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from underway.base.errors import BadRequest


def glob(pattern: str) -> re.Pattern[str]:
    """A Go path pattern, with ``**`` for any number of directories, as a regular expression.

    Raises:
        ValueError: a ``[`` is not closed, or the pattern ends with ``\\``.
    """
    out, index = "", 0
    while index < len(pattern):
        char = pattern[index]
        if pattern.startswith("**", index):
            index += 2
            if pattern.startswith("/", index):
                out += "(?:.*/)?"
                index += 1
            else:
                out += ".*"
            continue
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            text, index = _class(pattern, index)
            out += text
            continue
        elif char == "\\":
            index += 1
            if index == len(pattern):
                raise ValueError("it ends with \\")
            out += re.escape(pattern[index])
        else:
            out += re.escape(char)
        index += 1
    return re.compile(out, re.DOTALL)


def _class(pattern: str, start: int) -> tuple[str, int]:
    """The class that begins at ``pattern[start] == "["``, and where it ends."""
    index = start + 1
    negated = pattern[index : index + 1] == "^"
    index += negated
    body = ""
    while pattern[index : index + 1] != "]" or not body:
        low, index = _class_char(pattern, index)
        body += re.escape(low)
        if pattern[index : index + 1] == "-":
            high, index = _class_char(pattern, index + 1)
            if high < low:
                raise ValueError(f"the range {low}-{high} is empty")
            body += f"-{re.escape(high)}"
    return f"(?!/)[{'^' if negated else ''}{body}]", index + 1


def _class_char(pattern: str, index: int) -> tuple[str, int]:
    if pattern[index : index + 1] == "\\":
        index += 1
    if index >= len(pattern):
        raise ValueError("a [ is not closed")
    return pattern[index], index + 1


class IgnoreRules:
    """The rules of one file."""

    def __init__(self, patterns: Iterable[str], file: str = ".dockerignore") -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for number, line in enumerate(patterns, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            keep = text.startswith("!")
            text = posixpath.normpath(text[keep:].strip()).lstrip("/")
            if text in ("", "."):
                continue
            try:
                # What lies below a matched directory is matched with it.
                self._rules.append((re.compile(f"(?:{glob(text).pattern})(?:/.*)?", re.S), keep))
            except (ValueError, re.error) as error:
                raise BadRequest(f"{file}:{number}: {line.strip()!r}: {error}") from error
        self._takes_back = any(keep for _, keep in self._rules)

    @classmethod
    def parse(cls, text: str, file: str = ".dockerignore") -> IgnoreRules:
        """Read a file's text.

        Raises:
            BadRequest: a pattern is malformed; names file and line.
        """
        return cls(text.removeprefix("\ufeff").splitlines(), file)

    def ignores(self, path: str) -> bool:
        """Whether a path relative to the context is left out."""
        ignored = False
        for pattern, keep in self._rules:
            if ignored == keep and pattern.fullmatch(path):
                ignored = not keep
        return ignored

    def prunes(self, directory: str) -> bool:
        """Whether nothing below a directory can be wanted, so that it need not be read."""
        return not self._takes_back and self.ignores(directory)
