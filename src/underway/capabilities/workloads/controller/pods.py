"""Making and deleting pods on behalf of their controllers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from underway.api import selectors
from underway.api.objects import (
    Object,
    controller_of,
    labels_of,
    name_of,
    namespace_of,
    object_key,
    uid_of,
)
from underway.api.resources import PODS, Resource
from underway.base.errors import Conflict, NotFound, UnderwayError
from underway.capabilities.workloads.model import spec_of
from underway.reconcile import NORMAL, WARNING, Expectations, Informer, Manager, Request, claim

ORPHANS = "orphans"
_FIRST_BATCH = 1


def pod_informer(manager: Manager) -> Informer:
    """The shared informer of pods, indexed by namespace for pods without a controller."""
    pods = manager.informer(PODS)
    pods.add_index(ORPHANS, orphan_namespace)
    return pods


def orphan_namespace(obj: Object) -> Iterable[str]:
    """An index: the namespace of objects without a controller."""
    return () if controller_of(obj) else (namespace_of(obj),)


def orphan_to_owners(
    owners: Informer, view: Callable[[Object], Object] = lambda owner: owner
) -> Callable[[Object], Iterable[Request]]:
    """From an object without a controller to those whose ``spec.selector`` chooses it.

    ``view`` gives an owner with its selector in the form that workloads have.
    """

    def owners_of(child: Object) -> Iterable[Request]:
        if controller_of(child):
            return
        for owner in owners.list(namespace_of(child)):
            if selectors.from_object(spec_of(view(owner)).get("selector")).matches(
                labels_of(child)
            ):
                yield Request(namespace_of(owner), name_of(owner))

    return owners_of


async def claim_children(
    manager: Manager, resource: Resource, children: Informer, parent: Resource, owner: Object
) -> list[Object]:
    """The children that ``owner`` controls, adopting and releasing by its selector."""
    chosen = selectors.from_object(spec_of(owner).get("selector"))
    candidates = {
        uid_of(each): each
        for each in (
            *children.owned_by(uid_of(owner)),
            *children.by_index(ORPHANS, namespace_of(owner)),
        )
    }

    async def read_owner() -> Object:
        return await manager.client.get(parent, name_of(owner), namespace_of(owner))

    return await claim(
        manager.client,
        resource,
        owner,
        candidates.values(),
        lambda child: chosen.matches(labels_of(child)),
        read_owner,
    )


class PodControl:
    """Creates and deletes pods, telling of it and remembering what the cache has yet to show."""

    def __init__(self, manager: Manager, expectations: Expectations, component: str) -> None:
        self._client = manager.client
        self._events = manager.events
        self._expectations = expectations
        self._component = component

    async def create(self, owner: Object, pods: Sequence[Object]) -> str:
        """Create pods, in batches of 1, 2, 4 …, so that a hopeless template fails few times.

        Returns:
            Why the first failure failed, as ``Reason: message``, or an empty string.
        """
        size = _FIRST_BATCH
        rest = list(pods)
        while rest:
            batch, rest = rest[:size], rest[size:]
            failure = await _all(self._create_one(owner, pod) for pod in batch)
            if failure is not None:
                if _namespace_ends(failure):
                    return ""
                self._tell(owner, WARNING, "FailedCreate", f"Error creating: {failure}")
                return f"FailedCreate: {failure}"
            size *= 2
        return ""

    async def delete(self, owner: Object, pods: Sequence[Object]) -> str:
        """Delete pods; those already gone count as deleted. Returns as ``create`` does."""
        failure = await _all(self._delete_one(owner, pod) for pod in pods)
        if failure is None:
            return ""
        self._tell(owner, WARNING, "FailedDelete", f"Error deleting: {failure}")
        return f"FailedDelete: {failure}"

    async def _create_one(self, owner: Object, pod: Object) -> None:
        created = await self._client.create(PODS, pod)
        self._expectations.created(object_key(owner), created)
        self._tell(owner, NORMAL, "SuccessfulCreate", f"Created pod: {name_of(created)}")

    async def _delete_one(self, owner: Object, pod: Object) -> None:
        try:
            await self._client.delete(PODS, name_of(pod), namespace_of(pod), uid=uid_of(pod))
        except (NotFound, Conflict):
            return  # gone, or a namesake took its place
        self._expectations.deleted(object_key(owner), pod)
        self._tell(owner, NORMAL, "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    def _tell(self, owner: Object, kind: str, reason: str, text: str) -> None:
        self._events.event(owner, kind, reason, text, component=self._component)


async def _all(calls: Iterable[Awaitable[None]]) -> UnderwayError | None:
    """Make all calls side by side; the first failure, once all have ended."""
    failures: list[UnderwayError] = []

    async def one(call: Awaitable[None]) -> None:
        try:
            await call
        except UnderwayError as error:
            failures.append(error)

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(call))
    return failures[0] if failures else None


def _namespace_ends(error: UnderwayError) -> bool:
    return any(cause.reason == "NamespaceTerminating" for cause in error.causes)
