"""A quick yes to the question whether an object has its built-in type's shape.

msgspec checks types and names in C once it has them as its own; they are made from the schema when
first needed. A no only means: look closer, with ``schema.unknown_fields`` and ``schema.validate``,
which name what is wrong.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import msgspec

from underway.api.schema import Schema

# A part of what RFC 3339 allows, and so of what ``validate`` does: the form Kubernetes writes.
_TIME = (
    r"\A[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?Z\Z"
)
_TEXTS: dict[str, Any] = {
    "": str,
    "byte": bytes,
    "date-time": Annotated[str, msgspec.Meta(pattern=_TIME)],
}
_SCALARS: dict[str, Any] = {"integer": int, "number": float, "boolean": bool}


class _Recursive(Exception):
    """A type that holds itself has no msgspec type made here."""


def fits(schema: Schema, obj: Any) -> bool:
    """Whether all fields of ``obj`` are known and of the right type; never true without reason."""
    wanted = _root(schema) if schema.built_in else None
    if wanted is None:
        return False
    try:
        msgspec.convert(obj, wanted)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


@cache
def _root(schema: Schema) -> Any:
    try:
        return _of(schema, ())
    except _Recursive:
        return None


def _of(schema: Schema, above: tuple[str, ...]) -> Any:
    """The msgspec type of a node below the named types ``above``; null is fine everywhere."""
    if schema.int_or_string:
        quantity = schema.node.get("format") == "quantity"
        return int | float | str | None if quantity else int | str | None
    if schema.type == "string":
        text = _TEXTS.get(str(schema.node.get("format") or ""))
        return None if text is None else text | None
    if schema.type in _SCALARS:
        return _SCALARS[schema.type] | None
    if schema.type == "array" and schema.items is not None:
        return list[_of(schema.items, above)] | None  # type: ignore[misc]
    if schema.type == "object" and schema.properties:
        return None if schema.values or schema.preserve_unknown else _named(schema, above) | None
    if schema.type == "object" and schema.values is not None:
        return dict[str, _of(schema.values, above)] | None  # type: ignore[misc]
    if schema.type == "array":
        return list[Any] | None
    if not schema.preserve_unknown:
        return None
    return dict[str, Any] | None if schema.type == "object" else Any


def _named(schema: Schema, above: tuple[str, ...]) -> Any:
    if not schema.name:
        return _struct(schema, above)
    if schema.name in above:
        raise _Recursive(schema.name)
    found = _structs.get(schema.name)
    if found is None:
        found = _structs[schema.name] = _struct(schema, (*above, schema.name))
    return found


_structs: dict[str, Any] = {}


def _struct(schema: Schema, above: tuple[str, ...]) -> Any:
    # Field names of Kubernetes may be no Python names, so each field is called by its number.
    names = {f"f{number}": name for number, name in enumerate(schema.properties)}
    fields = [(field, _of(schema.properties[name], above), None) for field, name in names.items()]
    return msgspec.defstruct("Fitting", fields, rename=names, forbid_unknown_fields=True, gc=False)
