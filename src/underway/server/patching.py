"""The four patch formats, as transforms of the object shown.

Source: Kubernetes API concepts, "Patching"; RFC 6902, RFC 7386.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from underway.api import apply as server_side_apply
from underway.api import patches
from underway.api.objects import Object, meta, name_of
from underway.base.clock import rfc3339
from underway.base.errors import BadRequest, UnsupportedMediaType
from underway.server.call import Call
from underway.server.negotiation import parse_json, parse_yaml
from underway.server.writing import Transform, unowned

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Missing(LookupError):
    """A patch of an object that is not there."""


def media_type(call: Call) -> str:
    """The patch's format.

    Raises:
        UnsupportedMediaType: it is none of those the resource takes.
    """
    media = call.request.headers.get("content-type", "").split(";")[0].strip().lower()
    known = [JSON_PATCH, MERGE, STRATEGIC, APPLY]
    if call.served.custom is not None:
        known.remove(STRATEGIC)
    if media not in known:
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(known)
        )
    return media


def change(call: Call, media: str, data: bytes) -> Callable[[Object], Object]:
    """A JSON, merge or strategic merge patch as a function from document to document."""
    patch: Any = parse_json(data)
    if media == JSON_PATCH:
        return lambda doc: patches.json_patch(doc, patch)
    if media == MERGE:
        return lambda doc: patches.merge_patch(doc, patch)
    schema = call.served.schema
    return lambda doc: patches.strategic_merge_patch(doc, patch, schema)


def of_present(call: Call, patched: Callable[[Object], Object]) -> Transform:
    """A patch applies to an object that is there, and does not rename it or change its kind."""

    def transform(present: Object | None) -> Object:
        if present is None:
            raise Missing(call.attributes.name)
        kind = (present.get("apiVersion"), present.get("kind"))
        doc = patched(present)
        if not isinstance(doc, dict):
            raise BadRequest("the patch leaves no object")
        doc.setdefault("apiVersion", kind[0])
        doc.setdefault("kind", kind[1])
        return doc

    return transform


def applied(
    call: Call, config: Object, now: Any, versions: server_side_apply.Versions
) -> Transform:
    """Server-side apply of a configuration; ``versions`` converts between the kind's versions.

    Raises:
        BadRequest: it names another object, or no manager.
    """
    if not call.params.get("fieldManager"):
        raise BadRequest(
            'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value:'
            " is required for apply patch"
        )
    resource, wanted = call.served.resource, call.attributes
    other = config.get("apiVersion") != resource.api_version or config.get("kind") != resource.kind
    if other and not call.subresource:
        raise BadRequest(
            f"the configuration is a {config.get('apiVersion')} {config.get('kind')}, the path"
            f" wants a {resource.api_version} {resource.kind}"
        )
    metadata = meta(config)
    metadata.setdefault("name", wanted.name)
    if name_of(config) != wanted.name:
        raise BadRequest(
            f"the name of the object ({name_of(config)}) does not match the name on the URL"
            f" ({wanted.name})"
        )
    if metadata.get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    if resource.namespaced and metadata.setdefault("namespace", wanted.namespace) != (
        wanted.namespace
    ):
        raise BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
        )

    def transform(present: Object | None) -> Object:
        return server_side_apply.apply(
            present,
            config,
            manager=call.manager,
            force=call.flag("force"),
            schema=call.served.schema,
            now=rfc3339(now),
            subresource=call.subresource,
            ignored=unowned(call.served, call.subresource),
            versions=versions,
        )

    return transform


def read_config(data: bytes) -> Object:
    """The configuration in an apply patch: YAML, which JSON is too.

    Raises:
        BadRequest: it is no object.
    """
    config = parse_json(data) if data.lstrip()[:1] == b"{" else parse_yaml(data)
    if not isinstance(config, dict):
        raise BadRequest("error decoding YAML: the configuration is no object")
    return config
