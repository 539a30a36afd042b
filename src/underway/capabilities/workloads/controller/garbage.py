"""The garbage collector: what nobody owns any more goes away.

Source: Kubernetes docs, "Garbage Collection".
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from underway.api.objects import Object, meta, uid_of
from underway.api.resources import Resource
from underway.base.errors import Conflict, NotFound, ServiceUnavailable, UnderwayError
from underway.capabilities.workloads.controller.inventory import Inventory
from underway.capabilities.workloads.rules import ownership as rules
from underway.reconcile import Entry, Manager, WorkQueue, remove_finalizer

log = logging.getLogger(__name__)

WORKERS = 4
ABSENT_LIMIT = 5000  # owners remembered as absent; a UID that is gone never comes back


class GarbageCollector:
    """Keeps the graph of owners and acts on it, one object at a time."""

    def __init__(self, manager: Manager, inventory: Inventory) -> None:
        self._client = manager.client
        self._inventory = inventory
        self._queue: WorkQueue[str] = WorkQueue(manager.clock)
        self._graph = rules.Graph()
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()
        inventory.listen(self._observe)

    @property
    def busy(self) -> bool:
        """Whether an object waits to be looked at."""
        return self._queue.busy

    async def run(self) -> None:
        """Collect, until cancelled, starting when everything has been seen once."""
        await self._inventory.complete()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            for _ in range(WORKERS):
                group.create_task(self._work())

    def _observe(self, resource: Resource, what: str, entry: Entry) -> None:
        if what == "put":
            node = _node(resource, entry)
            self._graph.put(node)
            if node.owners or node.awaits_dependents or node.orphans_dependents:
                self._queue.add(node.uid)
            # An owner that begins to wait for its dependents has to look at them; a dependent
            # that no longer blocks lets its owner go.
            self._wake_waiting_owners(node)
            return
        node = self._graph.nodes.get(entry.meta.uid) or _node(resource, entry)
        self._graph.drop(node.uid)
        for dependent in self._graph.dependents(node.uid):
            self._queue.add(dependent.uid)
        self._wake_waiting_owners(node)

    def _wake_waiting_owners(self, node: rules.Node) -> None:
        for owner in node.owners:
            found = self._graph.nodes.get(owner.uid)
            if found is not None and (found.awaits_dependents or found.orphans_dependents):
                self._queue.add(owner.uid)

    async def _work(self) -> None:
        while True:
            uid = await self._queue.get()
            try:
                await self._collect(uid)
            except UnderwayError as error:
                log.debug("%s: %s", uid, error)
                self._queue.add_rate_limited(uid)
            except Exception:
                log.exception("collecting %s failed", uid)
                self._queue.add_rate_limited(uid)
            else:
                self._queue.forget(uid)
            finally:
                self._queue.done(uid)

    async def _collect(self, uid: str) -> None:
        node = self._graph.nodes.get(uid)
        if node is None:
            return
        absent = [owner.uid for owner in node.owners if await self._is_absent(owner, node)]
        action = rules.decide(self._graph, node, absent)
        if isinstance(action, rules.Nothing):
            return
        if isinstance(action, rules.Collect):
            for dependent in action.dependents:
                self._queue.add(dependent.uid)
            return
        await self._act(node, action)

    async def _act(self, node: rules.Node, action: rules.Action) -> None:
        """Act on the object as it is on the server, provided it is what the graph took it for."""
        resource = self._resource(node.api_version, node.kind)
        try:
            live = await self._client.get(resource, node.name, node.namespace or None)
        except NotFound:
            return
        if uid_of(live) != node.uid:
            return
        owners = {each["uid"] for each in meta(live).get("ownerReferences") or ()}
        if owners != {each.uid for each in node.owners}:
            raise Conflict(f"{node.kind} {node.name} has other owners than those seen")
        if isinstance(action, rules.StrikeOwners):
            await self._strike(resource, live, action.uids)
        elif isinstance(action, rules.Delete):
            await self._delete(resource, live, action.propagation)
        elif isinstance(action, rules.Release):
            await remove_finalizer(self._client, resource, live, action.finalizer)
        elif isinstance(action, rules.Orphan):
            await self._orphan(resource, live, action.dependents)

    async def _is_absent(self, owner: rules.Owner, node: rules.Node) -> bool:
        if self._graph.owner(owner, node) is not None:
            return False
        which = (owner.uid, node.namespace)
        if which in self._absent:
            return True
        resource = self._resource(owner.api_version, owner.kind)
        if resource.namespaced and not node.namespace:
            log.debug("%s %s names a namespaced owner", node.kind, node.name)
            return False
        namespace = node.namespace if resource.namespaced else None
        try:
            live = await self._client.get(resource, owner.name, namespace)
        except NotFound:
            live = {}
        if live and uid_of(live) == owner.uid:
            return False
        self._absent[which] = None
        if len(self._absent) > ABSENT_LIMIT:
            self._absent.popitem(last=False)
        return True

    def _resource(self, api_version: str, kind: str) -> Resource:
        found = self._inventory.resource(api_version, kind)
        if found is None:
            raise ServiceUnavailable(f"the server offers no {kind} of {api_version}")
        return found

    async def _delete(self, resource: Resource, live: Object, propagation: str) -> None:
        header = meta(live)
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": propagation,
            "preconditions": {"uid": header["uid"], "resourceVersion": header["resourceVersion"]},
        }
        path = resource.path(header.get("namespace"), header["name"])
        try:
            await self._client.request("DELETE", path, body=options)
        except NotFound:
            return

    async def _strike(self, resource: Resource, live: Object, uids: frozenset[str]) -> None:
        header = meta(live)
        rest = [each for each in header.get("ownerReferences") or () if each["uid"] not in uids]
        body = {
            "metadata": {
                "resourceVersion": header["resourceVersion"],
                "ownerReferences": rest or None,
            }
        }
        try:
            await self._client.patch(resource, header["name"], body, header.get("namespace"))
        except NotFound:
            return

    async def _orphan(
        self, resource: Resource, owner: Object, dependents: tuple[rules.Node, ...]
    ) -> None:
        for node in dependents:
            kind = self._resource(node.api_version, node.kind)
            try:
                live = await self._client.get(kind, node.name, node.namespace or None)
            except NotFound:
                continue
            if uid_of(live) == node.uid:
                await self._strike(kind, live, frozenset({uid_of(owner)}))
        await remove_finalizer(self._client, resource, owner, rules.ORPHAN)


def _node(resource: Resource, entry: Entry) -> rules.Node:
    meta_data = entry.meta
    return rules.Node(
        uid=meta_data.uid,
        api_version=resource.api_version,
        kind=resource.kind,
        namespace=meta_data.namespace,
        name=meta_data.name,
        owners=tuple(
            rules.Owner(
                each.uid, each.api_version, each.kind, each.name, bool(each.block_owner_deletion)
            )
            for each in meta_data.owner_references or ()
        ),
        deleting=bool(meta_data.deletion_timestamp),
        finalizers=frozenset(meta_data.finalizers or ()),
    )
