"""The OpenAPI v2 document: all groups and versions in one, from the documents of OpenAPI v3.

Source: OpenAPI 2.0; Kubernetes API concepts, "OpenAPI V2".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from underway.api import schema as schemas
from underway.api.schema import REF_PREFIX

_DEFINITIONS = "#/definitions/"
_UNKNOWN = ("oneOf", "anyOf", "not", "nullable")  # keywords OpenAPI 2.0 does not have
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")


def document(parts: Iterable[bytes]) -> bytes:
    """The whole document from those of OpenAPI v3, of which the first to define a name wins."""
    paths: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for part in parts:
        found = msgspec.json.decode(part)
        for path, item in (found.get("paths") or {}).items():
            paths.setdefault(path, _path(item))
        schemas_found = (found.get("components") or {}).get("schemas") or {}
        for name, node in schemas_found.items():
            if name not in definitions:
                definitions[name] = _schema(node)
    return msgspec.json.encode(
        {
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": f"v{schemas.builtin_version()}"},
            "paths": dict(sorted(paths.items())),
            "definitions": dict(sorted(definitions.items())),
            "securityDefinitions": {
                "BearerToken": {
                    "description": "Bearer Token authentication",
                    "type": "apiKey",
                    "name": "authorization",
                    "in": "header",
                }
            },
            "security": [{"BearerToken": []}],
        }
    )


def _schema(node: Any) -> Any:
    """A schema as OpenAPI 2.0 can say it."""
    if isinstance(node, list):
        return [_schema(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    made = {name: _schema(child) for name, child in node.items() if name not in _UNKNOWN}
    target = made.get("$ref")
    if isinstance(target, str):
        return {**made, "$ref": target.replace(REF_PREFIX, _DEFINITIONS)}
    combined = made.get("allOf")
    if isinstance(combined, list) and len(combined) == 1 and "$ref" in combined[0]:
        # How v3 says a reference with a description of its own.
        kept = {k: v for k, v in made.items() if k not in ("allOf", "default")}
        return {**kept, **combined[0]}
    choices = node.get("oneOf") or node.get("anyOf") or ()
    if "type" not in node and any(each.get("type") == "integer" for each in choices):
        return {**made, "type": "string", "format": "int-or-string"}
    if "type" not in node and any(each.get("type") == "string" for each in choices):
        return {**made, "type": "string"}
    if node.get("x-kubernetes-int-or-string"):
        return {**made, "type": "string", "format": "int-or-string"}
    if node.get("nullable"):  # v2 cannot say that null is allowed, so it says nothing of the type
        return {k: v for k, v in made.items() if k not in ("type", "items", "properties")}
    return made


def _path(item: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in item.items():
        if name in _METHODS:
            made[name] = _operation(value)
        elif name == "parameters":
            made[name] = [_parameter(each) for each in value]
    return made


def _operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [_parameter(each) for each in operation.get("parameters") or ()]
    made = {k: v for k, v in operation.items() if k not in ("requestBody", "responses")}
    body = operation.get("requestBody") or {}
    made["consumes"] = ["*/*"]
    if content := body.get("content"):
        made["consumes"] = list(content)
        schema = _schema(next(iter(content.values())).get("schema") or {})
        required = bool(body.get("required"))
        parameters.insert(0, {"name": "body", "in": "body", "required": required, "schema": schema})
    made["parameters"] = parameters
    made["produces"] = ["application/json", "application/yaml"]
    made["schemes"] = ["https"]
    made["responses"] = {}
    for code, response in (operation.get("responses") or {}).items():
        answer: dict[str, Any] = {"description": response.get("description", "")}
        if content := response.get("content"):
            answer["schema"] = _schema(next(iter(content.values())).get("schema") or {})
        made["responses"][code] = answer
    return made


def _parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    schema = _schema(parameter.get("schema") or {})
    return {**{k: v for k, v in parameter.items() if k != "schema"}, **schema}
