"""The OpenAPI v3 documents that clients learn the API from, one for each group and version.

kubectl reads them for ``explain``, for the merge keys of ``apply``, and to see that a PATCH takes
the ``fieldValidation`` parameter.

Source: OpenAPI 3.0; Kubernetes KEP-2896 "OpenAPI V3".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources as package_files
from typing import Any

import msgspec
import zstandard

from underway.api import schema as schemas
from underway.api.resources import Resource
from underway.api.schema import OBJECT_META, REF_PREFIX

LIST_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
STATUS = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
PATCH = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
SCALE = "io.k8s.api.autoscaling.v1.Scale"

_EDITION = 2  # of what this module makes of its input: clients keep documents by their hash
_JSON = "application/json"
_PATCH_TYPES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)
_STRATEGIC = "application/strategic-merge-patch+json"
_DESCRIPTION_LIMIT_BYTES = 8 * 1024 * 1024

_PARAMETERS = {
    "pretty": ("string", "If 'true', then the output is pretty printed."),
    "dryRun": ("string", "'All' processes the request without storing anything."),
    "fieldManager": ("string", "The name of the actor that makes the change."),
    "fieldValidation": ("string", "What happens to unknown fields: Ignore, Warn or Strict."),
    "force": ("boolean", "Take over the fields that other appliers own."),
    "labelSelector": ("string", "Return only objects with matching labels."),
    "fieldSelector": ("string", "Return only objects with matching fields."),
    "limit": ("integer", "The most objects to return; the rest follows with continue."),
    "continue": ("string", "Where an earlier, limited list goes on."),
    "resourceVersion": ("string", "The version that the answer must not be older than."),
    "watch": ("boolean", "Follow changes instead of listing."),
    "gracePeriodSeconds": ("integer", "Seconds the object has to end."),
    "propagationPolicy": ("string", "What becomes of dependents: Orphan, Background, Foreground."),
}
# Subresources that show the object or a part of it, and take changes of it.
_PARTS = ("approval", "ephemeralcontainers", "finalize", "resize", "scale", "status")
# Those that take an object of another kind: its apiVersion and kind.
_POSTED = {
    "binding": ("v1", "Binding"),
    "eviction": ("policy/v1", "Eviction"),
    "token": ("authentication.k8s.io/v1", "TokenRequest"),
}
_WRITE = ("pretty", "dryRun", "fieldManager", "fieldValidation")
_LIST = ("pretty", "labelSelector", "fieldSelector", "limit", "continue", "resourceVersion")
_DELETE = ("pretty", "dryRun", "gracePeriodSeconds", "propagationPolicy")


def document_path(group: str, version: str) -> str:
    """The document's key in the index, such as ``api/v1`` or ``apis/apps/v1``."""
    return f"apis/{group}/{version}" if group else f"api/{version}"


def document_hash(
    resources: Sequence[Resource], crd_schemas: Mapping[str, Mapping[str, Any]]
) -> str:
    """What the document's content depends on, as hexadecimal digits, without making it."""
    digest = hashlib.sha256(f"{_EDITION} {schemas.builtin_version()}".encode())
    for resource in resources:
        digest.update(repr(resource).encode())
    digest.update(msgspec.json.encode(dict(crd_schemas), order="sorted"))
    return digest.hexdigest().upper()


def index(hashes: Mapping[str, str]) -> bytes:
    """The answer of ``/openapi/v3`` from document path -> hash."""
    paths = {
        path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={value}"}
        for path, value in sorted(hashes.items())
    }
    return msgspec.json.encode({"paths": paths})


def document(
    group: str,
    version: str,
    resources: Sequence[Resource],
    crd_schemas: Mapping[str, Mapping[str, Any]],
) -> bytes:
    """The document of one group and version.

    Args:
        group: the group, empty for core.
        version: the version.
        resources: what is served of that group and version.
        crd_schemas: kind -> ``openAPIV3Schema`` for those that are custom resources.
    """
    definitions = _Definitions()
    paths: dict[str, Any] = {}
    for resource in resources:
        if resource.kind in crd_schemas:
            name = definitions.add_custom(resource, crd_schemas[resource.kind])
        else:
            name = definitions.add_kind(resource)
        paths |= _paths(resource, name, definitions, custom=resource.kind in crd_schemas)
    return msgspec.json.encode(
        {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": f"v{schemas.builtin_version()}"},
            "paths": dict(sorted(paths.items())),
            "components": {"schemas": definitions.collected()},
        }
    )


