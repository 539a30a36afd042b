"""PodDisruptionBudgets: how many of their pods may be evicted now."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api import selectors
from underway.api.objects import (
    Object,
    controller_of,
    deleting,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from underway.api.resources import (
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICASETS,
    STATEFULSETS,
    Resource,
)
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.workloads.controller.inventory import resource_of
from underway.capabilities.workloads.model import replicas_of, spec_of
from underway.capabilities.workloads.rules import budgets as rules
from underway.reconcile import (
    WARNING,
    Controller,
    Done,
    Manager,
    Request,
    RequeueAfter,
    Result,
    write_status,
)

COMPONENT = "controllermanager"


class _Uncounted(Exception):
    """How many pods there should be cannot be told; the message says why."""


class Budgets:
    """The reconciler."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._budgets = manager.informer(POD_DISRUPTION_BUDGETS)
        self._pods = manager.informer(PODS)
        # The sets scale the pods; a Deployment's wanted size counts, not that of its halves.
        self._sets = {
            (each.api_version, each.kind): manager.informer(each)
            for each in (DEPLOYMENTS, REPLICASETS, STATEFULSETS)
        }
        self._known: dict[tuple[str, str], Resource | None] = {}

    async def reconcile(self, request: Request) -> Result:
        """Count the budget's pods and write its status."""
        budget = self._budgets.get(request.key)
        if budget is None or deleting(budget):
            return Done()
        chosen = selectors.from_object(spec_of(budget).get("selector"))
        entries = self._pods.entries(request.namespace)
        found = [each.object for each in entries if chosen.matches(each.meta.labels)]
        pods = rules.pods_of(found)
        now = self._manager.clock.now()
        try:
            scales = await self._scales(pods) if rules.needs_scales(budget) else []
        except _Uncounted as error:
            text = f"Failed to calculate the number of expected pods: {error}"
            self._manager.events.event(
                budget, WARNING, "CalculateExpectedPodCountFailed", text, component=COMPONENT
            )
            status = rules.failed(budget, str(error), now)
            await write_status(self._client, POD_DISRUPTION_BUDGETS, budget, status)
            return Done()
        counted = rules.required(budget, len(pods), scales)
        observed = rules.observe(budget, pods, counted, now)
        await write_status(self._client, POD_DISRUPTION_BUDGETS, budget, observed.status)
        return RequeueAfter(observed.changes_in_s) if observed.changes_in_s else Done()

    def budgets_of(self, pod: Object) -> Iterable[Request]:
        """The budgets whose selector chooses a pod."""
        for budget in self._budgets.list(namespace_of(pod)):
            chosen = selectors.from_object(spec_of(budget).get("selector"))
            if chosen.matches(labels_of(pod)):
                yield Request(namespace_of(budget), name_of(budget))

    def budgets_beside(self, owner: Object) -> Iterable[Request]:
        """The budgets of a controller's namespace whose status depends on its size."""
        for budget in self._budgets.list(namespace_of(owner)):
            if rules.needs_scales(budget):
                yield Request(namespace_of(budget), name_of(budget))

    async def _scales(self, pods: list[Object]) -> list[int]:
        sizes: dict[str, int] = {}
        for pod in pods:
            owner = controller_of(pod)
            if owner is None:
                raise _Uncounted(f"found no controllers for pod {name_of(pod)!r}")
            if owner["uid"] in sizes:
                continue
            uid, size = await self._size(namespace_of(pod), owner)
            sizes[uid] = size
        return list(sizes.values())

    async def _size(self, namespace: str, owner: Object) -> tuple[str, int]:
        """UID and wanted size of what scales the pods of ``owner``."""
        informer = self._sets.get((owner["apiVersion"], owner["kind"]))
        found = informer.get(f"{namespace}/{owner['name']}") if informer else None
        if found is not None and uid_of(found) == owner["uid"]:
            above = controller_of(found)
            if above is not None and above["kind"] == "Deployment":
                return await self._size(namespace, above)
            return uid_of(found), replicas_of(found)
        return await self._scale(namespace, owner)

    async def _scale(self, namespace: str, owner: Object) -> tuple[str, int]:
        """The same by the scale subresource, for controllers of any other kind."""
        which = (owner["apiVersion"], owner["kind"])
        if self._known.get(which) is None:
            self._known[which] = await resource_of(self._manager, *which)
        resource = self._known[which]
        problem = f"{owner['kind']}.{owner['apiVersion']} does not implement the scale subresource"
        if resource is None:
            raise _Uncounted(problem)
        try:
            scale = await self._client.get(resource, owner["name"], namespace, subresource="scale")
        except NotFound as error:
            raise _Uncounted(problem) from error
        return uid_of(scale), int(spec_of(scale).get("replicas") or 0)


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Budgets(manager)
    manager.add(
        Controller(
            "budgets",
            reconciler.reconcile,
            primary=POD_DISRUPTION_BUDGETS,
            watches=[
                (PODS, reconciler.budgets_of),
                (DEPLOYMENTS, reconciler.budgets_beside),
                (REPLICASETS, reconciler.budgets_beside),
                (STATEFULSETS, reconciler.budgets_beside),
            ],
        )
    )
