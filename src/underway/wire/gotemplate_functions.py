"""The functions every Go template has; ``and``, ``or`` and ``call`` are the evaluator's own.

Source: Go ``text/template`` package documentation, "Functions".
"""

from __future__ import annotations

import html as markup
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from underway.wire.gotemplate_format import sprint, sprintf
from underway.wire.gotemplate_literals import type_name

Function = Callable[..., Any]


class FunctionError(Exception):
    """A function cannot work with these arguments; the template's error says what it says."""


def truth(value: Any) -> bool:
    """Whether a value is anything but empty."""
    if isinstance(value, bool | int | float | str | Mapping | list | tuple):
        return bool(value)
    return value is not None


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "string"
    return ""


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise FunctionError("missing argument for comparison")
    kind = _kind(first)
    for other in others:
        if first is None or other is None:
            if first is other:
                return True
            continue
        if kind != _kind(other):
            raise _incompatible(first, other)
        if not kind:
            raise FunctionError(f"non-comparable type {sprintf('%s', [first])}: {type_name(first)}")
        if first == other:
            return True
    return False


def _incompatible(first: Any, second: Any) -> FunctionError:
    kinds = f"{type_name(first)} and {type_name(second)}"
    return FunctionError(f"incompatible types for comparison: {kinds}")


def _ne(first: Any, second: Any) -> bool:
    return not _eq(first, second)


def _lt(first: Any, second: Any) -> bool:
    kinds = _kind(first), _kind(second)
    if "" in kinds:
        raise FunctionError("invalid type for comparison")
    if kinds[0] != kinds[1]:
        raise _incompatible(first, second)
    if kinds[0] == "bool":
        raise FunctionError("invalid type for comparison")
    smaller: bool = first < second
    return smaller


def _le(first: Any, second: Any) -> bool:
    return _lt(first, second) or _eq(first, second)


def _gt(first: Any, second: Any) -> bool:
    return not _le(first, second)


def _ge(first: Any, second: Any) -> bool:
    return not _lt(first, second)


def _position(value: Any, limit: int, what: str = "index") -> int:
    if value is None:
        raise FunctionError("cannot index slice/array with nil")
    if isinstance(value, bool) or not isinstance(value, int):
        raise FunctionError(f"cannot index slice/array with type {type_name(value)}")
    if not 0 <= value < limit:
        raise FunctionError(f"{what} out of range: {value}")
    return value


def _index(item: Any, *keys: Any) -> Any:
    if item is None:
        raise FunctionError("index of untyped nil")
    for key in keys:
        match item:
            case str():
                data = item.encode()
                item = data[_position(key, len(data))]
            case list() | tuple():
                item = item[_position(key, len(item))]
            case Mapping():
                if key is not None and not isinstance(key, str):
                    text = f"value has type {type_name(key)}; should be string"
                    raise FunctionError(text)
                if key is None:
                    raise FunctionError("value is nil; should be of type string")
                item = item.get(key)
            case None:
                raise FunctionError("index of nil pointer")
            case _:
                raise FunctionError(f"can't index item of type {type_name(item)}")
    return item


def _slice(item: Any, *bounds: Any) -> Any:
    if item is None:
        raise FunctionError("slice of untyped nil")
    if len(bounds) > 3:
        raise FunctionError(f"too many slice indexes: {len(bounds)}")
    if not isinstance(item, str | list | tuple):
        raise FunctionError(f"can't slice item of type {type_name(item)}")
    whole = item.encode() if isinstance(item, str) else item
    if isinstance(item, str) and len(bounds) == 3:
        raise FunctionError("cannot 3-index slice a string")
    places = [_position(each, len(whole) + 1) for each in bounds]
    start = places[0] if places else 0
    stop = places[1] if len(places) > 1 else len(whole)
    if start > stop:
        raise FunctionError(f"invalid slice index: {start} > {stop}")
    found = whole[start:stop]
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else list(found)


def _len(item: Any) -> int:
    match item:
        case str():
            return len(item.encode())
        case list() | tuple() | Mapping():
            return len(item)
        case None:
            raise FunctionError("len of nil pointer")
    raise FunctionError(f"len of type {type_name(item)}")


def _as_text(values: Sequence[Any]) -> str:
    if len(values) == 1 and (values[0] is None or isinstance(values[0], str)):
        return "<no value>" if values[0] is None else values[0]
    return sprint(values)


def _html(*values: Any) -> str:
    text = markup.escape(_as_text(values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    return text.replace("\0", "�")


_JS = {
    ord("\\"): "\\\\",
    ord("'"): "\\'",
    ord('"'): '\\"',
    **{code: f"\\u{code:04X}" for code in (*range(0x20), 0x7F, *b"<>&=", 0x2028, 0x2029)},
}


def _js(*values: Any) -> str:
    return _as_text(values).translate(_JS)


def _urlquery(*values: Any) -> str:
    return urllib.parse.quote_plus(_as_text(values), safe="")


def _println(*values: Any) -> str:
    return " ".join(sprint([each]) for each in values) + "\n"


def _printf(layout: Any, *values: Any) -> str:
    if not isinstance(layout, str):
        raise FunctionError(f"wrong type for value; expected string; got {type_name(layout)}")
    return sprintf(layout, values)


BUILTINS: Mapping[str, Function] = {
    "eq": _eq,
    "ne": _ne,
    "lt": _lt,
    "le": _le,
    "gt": _gt,
    "ge": _ge,
    "not": lambda value: not truth(value),
    "len": _len,
    "index": _index,
    "slice": _slice,
    "print": lambda *values: sprint(values),
    "printf": _printf,
    "println": _println,
    "html": _html,
    "js": _js,
    "urlquery": _urlquery,
}
