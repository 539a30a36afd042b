"""Copies of the ConfigMaps and Secrets that pods here name, and of no others.

Each is followed by a watch of its own while a pod names it, because that is all a node may read.
What lies beyond ``LIMIT`` is read when it is needed, and its changes are seen then.

Source: Kubernetes docs, "Using Node Authorization"; kubelet ``configMapAndSecretChangeDetection``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from underway.api.objects import Object, key_of, meta
from underway.api.resources import CONFIGMAPS, SECRETS, Resource
from underway.base.clock import Clock
from underway.base.errors import Forbidden, NotFound
from underway.client import Client
from underway.reconcile.informer import Entry, EventType, Informer

LIMIT = 256  # watches, each with a connection of its own

RESOURCES: Mapping[str, Resource] = {"configmap": CONFIGMAPS, "secret": SECRETS}

Reference = tuple[str, str, str]
"""Kind (a key of ``RESOURCES``), namespace and name."""

Listener = Callable[[str, str, str], None]
"""Told the reference whose object has changed."""


@dataclass
class _Followed:
    informer: Informer
    users: set[str] = field(default_factory=set)
    # The version read past the copy: "" if there was no object, None if nobody did.
    read: str | None = None
    task: asyncio.Task[None] | None = None


class References:
    """Follows what pods name, shared among those that name the same."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._followed: dict[Reference, _Followed] = {}
        self._held: dict[str, frozenset[Reference]] = {}
        self._listener: Listener = _nobody
        self._group: asyncio.TaskGroup | None = None

    @property
    def followed(self) -> set[Reference]:
        """What has a watch, or will have one once it runs."""
        return set(self._followed)

    async def run(self, listener: Listener) -> None:
        """Follow until cancelled, telling of changes."""
        self._listener = listener
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for followed in self._followed.values():
                    followed.task = group.create_task(followed.informer.run())
                await asyncio.Event().wait()
        finally:
            self._group, self._listener = None, _nobody
            for followed in self._followed.values():
                followed.task = None

    def hold(self, user: str, references: Iterable[Reference]) -> None:
        """Follow these for a pod (its UID), and what it named before no longer."""
        before, now = self._held.get(user, frozenset()), frozenset(references)
        for reference in before - now:
            self._let_go(user, reference)
        for reference in now - before:
            followed = self._followed.get(reference)
            if followed is None:
                if len(self._followed) >= LIMIT:
                    now -= {reference}
                    continue
                followed = self._followed[reference] = self._follow(reference)
            followed.users.add(user)
        if now:
            self._held[user] = now
        else:
            self._held.pop(user, None)

    def release(self, user: str) -> None:
        """The pod is gone."""
        self.hold(user, ())

    async def find(self, reference: Reference) -> Object | None:
        """The object, from its copy or else from the API server; None if there is none."""
        kind, namespace, name = reference
        followed = self._followed.get(reference)
        found = followed.informer.get(key_of(namespace, name)) if followed else None
        if found is not None:
            return found
        # The copy may lag behind an object that was made just before the pod.
        try:
            found = await self._client.get(RESOURCES[kind], name, namespace)
        except (NotFound, Forbidden):  # what no pod here names any more is forbidden
            found = None
        if followed is not None:
            followed.read = meta(found)["resourceVersion"] if found else ""
        return found

    def _follow(self, reference: Reference) -> _Followed:
        kind, namespace, name = reference
        fields = f"metadata.name={name}"
        informer = Informer(
            self._client, self._clock, RESOURCES[kind], namespace=namespace, fields=fields
        )
        followed = _Followed(informer)

        def changed(_kind: EventType, old: Entry | None, new: Entry | None) -> None:
            # The first copy is news only to those who have read something else.
            first = old is None and followed.read is None
            if not first and (new is None or new.meta.resource_version != followed.read):
                self._listener(*reference)

        informer.add_handler(changed)
        if self._group is not None:
            followed.task = self._group.create_task(informer.run())
        return followed

    def _let_go(self, user: str, reference: Reference) -> None:
        followed = self._followed[reference]
        followed.users.discard(user)
        if not followed.users:
            del self._followed[reference]
            if followed.task is not None:
                followed.task.cancel()


def _nobody(_kind: str, _namespace: str, _name: str) -> None:
    """Nobody listens."""
