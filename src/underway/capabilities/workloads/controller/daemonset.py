"""DaemonSets: a pod on every node that can have it."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object, deleting, labels_of, meta, name_of, namespace_of
from underway.api.resources import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS
from underway.base.errors import ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.workloads.controller import revisions
from underway.capabilities.workloads.controller.pods import (
    PodControl,
    claim_children,
    orphan_to_owners,
    pod_informer,
)
from underway.capabilities.workloads.model import available_in_s, spec_of
from underway.capabilities.workloads.rules import daemonset as rules
from underway.reconcile import (
    Controller,
    Done,
    Entry,
    Expectations,
    Manager,
    Request,
    RequeueAfter,
    Result,
    write_status,
)


class DaemonSets:
    """The reconciler."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._sets = manager.informer(DAEMONSETS)
        self._nodes = manager.informer(NODES)
        self._revisions = manager.informer(CONTROLLERREVISIONS)
        self._pods = pod_informer(manager)
        self._expected = Expectations(self._pods)
        self._control = PodControl(manager, self._expected, "daemonset-controller")
        self.controller = Controller(
            "daemonset",
            self.reconcile,
            primary=DAEMONSETS,
            owns=[PODS, CONTROLLERREVISIONS],
            watches=[
                (PODS, orphan_to_owners(self._sets)),
                (NODES, lambda _node: ()),
            ],
            workers=2,
        )

    def listen(self) -> None:
        """Look at every DaemonSet again when what a node offers changes."""
        self._nodes.add_handler(self._on_node)

    async def reconcile(self, request: Request) -> Result:
        """Take the next step, then write the status."""
        found = self._sets.get(request.key)
        if found is None:
            self._expected.forget(request.key)
            return Done()
        if deleting(found) or not self._expected.satisfied(request.key):
            return Done()
        pods = await claim_children(self._manager, PODS, self._pods, DAEMONSETS, found)
        nodes = self._nodes.list()
        history = await revisions.sync(self._manager, self._revisions, found)
        update = revisions.hash_of(history.update)
        now = self._manager.clock.now()
        plan = rules.plan(found, nodes, pods, update, now)
        failure = await self._control.delete(found, plan.delete)
        wanted = [rules.new_pod(found, node, update) for node in plan.create]
        failure = await self._control.create(found, wanted) or failure
        await write_status(
            self._manager.client,
            DAEMONSETS,
            found,
            rules.status(found, nodes, pods, update, now),
        )
        if failure:
            raise ServiceUnavailable(failure)
        used = {labels_of(pod).get(rules.REVISION, "") for pod in pods}
        await revisions.prune(self._manager, found, history, used)
        min_ready_s = int(spec_of(found).get("minReadySeconds") or 0)
        waits = [wait for pod in pods if (wait := available_in_s(pod, min_ready_s, now))]
        return RequeueAfter(min(waits)) if waits else Done()

    def _on_node(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        before, after = (_offer(entry.view) if entry else None for entry in (old, new))
        if before != after:
            for request in self._everyone():
                self.controller.enqueue(request)

    def _everyone(self) -> Iterable[Request]:
        return [Request(namespace_of(each), name_of(each)) for each in self._sets.list()]


def _offer(node: Object) -> tuple[object, ...]:
    spec = spec_of(node)
    return meta(node).get("labels"), spec.get("taints"), spec.get("unschedulable")


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = DaemonSets(manager)
    manager.add(reconciler.controller)
    reconciler.listen()
