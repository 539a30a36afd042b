"""Which repositories and tags a rule is about: doublestar patterns, and lists of them.

Source: bmatcuk/doublestar's pattern syntax as Harbor uses it in its retention, immutability and
replication rules.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import re2

from underway.base.errors import BadRequest

_LIMIT = 512  # characters of a pattern


def matches(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern; an empty pattern and ``**`` fit all. Raises BadRequest."""
    return pattern in ("", "**") or _compiled(pattern).fullmatch(text) is not None


def selects(selector: Mapping[str, Any], text: str) -> bool:
    """Whether a selector of a rule, ``{decoration, pattern}``, takes a text."""
    found = matches(str(selector.get("pattern", "**")), text)
    return not found if "exclude" in str(selector.get("decoration", "")).lower() else found


def all_select(selectors: Iterable[Mapping[str, Any]], text: str) -> bool:
    """Whether every one of them takes a text."""
    return all(selects(selector, text) for selector in selectors)


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    if len(pattern) > _LIMIT:
        raise BadRequest(f"the pattern {pattern[:50]!r}... is longer than {_LIMIT} characters")
    pattern = re.sub(r"\*{3,}", "**", pattern)
    out, depth, index = "", 0, 0
    while index < len(pattern):
        character = pattern[index]
        index += 1
        if character == "*":
            if pattern[index : index + 1] == "*":
                index += 1
                if pattern[index : index + 1] == "/":
                    index += 1
                    out += "(?:.*/)?"
                else:
                    out += ".*"
            else:
                out += "[^/]*"
        elif character == "?":
            out += "[^/]"
        elif character == "{":
            depth += 1
            out += "(?:"
        elif character == "}" and depth:
            depth -= 1
            out += ")"
        elif character == "," and depth:
            out += "|"
        elif character == "[" and "]" in pattern[index:]:
            end = pattern.index("]", index)
            inside = pattern[index:end].replace("\\", "\\\\").replace("[", "\\[")
            out += f"[{'^' + inside[1:] if inside[:1] in '!^' and inside else inside}]"
            index = end + 1
        elif character == "\\" and index < len(pattern):
            out += re.escape(pattern[index])
            index += 1
        else:
            out += re.escape(character)
    try:
        # RE2: a hostile pattern costs linear time.
        return re2.compile(f"(?s){out}")
    except re2.error as error:
        raise BadRequest(f"{pattern!r} is no pattern: {error}") from error
