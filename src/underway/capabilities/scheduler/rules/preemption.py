"""Which pods make way for a more important one.

On each node where it would help, all less important pods are thought away and then taken back,
those that a disruption budget protects first, then the most important first, as long as the pod
still fits. Of the nodes the one is chosen where the least is lost.

Source: Kubernetes docs, "Pod Priority and Preemption".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from underway.api.objects import Object
from underway.api.selectors import LabelSelector
from underway.capabilities.scheduler.model import NodeInfo, PodInfo
from underway.capabilities.scheduler.rules import fit
from underway.capabilities.scheduler.rules.cluster import Cluster
from underway.capabilities.scheduler.rules.topology import Constraints, concerns

CANDIDATES_LEAST = 100
CANDIDATES_SHARE = 0.1  # of the nodes are compared
_OFFSET = 2**31  # makes every priority positive, so that fewer victims always sum to less

_NO_VICTIMS = "No preemption victims found for incoming pod"
_NOT_HELPFUL = "Preemption is not helpful for scheduling"


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget: whose pods, how many more may go, and which are counted already."""

    namespace: str
    selector: LabelSelector
    allowed: int
    disrupted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Preemption:
    """The node to make room on, and the pods to delete there, least important first."""

    node: str
    victims: tuple[PodInfo, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    node: str
    victims: tuple[PodInfo, ...]  # most important first
    violations: int

    def cost(self) -> tuple[object, ...]:
        top = self.victims[0].priority
        began = min(pod.created for pod in self.victims if pod.priority == top)
        return (
            self.violations,
            top,
            sum(pod.priority + _OFFSET for pod in self.victims),
            len(self.victims),
            # Of equals the one whose most important victims have run for the shortest time.
            [-ord(letter) for letter in began],
            self.node,
        )


def preempt(
    pod: PodInfo,
    cluster: Cluster,
    refused: Mapping[str, fit.Refusal],
    budgets: Sequence[Budget],
    volumes: Sequence[Object] = (),
) -> Preemption | str:
    """Where to make room for a pod that no node can take, or why that is impossible.

    Args:
        pod: the pod.
        cluster: the cluster.
        refused: every node's refusal.
        budgets: all disruption budgets.
        volumes: the ``required`` node affinities of the pod's volumes.
    """
    if not pod.shape.may_preempt:
        return "not eligible due to preemptionPolicy=Never."
    nominated = cluster.nodes.get(cluster.nominated_node(pod.uid))
    if nominated is not None and any(
        each.deleting and each.priority < pod.priority for each in nominated.pods.values()
    ):
        return "not eligible due to a terminating pod on the nominated node."
    found: list[_Candidate] = []
    why: Counter[str] = Counter()
    limit = max(CANDIDATES_LEAST, int(len(refused) * CANDIDATES_SHARE))
    anyone = min(cluster.priorities, default=pod.priority) < pod.priority
    for name, refusal in refused.items():
        if refusal.helpless:
            why[_NOT_HELPFUL] += 1
            continue
        candidate = _candidate(pod, cluster, name, budgets, volumes) if anyone else None
        if candidate is None:
            why[_NO_VICTIMS] += 1
            continue
        found.append(candidate)
        if len(found) >= limit:
            break
    if not found:
        return summary(len(refused), why)
    best = min(found, key=_Candidate.cost)
    return Preemption(best.node, tuple(reversed(best.victims)))


def summary(nodes: int, reasons: Mapping[str, int]) -> str:
    """How many nodes refuse for which reason."""
    parts = sorted(f"{count} {reason}" for reason, count in reasons.items() if count)
    return f"0/{nodes} nodes are available: {', '.join(parts)}."


def _candidate(
    pod: PodInfo,
    cluster: Cluster,
    name: str,
    budgets: Sequence[Budget],
    volumes: Sequence[Object],
) -> _Candidate | None:
    info = cluster.nodes[name]
    lower = [each for each in info.pods.values() if each.priority < pod.priority]
    if not lower:
        return None
    rest = cluster.with_nominated(info, pod.priority, pod.uid).copy()
    for each in lower:
        rest.remove(each)
    gone = {each.uid: each for each in lower}
    if not _fits(pod, cluster, rest, gone.values(), volumes):
        return None
    lower.sort(key=lambda each: (-each.priority, each.created, each.name))
    breaking = _breaking(lower, budgets)
    violations = 0
    for each in sorted(lower, key=lambda pod: pod.uid not in breaking):
        rest.add(each)
        del gone[each.uid]
        if not _fits(pod, cluster, rest, gone.values(), volumes):
            rest.remove(each)
            gone[each.uid] = each
            violations += each.uid in breaking
    victims = sorted(gone.values(), key=lambda each: (-each.priority, each.created, each.name))
    return _Candidate(name, tuple(victims), violations) if victims else None


def _fits(
    pod: PodInfo,
    cluster: Cluster,
    info: NodeInfo,
    gone: Iterable[PodInfo],
    volumes: Sequence[Object],
) -> bool:
    if fit.refusal(pod.shape, info) is not None:
        return False
    if not concerns(pod, cluster, volumes):
        return True
    without = [(each, info.name) for each in gone]
    return Constraints(pod, cluster, volumes, without).refusal(info) is None


def _breaking(pods: Sequence[PodInfo], budgets: Sequence[Budget]) -> set[str]:
    """The pods, most important first, whose deletion would go beyond a budget."""
    left = [budget.allowed for budget in budgets]
    found: set[str] = set()
    for pod in pods:
        for index, budget in enumerate(budgets):
            if budget.namespace != pod.namespace or pod.name in budget.disrupted:
                continue
            if pod.labels and budget.selector.matches(pod.labels):
                left[index] -= 1
                if left[index] < 0:
                    found.add(pod.uid)
    return found