class _Definitions:
    """The component schemas of one document: those asked for and all they refer to."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.texts = _descriptions()

    def add(self, name: str) -> str:
        """A built-in definition with all it refers to."""
        pending = [name]
        while pending:
            current = pending.pop()
            if current in self.found:
                continue
            texts = msgspec.json.decode(self.texts.get(current, b"{}"))
            node = _published(schemas.definition(current), texts)
            self.found[current] = node
            pending.extend(_references(node))
        return name

    def add_kind(self, resource: Resource) -> str:
        """A built-in kind and its list, or an open object for one without a published type."""
        name = schemas.definition_name(resource.api_version, resource.kind)
        if not name:
            return self.add_custom(resource, schemas.ANY.node)
        list_name = schemas.definition_name(resource.api_version, resource.list_kind)
        if list_name:
            self.add(list_name)
        return self.add(name)

    def add_custom(self, resource: Resource, schema: Mapping[str, Any]) -> str:
        """A custom resource's kind and its list."""
        reverse = ".".join(reversed(resource.group.split(".")))
        name = f"{reverse}.{resource.version}.{resource.kind}"
        identity = {
            "apiVersion": {"type": "string", "description": "The group and version."},
            "kind": {"type": "string", "description": "The kind."},
        }
        self.found[name] = {
            "type": "object",
            **schema,
            "properties": {
                **(schema.get("properties") or {}),
                **identity,
                "metadata": _reference(self.add(OBJECT_META), "Standard object's metadata."),
            },
            "x-kubernetes-group-version-kind": [_gvk(resource)],
        }
        self.found[f"{name}List"] = {
            "type": "object",
            "description": f"{resource.list_kind} is a list of {resource.kind}",
            "required": ["items"],
            "properties": {
                **identity,
                "metadata": _reference(self.add(LIST_META), "Standard list metadata."),
                "items": {"type": "array", "items": {"$ref": REF_PREFIX + name}},
            },
            "x-kubernetes-group-version-kind": [{**_gvk(resource), "kind": resource.list_kind}],
        }
        return name

    def collected(self) -> dict[str, Any]:
        """Everything that was added, by name."""
        return dict(sorted(self.found.items()))


def _descriptions() -> dict[str, msgspec.Raw]:
    file = package_files.files("underway.api.data").joinpath("descriptions.json.zst")
    data = zstandard.decompress(file.read_bytes(), max_output_size=_DESCRIPTION_LIMIT_BYTES)
    return msgspec.json.decode(data, type=dict[str, msgspec.Raw])


def _reference(name: str, description: str) -> dict[str, Any]:
    return {"allOf": [{"$ref": REF_PREFIX + name}], "description": description}


def _published(node: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """A definition's node with its descriptions.

    In OpenAPI 3.0 nothing may stand beside ``$ref``, so a described reference is an ``allOf``.
    """
    out = dict(node)
    if text := texts.get(""):
        out["description"] = text
    if "properties" in node:
        out["properties"] = {
            name: _described(child, texts.get(name, ""))
            for name, child in node["properties"].items()
        }
    return out


def _described(child: Mapping[str, Any], text: str) -> dict[str, Any]:
    out = dict(child)
    if text:
        out["description"] = text
    if "$ref" in out and len(out) > 1:
        out["allOf"] = [{"$ref": out.pop("$ref")}]
    return out


def _references(node: Any) -> Iterable[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            if key == "$ref" and isinstance(child, str):
                yield child.removeprefix(REF_PREFIX)
            else:
                yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)


# Paths


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "kind": resource.kind, "version": resource.version}


def _parameters(names: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "description": _PARAMETERS[name][1],
            "schema": {"type": _PARAMETERS[name][0], "uniqueItems": True},
        }
        for name in names
    ]


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _content(name: str, types: Iterable[str] = (_JSON,)) -> dict[str, Any]:
    return {kind: {"schema": {"$ref": REF_PREFIX + name}} for kind in types}


class _Operations:
    """The operations on one resource or subresource."""

    def __init__(self, resource: Resource, gvk: Mapping[str, str], suffix: str = "") -> None:
        self.resource = resource
        self.gvk = gvk
        self.suffix = suffix

    def make(
        self,
        action: str,
        parameters: Iterable[str],
        answer: str,
        body: dict[str, Any] | None = None,
        code: str = "200",
    ) -> dict[str, Any]:
        """One operation; ``action`` is the verb as ``x-kubernetes-action`` names it."""
        group = "".join(part.capitalize() for part in self.resource.group.split(".")[:1]) or "Core"
        scope = "Namespaced" if self.resource.namespaced else ""
        subject = f"{group}{self.resource.version.upper()}{scope}{self.resource.kind}{self.suffix}"
        operation: dict[str, Any] = {
            "operationId": f"{action}{subject}",
            "parameters": _parameters(parameters),
            "responses": {
                code: {"description": "OK", "content": _content(answer)},
                "401": {"description": "Unauthorized"},
            },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": dict(self.gvk),
        }
        if body is not None:
            operation["requestBody"] = {"content": body, "required": True}
        return operation


