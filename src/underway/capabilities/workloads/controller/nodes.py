"""Node lifecycle: silent nodes are marked lost, and what follows from a node's conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from underway.api.objects import Object, deleting, meta, name_of, namespace_of, uid_of
from underway.api.resources import LEASES, NODES, PODS
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.workloads.controller.disruption import pods_by_node
from underway.capabilities.workloads.model import spec_of, status_of
from underway.capabilities.workloads.rules import nodes as rules
from underway.client import Patch
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

COMPONENT = "node-controller"
LEASE_NAMESPACE = "kube-node-lease"


class NodeLifecycle:
    """The reconciler of Nodes.

    Silence is measured on this machine's monotonic clock, from when a heartbeat was seen: clocks
    need not agree, and a control plane that slept does not take its nodes for lost.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._nodes = manager.informer(NODES)
        self._leases = manager.informer(LEASES, namespace=LEASE_NAMESPACE)
        self._pods = pods_by_node(manager)
        self._seen: dict[str, float] = {}
        self._promised: dict[str, float] = {}
        self._zones: dict[str, dict[str, bool]] = {}
        self._ready: Counter[str] = Counter()
        self._zone_of: dict[str, str] = {}
        self._modes: dict[str, tuple[rules.Eviction, float]] = {}
        self._next_eviction: dict[str, float] = {}
        self.controller = Controller(
            "nodes",
            self.reconcile,
            primary=NODES,
            watches=[(self._leases, lambda _lease: ())],
            predicates=[lambda _kind, old, new: _matters(old) != _matters(new)],
            workers=4,
        )

    def listen(self) -> None:
        """Follow heartbeats."""
        self._leases.add_handler(self._on_lease)
        self._nodes.add_handler(self._on_node)

    async def reconcile(self, request: Request) -> Result:
        """Mark the node as lost if it is, then have taints and pods follow its conditions."""
        node = self._nodes.get(request.name)
        if node is None or deleting(node):
            return Done()
        silent_s = self._clock.monotonic() - self._seen.get(request.name, 0.0)
        # A Lease may promise less frequent signs of life than is usual.
        left_s = max(rules.grace_s(node), self._promised.get(request.name, 0.0)) - silent_s
        lost = rules.ready_status(node) == "Unknown"
        if left_s <= 0 and not lost:
            node = await self._mark_lost(node)
        wait_s = await self._taint(node)
        if rules.ready_status(node) in ("False", "Unknown"):
            await self._mark_pods(request.name)
        waits = [each for each in (wait_s, left_s) if each is not None and each > 0]
        return RequeueAfter(min(waits)) if waits else Done()

    async def _mark_lost(self, node: Object) -> Object:
        conditions = rules.lost_conditions(node, self._clock.now())
        text = f"Node {name_of(node)} status is now: NodeNotReady"
        self._manager.events.event(node, NORMAL, "NodeNotReady", text, component=COMPONENT)
        status = {**status_of(node), "conditions": conditions}
        node = {**node, "status": status}
        marked = await self._client.replace(NODES, node, subresource="status")
        self._follow(name_of(marked), marked)
        return marked

    async def _taint(self, node: Object) -> float | None:
        """Write the taints the conditions ask for; seconds to wait where pods may stay a while."""
        eviction, period_s, zone = rules.Eviction.NONE, 0.0, rules.zone_of(node)
        unready = rules.ready_status(node) in ("False", "Unknown")
        if unready:
            modes = rules.disruption(self._counts())
            eviction, period_s = modes.get(zone, (eviction, period_s))
        wait_s = None
        if unready and eviction is rules.Eviction.GO and not rules.has_eviction(node):
            moment = self._clock.monotonic()
            due = self._next_eviction.get(zone, moment)
            if due > moment:
                eviction, wait_s = rules.Eviction.HALT, due - moment
            else:
                self._next_eviction[zone] = moment + period_s
        wanted = rules.taints(node, eviction, self._clock.now())
        if wanted != (spec_of(node).get("taints") or []):
            body = {
                "metadata": {"resourceVersion": meta(node)["resourceVersion"]},
                "spec": {"taints": wanted or None},
            }
            await self._client.patch(NODES, name_of(node), body)
        return wait_s

    async def _mark_pods(self, node: str) -> None:
        """Pods of a lost node serve nobody."""
        for pod in self._pods.by_index("node", node):
            condition = rules.unready(pod, self._clock.now())
            if condition is None:
                continue
            body = {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": [condition]}}
            try:
                await self._client.patch(
                    PODS,
                    name_of(pod),
                    body,
                    namespace_of(pod),
                    how=Patch.STRATEGIC,
                    subresource="status",
                )
            except NotFound:
                continue
            text = "Node is not ready"
            self._manager.events.event(pod, "Warning", "NodeNotReady", text, component=COMPONENT)

    def _on_lease(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is None:
            return
        if old is None or _renewed(old.view) != _renewed(new.view):
            self._seen[new.meta.name] = self._clock.monotonic()
        self._promised[new.meta.name] = _promised_s(new.view)

    def _on_node(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is None:
            assert old is not None
            self._seen.pop(old.meta.name, None)
            self._promised.pop(old.meta.name, None)
            self._follow(old.meta.name, None)
            return
        if old is None or rules.shows_life(old.view, new.view):
            self._seen[new.meta.name] = self._clock.monotonic()
        self._follow(new.meta.name, new.view)

    def _follow(self, name: str, node: Object | None) -> None:
        """Keep the zones' counts; look at lost nodes again when what becomes of them changes."""
        zone = self._zone_of.pop(name, "")
        before = self._zones.get(zone, {}).pop(name, None)
        self._ready[zone] -= bool(before)
        if zone in self._zones and not self._zones[zone]:
            del self._zones[zone], self._ready[zone]
        after = None
        if node is not None:
            zone, after = rules.zone_of(node), rules.ready_status(node) == "True"
            self._zone_of[name] = zone
            self._zones.setdefault(zone, {})[name] = after
            self._ready[zone] += after
        if before != after and (modes := rules.disruption(self._counts())) != self._modes:
            self._modes = modes
            for request in self._lost():
                self.controller.enqueue(request)

    def _counts(self) -> dict[str, tuple[int, int]]:
        ready = self._ready
        return {
            zone: (ready[zone], len(nodes) - ready[zone]) for zone, nodes in self._zones.items()
        }

    def _lost(self) -> Iterable[Request]:
        return [
            Request("", name)
            for nodes in self._zones.values()
            for name, ready in nodes.items()
            if not ready
        ]


def _promised_s(lease: Object) -> float:
    return float(spec_of(lease).get("leaseDurationSeconds") or 0)


def _renewed(lease: Object) -> str:
    return str(spec_of(lease).get("renewTime") or "")


def _matters(node: Object | None) -> object:
    """What a node's heartbeat does not change."""
    if node is None:
        return None
    conditions = status_of(node).get("conditions") or ()
    return (
        uid_of(node),
        spec_of(node),
        meta(node).get("labels"),
        meta(node).get("deletionTimestamp"),
        [(each.get("type"), each.get("status")) for each in conditions],
    )


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = NodeLifecycle(manager)
    manager.add(reconciler.controller)
    reconciler.listen()
