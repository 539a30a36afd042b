"""The scheduler's glue: pods that wait, nodes that change, bindings."""

from __future__ import annotations

from underway.api.objects import (
    Object,
    find_condition,
    meta,
    name_of,
    namespace_of,
    set_condition,
    uid_of,
)
from underway.api.resources import NODES, PODS
from underway.base.clock import rfc3339
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.scheduler import rules
from underway.capabilities.scheduler.model import (
    SCHEDULER_NAME,
    NodeInfo,
    Usage,
    is_finished,
    is_ready,
    to_schedule,
    usage_of,
)
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Entry,
    Manager,
    Request,
    Result,
    write_status,
)


class Scheduler:
    """Decides one pod after the other, so that each sees what the ones before it took."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._pods = manager.informer(PODS)
        self._nodes = manager.informer(NODES)
        self._usage: dict[str, dict[str, Usage]] = {}
        self._node_of: dict[str, str] = {}
        self._refused: set[str] = set()
        self.controller = Controller(
            "scheduler",
            self.reconcile,
            primary=PODS,
            watches=[(NODES, lambda _node: ())],
            predicates=[lambda _kind, _old, new: new is None or to_schedule(new)],
        )

    def listen(self) -> None:
        """Follow what pods take up and what nodes offer."""
        self._pods.add_handler(self._on_pod)
        self._nodes.add_handler(self._on_node)

    async def reconcile(self, request: Request) -> Result:
        """Bind a pod that waits, or say why it cannot be bound."""
        pod = self._pods.get(request.key)
        if pod is None or not to_schedule(pod) or uid_of(pod) in self._node_of:
            self._refused.discard(request.key)
            return Done()
        if pod["spec"].get("schedulingGates"):
            text = "Scheduling is blocked due to non-empty scheduling gates"
            await self._say(pod, "SchedulingGated", text)
            return Done()
        nodes = [NodeInfo(node, self._usage.get(name_of(node), {})) for node in self._nodes.list()]
        verdict = rules.schedule(pod, nodes)
        if isinstance(verdict, rules.Chosen):
            self._refused.discard(request.key)
            await self._bind(pod, verdict.node)
            return Done()
        # Remembered before anything is awaited: what changes from now on brings the pod back.
        self._refused.add(request.key)
        self._tell(pod, WARNING, "FailedScheduling", verdict.message)
        await self._say(pod, "Unschedulable", verdict.message)
        return Done()

    async def _bind(self, pod: Object, node: str) -> None:
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": name_of(pod),
                "namespace": namespace_of(pod),
                "uid": uid_of(pod),
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        # The next pod must see the room as taken before the watch shows the binding.
        self._place(uid_of(pod), node, usage_of(pod))
        try:
            await self._client.create(
                PODS, binding, namespace_of(pod), name=name_of(pod), subresource="binding"
            )
        except NotFound:
            self._remove(uid_of(pod))
            return
        except BaseException:
            self._remove(uid_of(pod))
            raise
        text = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {node}"
        self._tell(pod, NORMAL, "Scheduled", text)

    async def _say(self, pod: Object, reason: str, message: str) -> None:
        status = dict(pod.get("status") or {})
        conditions = [dict(each) for each in status.get("conditions") or ()]
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
        }
        current = find_condition(conditions, "PodScheduled") or {}
        if all(current.get(name) == value for name, value in condition.items()):
            return
        set_condition(conditions, condition, rfc3339(self._manager.clock.now()))
        status["conditions"] = conditions
        await write_status(self._client, PODS, pod, status)

    def _tell(self, pod: Object, kind: str, reason: str, text: str) -> None:
        self._manager.events.event(pod, kind, reason, text, component=SCHEDULER_NAME)

    def _on_pod(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is None:
            assert old is not None
            self._refused.discard(old.meta.key)
            if self._remove(old.meta.uid):
                self._retry()
            return
        pod = new.view
        node = (pod.get("spec") or {}).get("nodeName")
        if is_finished(pod):
            if self._remove(new.meta.uid):
                self._retry()
        elif node:
            self._place(new.meta.uid, node, usage_of(pod))

    def _on_node(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        before, after = (_offer(entry.view) if entry else None for entry in (old, new))
        if before != after:
            self._retry()

    def _retry(self) -> None:
        for key in sorted(self._refused):
            self.controller.enqueue(Request.of(key))

    def _place(self, uid: str, node: str, usage: Usage) -> None:
        if self._node_of.get(uid, node) != node:
            self._remove(uid)
        self._node_of[uid] = node
        self._usage.setdefault(node, {})[uid] = usage

    def _remove(self, uid: str) -> bool:
        node = self._node_of.pop(uid, None)
        if node is None:
            return False
        del self._usage[node][uid]
        if not self._usage[node]:
            del self._usage[node]
        return True


def _offer(node: Object) -> tuple[object, ...]:
    """What matters to scheduling, so that heartbeats do not wake every pod that waits."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    return (
        meta(node).get("labels"),
        spec.get("taints"),
        spec.get("unschedulable"),
        status.get("allocatable"),
        is_ready(node),
    )


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the scheduler."""
    scheduler = Scheduler(manager)
    manager.add(scheduler.controller)
    scheduler.listen()
