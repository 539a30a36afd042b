"""Grafeas' filters: which notes or occurrences are listed.

Comparisons with ``= == != < <= > >=`` and ``:`` (has), combined with ``AND OR NOT``, ``&& || !``
and parentheses. Source: google.aip.dev/160; the CEL form of Grafeas' reference server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.provenance.rules.notes import camel

Test = Callable[[Mapping[str, Any]], bool]

LENGTH_LIMIT = 4096
DEPTH_LIMIT = 32
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<op>==|!=|<=|>=|&&|\|\||[=<>:!()])"""
    r"""|(?P<word>[A-Za-z0-9_.+@/*-]+))"""
)
_ORDERS = {
    "severity": ("SEVERITY_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "CRITICAL"),
    "effectiveSeverity": ("SEVERITY_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "CRITICAL"),
}
_ALIASES = {
    "resourceUrl": "resourceUri",
    "resource.uri": "resourceUri",
    "resource.url": "resourceUri",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """``matches`` decides; ``equal`` are fields that must have a value, for looking up quickly."""

    matches: Test
    equal: Mapping[str, str]


def parse(text: str) -> Filter:
    """A filter from its text; an empty one matches everything.

    Raises:
        BadRequest: it is malformed, longer than 4096 characters or nested more than 32 deep.
    """
    if not text.strip():
        return Filter(lambda _obj: True, {})
    if len(text) > LENGTH_LIMIT:
        raise BadRequest(f"the filter is longer than {LENGTH_LIMIT} characters")
    parser = _Parser(_tokens(text))
    test = parser.any_of(0)
    parser.end()
    return Filter(test, {} if parser.branched else parser.equal)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise BadRequest(f"the filter cannot be read at {text[at : at + 20]!r}")
        value = match[match.lastgroup]
        if match.lastgroup == "text":
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        found.append((match.lastgroup, value))
        at = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self.equal: dict[str, str] = {}
        self.branched = False

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise BadRequest(f"the filter has more after {self._tokens[self._at - 1][1]!r}")

    def any_of(self, depth: int) -> Test:
        if depth > DEPTH_LIMIT:
            raise BadRequest(f"the filter is nested more than {DEPTH_LIMIT} deep")
        tests = [self._all_of(depth)]
        while self._take("OR", "||"):
            self.branched = True
            tests.append(self._all_of(depth))
        return tests[0] if len(tests) == 1 else lambda obj: any(test(obj) for test in tests)

    def _all_of(self, depth: int) -> Test:
        tests = [self._one(depth)]
        while self._take("AND", "&&"):
            tests.append(self._one(depth))
        return tests[0] if len(tests) == 1 else lambda obj: all(test(obj) for test in tests)

    def _one(self, depth: int) -> Test:
        if self._take("NOT", "!"):
            self.branched = True
            if depth > DEPTH_LIMIT:
                raise BadRequest(f"the filter is nested more than {DEPTH_LIMIT} deep")
            test = self._one(depth + 1)
            return lambda obj: not test(obj)
        if self._take("("):
            test = self.any_of(depth + 1)
            if not self._take(")"):
                raise BadRequest("the filter lacks a closing parenthesis")
            return test
        return self._comparison()

    def _comparison(self) -> Test:
        kind, path = self._next("a field")
        _, operator = self._next("a comparison")
        _, wanted = self._next("a value")
        if kind != "word" or operator not in ("=", "==", "!=", "<", "<=", ">", ">=", ":"):
            raise BadRequest(f"the filter has no comparison at {path!r}")
        field = ".".join(camel(part) for part in path.split("."))
        field = _ALIASES.get(field, field)
        if operator in ("=", "=="):
            self.equal[field] = wanted
        return lambda obj: _compare(field, _value(obj, field), operator, wanted)

    def _next(self, what: str) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise BadRequest(f"the filter ends where {what} belongs")
        self._at += 1
        return self._tokens[self._at - 1]

    def _take(self, *words: str) -> bool:
        if self._at < len(self._tokens):
            kind, value = self._tokens[self._at]
            if kind != "text" and value in words:
                self._at += 1
                return True
        return False


def _value(obj: Mapping[str, Any], field: str) -> Any:
    value: Any = obj
    for part in field.split("."):
        if isinstance(value, list):
            value = [each.get(part) for each in value if isinstance(each, dict)]
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _compare(field: str, value: Any, operator: str, wanted: str) -> bool:
    if isinstance(value, list) and operator != ":":
        return any(_compare(field, each, operator, wanted) for each in value)
    if operator == ":":
        if wanted == "*":
            return value not in (None, "", [], {})
        held = value if isinstance(value, list | dict) else _text(value)
        return wanted in held
    if operator in ("=", "=="):
        return _text(value) == wanted
    if operator == "!=":
        return _text(value) != wanted
    one, other = _ordered(field, value, wanted)
    if one is None:
        return False
    return {
        "<": one < other,
        "<=": one <= other,
        ">": one > other,
        ">=": one >= other,
    }[operator]


def _ordered(field: str, value: Any, wanted: str) -> tuple[Any, Any]:
    order = _ORDERS.get(field.rpartition(".")[2])
    if order and value in order and wanted in order:
        return order.index(value), order.index(wanted)
    try:
        return float(value), float(wanted)
    except (TypeError, ValueError):
        return (None, None) if value is None else (_text(value), wanted)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
