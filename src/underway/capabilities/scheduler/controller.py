"""The scheduler's glue: pods that wait, nodes that change, bindings, and pods that make way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

import msgspec

from underway.api import selectors
from underway.api.objects import (
    Object,
    deleting,
    find_condition,
    labels_of,
    meta,
    name_of,
    namespace_of,
    set_condition,
    uid_of,
)
from underway.api.resources import (
    NAMESPACES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
)
from underway.base.clock import rfc3339
from underway.base.errors import Conflict, NotFound, UnderwayError
from underway.base.home import Home
from underway.capabilities.scheduler.model import (
    SCHEDULER_NAME,
    PodInfo,
    is_finished,
    is_gated,
    is_ready,
    to_schedule,
)
from underway.capabilities.scheduler.rules.cluster import Cluster
from underway.capabilities.scheduler.rules.decide import Chosen, Unschedulable, decide
from underway.capabilities.scheduler.rules.preemption import Budget, Preemption
from underway.capabilities.scheduler.rules.queue import Happening, PodQueue
from underway.capabilities.scheduler.rules.volumes import Needs
from underway.capabilities.scheduler.settings import Settings
from underway.capabilities.scheduler.volumes import VolumeBinder
from underway.client import Patch
from underway.reconcile import NORMAL, WARNING, Entry, Manager

log = logging.getLogger(__name__)

IN_FLIGHT = 32  # bindings and the like being written at once
BATCH = 16  # pods decided before others on the loop get their turn
DECISION = "scheduling.underway.dev/decision"  # annotation: the last decision, as JSON
_GATED = "Scheduling is blocked due to non-empty scheduling gates"


class Scheduler:
    """Decides one pod after the other, so that each sees what the ones before it took.

    Decisions read only what is in memory; what follows from them is written beside the next ones.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._pods = manager.informer(PODS)
        self._nodes = manager.informer(NODES)
        self._namespaces = manager.informer(NAMESPACES)
        self._budgets = manager.informer(POD_DISRUPTION_BUDGETS)
        self._volumes = VolumeBinder(manager)
        self._settings = Settings(manager, self._on_settings)
        self._cluster = Cluster()
        self._queue = PodQueue()
        self._waiting: dict[str, PodInfo] = {}
        self._assumed: set[str] = set()
        self._gated: list[Object] = []
        self._known_budgets: list[Budget] | None = None
        self._happened = Happening(0)
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(IN_FLIGHT)

    def listen(self) -> None:
        """Follow what pods take up and what nodes offer."""
        self._settings.listen()
        self._nodes.add_handler(self._on_node)
        self._namespaces.add_handler(self._on_namespace)
        self._pods.add_handler(self._on_pod)
        self._budgets.add_handler(self._on_budget)
        for informer in self._volumes.informers:
            informer.add_handler(self._on_storage)

    async def run(self) -> None:
        """Schedule until cancelled, starting when everything has been seen once."""
        for informer in (
            self._settings.informer,
            self._namespaces,
            self._nodes,
            self._pods,
            self._budgets,
            *self._volumes.informers,
        ):
            await informer.synced()
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                now = self._clock.monotonic()
                if self._happened:
                    self._queue.happened(self._happened, now)
                    self._happened = Happening(0)
                next_s = self._queue.tick(now)
                while self._gated:
                    await self._room.acquire()
                    gated = self._gated.pop()
                    group.create_task(self._beside(self._say(gated, "SchedulingGated", _GATED)))
                for _ in range(BATCH):
                    key = self._queue.pop()
                    if key is None:
                        break
                    await self._room.acquire()
                    group.create_task(self._beside(self._schedule(key)))
                if self._queue.ready:
                    await asyncio.sleep(0)
                else:
                    await self._rest(next_s)

    async def _rest(self, next_s: float | None) -> None:
        if next_s is None:
            await self._wake.wait()
            return
        async with asyncio.TaskGroup() as group:
            tasks = {
                group.create_task(self._clock.sleep(next_s)),
                group.create_task(self._wake.wait()),
            }
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _beside(self, work: Awaitable[None]) -> None:
        try:
            await work
        except UnderwayError as error:
            log.warning("scheduling: %s", error)
        except Exception:
            # One pod's trouble must not keep the others waiting.
            log.exception("scheduling failed")
        finally:
            self._room.release()

    # -- deciding --------------------------------------------------------------------------

    def _schedule(self, key: str) -> Awaitable[None]:
        """Decide on a pod at once; what is awaited is only the writing of it."""
        pod = self._waiting.get(key)
        entry = self._pods.entry(key)
        if pod is None or entry is None or entry.meta.uid != pod.uid:
            return _nothing()
        needs = self._volumes.needs(pod)
        if needs.problem:
            return self._hold(pod, Unschedulable(self._nowhere(needs)), entry.object)
        verdict = decide(pod, self._cluster, self._protected(), needs.affinities)
        if isinstance(verdict, Chosen) and needs.delayed:
            # It keeps its place there while its claims are being bound.
            self._cluster.nominate(pod, verdict.node)
            self._queue.refuse(key, pod.priority, self._clock.monotonic(), _wants(pod))
            return self._bind_volumes(pod, needs, self._cluster.nodes[verdict.node].node)
        if isinstance(verdict, Chosen):
            # The next pod must see the room as taken before the watch shows the binding.
            self._assumed.add(pod.uid)
            self._cluster.place(pod, verdict.node)
            return self._bind(key, pod, verdict)
        self._queue.refuse(key, pod.priority, self._clock.monotonic(), _wants(pod))
        if verdict.preemption is not None:
            self._cluster.nominate(pod, verdict.preemption.node)
            self._unseat(pod, verdict.preemption.node)
        elif "terminating pod" not in verdict.message:
            self._cluster.withdraw(pod.uid)
        return self._refuse(pod, verdict, entry.object)

    def _unseat(self, pod: PodInfo, node: str) -> None:
        """Less important pods lose their nomination to the node, and look for another."""
        for other in list(self._cluster.nominated.get(node, {}).values()):
            if other.priority < pod.priority:
                self._cluster.withdraw(other.uid)
                self._queue.add(other.key, other.priority)

    def _protected(self) -> list[Budget]:
        """The disruption budgets, read once until one of them changes."""
        if self._known_budgets is None:
            self._known_budgets = [_budget(each) for each in self._budgets.list()]
        return self._known_budgets

    def _nowhere(self, needs: Needs) -> str:
        nodes = len(self._cluster.nodes)
        advice = "Preemption is not helpful for scheduling."
        return f"0/{nodes} nodes are available: {needs.problem}. preemption: 0/{nodes} {advice}"

    def _hold(self, pod: PodInfo, verdict: Unschedulable, shown: Object) -> Awaitable[None]:
        """The pod can run nowhere until its claims, or those who use them, change."""
        wants = Happening.OTHER | Happening.FREED
        self._queue.refuse(pod.key, pod.priority, self._clock.monotonic(), wants)
        self._cluster.withdraw(pod.uid)
        return self._refuse(pod, verdict, shown)

    # -- writing ---------------------------------------------------------------------------

    async def _bind(self, key: str, pod: PodInfo, chosen: Chosen) -> None:
        node = chosen.node
        told = {
            "node": node,
            "fits": chosen.fits,
            "of": len(self._cluster.nodes),
            "best": {name: round(score, 1) for name, score in chosen.best},
        }
        header = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {**header, "annotations": {DECISION: _json(told)}},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._client.create(
                PODS, binding, pod.namespace, name=pod.name, subresource="binding"
            )
        except BaseException as error:
            if pod.uid in self._assumed:  # else the watch has shown where it is
                self._assumed.discard(pod.uid)
                self._cluster.remove(pod.uid)
            if key in self._waiting and not isinstance(error, NotFound):
                self._queue.refuse(key, pod.priority, self._clock.monotonic(), Happening.OTHER)
            self._note(Happening.OTHER | Happening.FREED)
            if isinstance(error, NotFound | Conflict):
                return
            raise
        text = f"Successfully assigned {key} to {node}"
        self._tell(_reference(pod), NORMAL, "Scheduled", text)

    async def _bind_volumes(self, pod: PodInfo, needs: Needs, node: Object) -> None:
        try:
            bound = await self._volumes.bind(needs, node)
        except (NotFound, Conflict):
            bound = False
        if not bound:
            self._cluster.withdraw(pod.uid)
            self._note(Happening.OTHER)

    async def _refuse(self, pod: PodInfo, verdict: Unschedulable, shown: Object) -> None:
        self._tell(shown, WARNING, "FailedScheduling", verdict.message)
        if verdict.preemption is not None:
            await self._make_room(pod, verdict.preemption)
        nominated = self._cluster.nominated_node(pod.uid)
        against = {name: list(reasons) for name, reasons in verdict.nodes.items()}
        told = _json({"of": len(self._cluster.nodes), "against": against})
        await self._say(shown, "Unschedulable", verdict.message, nominated, told)

    async def _make_room(self, pod: PodInfo, plan: Preemption) -> None:
        text = f"{SCHEDULER_NAME}: preempting to accommodate a higher priority pod"
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": text,
            "lastTransitionTime": rfc3339(self._clock.now()),
        }
        for victim in plan.victims:
            if victim.deleting:
                continue
            body = {"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}
            where = (victim.name, victim.namespace)
            try:
                await self._client.patch(
                    PODS, where[0], body, where[1], how=Patch.STRATEGIC, subresource="status"
                )
                await self._client.delete(PODS, *where, uid=victim.uid)
            except (NotFound, Conflict):
                continue  # gone, or a namesake took its place
            told = f"Preempted by pod {pod.uid} on node {plan.node}"
            self._tell(_reference(victim), NORMAL, "Preempted", told)

    async def _say(
        self, pod: Object, reason: str, message: str, nominated: str = "", decision: str = ""
    ) -> None:
        """Write the PodScheduled condition, unless the pod was bound or changed hands meanwhile."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
        }
        uid = uid_of(pod)
        for _ in range(3):
            status = pod.get("status") or {}
            conditions = [dict(each) for each in status.get("conditions") or ()]
            current = find_condition(conditions, "PodScheduled") or {}
            said = all(current.get(name) == value for name, value in condition.items())
            if said and (status.get("nominatedNodeName") or "") == nominated:
                return
            set_condition(conditions, condition, rfc3339(self._clock.now()))
            header = {"resourceVersion": meta(pod)["resourceVersion"]}
            if decision:
                header["annotations"] = {DECISION: decision}
            written = {
                "metadata": header,
                "status": {"conditions": conditions, "nominatedNodeName": nominated or None},
            }
            try:
                await self._client.patch(
                    PODS, name_of(pod), written, namespace_of(pod), subresource="status"
                )
                return
            except NotFound:
                return
            except Conflict:
                found = await _read(self._client.get(PODS, name_of(pod), namespace_of(pod)))
            if found is None or uid_of(found) != uid:
                return
            if not to_schedule(found, self._settings.names):
                return
            pod = found

    def _tell(self, pod: Object, kind: str, reason: str, text: str) -> None:
        self._manager.events.event(pod, kind, reason, text, component=SCHEDULER_NAME)

    # -- following -------------------------------------------------------------------------

    def _note(self, what: Happening) -> None:
        self._happened |= what
        self._wake.set()

    def _on_pod(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is None:
            assert old is not None
            self._forget(old.meta.key, old.meta.uid)
            return
        pod = new.view
        if is_finished(pod):
            self._forget(new.meta.key, new.meta.uid)
            return
        info = self._settings.info(pod)
        if info.node:
            self._drop(new.meta.key)
            self._assumed.discard(info.uid)
            self._cluster.place(info, info.node)
            if old is None or _company(old.view) != _company(pod):
                self._note(Happening.PLACED)
        elif to_schedule(pod, self._settings.names):
            self._await(new.meta.key, info, pod, old.view if old else None)
        else:
            self._forget(new.meta.key, new.meta.uid)

    def _await(self, key: str, info: PodInfo, pod: Object, before: Object | None) -> None:
        """Queue a pod that is new, or whose change may let it in."""
        if info.uid in self._assumed:
            return
        if is_gated(pod):
            self._drop(key)
            current = find_condition((pod.get("status") or {}).get("conditions"), "PodScheduled")
            if (current or {}).get("reason") != "SchedulingGated":
                self._gated.append(pod)
                self._wake.set()
            return
        known = self._waiting.get(key)
        self._waiting[key] = info
        same = known is not None and known.uid == info.uid
        if same and known and known.shape is info.shape and known.labels == info.labels:
            return
        nominated = (pod.get("status") or {}).get("nominatedNodeName")
        if before is None and nominated:
            self._cluster.nominate(info, nominated)
        self._queue.add(key, info.priority)
        self._wake.set()

    def _drop(self, key: str) -> None:
        """The pod waits no longer."""
        self._waiting.pop(key, None)
        self._queue.discard(key)

    def _forget(self, key: str, uid: str) -> None:
        """The pod takes up nothing any more, nor will."""
        self._drop(key)
        self._assumed.discard(uid)
        nominated = self._cluster.nominated_node(uid)
        self._cluster.withdraw(uid)
        if self._cluster.remove(uid) is not None or nominated:
            self._note(Happening.FREED)

    def _on_node(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        before, after = (_offer(entry.view) if entry else None for entry in (old, new))
        if before == after:
            return
        if new is None:
            assert old is not None
            self._cluster.drop_node(old.meta.name)
        else:
            self._cluster.put_node(new.object)
        self._note(Happening.NODE)

    def _on_storage(self, _kind: str, _old: Entry | None, new: Entry | None) -> None:
        """Pods whose claims are settled now need not sit out their back-off."""
        self._note(Happening.OTHER)
        claim = new.view if new is not None and new.meta.namespace else {}
        if (claim.get("status") or {}).get("phase") != "Bound":
            return
        for key in self._volumes.waiting_for(claim):
            if waiting := self._waiting.get(key):
                self._queue.add(key, waiting.priority)

    def _on_settings(self) -> None:
        """Look at every pod that waits with the eyes of its profile now."""
        configuration = self._settings.configuration
        self._queue.backoff_s = configuration.backoff_s
        self._queue.max_backoff_s = configuration.max_backoff_s
        for entry in self._pods.entries():
            if not entry.view["spec"].get("nodeName"):
                self._drop(entry.meta.key)
                self._on_pod("ADDED", None, entry)
            entry.drop_view()

    def _on_budget(self, *_: object) -> None:
        self._known_budgets = None
        self._note(Happening.OTHER)

    def _on_namespace(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is not None:
            self._cluster.put_namespace(new.object)
        elif old is not None:
            self._cluster.drop_namespace(old.meta.name)
        self._note(Happening.OTHER)


def _budget(budget: Object) -> Budget:
    status = budget.get("status") or {}
    return Budget(
        namespace_of(budget),
        selectors.from_object((budget.get("spec") or {}).get("selector")),
        int(status.get("disruptionsAllowed") or 0),
        frozenset(status.get("disruptedPods") or ()),
    )


def _wants(pod: PodInfo) -> Happening:
    """What may let a refused pod in: others' coming helps only those that look for company."""
    wants = Happening.NODE | Happening.FREED | Happening.OTHER
    shape = pod.shape
    return wants | Happening.PLACED if shape.affinity or shape.spreads else wants


def _company(pod: Object) -> tuple[object, ...]:
    """What a pod is to others that look for company or distance."""
    return (pod.get("spec") or {}).get("nodeName"), labels_of(pod), deleting(pod)


def _offer(node: Object) -> tuple[object, ...]:
    """What matters to scheduling, so that heartbeats do not wake every pod that waits."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    return (
        uid_of(node),
        meta(node).get("labels"),
        spec.get("taints"),
        spec.get("unschedulable"),
        status.get("allocatable"),
        status.get("images"),
        is_ready(node),
    )


def _reference(pod: PodInfo) -> Object:
    """As much of a pod as an event needs."""
    header = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": header}


def _json(value: Object) -> str:
    return msgspec.json.encode(value).decode()


async def _nothing() -> None:
    """There is nothing to write."""


async def _read(asked: Awaitable[Object]) -> Object | None:
    try:
        return await asked
    except NotFound:
        return None


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the scheduler."""
    scheduler = Scheduler(manager)
    scheduler.listen()
    manager.add_runnable(scheduler.run, "scheduler")
