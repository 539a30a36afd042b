"""jq queries, as Stages use them to look into objects.

Paths, ``.[]`` and ``select(path == constant)``, of which published Stages are made, are compiled to
Python, because they are asked of every object at every change. All other queries go to jq itself.

Source: jq 1.8 manual, "Basic filters", "select"; kwok documentation, "Stages Configuration".
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

from underway.base.errors import Invalid

Values = list[Any]
Query = Callable[[Any], Values]
_Step = Callable[[Values], Values]

_FIELD = re.compile(r'\s*\.([A-Za-z_]\w*)|\s*\.?\["((?:[^"\\])*)"\]|\s*\.("[^"\\]*")')
_EACH = re.compile(r"\s*\.?\[\]")
_SELECT = re.compile(
    r"""\s*\|\s*select\(\s*(?P<path>(?:\.[A-Za-z_]\w*|\.?\["[^"\\]*"\])+)\s*
    (?P<operator>==|!=)\s*(?P<constant>"[^"\\]*"|-?\d+|true|false|null)\s*\)""",
    re.VERBOSE,
)
_PIPE = re.compile(r"\s*\|\s*(?=\.)")


class _NoAnswer(Exception):  # jq stops with an error; a Stage takes it for no value
    pass


@functools.lru_cache(maxsize=1024)
def compile_query(text: str) -> Query:
    """A function from an object to the values the query finds in it, nulls and errors left out.

    Raises:
        Invalid: the text is no query.
    """
    steps = _steps(text.strip())
    if steps is None:
        return _with_jq(text)

    def find(obj: Any) -> Values:
        values = [obj]
        try:
            for step in steps:
                values = step(values)
        except _NoAnswer:
            return []
        return [each for each in values if each is not None]

    return find


def _steps(text: str) -> list[_Step] | None:
    if text == ".":
        return []
    at, found = 0, []
    while at < len(text):
        step: _Step
        if field := _FIELD.match(text, at):
            step, end = _field(field[1] or field[2] or field[3].strip('"')), field.end()
        elif each := _EACH.match(text, at):
            step, end = _each, each.end()
        elif chosen := _SELECT.match(text, at):
            inner = _steps(chosen["path"])
            if inner is None:
                return None
            equal = chosen["operator"] == "=="
            step, end = _select(inner, json.loads(chosen["constant"]), equal), chosen.end()
        elif pipe := _PIPE.match(text, at):
            at = pipe.end()
            continue
        else:
            return None
        found.append(step)
        at = end
    return found


def _field(name: str) -> _Step:
    def get(values: Values) -> Values:
        return [_member(each, name) for each in values]

    return get


def _member(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    if value is None:
        return None
    raise _NoAnswer


def _each(values: Values) -> Values:
    found: Values = []
    for each in values:
        if isinstance(each, list):
            found.extend(each)
        elif isinstance(each, dict):
            found.extend(each.values())
        else:
            raise _NoAnswer
    return found


def _select(path: list[_Step], constant: Any, equal: bool) -> _Step:
    def keep(values: Values) -> Values:
        found = []
        for each in values:
            inner = [each]
            for step in path:
                inner = step(inner)
            if (_same(inner[0], constant)) == equal:
                found.append(each)
        return found

    return keep


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _with_jq(text: str) -> Query:
    import jq  # loads a library of C; for queries that are more than paths

    try:
        program = jq.compile(text)
    except ValueError as error:
        raise Invalid(f"{text}: not a jq query: {error}") from error

    def find(obj: Any) -> Values:
        try:
            return [each for each in program.input_value(obj).all() if each is not None]
        except ValueError:
            return []

    return find
