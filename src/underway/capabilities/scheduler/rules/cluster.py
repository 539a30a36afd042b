"""The cluster as the scheduler sees it, kept up by small steps and never read anew.

What is asked for again and again is remembered and kept right as pods come and go: on which nodes
how many pods match a term, where pods stand that carry terms of their own, and for each shape of
pod which nodes can take it, best first (``Ranking``). So another pod of a known shape costs only
the nodes that changed since the last one.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping

from underway.api.objects import Object, labels_of, name_of
from underway.capabilities.scheduler.model import (
    Matcher,
    NodeInfo,
    PodInfo,
    Shape,
    Term,
    node_info,
)
from underway.capabilities.scheduler.rules import fit

RANKINGS = 64  # shapes whose rankings are kept
COUNTED = 256  # terms whose matching pods are counted
LOG_LIMIT = 20_000  # changes remembered, for rankings that have not been asked lately

Counted = tuple[tuple[Matcher, ...], bool]
"""Pods that all of these matchers mean; whether those being deleted are left out."""


class Cluster:
    """Nodes, the pods placed on them, and namespaces' labels."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.priorities: Counter[int] = Counter()
        self.nominated: dict[str, dict[str, PodInfo]] = {}
        self.topology_version = 0
        # Terms carried by placed pods: for each the nodes with how many such pods.
        self.anti: dict[Term, Counter[str]] = {}
        self.affinity: dict[Term, Counter[str]] = {}
        self.preferred: dict[Term, Counter[str]] = {}
        self._placed: dict[str, dict[str, PodInfo]] = {}  # node -> uid -> pod
        self._node_of: dict[str, str] = {}
        self._nominee_at: dict[str, str] = {}
        self._counts: OrderedDict[Counted, Counter[str]] = OrderedDict()
        self._remembered: OrderedDict[tuple[Hashable, ...], tuple[int, dict[str, str]]] = (
            OrderedDict()
        )
        self._rankings: OrderedDict[bytes, Ranking] = OrderedDict()
        self._image_nodes: Counter[str] = Counter()
        self._log: list[str] = []
        self._log_start = 0

    # -- nodes -----------------------------------------------------------------------------

    def put_node(self, node: Object) -> None:
        """A node came or changed."""
        name = name_of(node)
        before = self.nodes.get(name)
        after = node_info(node, self._placed.get(name, {}).values())
        self.nodes[name] = after
        if before is None or (before.labels, before.node) != (after.labels, after.node):
            self.topology_version += 1
        self._image_nodes.subtract(list(before.images) if before else ())
        self._image_nodes.update(list(after.images))
        self._changed(name)

    def drop_node(self, name: str) -> None:
        """A node is gone; its pods are remembered should it come back."""
        before = self.nodes.pop(name, None)
        if before is not None:
            self._image_nodes.subtract(list(before.images))
            self.topology_version += 1
            self._changed(name)

    def put_namespace(self, namespace: Object) -> None:
        """A namespace came or changed its labels."""
        name, labels = name_of(namespace), labels_of(namespace)
        if self.namespaces.get(name) != labels:
            self.namespaces[name] = labels
            self._counts.clear()

    def drop_namespace(self, name: str) -> None:
        """A namespace is gone."""
        self.namespaces.pop(name, None)

    def image_share(self, name: str) -> float:
        """Which share of the nodes has an image."""
        return self._image_nodes[name] / max(1, len(self.nodes))

    # -- pods ------------------------------------------------------------------------------

    def node_of(self, uid: str) -> str:
        """The node a pod is placed on, or empty."""
        return self._node_of.get(uid, "")

    def place(self, pod: PodInfo, node: str) -> None:
        """A pod takes up room on a node from now on."""
        current = self._placed.get(node, {}).get(pod.uid)
        if current is not None and _same(current, pod):
            return
        self.remove(pod.uid)
        self.withdraw(pod.uid)
        self._node_of[pod.uid] = node
        self._placed.setdefault(node, {})[pod.uid] = pod
        info = self.nodes.get(node)
        if info is not None:
            info.add(pod)
        self._count(pod, node, 1)
        self._changed(node)

    def remove(self, uid: str) -> PodInfo | None:
        """A pod takes up nothing any more; returns it if it did."""
        node = self._node_of.pop(uid, None)
        if node is None:
            return None
        pod = self._placed[node].pop(uid)
        if not self._placed[node]:
            del self._placed[node]
        info = self.nodes.get(node)
        if info is not None:
            info.remove(pod)
        self._count(pod, node, -1)
        self._changed(node)
        return pod

    def _count(self, pod: PodInfo, node: str, step: int) -> None:
        self.priorities[pod.priority] += step
        if not self.priorities[pod.priority]:
            del self.priorities[pod.priority]
        shape = pod.shape
        for carried, terms in (
            (self.anti, shape.anti),
            (self.affinity, shape.affinity),
            (self.preferred, shape.preferred),
        ):
            for term in terms:
                _step(carried.setdefault(term, Counter()), node, step)
                if not carried[term]:
                    del carried[term]
        for counted, counts in self._counts.items():
            if self._is_counted(counted, pod):
                _step(counts, node, step)

    def _is_counted(self, counted: Counted, pod: PodInfo) -> bool:
        matchers, without_deleting = counted
        if without_deleting and pod.deleting:
            return False
        return all(matcher.matches(pod, self.namespaces) for matcher in matchers)

    def counts(self, *matchers: Matcher, without_deleting: bool = False) -> Mapping[str, int]:
        """On each node how many pods all of the matchers mean."""
        counted = (matchers, without_deleting)
        found = self._counts.get(counted)
        if found is None:
            found = self._counts[counted] = Counter()
            for node, pods in self._placed.items():
                number = sum(self._is_counted(counted, pod) for pod in pods.values())
                if number:
                    found[node] = number
            if len(self._counts) > COUNTED:
                self._counts.popitem(last=False)
        else:
            self._counts.move_to_end(counted)
        return found

    def remembered(
        self, what: tuple[Hashable, ...], work_out: Callable[[], dict[str, str]]
    ) -> Mapping[str, str]:
        """What depends on nodes' labels and taints alone, worked out when those change."""
        version, found = self._remembered.get(what, (-1, {}))
        if version != self.topology_version:
            found = work_out()
            self._remembered[what] = (self.topology_version, found)
            if len(self._remembered) > RANKINGS:
                self._remembered.popitem(last=False)
        return found

    # -- nominations -----------------------------------------------------------------------

    def nominate(self, pod: PodInfo, node: str) -> None:
        """Keep the room on a node, that others make for a pod, from pods less important."""
        self.withdraw(pod.uid)
        self._nominee_at[pod.uid] = node
        self.nominated.setdefault(node, {})[pod.uid] = pod
        self._changed(node)

    def withdraw(self, uid: str) -> None:
        """Take a nomination back."""
        node = self._nominee_at.pop(uid, None)
        if node is not None:
            del self.nominated[node][uid]
            if not self.nominated[node]:
                del self.nominated[node]
            self._changed(node)

    def nominated_node(self, uid: str) -> str:
        """The node a pod is nominated to, or empty."""
        return self._nominee_at.get(uid, "")

    def with_nominated(self, info: NodeInfo, priority: int, uid: str = "") -> NodeInfo:
        """The node with the pods nominated to it that a pod must make way for, but ``uid``."""
        others = [
            pod
            for pod in self.nominated.get(info.name, {}).values()
            if pod.priority >= priority and pod.uid != uid
        ]
        if others:
            info = info.copy()
            for pod in others:
                info.add(pod)
        return info

    # -- rankings --------------------------------------------------------------------------

    def ranking(self, shape: Shape) -> Ranking:
        """Which nodes can take such a pod, as of now."""
        found = self._rankings.get(shape.id)
        if found is None:
            found = self._rankings[shape.id] = Ranking(shape)
            if len(self._rankings) > RANKINGS:
                self._rankings.popitem(last=False)
        else:
            self._rankings.move_to_end(shape.id)
        found.refresh(self)
        return found

    def changes_since(self, position: int) -> tuple[Iterable[str] | None, int]:
        """The nodes changed since a position (None: all may have), and the position now."""
        end = self._log_start + len(self._log)
        if position < self._log_start:
            return None, end
        if position == end:
            return (), end
        return set(self._log[position - self._log_start :]), end

    def _changed(self, name: str) -> None:
        self._log.append(name)
        if len(self._log) > LOG_LIMIT:
            dropped = len(self._log) // 2
            del self._log[:dropped]
            self._log_start += dropped


