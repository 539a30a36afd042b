"""Whether one node can take a pod, and how well it suits, looking at that node alone.

Source: Kubernetes docs, "Kubernetes Scheduler" and "Scheduler Configuration" (the default plugins
and their weights); the messages are the scheduler's own, since people and tools look for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from underway.api import placement
from underway.capabilities.scheduler.model import MAX_PODS, NOT_READY, NodeInfo, Shape, untolerated

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104  # the API's word for any address
_MEBI = 1024 * 1024
_IMAGE_LEAST, _IMAGE_MOST = 23 * _MEBI, 1000 * _MEBI  # bytes per container

_TAINTS, _AFFINITY = 3.0, 2.0  # weights; the others count once


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node cannot take a pod; ``helpless`` where removing pods from it would not help."""

    reasons: tuple[str, ...]
    helpless: bool = False


def refusal(shape: Shape, info: NodeInfo) -> Refusal | None:
    """Why the node cannot take such a pod, by the first filter that refuses."""
    if info.hindered and (found := _hindrance(shape, info)):
        return Refusal((found,), helpless=True)
    if not shape.plain and not placement.matches_node(shape.spec, info.node):
        return Refusal(("node(s) didn't match Pod's node affinity/selector",), helpless=True)
    if shape.ports and _ports_clash(shape, info):
        return Refusal(("node(s) didn't have free ports for the requested pod ports",))
    return _lack(shape, info)


def _hindrance(shape: Shape, info: NodeInfo) -> str:
    tolerations = shape.spec.get("tolerations") or ()
    taint = {"key": placement.UNSCHEDULABLE, "effect": placement.NO_SCHEDULE}
    cordoned = bool(info.node["spec"].get("unschedulable"))
    if cordoned and not placement.tolerates(tolerations, taint):
        return "node(s) were unschedulable"
    found = untolerated(shape, info.node, placement.NO_SCHEDULE, placement.NO_EXECUTE)
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
    allocatable = info.allocatable
    total = 0.0
    cpu, memory = allocatable.get("cpu", 0), allocatable.get("memory", 0)
    if cpu and memory:
        cpu_share = min(1.0, (info.cpu + shape.cpu) / cpu)
        memory_share = min(1.0, (info.memory + shape.memory) / memory)
        # Least allocated, and the deviation of two values: half their distance.
        total += 50.0 * (2.0 - cpu_share - memory_share)
        total += 100.0 - 50.0 * abs(cpu_share - memory_share)
    affinity = (shape.spec.get("affinity") or {}).get("nodeAffinity") or {}
    if preferred := affinity.get("preferredDuringSchedulingIgnoredDuringExecution"):
        most = sum(int(each.get("weight") or 0) for each in preferred)
        if most:
            got = placement.preference(shape.spec, info.node)
            total += _AFFINITY * 100.0 * got / most
    soft = untolerated(shape, info.node, placement.PREFER_NO_SCHEDULE) if info.hindered else ()
    total += _TAINTS * 100.0 / (1 + len(soft))
    if info.images:
        total += _image_score(shape, info, image_share)
    return total


def _image_score(shape: Shape, info: NodeInfo, image_share: Callable[[str], float]) -> float:
    there = 0.0
    for image in shape.images:
        for name in (image, f"{image}:latest", f"docker.io/library/{image}"):
            if name in info.images:
                there += info.images[name] * image_share(name)
                break
    most = _IMAGE_MOST * max(1, len(shape.images))
    return 100.0 * (min(max(there, _IMAGE_LEAST), most) - _IMAGE_LEAST) / (most - _IMAGE_LEAST)
