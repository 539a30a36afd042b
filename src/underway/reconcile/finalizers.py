"""Finalizers: keeping an object until what it stands for has been cleared away."""

from __future__ import annotations

from underway.api.objects import Object, meta, name_of, namespace_of
from underway.api.resources import Resource
from underway.base.errors import NotFound
from underway.client import Client


def has_finalizer(obj: Object, finalizer: str) -> bool:
    """Whether the object is kept by this finalizer."""
    return finalizer in (meta(obj).get("finalizers") or ())


async def add_finalizer(client: Client, resource: Resource, obj: Object, finalizer: str) -> Object:
    """Keep the object; returns it as it is then.

    Raises:
        Conflict: it changed since it was read.
    """
    if has_finalizer(obj, finalizer):
        return obj
    return await _write(client, resource, obj, [*(meta(obj).get("finalizers") or ()), finalizer])


async def remove_finalizer(
    client: Client, resource: Resource, obj: Object, finalizer: str
) -> Object:
    """Let the object go; returns it as it is then, and is silent when it has gone already.

    Raises:
        Conflict: it changed since it was read.
    """
    if not has_finalizer(obj, finalizer):
        return obj
    rest = [each for each in meta(obj)["finalizers"] if each != finalizer]
    try:
        return await _write(client, resource, obj, rest)
    except NotFound:
        return obj


async def _write(client: Client, resource: Resource, obj: Object, finalizers: list[str]) -> Object:
    header = {
        "resourceVersion": meta(obj).get("resourceVersion"),
        "finalizers": finalizers or None,
    }
    return await client.patch(resource, name_of(obj), {"metadata": header}, namespace_of(obj))
