"""One view of a type's shape, for built-in kinds and for custom resources alike.

A `Schema` wraps one node of an OpenAPI v3 schema with the Kubernetes extensions. Built-in types
come from a generated index (tools/gen_schema.py) whose types are decoded when first used.

Source: Kubernetes API conventions; apiextensions "structural schemas"; OpenAPI 3.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Any

import msgspec

from underway.api.objects import Object
from underway.base.errors import Cause

REF_PREFIX = "#/components/schemas/"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


class _Index(msgspec.Struct):
    version: str
    kinds: dict[str, str]
    types: dict[str, msgspec.Raw]


@cache
def _index() -> _Index:
    data = resources.files("underway.api.data").joinpath("schema.json").read_bytes()
    return msgspec.json.decode(data, type=_Index)


@cache
def _builtin_node(name: str) -> dict[str, Any]:
    node: dict[str, Any] = msgspec.json.decode(_index().types[name])
    return node


@cache
def _builtin_type(name: str) -> Schema:
    return Schema(_builtin_node(name), _builtin_node, name)


def _no_types(name: str) -> dict[str, Any]:
    raise KeyError(name)


class Schema:
    """One node: an object, list, map or scalar.

    Args:
        node: the OpenAPI v3 node.
        resolve: definition name -> node, for ``$ref``.
        name: the definition's name, empty for an inline type.
    """

    def __init__(
        self,
        node: Mapping[str, Any],
        resolve: Callable[[str], dict[str, Any]] = _no_types,
        name: str = "",
        *,
        overrides: Mapping[str, Schema] | None = None,
    ) -> None:
        self._resolve = resolve
        self.overrides = dict(overrides or {})
        ref = _ref_of(node)
        if ref:
            siblings = {k: v for k, v in node.items() if k not in ("$ref", "allOf")}
            node, name = {**resolve(ref), **siblings}, ref
        self.node = node
        self.name = name

    def __repr__(self) -> str:
        return f"Schema({self.name or self.type or 'any'})"

    @cached_property
    def type(self) -> str:
        """``object``, ``array``, ``string``, ``integer``, ``number``, ``boolean`` or empty."""
        return str(self.node.get("type") or "")

    @cached_property
    def properties(self) -> dict[str, Schema]:
        """The named fields."""
        found = {
            name: self._child(child) for name, child in (self.node.get("properties") or {}).items()
        }
        found.update(self.overrides)
        if self.embedded_resource:
            found.setdefault("apiVersion", STRING)
            found.setdefault("kind", STRING)
            found["metadata"] = _builtin_type(OBJECT_META)
        return found

    @cached_property
    def items(self) -> Schema | None:
        """The type of a list's items."""
        node = self.node.get("items")
        return self._child(node) if isinstance(node, dict) else None

    @cached_property
    def values(self) -> Schema | None:
        """The type of a map's values."""
        node = self.node.get("additionalProperties")
        if node is True:
            return ANY
        return self._child(node) if isinstance(node, dict) else None

    @cached_property
    def preserve_unknown(self) -> bool:
        """Whether fields no schema names are kept."""
        return bool(self.node.get("x-kubernetes-preserve-unknown-fields"))

    @cached_property
    def embedded_resource(self) -> bool:
        """Whether the value is a whole object with apiVersion, kind and metadata."""
        return bool(self.node.get("x-kubernetes-embedded-resource"))

    @cached_property
    def int_or_string(self) -> bool:
        """Whether an integer and a string are both fine."""
        return bool(
            self.node.get("x-kubernetes-int-or-string")
            or self.node.get("format") in ("int-or-string", "quantity")
        )

    @cached_property
    def built_in(self) -> bool:
        """Whether the type is one of Kubernetes' own, where null says the same as nothing."""
        return self._resolve is _builtin_node

    @property
    def nullable(self) -> bool:
        """Whether null is a value."""
        return bool(self.node.get("nullable"))

    @cached_property
    def list_type(self) -> str:
        """``atomic`` (the default), ``set`` or ``map``, by which server-side apply merges.

        Where only a strategic merge patch says how a list merges, apply follows it.
        """
        given = self.node.get("x-kubernetes-list-type")
        if not given and "merge" in self.patch_strategies:
            given = "map" if self.patch_merge_key else "set"
        return str(given or "atomic")

    @cached_property
    def list_map_keys(self) -> list[str]:
        """The fields that tell the items of a ``map`` list apart."""
        given = self.node.get("x-kubernetes-list-map-keys")
        if not given and self.list_type == "map" and self.patch_merge_key:
            given = [self.patch_merge_key]
        return list(given or ())

    @cached_property
    def atomic_map(self) -> bool:
        """Whether the object or map is one value to server-side apply."""
        return self.node.get("x-kubernetes-map-type") == "atomic"

    @property
    def patch_merge_key(self) -> str:
        """The key by which a strategic merge patch merges a list, or empty."""
        return str(self.node.get("x-kubernetes-patch-merge-key") or "")

    @property
    def patch_strategies(self) -> list[str]:
        """``merge``, ``replace`` and ``retainKeys`` of strategic merge patches."""
        text = self.node.get("x-kubernetes-patch-strategy") or ""
        return str(text).split(",") if text else []

    @property
    def required(self) -> list[str]:
        """The fields that must be there."""
        return list(self.node.get("required") or ())

    @property
    def default(self) -> Any:
        """The value a missing field takes, or None."""
        return self.node.get("default")

    def field(self, name: str) -> Schema | None:
        """The type of a field or map value; None for a field nobody knows."""
        found = self.properties.get(name)
        if found is None:
            found = self.values or (ANY if self.preserve_unknown else None)
        return found

    def at(self, *names: str) -> Schema | None:
        """The type some fields down; ``[]`` steps into a list's items."""
        found: Schema | None = self
        for name in names:
            if found is None:
                return None
            found = found.items if name == "[]" else found.field(name)
        return found

    def variant(self, node: Mapping[str, Any]) -> Schema:
        """Another node at the same place, as ``oneOf`` and its like hold."""
        return Schema(node, self._resolve)

    def _child(self, node: Mapping[str, Any]) -> Schema:
        if self._resolve is _builtin_node and len(node) == 1 and (ref := _ref_of(node)):
            return _builtin_type(ref)
        return Schema(node, self._resolve)


