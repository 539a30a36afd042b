"""Whether one node can take a pod, and how well it suits, looking at that node alone.

Source: Kubernetes docs, "Kubernetes Scheduler" and "Scheduler Configuration" (the default plugins
and their weights); the messages are the scheduler's own, since people and tools look for them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from underway.api import placement
from underway.api.objects import Object
from underway.capabilities.scheduler import profiles
from underway.capabilities.scheduler.model import MAX_PODS, NOT_READY, NodeInfo, Shape, untolerated

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104  # the API's word for any address
_MEBI = 1024 * 1024
_IMAGE_LEAST, _IMAGE_MOST = 23 * _MEBI, 1000 * _MEBI  # bytes per container


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node cannot take a pod; ``helpless`` where removing pods from it would not help."""

    reasons: tuple[str, ...]
    helpless: bool = False


def refusal(shape: Shape, info: NodeInfo) -> Refusal | None:
    """Why the node cannot take such a pod, by the first filter that refuses."""
    off = shape.profile.off
    if info.hindered and (found := _hindrance(shape, info, off)):
        return Refusal((found,), helpless=True)
    if "NodeAffinity" not in off and (found := _elsewhere(shape, info)):
        return Refusal((found,), helpless=True)
    if shape.ports and "NodePorts" not in off and _ports_clash(shape, info):
        return Refusal(("node(s) didn't have free ports for the requested pod ports",))
    return None if "NodeResourcesFit" in off else _lack(shape, info)


def _elsewhere(shape: Shape, info: NodeInfo) -> str:
    added = _terms(shape.profile.added_required)
    if added and not any(placement.matches_term(term, info.node) for term in added):
        return "node(s) didn't match scheduler-enforced node affinity"
    if not shape.plain and not placement.matches_node(shape.spec, info.node):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


@functools.lru_cache(maxsize=64)
def _terms(written: bytes) -> Sequence[Object]:
    """The node selector terms of a profile."""
    if not written:
        return ()
    found: Sequence[Object] = msgspec.json.decode(written).get("nodeSelectorTerms") or ()
    return found


@functools.lru_cache(maxsize=64)
def _preferred(written: bytes) -> Sequence[Object]:
    found: Sequence[Object] = msgspec.json.decode(written) if written else ()
    return found


def _hindrance(shape: Shape, info: NodeInfo, off: frozenset[str]) -> str:
    tolerations = shape.spec.get("tolerations") or ()
    taint = {"key": placement.UNSCHEDULABLE, "effect": placement.NO_SCHEDULE}
    cordoned = bool(info.node["spec"].get("unschedulable"))
    if cordoned and "NodeUnschedulable" not in off and not placement.tolerates(tolerations, taint):
        return "node(s) were unschedulable"
    if "TaintToleration" in off:
        return ""
    found = untolerated(shape, info.node, placement.NO_SCHEDULE, placement.NO_EXECUTE)
    if "NodeUnschedulable" in off:
        found = [each for each in found if each["key"] != placement.UNSCHEDULABLE]
    not_ready = {"key": NOT_READY, "effect": placement.NO_SCHEDULE}
    # The taint follows the condition a moment later.
    if not info.ready and not placement.tolerates(tolerations, not_ready):
        found.append(not_ready)
    if not found:
        return ""
    return f"node(s) had untolerated taint {{{found[0]['key']}: {found[0].get('value') or ''}}}"


def _ports_clash(shape: Shape, info: NodeInfo) -> bool:
    for address, protocol, number in shape.ports:
        for other_address, other_protocol, other_number in info.ports:
            meets = _ANY_ADDRESS in (address, other_address) or address == other_address
            if meets and (protocol, number) == (other_protocol, other_number):
                return True
    return False


def _lack(shape: Shape, info: NodeInfo) -> Refusal | None:
    allocatable, requested = info.allocatable, info.requested
    reasons: list[str] = []
    helpless = False
    if len(info.pods) + 1 > allocatable.get("pods", MAX_PODS):
        reasons.append("Too many pods")
    for name, amount in shape.requests.items():
        there = allocatable.get(name, 0)
        if amount > there - requested.get(name, 0):
            reasons.append(f"Insufficient {name}")
            helpless = helpless or amount > there
    return Refusal(tuple(sorted(reasons)), helpless) if reasons else None


