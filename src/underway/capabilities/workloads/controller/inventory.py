"""Everything in the cluster that can be deleted, by its metadata alone.

Resources are found through API discovery, again whenever a CustomResourceDefinition comes,
changes or goes, and each is followed by an informer that keeps nothing but metadata.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from underway.api.objects import Object, find_condition, meta
from underway.api.resources import CUSTOMRESOURCEDEFINITIONS, Resource
from underway.base.errors import NotFound, UnderwayError
from underway.capabilities.workloads.model import spec_of, status_of
from underway.reconcile import Entry, Informer, Manager

log = logging.getLogger(__name__)

REDISCOVER_S = 1.0
_KEPT = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "ownerReferences",
    "finalizers",
    "deletionTimestamp",
)

Listener = Callable[[Resource, str, Entry], None]
"""Called with the resource, ``put`` or ``drop``, and the object."""


def trim(obj: Object) -> Object:
    """The object without all that says nothing about ownership."""
    header = meta(obj)
    return {"metadata": {name: header[name] for name in _KEPT if name in header}}


async def discover(manager: Manager) -> list[Resource]:
    """Every resource the server offers, each group in its preferred version."""
    paths = ["/api/v1"]
    groups = await _read(manager, "/apis")
    paths += [f"/apis/{each['preferredVersion']['groupVersion']}" for each in groups["groups"]]
    found: list[Resource] = []
    for path in paths:
        answer = await _read(manager, path)
        group, _, version = answer["groupVersion"].rpartition("/")
        found += [
            Resource(
                group,
                version,
                each["name"],
                each["kind"],
                bool(each["namespaced"]),
                verbs=tuple(each["verbs"]),
            )
            for each in answer["resources"]
            if "/" not in each["name"]
        ]
    return found


async def resource_of(manager: Manager, api_version: str, kind: str) -> Resource | None:
    """The resource that serves a kind in exactly this version, if the server offers it."""
    group, _, version = api_version.rpartition("/")
    path = f"/apis/{api_version}" if group else f"/api/{version}"
    try:
        answer = await _read(manager, path)
    except NotFound:
        return None
    for each in answer["resources"]:
        if each["kind"] == kind and "/" not in each["name"]:
            return Resource(group, version, each["name"], kind, bool(each["namespaced"]))
    return None


async def _read(manager: Manager, path: str) -> Any:
    response = await manager.client.request("GET", path)
    return msgspec.json.decode(await response.read())


class Inventory:
    """The metadata of all objects; listeners are told of every change."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._definitions = manager.informer(CUSTOMRESOURCEDEFINITIONS)
        self._definitions.add_handler(lambda *_: self._stale.set())
        self._stale = asyncio.Event()
        self._stale.set()
        self._complete = asyncio.Event()
        self._by_kind: dict[tuple[str, str], Resource] = {}
        self._informers: dict[tuple[str, str], Informer] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` of every object from now on."""
        self._listeners.append(listener)

    async def complete(self) -> None:
        """Return once every resource known at the start has been listed."""
        await self._complete.wait()

    def resource(self, api_version: str, kind: str) -> Resource | None:
        """The resource that serves a kind, in the group's preferred version."""
        return self._by_kind.get((api_version.rpartition("/")[0], kind))

    def namespaced(self) -> list[Resource]:
        """Resources whose objects go with their namespace."""
        return [each.resource for each in self._informers.values() if each.resource.namespaced]

    def count(self, resource: Resource, namespace: str) -> int:
        """How many objects of a resource a namespace holds, as far as the watch has shown."""
        informer = self._informers.get((resource.group, resource.plural))
        return len(informer.index_keys("namespace", namespace)) if informer else 0

    async def run(self) -> None:
        """Follow everything, until cancelled."""
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    await self._stale.wait()
                    self._stale.clear()
                    await self._rediscover(group)
            finally:
                # A restart begins with nothing: what it follows is told anew.
                self._tasks.clear()
                self._informers.clear()

    async def _rediscover(self, group: asyncio.TaskGroup) -> None:
        try:
            found = await discover(self._manager)
        except UnderwayError as error:
            log.debug("discovery: %s", error)
            self._stale.set()
            await self._manager.clock.sleep(REDISCOVER_S)
            return
        self._by_kind = {(each.group, each.kind): each for each in found}
        wanted = {
            (each.group, each.plural): each
            for each in found
            if {"delete", "list", "watch"} <= set(each.verbs)
            # The same objects as the core group's events.
            and each.group != "events.k8s.io"
        }
        for which in [each for each in self._informers if each not in wanted]:
            await self._unfollow(which)
        for which, resource in wanted.items():
            if which not in self._informers:
                self._follow(group, which, resource)
        if not self._complete.is_set():
            for informer in list(self._informers.values()):
                await informer.synced()
            self._complete.set()
        if self._lags(found):
            self._stale.set()
            await self._manager.clock.sleep(REDISCOVER_S)

    def _lags(self, found: list[Resource]) -> bool:
        """Whether a definition is in force that discovery does not show yet."""
        shown = {(each.group, each.plural) for each in found}
        for definition in self._definitions.list():
            established = find_condition(status_of(definition).get("conditions"), "Established")
            spec = spec_of(definition)
            which = (spec.get("group", ""), (spec.get("names") or {}).get("plural", ""))
            in_force = established is not None and established.get("status") == "True"
            if in_force and not meta(definition).get("deletionTimestamp") and which not in shown:
                return True
        return False

    def _follow(self, group: asyncio.TaskGroup, which: tuple[str, str], resource: Resource) -> None:
        informer = Informer(self._manager.client, self._manager.clock, resource, trim=trim)
        informer.add_handler(self._on_change(resource))
        self._informers[which] = informer
        self._tasks[which] = group.create_task(
            informer.run(), name=f"inventory {resource.group_resource}"
        )

    async def _unfollow(self, which: tuple[str, str]) -> None:
        informer, task = self._informers.pop(which), self._tasks.pop(which)
        task.cancel()
        await asyncio.wait([task])
        for entry in informer.entries():
            self._tell(informer.resource, "drop", entry)

    def _on_change(self, resource: Resource) -> Callable[[Any, Entry | None, Entry | None], None]:
        def handle(kind: str, old: Entry | None, new: Entry | None) -> None:
            if kind != "DELETED" and new is not None:
                self._tell(resource, "put", new)
            elif old is not None:
                self._tell(resource, "drop", old)

        return handle

    def _tell(self, resource: Resource, what: str, entry: Entry) -> None:
        for listener in self._listeners:
            listener(resource, what, entry)