def _ref_of(node: Mapping[str, Any]) -> str:
    ref = node.get("$ref")
    if ref is None and node.get("allOf") and len(node["allOf"]) == 1:
        ref = node["allOf"][0].get("$ref")
    return str(ref).removeprefix(REF_PREFIX) if ref else ""


STRING = Schema({"type": "string"})
ANY = Schema({"x-kubernetes-preserve-unknown-fields": True})


def builtin(api_version: str, kind: str) -> Schema | None:
    """The type of a built-in kind, or None."""
    name = _index().kinds.get(f"{api_version}/{kind}")
    return _builtin_type(name) if name else None


def definition_name(api_version: str, kind: str) -> str:
    """The OpenAPI definition of a built-in kind, or empty."""
    return _index().kinds.get(f"{api_version}/{kind}", "")


def definition(name: str) -> dict[str, Any]:
    """The node of a built-in definition, not to be written to.

    Raises:
        KeyError: there is no such definition.
    """
    return _builtin_node(name)


def builtin_version() -> str:
    """The Kubernetes release the built-in types are those of."""
    return _index().version


def from_openapi(schema: Mapping[str, Any] | None) -> Schema:
    """The type of a custom resource from its ``openAPIV3Schema``; without one, anything goes.

    ``metadata`` is always ObjectMeta, whatever the schema restricts in it.
    """
    node = dict(schema) if schema else dict(ANY.node)
    node.setdefault("type", "object")
    root = {"apiVersion": STRING, "kind": STRING, "metadata": _builtin_type(OBJECT_META)}
    return Schema(node, overrides=root)


def _walk(
    schema: Schema, value: Any, path: str, unknown: Callable[[Object, str, str], None]
) -> None:
    if isinstance(value, dict):
        for name in list(value):
            at = f"{path}.{name}" if path else name
            child = schema.field(name)
            if child is None:
                if schema.type in ("object", ""):
                    unknown(value, name, at)
            else:
                _walk(child, value[name], at, unknown)
    elif isinstance(value, list):
        item = schema.items
        if item is not None:
            for number, child_value in enumerate(value):
                _walk(item, child_value, f"{path}[{number}]", unknown)


def unknown_fields(schema: Schema, obj: Object) -> list[str]:
    """The paths, such as ``spec.containers[0].imagee``, that the type does not know."""
    found: list[str] = []
    _walk(schema, obj, "", lambda _parent, _name, path: found.append(path))
    return found


def prune(schema: Schema, obj: Object) -> None:
    """Remove the fields the type does not know."""
    _walk(schema, obj, "", lambda parent, name, _path: parent.pop(name))


def apply_schema_defaults(schema: Schema, obj: Any) -> None:
    """Fill missing fields, and nulls that may not be null, with the schema's defaults.

    Source: apiextensions "Defaulting and Nullable".
    """
    if isinstance(obj, dict):
        for name, child in schema.properties.items():
            if name in ("apiVersion", "kind", "metadata") and name in schema.overrides:
                continue
            if child.default is not None and (
                name not in obj or (obj[name] is None and not child.nullable)
            ):
                obj[name] = _copy(child.default)
            elif name in obj and obj[name] is None and not child.nullable:
                del obj[name]
        for name, value in obj.items():
            below = schema.field(name)
            if below is not None and name not in schema.overrides:
                apply_schema_defaults(below, value)
    elif isinstance(obj, list) and schema.items is not None:
        for value in obj:
            apply_schema_defaults(schema.items, value)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def validate(schema: Schema, obj: Object) -> list[Cause]:
    """What breaks the schema of a custom resource, as Kubernetes words it; empty when valid.

    Types, required fields, enums, bounds, lengths, patterns, the usual formats, the uniqueness
    of ``set`` and ``map`` lists, and ``allOf``, ``anyOf``, ``oneOf`` and ``not`` are checked.
    Rules in CEL are not.
    """
    from underway.api.validation import check  # the rules import Schema

    return check(schema, obj)
