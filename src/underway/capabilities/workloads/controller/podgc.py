"""Pod garbage collection: pods nobody will end or remove any more."""

from __future__ import annotations

from underway.api.objects import Object, deleting, name_of
from underway.api.resources import NODES, PODS
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.workloads.controller.disruption import pods_by_node, remove
from underway.capabilities.workloads.model import created_at, finished, spec_of
from underway.capabilities.workloads.rules import nodes as rules
from underway.reconcile import (
    Controller,
    Done,
    Entry,
    Manager,
    Request,
    RequeueAfter,
    Result,
)

TERMINATED_LIMIT = 12_500  # ended pods that are kept
QUARANTINE_S = 40.0  # a node may be registered anew before its pods are given up


class PodCollector:
    """The reconciler of pods without a node, and of ended ones over the limit."""

    def __init__(self, manager: Manager, terminated_limit: int = TERMINATED_LIMIT) -> None:
        self._manager = manager
        self._client = manager.client
        self._limit = terminated_limit
        self._nodes = manager.informer(NODES)
        self._pods = pods_by_node(manager)
        self._ended: dict[str, str] = {}
        self._missing_since: dict[str, float] = {}
        self.controller = Controller(
            "podgc",
            self.reconcile,
            primary=PODS,
            watches=[(NODES, lambda _node: ())],
            predicates=[lambda _kind, _old, new: new is not None and self._suspect(new)],
            workers=4,
        )

    def listen(self) -> None:
        """Follow nodes, and pods that end."""
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)

    async def reconcile(self, request: Request) -> Result:
        """Remove the pod if it is garbage."""
        pod = self._pods.get(request.key)
        if pod is None:
            return Done()
        if self._over_limit(request.key):
            await remove(self._manager, pod, "", "", force=True)
            return Done()
        name = str(spec_of(pod).get("nodeName") or "")
        reason = rules.garbage(pod, self._nodes.get(name) if name else None)
        if not reason:
            return Done()
        if name and self._nodes.entry(name) is None:
            since = self._missing_since.setdefault(name, self._manager.clock.monotonic())
            left_s = QUARANTINE_S - (self._manager.clock.monotonic() - since)
            if left_s > 0:
                return RequeueAfter(left_s)
            if await self._is_there(name):
                return RequeueAfter(1.0)  # the cache is about to show it
        why = "DeletionByPodGC" if name else ""
        await remove(self._manager, pod, why, reason, force=True)
        return Done()

    async def _is_there(self, node: str) -> bool:
        try:
            await self._client.get(NODES, node)
        except NotFound:
            return False
        return True

    def _suspect(self, pod: Object) -> bool:
        name = spec_of(pod).get("nodeName")
        if not name:
            return deleting(pod)
        return deleting(pod) or self._nodes.entry(name) is None

    def _over_limit(self, key: str) -> bool:
        if key not in self._ended or len(self._ended) <= self._limit:
            return False
        pods = [(created, each) for each, created in self._ended.items()]
        return key in rules.too_many_terminated(pods, self._limit)

    def _on_pod(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is None:
            assert old is not None
            self._ended.pop(old.meta.key, None)
        elif finished(new.view) and new.meta.key not in self._ended:
            self._ended[new.meta.key] = created_at(new.view)
            pods = [(created, key) for key, created in self._ended.items()]
            if len(pods) > self._limit:
                for key in rules.too_many_terminated(pods, self._limit):
                    self.controller.enqueue(Request.of(key))

    def _on_node(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is not None:
            self._missing_since.pop(name_of(new.view), None)
            if old is None or spec_of(old.view).get("taints") == spec_of(new.view).get("taints"):
                return
        entry = new or old
        assert entry is not None
        for key in self._pods.index_keys("node", entry.meta.name):
            self.controller.enqueue(Request.of(key))


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    collector = PodCollector(manager)
    manager.add(collector.controller)
    collector.listen()
