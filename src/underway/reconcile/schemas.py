"""Structural CRD schemas from typed Python models.

A model is a ``msgspec.Struct`` or a dataclass. ``typing.Annotated`` with ``msgspec.Meta`` gives
constraints (``ge``, ``le``, ``gt``, ``lt``, ``multiple_of``, ``pattern``, ``min_length``,
``max_length``, ``description``, ``extra_json_schema``); defaults, enums and literals become
``default`` and ``enum``; ``rule`` and ``rules`` add CEL.

Source: Kubernetes docs, "Extend the API with CustomResourceDefinitions" (structural schemas,
validation rules, defaulting); apiextensions/v1 ``JSONSchemaProps``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as types

from underway.api.objects import Object
from underway.base.errors import BadRequest

_RULES = "__cel_rules__"
_LIST_LENGTHS = {"min_length": "minItems", "max_length": "maxItems"}
_MAP_LENGTHS = {"min_length": "minProperties", "max_length": "maxProperties"}
_TEXT_LENGTHS = {"min_length": "minLength", "max_length": "maxLength"}

_ANYTHING: Object = {"x-kubernetes-preserve-unknown-fields": True}
_SIMPLE: dict[type[types.Type], Object] = {
    types.AnyType: _ANYTHING,
    types.RawType: _ANYTHING,
    types.BoolType: {"type": "boolean"},
    types.ByteArrayType: {"type": "string", "format": "byte"},
    types.BytesType: {"type": "string", "format": "byte"},
    types.DateTimeType: {"type": "string", "format": "date-time"},
    types.DateType: {"type": "string", "format": "date"},
    types.UUIDType: {"type": "string", "format": "uuid"},
}

C = TypeVar("C", bound=type)


def rule(expression: str, message: str = "", **more: str) -> msgspec.Meta:
    """A CEL rule for one field, for ``Annotated``; ``self`` is the field's value.

    ``more`` is what else an ``x-kubernetes-validations`` entry takes: ``messageExpression``,
    ``reason``, ``fieldPath``.
    """
    return msgspec.Meta(
        extra_json_schema={"x-kubernetes-validations": [_rule(expression, message, more)]}
    )


def rules(*entries: tuple[str, str]) -> Callable[[C], C]:
    """CEL rules for a whole model, as a class decorator: pairs of expression and message."""

    def decorate(model: C) -> C:
        setattr(model, _RULES, [_rule(expression, message, {}) for expression, message in entries])
        return model

    return decorate


def free_form() -> msgspec.Meta:
    """Keep fields that the model does not name, for ``Annotated[dict[str, Any], ...]``."""
    return msgspec.Meta(extra_json_schema={"x-kubernetes-preserve-unknown-fields": True})


def list_map(*keys: str) -> msgspec.Meta:
    """A list whose items are told apart by these fields, as server-side apply merges it."""
    return msgspec.Meta(
        extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [*keys]}
    )


def schema_of(model: Any) -> Object:
    """The structural schema (``openAPIV3Schema`` syntax) of a type.

    Raises:
        BadRequest: the type has no structural schema: it is recursive, a union of several types,
            or an array of mixed types.
    """
    try:
        found = types.type_info(model)
    except TypeError as error:
        raise BadRequest(f"{model!r} is no type of a model: {error}") from error
    return _schema(found, (), getattr(model, "__name__", str(model)))


def _rule(expression: str, message: str, more: dict[str, str]) -> Object:
    return {"rule": expression, **({"message": message} if message else {}), **more}


def _schema(kind: types.Type, inside: tuple[type, ...], at: str) -> Object:
    simple = _SIMPLE.get(type(kind))
    if simple is not None:
        return dict(simple)
    match kind:
        case types.Metadata():
            return _merged(_schema(kind.type, inside, at), kind.extra_json_schema or {})
        case types.IntType():
            return {"type": "integer", "format": "int64", **_range(kind)}
        case types.FloatType():
            return {"type": "number", **_range(kind)}
        case types.StrType():
            pattern = {"pattern": kind.pattern} if kind.pattern else {}
            return {"type": "string", **pattern, **_lengths(kind, _TEXT_LENGTHS)}
        case types.EnumType():
            return _choice([member.value for member in kind.cls], at)
        case types.LiteralType():
            return _choice([*kind.values], at)
        case types.UnionType():
            return _optional(kind, inside, at)
        case types.DictType():
            return _mapping(kind, inside, at)
        case types.ListType() | types.VarTupleType() | types.SetType() | types.FrozenSetType():
            items = _schema(kind.item_type, inside, f"{at}[]")
            unique = isinstance(kind, types.SetType | types.FrozenSetType)
            sets = {"x-kubernetes-list-type": "set"} if unique else {}
            return {"type": "array", "items": items, **sets, **_lengths(kind, _LIST_LENGTHS)}
        case types.StructType() | types.DataclassType() | types.TypedDictType():
            return _structure(kind, inside, at)
    raise BadRequest(f"{at}: {type(kind).__name__.removesuffix('Type')} has no structural schema")


def _merged(schema: Object, extra: Object) -> Object:
    """Rules add up; of anything else the annotation counts."""
    key = "x-kubernetes-validations"
    merged = {**schema, **extra}
    if key in schema and key in extra:
        merged[key] = [*schema[key], *extra[key]]
    return merged


def _range(kind: types.IntType | types.FloatType) -> Object:
    found: Object = {}
    if kind.ge is not None:
        found["minimum"] = kind.ge
    if kind.gt is not None:
        found |= {"minimum": kind.gt, "exclusiveMinimum": True}
    if kind.le is not None:
        found["maximum"] = kind.le
    if kind.lt is not None:
        found |= {"maximum": kind.lt, "exclusiveMaximum": True}
    if kind.multiple_of is not None:
        found["multipleOf"] = kind.multiple_of
    return found


def _lengths(kind: Any, names: dict[str, str]) -> Object:
    return {
        name: value
        for field, name in names.items()
        if (value := getattr(kind, field, None)) is not None
    }


def _choice(values: list[Any], at: str) -> Object:
    kinds = {"integer" if isinstance(value, int) else "string" for value in values}
    if len(kinds) != 1:
        raise BadRequest(f"{at}: the choices are of several types: {values}")
    return {"type": kinds.pop(), "enum": values}


def _optional(kind: types.UnionType, inside: tuple[type, ...], at: str) -> Object:
    some = [each for each in kind.types if not isinstance(each, types.NoneType)]
    if {type(each) for each in some} == {types.IntType, types.StrType}:
        return {"x-kubernetes-int-or-string": True}
    if len(some) != 1:
        raise BadRequest(f"{at}: a union of several types has no structural schema")
    return _schema(some[0], inside, at)


def _mapping(kind: types.DictType, inside: tuple[type, ...], at: str) -> Object:
    values = _schema(kind.value_type, inside, f"{at}{{}}")
    lengths = _lengths(kind, _MAP_LENGTHS)
    if values == _ANYTHING:
        return {"type": "object", **values, **lengths}
    return {"type": "object", "additionalProperties": values, **lengths}


def _structure(
    kind: types.StructType | types.DataclassType | types.TypedDictType,
    inside: tuple[type, ...],
    at: str,
) -> Object:
    if kind.cls in inside:
        raise BadRequest(
            f"{at}: {kind.cls.__name__} contains itself, which no structural schema can say",
            hint="make the inner one Annotated[dict[str, Any], free_form()]",
        )
    if isinstance(kind, types.StructType) and kind.array_like:
        raise BadRequest(f"{at}: {kind.cls.__name__} is written as an array")
    inside = (*inside, kind.cls)
    properties = {
        field.encode_name: _field(field, inside, f"{at}.{field.encode_name}")
        for field in kind.fields
    }
    schema: Object = {"type": "object"}
    if description := _documentation(kind.cls):
        schema["description"] = description
    if properties:
        schema["properties"] = properties
    if required := [field.encode_name for field in kind.fields if field.required]:
        schema["required"] = required
    if own := getattr(kind.cls, _RULES, None):
        schema["x-kubernetes-validations"] = own
    return schema


def _field(field: types.Field, inside: tuple[type, ...], at: str) -> Object:
    schema = _schema(field.type, inside, at)
    default = field.default
    factory = field.default_factory
    if default is msgspec.NODEFAULT and factory not in (msgspec.NODEFAULT, list, dict, set, tuple):
        # The model's own defaults hold where users leave the whole field out.
        default = factory()
    if default is msgspec.NODEFAULT or default is None or default is msgspec.UNSET:
        return schema
    return {**schema, "default": msgspec.to_builtins(default)}


def _documentation(model: type) -> str:
    text = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    # A dataclass without a docstring gets its signature as one.
    return "" if text.startswith(f"{model.__name__}(") else text