class Ranking:
    """For one shape of pod: the nodes that can take it, best first, and why the others cannot."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.fitting: dict[str, float] = {}
        self.refused: dict[str, fit.Refusal] = {}
        self.reasons: Counter[str] = Counter()
        self._heap: list[tuple[float, str]] = []
        self._position = -1

    def refresh(self, cluster: Cluster) -> None:
        """Look again at the nodes that changed."""
        names, self._position = cluster.changes_since(self._position)
        if names is None:
            self.fitting, self.refused, self.reasons = {}, {}, Counter()
            self._heap = []
            names = cluster.nodes
        for name in names:
            self._judge(cluster, name)
        if len(self._heap) > 4 * len(self.fitting) + 1000:
            self._heap = [(-score, name) for name, score in self.fitting.items()]
            heapq.heapify(self._heap)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The best nodes with their scores; of equals the first by name comes first."""
        heap, found = self._heap, []
        while heap and len(found) < count:
            score, name = heapq.heappop(heap)
            known = self.fitting.get(name) == -score
            if known and (not found or found[-1] != (score, name)):
                found.append((score, name))
        for each in found:
            heapq.heappush(heap, each)
        return [(name, -score) for score, name in found]

    def _judge(self, cluster: Cluster, name: str) -> None:
        self.fitting.pop(name, None)
        before = self.refused.pop(name, None)
        if before is not None:
            for reason in before.reasons:
                _step(self.reasons, reason, -1)
        info = cluster.nodes.get(name)
        if info is None:
            return
        if name in cluster.nominated:
            info = cluster.with_nominated(info, self.shape.priority)
        found = fit.refusal(self.shape, info)
        if found is not None:
            self.refused[name] = found
            self.reasons.update(found.reasons)
            return
        score = fit.score(self.shape, info, cluster.image_share)
        self.fitting[name] = score
        heapq.heappush(self._heap, (-score, name))


def _step(counter: Counter[str], name: str, step: int) -> None:
    counter[name] += step
    if not counter[name]:
        del counter[name]


def _same(one: PodInfo, other: PodInfo) -> bool:
    return (
        one.shape is other.shape
        and one.labels == other.labels
        and one.deleting == other.deleting
        and one.created == other.created
    )
