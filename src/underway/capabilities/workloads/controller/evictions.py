"""Taint eviction: pods leave nodes whose NoExecute taints they do not tolerate any longer."""

from __future__ import annotations

from underway.api.objects import Object, deleting, name_of, namespace_of
from underway.api.resources import NODES, PODS
from underway.base.home import Home
from underway.capabilities.workloads.controller.disruption import pods_by_node, remove
from underway.capabilities.workloads.model import finished, spec_of
from underway.capabilities.workloads.rules import nodes as rules
from underway.reconcile import (
    NORMAL,
    Controller,
    Done,
    Entry,
    Manager,
    Request,
    RequeueAfter,
    Result,
)

COMPONENT = "taint-eviction-controller"


class Evictions:
    """The reconciler of pods on nodes with NoExecute taints."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._nodes = manager.informer(NODES)
        self._pods = pods_by_node(manager)
        self._taints: dict[str, list[Object]] = {}
        self.controller = Controller(
            "taint-eviction",
            self.reconcile,
            primary=PODS,
            watches=[(NODES, lambda _node: ())],
            predicates=[lambda _kind, _old, new: new is not None and self._concerned(new)],
            workers=4,
        )

    def listen(self) -> None:
        """Follow the taints of nodes."""
        self._nodes.add_handler(self._on_node)

    async def reconcile(self, request: Request) -> Result:
        """Evict the pod, or wait until it is time."""
        pod = self._pods.get(request.key)
        if pod is None or deleting(pod) or finished(pod) or not self._concerned(pod):
            return Done()
        now = self._manager.clock.now()
        leaves = rules.leaves_at(pod, self._taints[spec_of(pod)["nodeName"]], now)
        if leaves is None:
            return Done()
        left_s = (leaves - now).total_seconds()
        if left_s > 0:
            return RequeueAfter(left_s)
        text = f"Marking for deletion Pod {namespace_of(pod)}/{name_of(pod)}"
        self._manager.events.event(pod, NORMAL, "TaintManagerEviction", text, component=COMPONENT)
        why = "Taint manager: deleting due to NoExecute taint"
        await remove(self._manager, pod, "DeletionByTaintManager", why)
        return Done()

    def _concerned(self, pod: Object) -> bool:
        return spec_of(pod).get("nodeName") in self._taints

    def _on_node(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        entry = new or old
        assert entry is not None
        name = entry.meta.name
        taints = rules.no_execute(new.view) if new else []
        if taints == self._taints.get(name, []):
            return
        self._taints.pop(name, None)
        if taints:
            self._taints[name] = taints
            for key in self._pods.index_keys("node", name):
                self.controller.enqueue(Request.of(key))


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Evictions(manager)
    manager.add(reconciler.controller)
    reconciler.listen()
