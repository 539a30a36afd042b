"""When a node counts as lost, how it is marked, and when its pods have to leave.

A node shows that it lives by renewing its Lease or by posting its status. One that is silent for
the grace period has its conditions set to Unknown; taints follow from conditions, and pods leave
a NoExecute taint when what they tolerate of it has passed. When most nodes seem lost at once, the
trouble is taken to lie on this side, and nobody is evicted.

Source: Kubernetes docs, "Nodes" (heartbeats, rate limits on eviction), "Taints and Tolerations"
(taint based evictions), "Well-Known Labels, Annotations and Taints".
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from underway.api import placement
from underway.api.objects import Object, deleting, find_condition, labels_of, meta, set_condition
from underway.base.clock import parse_rfc3339, rfc3339
from underway.capabilities.workloads.model import finished, spec_of, status_of

GRACE_S = 40.0  # of silence before a node counts as lost
STARTUP_GRACE_S = 60.0  # the same for a node that has never told its status
EVICTION_PERIOD_S = 10.0  # a zone's nodes begin to lose their pods one each ...
LARGE_ZONE_PERIOD_S = 100.0  # ... or, in a large zone that is mostly lost, one each
LARGE_ZONE = 50
MOSTLY = 0.55

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
_PRESSURE = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_KEYS = {
    placement.NO_SCHEDULE: frozenset(
        (NOT_READY, UNREACHABLE, placement.UNSCHEDULABLE, *_PRESSURE.values())
    ),
    placement.NO_EXECUTE: frozenset((NOT_READY, UNREACHABLE)),
}


class Eviction(enum.Enum):
    """What may be done to the pods of nodes that are not ready."""

    GO = "taint such nodes NoExecute, one after the other"
    HALT = "taint no further ones"
    NONE = "take such taints off"


def ready_status(node: Object) -> str:
    """The status of the Ready condition: ``True``, ``False``, ``Unknown`` or empty."""
    condition = find_condition(status_of(node).get("conditions"), "Ready")
    return str(condition.get("status") or "") if condition else ""


def shows_life(before: Object, after: Object) -> bool:
    """Whether a change of the Node was made by its agent: a heartbeat, or an end of silence."""
    old, new = (
        find_condition(status_of(each).get("conditions"), "Ready") for each in (before, after)
    )
    if new is None:
        return False
    old = old or {}
    beat = old.get("lastHeartbeatTime") != new.get("lastHeartbeatTime")
    return beat or (old.get("status") != new.get("status") and new.get("status") != "Unknown")


def zone_of(node: Object) -> str:
    """The failure zone, with its region."""
    labels = labels_of(node)
    region = labels.get("topology.kubernetes.io/region", "")
    return f"{region}/{labels.get('topology.kubernetes.io/zone', '')}"


def grace_s(node: Object) -> float:
    """How long the node may be silent, in seconds."""
    return GRACE_S if ready_status(node) else STARTUP_GRACE_S


def lost_conditions(node: Object, now: datetime) -> list[Object]:
    """The conditions of a node that has been silent for too long."""
    conditions = [dict(each) for each in status_of(node).get("conditions") or ()]
    moment = rfc3339(now)
    for kind in _WATCHED:
        current = find_condition(conditions, kind)
        if current is None:
            reason, text = "NodeStatusNeverUpdated", "Kubelet never posted node status."
        else:
            reason, text = "NodeStatusUnknown", "Kubelet stopped posting node status."
        if current is None or current.get("status") != "Unknown":
            unknown = {"type": kind, "status": "Unknown", "reason": reason, "message": text}
            set_condition(conditions, unknown, moment)
    return conditions


def disruption(zones: Mapping[str, tuple[int, int]]) -> dict[str, tuple[Eviction, float]]:
    """For each zone whether its nodes lose pods, and how many seconds lie between two nodes.

    Args:
        zones: for each zone how many of its nodes are ready, and how many are not.
    """
    if not any(ready for ready, _ in zones.values()):
        return dict.fromkeys(zones, (Eviction.NONE, EVICTION_PERIOD_S))
    found: dict[str, tuple[Eviction, float]] = {}
    for zone, (ready, lost) in zones.items():
        # Two are too few to tell a zone's trouble from a node's.
        mostly = lost > 2 and ready > 0 and lost / (ready + lost) >= MOSTLY
        if not mostly:
            found[zone] = (Eviction.GO, EVICTION_PERIOD_S)
        elif ready + lost > LARGE_ZONE:
            found[zone] = (Eviction.GO, LARGE_ZONE_PERIOD_S)
        else:
            found[zone] = (Eviction.HALT, EVICTION_PERIOD_S)
    return found


def taints(node: Object, eviction: Eviction, now: datetime) -> list[Object]:
    """The node's taints as its conditions ask for them; those of others are kept."""
    wanted: list[tuple[str, str]] = []
    ready = ready_status(node)
    lost = {"False": NOT_READY, "Unknown": UNREACHABLE}.get(ready)
    if lost:
        wanted.append((lost, placement.NO_SCHEDULE))
    for kind, key in _PRESSURE.items():
        condition = find_condition(status_of(node).get("conditions"), kind)
        if condition is not None and condition.get("status") == "True":
            wanted.append((key, placement.NO_SCHEDULE))
    if spec_of(node).get("unschedulable"):
        wanted.append((placement.UNSCHEDULABLE, placement.NO_SCHEDULE))
    if lost and (eviction is Eviction.GO or (eviction is Eviction.HALT and has_eviction(node))):
        wanted.append((lost, placement.NO_EXECUTE))
    kept = [
        each
        for each in spec_of(node).get("taints") or ()
        if each["key"] not in _KEYS.get(each.get("effect", ""), ())
        or (each["key"], each["effect"]) in wanted
    ]
    there = {(each["key"], each.get("effect")) for each in kept}
    added = [
        {"key": key, "effect": effect, "timeAdded": rfc3339(now)}
        for key, effect in wanted
        if (key, effect) not in there
    ]
    return [*kept, *added]


