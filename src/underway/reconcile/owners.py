"""Who controls what: adopting and releasing children by selector.

Source: Kubernetes docs, "Owners and Dependents"; kubernetes ``pkg/controller``
(controller_ref_manager) for the order of the checks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from underway.api.objects import (
    Object,
    controller_of,
    deleting,
    meta,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from underway.api.resources import Resource
from underway.base.errors import Conflict, Invalid, NotFound
from underway.client import Client

Matches = Callable[[Object], bool]


async def claim(
    client: Client,
    resource: Resource,
    owner: Object,
    candidates: Iterable[Object],
    matches: Matches,
    read_owner: Callable[[], Awaitable[Object]],
) -> list[Object]:
    """The candidates that ``owner`` controls, after adopting orphans and releasing strays.

    Args:
        client: writes the changed owner references.
        resource: of the candidates.
        owner: the object that is to control those that match.
        candidates: objects of the owner's namespace, as cached.
        matches: whether the owner's selector chooses an object.
        read_owner: reads the owner from the server, before the first adoption: a cached owner
            may be gone or being deleted, and must not adopt then.

    Raises:
        Conflict: a candidate changed since it was cached; reconcile again.
    """
    claimed: list[Object] = []
    may_adopt: bool | None = None
    for child in candidates:
        controller = controller_of(child)
        if controller is not None:
            if controller.get("uid") != uid_of(owner):
                continue
            if matches(child):
                claimed.append(child)
            elif not deleting(owner):
                await release(client, resource, child, owner)
            continue
        if deleting(owner) or deleting(child) or not matches(child):
            continue
        if may_adopt is None:
            may_adopt = await _still_there(owner, read_owner)
        if may_adopt:
            adopted = await adopt(client, resource, child, owner)
            if adopted is not None:
                claimed.append(adopted)
    return claimed


async def adopt(client: Client, resource: Resource, child: Object, owner: Object) -> Object | None:
    """Make ``owner`` the controller of ``child``; None when the child has just gone."""
    references = [*(meta(child).get("ownerReferences") or []), owner_reference(owner)]
    return await _write_references(client, resource, child, references)


async def release(client: Client, resource: Resource, child: Object, owner: Object) -> None:
    """Strike ``owner`` off the child's owners."""
    references = [
        each for each in meta(child).get("ownerReferences") or [] if each["uid"] != uid_of(owner)
    ]
    try:
        await _write_references(client, resource, child, references)
    except Invalid:
        # A child that is being deleted may refuse; it goes away by itself.
        if not deleting(child):
            raise


async def _still_there(owner: Object, read_owner: Callable[[], Awaitable[Object]]) -> bool:
    try:
        live = await read_owner()
    except NotFound:
        return False
    return uid_of(live) == uid_of(owner) and not deleting(live)


async def _write_references(
    client: Client, resource: Resource, child: Object, references: list[Object]
) -> Object | None:
    body = {
        "metadata": {
            "uid": uid_of(child),
            "resourceVersion": meta(child).get("resourceVersion"),
            "ownerReferences": references or None,
        }
    }
    try:
        return await client.patch(resource, name_of(child), body, namespace_of(child))
    except NotFound:
        return None
    except Conflict as conflict:
        # A namesake with another UID is not the child; nothing is left to claim.
        live = await _read(client, resource, child)
        if live is None or uid_of(live) != uid_of(child):
            return None
        raise conflict from None


async def _read(client: Client, resource: Resource, child: Object) -> Object | None:
    try:
        return await client.get(resource, name_of(child), namespace_of(child))
    except NotFound:
        return None
