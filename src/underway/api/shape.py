"""Reading fields of a type out of an object that somebody else wrote.

A missing or null field reads as empty. A field of another type is the caller's mistake: the API
server cannot decode such a request and answers 400.
"""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest

Object = dict[str, Any]

_JSON_NAMES = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "bool",
    int: "number",
    float: "number",
}


class ShapeError(BadRequest):
    """A field holds a value of another JSON type than its kind says."""


def mismatch(field: str, value: object, wanted: str) -> ShapeError:
    """The error that ``field`` holds a ``value`` where a ``wanted`` belongs."""
    found = _JSON_NAMES.get(type(value), type(value).__name__)
    return ShapeError(f"json: cannot unmarshal {found} into field {field} of type {wanted}")


def mapping(parent: Object, field: str) -> Object:
    """The object at ``field``; a fresh empty one where there is none."""
    value = parent.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise mismatch(field, value, "object")
    return value


def made(parent: Object, field: str) -> Object:
    """The object at ``field``, put there if it was missing."""
    value = mapping(parent, field)
    parent[field] = value
    return value


def sequence(parent: Object, field: str) -> list[Any]:
    """The list at ``field``, or an empty one."""
    value = parent.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise mismatch(field, value, "array")
    return value


def items(parent: Object, field: str) -> list[Object]:
    """The list of objects at ``field``, or an empty one."""
    values = sequence(parent, field)
    for value in values:
        if not isinstance(value, dict):
            raise mismatch(f"{field}[]", value, "object")
    return values


def text(parent: Object, field: str) -> str:
    """The string at ``field``, or an empty one."""
    value = parent.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise mismatch(field, value, "string")
    return value


def texts(parent: Object, field: str) -> dict[str, str]:
    """The map of strings at ``field``, or an empty one."""
    values = mapping(parent, field)
    for name, value in values.items():
        if not isinstance(value, str):
            raise mismatch(f"{field}.{name}", value, "string")
    return values


def integer(parent: Object, field: str) -> int | None:
    """The whole number at ``field``, or None."""
    value = parent.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise mismatch(field, value, "integer")
    return value


def boolean(parent: Object, field: str) -> bool:
    """The truth value at ``field``; False where there is none."""
    value = parent.get(field)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise mismatch(field, value, "boolean")
    return value