def _paths(
    resource: Resource, name: str, definitions: _Definitions, *, custom: bool
) -> dict[str, Any]:
    if resource.verbs == ("create",):
        list_name = name
    else:
        list_name = f"{name}List" if f"{name}List" in definitions.found else definitions.add(STATUS)
    base = "/" + document_path(resource.group, resource.version)
    here = [_path_parameter("namespace")] if resource.namespaced else []
    scoped = f"{base}/namespaces/{{namespace}}" if resource.namespaced else base
    collection: dict[str, Any] = {"parameters": here}
    item: dict[str, Any] = {"parameters": [_path_parameter("name"), *here]}
    patch_types = _PATCH_TYPES if custom else (*_PATCH_TYPES, _STRATEGIC)
    operations = _Operations(resource, _gvk(resource))
    made: dict[str, Callable[[], tuple[dict[str, Any], str, dict[str, Any]]]] = {
        "list": lambda: (collection, "get", operations.make("list", (*_LIST, "watch"), list_name)),
        "create": lambda: (
            collection,
            "post",
            operations.make("post", _WRITE, name, _content(name), "201"),
        ),
        "deletecollection": lambda: (
            collection,
            "delete",
            operations.make("deletecollection", (*_LIST, *_DELETE[1:]), definitions.add(STATUS)),
        ),
        "get": lambda: (item, "get", operations.make("get", ("pretty",), name)),
        "update": lambda: (item, "put", operations.make("put", _WRITE, name, _content(name))),
        "patch": lambda: (item, "patch", _patch(operations, name, definitions, patch_types)),
        "delete": lambda: (
            item,
            "delete",
            operations.make(
                "delete",
                _DELETE,
                definitions.add(STATUS),
                _content(definitions.add(DELETE_OPTIONS)),
            ),
        ),
    }
    for verb in resource.verbs:
        if verb in made:
            target, method, operation = made[verb]()
            target[method] = operation
    paths = {f"{scoped}/{resource.plural}": collection}
    if set(item) - {"parameters"}:
        paths[f"{scoped}/{resource.plural}/{{name}}"] = item
    if resource.namespaced and "list" in resource.verbs:
        everywhere = operations.make("list", (*_LIST, "watch"), list_name)
        everywhere["operationId"] += "ForAllNamespaces"
        paths[f"{base}/{resource.plural}"] = {"get": everywhere}
    for subresource in () if resource.verbs == ("create",) else resource.subresources:
        below = f"{scoped}/{resource.plural}/{{name}}/{subresource}"
        if subresource in _PARTS:
            paths[below] = _subresource(resource, name, subresource, definitions, patch_types, here)
        elif subresource in _POSTED:
            paths[below] = _posted(resource, subresource, definitions, here)
    return paths


def _patch(
    operations: _Operations, name: str, definitions: _Definitions, types: Iterable[str]
) -> dict[str, Any]:
    body = _content(definitions.add(PATCH), types)
    return operations.make("patch", (*_WRITE, "force"), name, body)


def _subresource(
    resource: Resource,
    name: str,
    subresource: str,
    definitions: _Definitions,
    patch_types: Iterable[str],
    here: list[dict[str, Any]],
) -> dict[str, Any]:
    gvk = _gvk(resource)
    if subresource == "scale":
        name = definitions.add(SCALE)
        gvk = {"group": "autoscaling", "kind": "Scale", "version": "v1"}
    operations = _Operations(resource, gvk, subresource.capitalize())
    parameters = [_path_parameter("name"), *here]
    if subresource == "finalize":
        put = operations.make("put", _WRITE, name, _content(name))
        return {"parameters": parameters, "put": put}
    return {
        "parameters": parameters,
        "get": operations.make("get", ("pretty",), name),
        "put": operations.make("put", _WRITE, name, _content(name)),
        "patch": _patch(operations, name, definitions, patch_types),
    }


def _posted(
    resource: Resource, subresource: str, definitions: _Definitions, here: list[dict[str, Any]]
) -> dict[str, Any]:
    api_version, kind = _POSTED[subresource]
    group, _, version = api_version.rpartition("/")
    name = definitions.add(schemas.definition_name(api_version, kind))
    gvk = {"group": group, "kind": kind, "version": version}
    operations = _Operations(resource, gvk, subresource.capitalize())
    return {
        "parameters": [_path_parameter("name"), *here],
        "post": operations.make("post", _WRITE, name, _content(name), "201"),
    }