def score(shape: Shape, info: NodeInfo, image_share: Callable[[str], float]) -> float:
    """How well the node suits the pod: the higher, the better.

    Free resources, their balance and images that are there already count up to 100 each,
    preferred node affinity up to 200, and freedom from soft taints up to 300.

    Args:
        shape: the pod.
        info: the node.
        image_share: which share of all nodes has an image, so that a pod is not drawn to the one
            node that happens to have it.
    """
    weights = shape.profile.weights
    total = _resources_score(shape, info)
    total += weights["NodeAffinity"] * _affinity_score(shape, info)
    soft = untolerated(shape, info.node, placement.PREFER_NO_SCHEDULE) if info.hindered else ()
    total += weights["TaintToleration"] * 100.0 / (1 + len(soft))
    if info.images and weights["ImageLocality"]:
        total += weights["ImageLocality"] * _image_score(shape, info, image_share)
    return total


def _resources_score(shape: Shape, info: NodeInfo) -> float:
    profile, allocatable = shape.profile, info.allocatable
    total = 0.0
    cpu, memory = allocatable.get("cpu", 0), allocatable.get("memory", 0)
    if cpu and memory:
        cpu_share = min(1.0, (info.cpu + shape.cpu) / cpu)
        memory_share = min(1.0, (info.memory + shape.memory) / memory)
        # The deviation of two values: half their distance.
        balanced = 100.0 - 50.0 * abs(cpu_share - memory_share)
        total += profile.weights["NodeResourcesBalancedAllocation"] * balanced
        if profile.strategy is profiles.DEFAULT.strategy:
            least = 50.0 * (2.0 - cpu_share - memory_share)
            return total + profile.weights["NodeResourcesFit"] * least
    return total + profile.weights["NodeResourcesFit"] * _strategy_score(shape, info)


def _strategy_score(shape: Shape, info: NodeInfo) -> float:
    """What the node's use, with the pod on it, is worth to the profile: 0 to 100."""
    strategy, total, weights = shape.profile.strategy, 0.0, 0
    for name, weight in strategy.weights:
        there = info.allocatable.get(name, 0)
        if not there:
            continue
        weights += weight
        used = {"cpu": info.cpu + shape.cpu, "memory": info.memory + shape.memory}.get(
            name, info.requested.get(name, 0) + shape.requests.get(name, 0)
        )
        share = min(1.0, used / there)
        if strategy.type == "LeastAllocated":
            total += weight * 100.0 * (1.0 - share)
        elif strategy.type == "MostAllocated":
            total += weight * 100.0 * share
        else:
            total += weight * 10.0 * _between(strategy.shape, 100.0 * share)
    return total / weights if weights else 0.0


def _between(points: Sequence[tuple[int, int]], utilization: float) -> float:
    """The score at a utilization: on the line between the points beside it."""
    if utilization <= points[0][0]:
        return float(points[0][1])
    for (left, low), (right, high) in itertools.pairwise(points):
        if utilization <= right:
            return low + (high - low) * (utilization - left) / (right - left)
    return float(points[-1][1])


def _affinity_score(shape: Shape, info: NodeInfo) -> float:
    affinity = (shape.spec.get("affinity") or {}).get("nodeAffinity") or {}
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    added = _preferred(shape.profile.added_preferred)
    most = sum(int(each.get("weight") or 0) for each in (*preferred, *added))
    if not most:
        return 0.0
    got = placement.preference(shape.spec, info.node)
    for each in added:
        if placement.matches_term(each.get("preference") or {}, info.node):
            got += int(each.get("weight") or 0)
    return 100.0 * got / most


def _image_score(shape: Shape, info: NodeInfo, image_share: Callable[[str], float]) -> float:
    there = 0.0
    for image in shape.images:
        for name in (image, f"{image}:latest", f"docker.io/library/{image}"):
            if name in info.images:
                there += info.images[name] * image_share(name)
                break
    most = _IMAGE_MOST * max(1, len(shape.images))
    return 100.0 * (min(max(there, _IMAGE_LEAST), most) - _IMAGE_LEAST) / (most - _IMAGE_LEAST)