def has_eviction(node: Object) -> bool:
    """Whether the node carries a NoExecute taint for being lost."""
    return any(each["key"] in _KEYS[placement.NO_EXECUTE] for each in no_execute(node))


def no_execute(node: Object) -> list[Object]:
    """The node's NoExecute taints."""
    found = spec_of(node).get("taints") or ()
    return [each for each in found if each.get("effect") == placement.NO_EXECUTE]


def leaves_at(pod: Object, found: Iterable[Object], now: datetime) -> datetime | None:
    """When the pod has to leave a node with these NoExecute taints; None if it may stay.

    The time a pod tolerates runs from when the taint came, or the pod if that was later.
    """
    tolerations = spec_of(pod).get("tolerations") or ()
    ends: list[datetime] = []
    for taint in found:
        matching = [each for each in tolerations if placement.tolerates((each,), taint)]
        if not matching:
            return now
        limits = [
            int(each["tolerationSeconds"])
            for each in matching
            if each.get("tolerationSeconds") is not None
        ]
        if limits:
            ends.append(_start(pod, taint, now) + timedelta(seconds=max(0, min(limits))))
    return min(ends, default=None)


def _start(pod: Object, taint: Object, now: datetime) -> datetime:
    scheduled = find_condition(status_of(pod).get("conditions"), "PodScheduled") or {}
    times = [
        taint.get("timeAdded"),
        scheduled.get("lastTransitionTime") or meta(pod).get("creationTimestamp"),
    ]
    return max((parse_rfc3339(each) for each in times if each), default=now)


def garbage(pod: Object, node: Object | None) -> str:
    """Why a pod is to be removed without asking its node; empty if it is not.

    Args:
        pod: the pod.
        node: the node it is bound to, None if there is no such node.
    """
    bound = bool(spec_of(pod).get("nodeName"))
    if not bound:
        return "never scheduled" if deleting(pod) else ""
    if node is None:
        return "PodGC: node no longer exists"
    out = any(each["key"] == OUT_OF_SERVICE for each in spec_of(node).get("taints") or ())
    if out and deleting(pod) and ready_status(node) != "True":
        return "PodGC: node is out of service"
    return ""


def too_many_terminated(pods: Iterable[tuple[str, str]], threshold: int) -> list[str]:
    """The keys of the ended pods to delete, oldest first.

    Args:
        pods: time of creation and key of each pod that has ended.
        threshold: how many may stay; 0 or less keeps all.
    """
    ordered = sorted(pods)
    return [key for _, key in ordered[: max(0, len(ordered) - threshold)]] if threshold > 0 else []


def disruption_target(reason: str, message: str, now: datetime) -> Object:
    """The condition that says why a pod is about to go."""
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": rfc3339(now),
    }


def unready(pod: Object, now: datetime) -> Object | None:
    """The Ready condition of a pod on a lost node, None where nothing is to be changed."""
    condition = find_condition(status_of(pod).get("conditions"), "Ready")
    if condition is None or condition.get("status") != "True" or finished(pod):
        return None
    return {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(now)}
