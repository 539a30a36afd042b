"""Globs over names of images, files and resources, in time linear in the name.

Every pattern is run by RE2: nothing a user writes can make matching slow.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from underway.api.patterns import compile_pattern

_LENGTH_LIMIT = 1024


@lru_cache(maxsize=1024)
def _compiled(pattern: str, separated: bool) -> Any:
    if len(pattern) > _LENGTH_LIMIT:
        raise ValueError(f"a pattern of {len(pattern)} characters")
    parts, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at) and separated:
            parts.append(".*")
            at += 2
            continue
        if char == "[" and (end := pattern.find("]", at + 2)) > 0:
            parts.append(_set(pattern[at + 1 : end]))
            at = end + 1
            continue
        parts.append(_ONE.get((char, separated)) or re.escape(char))
        at += 1
    return compile_pattern(f"(?s)^(?:{''.join(parts)})$")


_ONE = {("*", True): "[^/]*", ("?", True): "[^/]", ("*", False): ".*", ("?", False): "."}


def _set(text: str) -> str:
    negated = text.startswith("!")
    body = text[1:] if negated else text
    escaped = "".join(char if char == "-" else re.escape(char) for char in body)
    return f"[{'^' if negated else ''}{escaped}]"


def matches_path(pattern: str, path: str) -> bool:
    """Whether a shell pattern matches a whole path; ``*`` crosses slashes, as in-toto has it.

    Raises:
        ValueError: the pattern is malformed.
    """
    return _compiled(pattern, False).search(path) is not None


def matches_image(pattern: str, name: str) -> bool:
    """Whether a glob matches an image's name.

    ``*`` stops at a slash, ``**`` does not; a pattern that ends in ``/`` means all below. Names
    with a tag or digest also match by the part before it.

    Raises:
        ValueError: the pattern is malformed.
    """
    if pattern.endswith("/"):
        pattern += "**"
    found = _compiled(pattern, True)
    bare = name.partition("@")[0]
    head, colon, tail = bare.rpartition(":")
    untagged = head if colon and "/" not in tail else bare
    return any(found.search(each) is not None for each in (name, bare, untagged))
