"""Where a pod can run, and where it runs best.

Filters say which nodes can take the pod and, of the others, why not; scores order the rest.

Source: Kubernetes docs, "Kubernetes Scheduler" and "Scheduler Configuration" (the default
plugins); the messages are the scheduler's own, since people and tools look for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from underway.api import placement
from underway.api.objects import Object
from underway.capabilities.scheduler.model import NOT_READY, NodeInfo, Usage, is_ready, usage_of

COMPARED = ("cpu", "memory")
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104  # the API's word for any address

Filter = Callable[[Object, Usage, NodeInfo], list[str]]


@dataclass(frozen=True)
class Chosen:
    """The node to bind the pod to."""

    node: str


@dataclass(frozen=True)
class Unschedulable:
    """No node can take the pod now; ``message`` says why."""

    message: str


def schedule(pod: Object, nodes: Sequence[NodeInfo]) -> Chosen | Unschedulable:
    """Choose the node that runs the pod best."""
    if not nodes:
        return Unschedulable("no nodes available to schedule pods")
    wanted = usage_of(pod)
    fitting: list[NodeInfo] = []
    reasons: Counter[str] = Counter()
    for info in nodes:
        found = why_not(pod, wanted, info)
        if found:
            reasons.update(found)
        else:
            fitting.append(info)
    if not fitting:
        parts = sorted(f"{count} {reason}" for reason, count in reasons.items())
        return Unschedulable(f"0/{len(nodes)} nodes are available: {', '.join(parts)}.")
    # Of equals the first by name, so that the same question has the same answer.
    best = min(fitting, key=lambda info: (-score(pod, wanted, info), info.name))
    return Chosen(best.name)


def why_not(pod: Object, wanted: Usage, info: NodeInfo) -> list[str]:
    """Why the node cannot take the pod, by the first filter that refuses; empty if it can."""
    for refuse in FILTERS:
        if reasons := refuse(pod, wanted, info):
            return reasons
    return []


def _unschedulable(pod: Object, _wanted: Usage, info: NodeInfo) -> list[str]:
    taint = {"key": placement.UNSCHEDULABLE, "effect": placement.NO_SCHEDULE}
    tolerations = pod["spec"].get("tolerations") or ()
    cordoned = bool((info.node.get("spec") or {}).get("unschedulable"))
    if cordoned and not placement.tolerates(tolerations, taint):
        return ["node(s) were unschedulable"]
    return []


def _taints(pod: Object, _wanted: Usage, info: NodeInfo) -> list[str]:
    found = placement.untolerated(pod["spec"], info.node)
    tolerations = pod["spec"].get("tolerations") or ()
    not_ready = {"key": NOT_READY, "effect": placement.NO_SCHEDULE}
    if not is_ready(info.node) and not placement.tolerates(tolerations, not_ready):
        found.append(not_ready)
    if not found:
        return []
    return [f"node(s) had untolerated taint {{{found[0]['key']}: {found[0].get('value') or ''}}}"]


def _affinity(pod: Object, _wanted: Usage, info: NodeInfo) -> list[str]:
    if placement.matches_node(pod["spec"], info.node):
        return []
    return ["node(s) didn't match Pod's node affinity/selector"]


def _ports(_pod: Object, wanted: Usage, info: NodeInfo) -> list[str]:
    if not wanted.ports:
        return []
    taken = info.ports()
    for address, protocol, number in wanted.ports:
        for other_address, other_protocol, other_number in taken:
            meets = _ANY_ADDRESS in (address, other_address) or address == other_address
            if meets and (protocol, number) == (other_protocol, other_number):
                return ["node(s) didn't have free ports for the requested pod ports"]
    return []


def _resources(_pod: Object, wanted: Usage, info: NodeInfo) -> list[str]:
    allocatable, requested = info.allocatable(), info.requested()
    reasons: list[str] = []
    if len(info.pods) + 1 > allocatable.get("pods", Fraction(110)):
        reasons.append("Too many pods")
    for name in sorted(wanted.requests):
        amount = wanted.requests[name]
        if amount and amount > allocatable.get(name, Fraction()) - requested.get(name, Fraction()):
            reasons.append(f"Insufficient {name}")
    return reasons


FILTERS: tuple[Filter, ...] = (_unschedulable, _taints, _affinity, _ports, _resources)


def score(pod: Object, wanted: Usage, info: NodeInfo) -> float:
    """How well the node suits the pod: the higher, the better.

    Free resources and their balance count up to 100 each, preferred affinity its weights, and
    each soft taint that is not tolerated against it.
    """
    allocatable, compared = info.allocatable(), info.compared()
    shares = [
        min(
            1.0, float((compared.get(name, Fraction()) + wanted.compared[name]) / allocatable[name])
        )
        for name in COMPARED
        if allocatable.get(name)
    ]
    total = float(placement.preference(pod["spec"], info.node))
    total -= 100.0 * len(
        placement.untolerated(pod["spec"], info.node, (placement.PREFER_NO_SCHEDULE,))
    )
    if shares:
        mean = sum(shares) / len(shares)
        spread = (sum((share - mean) ** 2 for share in shares) / len(shares)) ** 0.5
        total += 100.0 * (1 - mean) + 100.0 * (1 - spread)
    return total
