"""Where a pod is to run, or why it cannot run anywhere."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from underway.api.objects import Object
from underway.capabilities.scheduler.model import PodInfo
from underway.capabilities.scheduler.rules import fit, preemption
from underway.capabilities.scheduler.rules.cluster import Cluster, Ranking
from underway.capabilities.scheduler.rules.preemption import Budget, Preemption, summary
from underway.capabilities.scheduler.rules.topology import Constraints, concerns

COMPARED_LEAST = 100  # nodes; of more, a share is enough to choose from
SHOWN_BEST, SHOWN_NODES = 3, 20  # of a decision that is told


@dataclass(frozen=True, slots=True)
class Chosen:
    """The node to bind the pod to; ``best`` are the first few with their scores, of ``fits``."""

    node: str
    best: tuple[tuple[str, float], ...] = field(default=(), compare=False)
    fits: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node can take the pod now; ``message`` says why, ``preemption`` how that could change.

    ``nodes`` says of the first few nodes, by name, what speaks against each.
    """

    message: str
    preemption: Preemption | None = None
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)


def decide(
    pod: PodInfo,
    cluster: Cluster,
    budgets: Sequence[Budget] = (),
    volumes: Sequence[Object] = (),
) -> Chosen | Unschedulable:
    """Choose the node that runs the pod best.

    Args:
        pod: the pod.
        cluster: the cluster.
        budgets: disruption budgets, for preemption.
        volumes: the ``required`` node affinities of the pod's volumes.
    """
    if not cluster.nodes:
        return Unschedulable("no nodes available to schedule pods")
    if node := _nominated(pod, cluster, volumes):
        return Chosen(node, fits=1)
    ranking = cluster.ranking(pod.shape)
    far: dict[str, fit.Refusal] = {}
    if not concerns(pod, cluster, volumes):
        best = ranking.top(SHOWN_BEST)
    else:
        best = _compare(Constraints(pod, cluster, volumes), cluster, ranking, far)
    if best:
        return Chosen(best[0][0], tuple(best), len(ranking.fitting))
    reasons = Counter(ranking.reasons)
    for refusal in far.values():
        reasons.update(refusal.reasons)
    message = summary(len(cluster.nodes), reasons)
    refused = {**ranking.refused, **far} if far else ranking.refused
    shown = {name: refused[name].reasons for name in heapq.nsmallest(SHOWN_NODES, refused)}
    if not pod.shape.profile.preempts:
        return Unschedulable(message, None, shown)
    outcome = preemption.preempt(pod, cluster, refused, budgets, volumes)
    if isinstance(outcome, Preemption):
        return Unschedulable(message, outcome, shown)
    return Unschedulable(f"{message} preemption: {outcome}", None, shown)


def compared(nodes: int) -> int:
    """How many nodes that fit are enough: fewer, in share, of a large cluster."""
    if nodes <= COMPARED_LEAST:
        return nodes
    share = max(5.0, 50.0 - nodes / 125.0) / 100.0
    return max(COMPARED_LEAST, int(nodes * share))


def _nominated(pod: PodInfo, cluster: Cluster, volumes: Sequence[Object]) -> str:
    """The node that was cleared for the pod, if it can take it now."""
    name = cluster.nominated_node(pod.uid)
    info = cluster.nodes.get(name)
    if info is None:
        return ""
    info = cluster.with_nominated(info, pod.priority, pod.uid)
    if fit.refusal(pod.shape, info) is not None:
        return ""
    if not concerns(pod, cluster, volumes):
        return name
    return "" if Constraints(pod, cluster, volumes).refusal(info) else name


def _compare(
    constraints: Constraints, cluster: Cluster, ranking: Ranking, far: dict[str, fit.Refusal]
) -> list[tuple[str, float]]:
    """The best of enough nodes that also meet the constraints; if none does, ``far`` says why."""
    enough = compared(len(cluster.nodes))
    fitting = []
    for name in ranking.fitting:
        info = cluster.nodes[name]
        if constraints.refusal(info) is None:
            fitting.append(info)
            if len(fitting) >= enough:
                break
    if not fitting:
        for name in ranking.fitting:
            if refusal := constraints.refusal(cluster.nodes[name]):
                far[name] = refusal
        return []
    scores = constraints.scores(fitting)
    total = {
        info.name: ranking.fitting[info.name] + score
        for info, score in zip(fitting, scores, strict=True)
    }
    return heapq.nsmallest(SHOWN_BEST, total.items(), key=lambda each: (-each[1], each[0]))
