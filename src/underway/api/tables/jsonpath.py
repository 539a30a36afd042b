"""JSONPath as printer columns of CustomResourceDefinitions use it.

Fields (``.spec.replicas``, ``['a.b']``, ``.a\\.b``), indices and slices (``[0]``, ``[-1]``,
``[1:3]``), all (``[*]``, ``.*``), descent (``..name``) and filters (``[?(@.type=="Ready")]``).

Source: Kubernetes documentation "JSONPath Support"; client-go ``util/jsonpath``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Step = Callable[[Any], list[Any]]
LENGTH_LIMIT = 4096  # characters of a path

_FIELD = re.compile(r"(?:\\.|[^.\[\\\s=<>!()?@'\"])+")
_QUOTED = re.compile(r"""\s*(?:'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)")\s*\]""")
_SLICE = re.compile(r"\s*(-?\d*)\s*(?::\s*(-?\d*)\s*(?::\s*(-?\d*)\s*)?)?\]")
_FILTER = re.compile(
    r"\?\(\s*@(?P<path>.*?)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>.+?))?\s*\)\]"
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


def find(path: str, obj: Any) -> list[Any]:
    """The values a path leads to, in order; none where a field is missing.

    Raises:
        ValueError: the path is malformed, or uses what printer columns cannot.
    """
    values = [obj]
    for step in _compiled(path):
        values = [found for value in values for found in step(value)]
    return values


@lru_cache(maxsize=1024)
def _compiled(path: str) -> tuple[Step, ...]:
    if len(path) > LENGTH_LIMIT:
        raise ValueError("the JSONPath is too long")
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1].strip()
    text = text.removeprefix("$")
    steps: list[Step] = []
    at = 0
    while at < len(text):
        if text.startswith("..", at):
            name, at = _field(text, at + 2)
            steps.append(_descend(name))
        elif text[at] == ".":
            if at + 1 == len(text) and not steps:
                break
            if text.startswith("[", at + 1):
                at += 1
                continue
            name, at = _field(text, at + 1)
            steps.append(_all if name == "*" else _get(name))
        elif text[at] == "[":
            step, at = _bracket(text, at + 1)
            steps.append(step)
        else:
            raise ValueError(f"JSONPath {path!r}: unexpected {text[at]!r}")
    return tuple(steps)


def _field(text: str, at: int) -> tuple[str, int]:
    match = _FIELD.match(text, at)
    if match is None:
        raise ValueError(f"JSONPath {text!r}: a field's name is missing at {at}")
    return re.sub(r"\\(.)", r"\1", match[0]), match.end()


def _bracket(text: str, at: int) -> tuple[Step, int]:
    if text.startswith("*]", at):
        return _all, at + 2
    if match := _QUOTED.match(text, at):
        name = match[1] if match[1] is not None else match[2]
        return _get(re.sub(r"\\(.)", r"\1", name)), match.end()
    if match := _FILTER.match(text, at):
        return _filter(match["path"], match["op"], match["value"]), match.end()
    if (match := _SLICE.match(text, at)) and match[0].strip() != "]":
        return _indices(match), match.end()
    raise ValueError(f"JSONPath {text!r}: cannot read what stands in brackets at {at}")


def _get(name: str) -> Step:
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _descend(name: str) -> Step:
    def walk(value: Any) -> list[Any]:
        found = []
        if isinstance(value, dict) and name in value:
            found.append(value[name])
        for child in _all(value):
            found += walk(child)
        return found

    return walk


def _indices(match: re.Match[str]) -> Step:
    first = match[1]
    if match[2] is None:
        index = int(first)

        def pick(value: Any) -> list[Any]:
            inside = isinstance(value, list) and -len(value) <= index < len(value)
            return [value[index]] if inside else []

        return pick
    parts = [int(part) if part else None for part in (first, match[2], match[3] or "")]
    window = slice(*parts)
    return lambda value: value[window] if isinstance(value, list) else []


def _filter(path: str, operator: str | None, literal: str | None) -> Step:
    steps = _compiled(path)
    wanted = _literal(literal) if literal is not None else None

    def holds(item: Any) -> bool:
        values = [item]
        for step in steps:
            values = [found for value in values for found in step(value)]
        if not values:
            return False
        if operator is None:
            return True
        try:
            return _COMPARE[operator](values[0], wanted)
        except TypeError:
            return False

    return lambda value: [item for item in _all(value) if holds(item)]


def _literal(text: str) -> Any:
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1]
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"JSONPath: {text!r} is no value to compare with") from error
