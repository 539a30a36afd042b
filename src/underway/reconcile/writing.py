"""Writing children: created, brought up to date or applied, each with its owner.

Source: controller-runtime ``pkg/controller/controllerutil``; Kubernetes "Server-Side Apply";
RFC 7386 for merge patches.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any

from underway.api.objects import (
    Object,
    controller_of,
    meta,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from underway.api.patches import copy_json
from underway.api.resources import Resource
from underway.base.errors import Conflict, NotFound
from underway.client import Client

Mutate = Callable[[Object], None]
"""Changes an object, in place, into what is wanted; gets name and namespace alone at first."""


class Outcome(enum.StrEnum):
    """What a write did."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


def set_controller(owner: Object, child: Object) -> Object:
    """Make ``owner`` the controller of ``child``, in place; returns the child.

    Raises:
        Conflict: another object is its controller.
    """
    current = controller_of(child)
    if current is not None and current.get("uid") != uid_of(owner):
        raise Conflict(
            f"{child.get('kind', 'object')} {name_of(child)} is controlled by"
            f" {current.get('kind')} {current.get('name')}"
        )
    return set_owner(owner, child, controller=True)


def set_owner(owner: Object, child: Object, *, controller: bool = False) -> Object:
    """Make ``owner`` one of the owners of ``child``, in place; returns the child."""
    others = [
        each for each in meta(child).get("ownerReferences") or [] if each["uid"] != uid_of(owner)
    ]
    meta(child)["ownerReferences"] = [*others, owner_reference(owner, controller=controller)]
    return child


async def create_or_update(
    client: Client, resource: Resource, name: str, namespace: str | None, mutate: Mutate
) -> tuple[Object, Outcome]:
    """Create the object, or write it whole where ``mutate`` changes it.

    Returns:
        The object as it is then, and what was done.

    Raises:
        Conflict: it changed since it was read; reconcile again.
    """

    async def write(_old: Object, new: Object) -> Object:
        return await client.replace(resource, new)

    return await _create_or(write, client, resource, name, namespace, mutate)


async def create_or_patch(
    client: Client, resource: Resource, name: str, namespace: str | None, mutate: Mutate
) -> tuple[Object, Outcome]:
    """Create the object, or send a merge patch of what ``mutate`` changes.

    What others change meanwhile in other fields stays; lists are replaced whole.

    Returns:
        The object as it is then, and what was done.
    """

    async def write(old: Object, new: Object) -> Object:
        return await client.patch(resource, name, merge_difference(old, new), namespace)

    return await _create_or(write, client, resource, name, namespace, mutate)


async def apply_child(
    client: Client, resource: Resource, owner: Object, child: Object, *, field_manager: str
) -> Object:
    """Server-side apply of ``child``, controlled by ``owner`` and in its namespace.

    Conflicts are taken over (``force``), as controllers do with what they own.

    Raises:
        Conflict: another object controls it, by what ``child`` says.
    """
    wanted = copy_json(child)
    wanted.setdefault("apiVersion", resource.api_version)
    wanted.setdefault("kind", resource.kind)
    if resource.namespaced and namespace_of(owner):
        meta(wanted).setdefault("namespace", namespace_of(owner))
    set_controller(owner, wanted)
    return await client.apply(resource, wanted, field_manager=field_manager)


def merge_difference(old: Any, new: Any) -> Any:
    """The JSON merge patch that makes ``new`` of ``old``; both are objects."""
    patch: Object = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_difference(before, value):
                patch[name] = inner
        elif name not in old or before != value:
            patch[name] = value
    return patch


async def _create_or(
    write: Callable[[Object, Object], Awaitable[Object]],
    client: Client,
    resource: Resource,
    name: str,
    namespace: str | None,
    mutate: Mutate,
) -> tuple[Object, Outcome]:
    try:
        found = await client.get(resource, name, namespace)
    except NotFound:
        header = {"name": name, **({"namespace": namespace} if namespace else {})}
        made = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": header}
        mutate(made)
        return await client.create(resource, made, namespace), Outcome.CREATED
    wanted = copy_json(found)
    mutate(wanted)
    if wanted == found:
        return found, Outcome.UNCHANGED
    return await write(found, wanted), Outcome.UPDATED
