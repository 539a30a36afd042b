"""Harbor's ``q``, ``sort``, ``page`` and ``page_size``.

Source: goharbor/harbor api/v2.0/swagger.yaml, parameters query, sort, page and pageSize.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from underway.base.errors import BadRequest

PAGE_SIZE = 10
PAGE_LIMIT = 100
_FILTER_LIMIT = 32
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")
_NUMBER = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True, slots=True)
class Filter:
    """``kind`` is is, fuzzy, between, any or all; values are texts."""

    field: str
    kind: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What of a list is asked for."""

    filters: tuple[Filter, ...] = ()
    sort: tuple[str, ...] = ()
    page: int = 1
    page_size: int = PAGE_SIZE

    @property
    def offset(self) -> int:
        """How many rows come before this page."""
        return (self.page - 1) * self.page_size

    def where(self, fields: Mapping[str, str]) -> tuple[str, list[object]]:
        """A condition of SQL and its parameters; ``fields`` maps names to columns.

        Raises:
            BadRequest: a field is not among them.
        """
        conditions, params = ["1 = 1"], []
        for each in self.filters:
            column = _column(fields, each.field)
            condition, values = _condition(column, each)
            conditions.append(condition)
            params += values
        return " AND ".join(conditions), params

    def order(self, fields: Mapping[str, str], default: str) -> str:
        """An ORDER BY list; raises BadRequest."""
        parts = []
        for name in self.sort:
            column = _column(fields, name.lstrip("-+"))
            parts.append(f"{column} {'DESC' if name.startswith('-') else 'ASC'}")
        return ", ".join([*parts, default])

    def take(self, *names: str) -> tuple[dict[str, Filter], Query]:
        """The filters of some fields, and the query without them."""
        taken = {each.field: each for each in self.filters if each.field in names}
        rest = tuple(each for each in self.filters if each.field not in names)
        return taken, Query(rest, self.sort, self.page, self.page_size)


def parse(params: Mapping[str, str]) -> Query:
    """Read a request's parameters.

    Raises:
        BadRequest: one of them is malformed.
    """
    page = _number(params, "page", 1)
    size = _number(params, "page_size", PAGE_SIZE)
    if page < 1:
        raise BadRequest(f"page {page} is less than 1")
    if not (1 <= size <= PAGE_LIMIT):
        raise BadRequest(f"page_size {size} is not between 1 and {PAGE_LIMIT}")
    sort = tuple(part.strip() for part in params.get("sort", "").split(",") if part.strip())
    return Query(tuple(parse_filters(params.get("q", ""))), sort, page, size)


def parse_filters(text: str) -> list[Filter]:
    """Read ``q``: ``name=~lib,size=[1~9],tag={a b},label=(a b),public=true``."""
    found = []
    for part in _split(text):
        field, sign, value = part.partition("=")
        field = field.strip()
        if not sign or not field:
            raise BadRequest(f"q: {part!r} is no FIELD=VALUE")
        found.append(_filter(field, value.strip()))
    if len(found) > _FILTER_LIMIT:
        raise BadRequest(f"q: {len(found)} filters are too many")
    return found


def links(path: str, params: Mapping[str, str], query: Query, total: int) -> str:
    """The ``Link`` header: the previous page and the next."""
    parts = []
    for rel, page in (("prev", query.page - 1), ("next", query.page + 1)):
        if page >= 1 and (page - 1) * query.page_size < total:
            again = {**params, "page": str(page), "page_size": str(query.page_size)}
            parts.append(f'<{path}?{urlencode(again)}>; rel="{rel}"')
    return " , ".join(parts)


def like(text: str) -> str:
    """A text to be found anywhere, as a pattern for ``LIKE ... ESCAPE '!'``."""
    escaped = re.sub(r"([!%_])", r"!\1", text.lower())
    return f"%{escaped}%"


def _filter(field: str, value: str) -> Filter:
    brackets = value[:1] + value[-1:]
    if value.startswith("~"):
        return Filter(field, "fuzzy", (_unquoted(value[1:]),))
    if brackets == "[]":
        low, tilde, high = value[1:-1].partition("~")
        if not tilde:
            raise BadRequest(f"q: {value!r} is no range [MIN~MAX]")
        return Filter(field, "between", (_unquoted(low), _unquoted(high)))
    if brackets in ("{}", "()"):
        words = tuple(_unquoted(word) for word in value[1:-1].split())
        return Filter(field, "any" if brackets == "{}" else "all", words)
    if value[:1] in "[{(" and value:
        raise BadRequest(f"q: {value!r} has no closing bracket")
    return Filter(field, "is", (_unquoted(value),))


def _split(text: str) -> list[str]:
    parts, depth, current, quoted = [], 0, "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{(") - (character in "]})")
        if character == "," and depth <= 0 and not quoted:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part for part in (*parts, current) if part.strip()]


def _condition(column: str, wanted: Filter) -> tuple[str, list[object]]:
    values: list[object] = [_typed(value) for value in wanted.values]
    if wanted.kind == "fuzzy":
        return f"lower({column}) LIKE ? ESCAPE '!'", [like(wanted.values[0])]
    if wanted.kind == "between":
        parts, bounds = [], []
        ends = ((">=", ".000Z"), ("<=", ".999Z"))
        for (sign, rest), text, value in zip(ends, wanted.values, values, strict=True):
            if text:
                parts.append(f"{column} {sign} ?")
                # Harbor's times have a space where ours have a T, and no milliseconds.
                is_time = _TIME.fullmatch(text)
                bounds.append(text.replace(" ", "T") + rest if is_time else value)
        return " AND ".join(parts) or "1 = 1", bounds
    if wanted.kind == "all" and len(set(values)) > 1:
        return "1 = 0", []  # a column has one value
    texts = [str(value) for value in values]
    if not texts:
        return "1 = 1", []
    return f"CAST({column} AS TEXT) IN ({', '.join('?' for _ in texts)})", list(texts)


def _typed(value: str) -> object:
    if value in ("true", "false"):
        return int(value == "true")
    return int(value) if _NUMBER.fullmatch(value) else value


def _column(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise BadRequest(f"{name!r} is no field to filter or sort by")
    column = fields[name]
    return column if "." in column or "(" in column else f'"{column}"'


def _number(params: Mapping[str, str], name: str, default: int) -> int:
    text = params.get(name, "") or str(default)
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name}={text!r} is no number")
    return int(text)


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
