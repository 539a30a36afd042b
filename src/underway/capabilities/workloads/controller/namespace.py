"""Namespaces being deleted: emptied, then let go.

Pods go first, so that what guards them (policies, credentials) outlives them.

Source: Kubernetes docs, "Namespaces"; API reference, ``/api/v1/namespaces/{name}/finalize``.
"""

from __future__ import annotations

from underway.api.objects import Object, deleting, name_of, set_condition, uid_of
from underway.api.resources import NAMESPACES, PODS, Resource
from underway.base.clock import rfc3339
from underway.base.errors import MethodNotAllowed, NotFound
from underway.capabilities.workloads.controller.inventory import Inventory
from underway.capabilities.workloads.model import spec_of, status_of
from underway.reconcile import (
    Controller,
    Done,
    Entry,
    Manager,
    Request,
    RequeueAfter,
    Result,
    write_status,
)

FINALIZER = "kubernetes"
UNKNOWN_CONTENT_S = 5.0  # until a look at content that no watch has shown


class Namespaces:
    """The reconciler."""

    def __init__(self, manager: Manager, inventory: Inventory) -> None:
        self._manager = manager
        self._client = manager.client
        self._inventory = inventory
        self._namespaces = manager.informer(NAMESPACES)
        self._swept: set[tuple[str, str]] = set()
        self.controller = Controller("namespace", self.reconcile, primary=NAMESPACES, workers=2)
        inventory.listen(self._observe)

    async def reconcile(self, request: Request) -> Result:
        """Delete what the namespace holds; once it holds nothing, take the finalizer off."""
        namespace = self._namespaces.get(request.name)
        if namespace is None or not deleting(namespace):
            return Done()
        finalizers = spec_of(namespace).get("finalizers") or []
        if FINALIZER not in finalizers:
            return Done()
        await self._inventory.complete()
        everything = self._inventory.namespaced()
        pods = [each for each in everything if each.group == "" and each.plural == PODS.plural]
        for step, resources in (("pods", pods), ("all", everything)):
            left = await self._empty(namespace, step, resources)
            if left is not None:
                return await self._report(namespace, left)
        rest = [each for each in finalizers if each != FINALIZER]
        freed = {**namespace, "spec": {**spec_of(namespace), "finalizers": rest}}
        await self._client.replace(NAMESPACES, freed, subresource="finalize")
        self._swept -= {(uid_of(namespace), step) for step in ("pods", "all")}
        return Done()

    def _observe(self, resource: Resource, what: str, entry: Entry) -> None:
        name = entry.meta.namespace
        if what != "drop" or not resource.namespaced:
            return
        found = self._namespaces.entry(name)
        if found is not None and found.meta.deletion_timestamp:
            self.controller.enqueue(Request("", name))

    async def _empty(
        self, namespace: Object, step: str, resources: list[Resource]
    ) -> dict[str, int] | None:
        """Delete all objects of these resources; how many are left of which, None when none.

        Deletion is asked for once; after that each object that goes wakes the namespace, and the
        server is asked again only when the watches show nothing more.
        """
        name = name_of(namespace)
        which = (uid_of(namespace), step)
        if which in self._swept:
            seen = {each.group_resource: self._inventory.count(each, name) for each in resources}
            left = {resource: count for resource, count in seen.items() if count}
            if left:
                return left
        for resource in resources:
            await self._delete_all(resource, name)
        self._swept.add(which)
        left = {}
        for resource in resources:
            count = await self._count(resource, name)
            if count:
                left[resource.group_resource] = count
        return left or None

    async def _delete_all(self, resource: Resource, namespace: str) -> None:
        try:
            if "deletecollection" in resource.verbs:
                await self._client.request("DELETE", resource.path(namespace))
                return
            for obj in (await self._client.list(resource, namespace)).items:
                await self._client.delete(resource, name_of(obj), namespace, uid=uid_of(obj))
        except (NotFound, MethodNotAllowed):
            return  # the resource went with its definition

    async def _count(self, resource: Resource, namespace: str) -> int:
        try:
            return len((await self._client.list(resource, namespace)).items)
        except (NotFound, MethodNotAllowed):
            return 0

    async def _report(self, namespace: Object, left: dict[str, int]) -> Result:
        parts = [f"{resource} has {count} resource instances" for resource, count in left.items()]
        condition = {
            "type": "NamespaceContentRemaining",
            "status": "True",
            "reason": "SomeResourcesRemain",
            "message": f"Some resources are remaining: {', '.join(sorted(parts))}",
        }
        conditions = [dict(each) for each in status_of(namespace).get("conditions") or ()]
        set_condition(conditions, condition, rfc3339(self._manager.clock.now()))
        status = {**status_of(namespace), "phase": "Terminating", "conditions": conditions}
        await write_status(self._client, NAMESPACES, namespace, status)
        unseen = not any(
            self._inventory.count(each, name_of(namespace)) for each in self._inventory.namespaced()
        )
        return RequeueAfter(UNKNOWN_CONTENT_S) if unseen else Done()
