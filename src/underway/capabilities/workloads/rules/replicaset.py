"""How many pods a ReplicaSet makes or removes, which ones, and what its status says.

Source: Kubernetes docs, "ReplicaSet"; kubernetes ``pkg/controller/controller_utils.go``
(ActivePodsWithRanks) for the order in which pods are given up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from underway.api.objects import Object, annotations_of, labels_of, meta, set_condition
from underway.base.clock import rfc3339
from underway.capabilities.workloads.model import (
    active,
    available_in_s,
    created_at,
    is_ready,
    phase,
    ready_since,
    replicas_of,
    restarts,
    spec_of,
    status_of,
)

BURST = 500  # pods made or removed in one go
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True)
class Plan:
    """Pods to make, and pods to delete."""

    create: int = 0
    delete: tuple[Object, ...] = ()


def as_set(owner: Object) -> Object:
    """A ReplicationController with its selector written as a ReplicaSet's; others as they are."""
    if owner.get("kind") != "ReplicationController":
        return owner
    selector = {"matchLabels": spec_of(owner).get("selector") or {}}
    return {**owner, "spec": {**spec_of(owner), "selector": selector}}


def plan(replicaset: Object, pods: list[Object]) -> Plan:
    """What brings the pods that the ReplicaSet controls to its replica count."""
    alive = [pod for pod in pods if active(pod)]
    difference = replicas_of(replicaset) - len(alive)
    if difference >= 0:
        return Plan(create=min(difference, BURST))
    ranked = deletion_order(alive)
    return Plan(delete=tuple(ranked[: min(-difference, BURST)]))


def deletion_order(pods: list[Object]) -> list[Object]:
    """Pods in the order they are given up: those that serve least come first.

    Unscheduled before scheduled, pending before running, unready before ready, low deletion cost
    before high, crowded nodes before others, shortly ready before long ready, often restarted
    before steady, new before old.
    """
    crowd = Counter(spec_of(pod).get("nodeName") for pod in pods)
    phases = {"Pending": 0, "Unknown": 1, "Running": 2}

    def rank(pod: Object) -> tuple[float, ...]:
        node = spec_of(pod).get("nodeName")
        since = ready_since(pod)
        return (
            1 if node else 0,
            phases.get(phase(pod), 2),
            1 if is_ready(pod) else 0,
            _deletion_cost(pod),
            -crowd[node],
            -since.timestamp() if since else 0,
            -restarts(pod),
        )

    newest_first = sorted(pods, key=lambda pod: (created_at(pod), meta(pod)["name"]), reverse=True)
    return sorted(newest_first, key=rank)


def _deletion_cost(pod: Object) -> int:
    try:
        return int(annotations_of(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


@dataclass(frozen=True)
class Observed:
    """The status to write, and in how many seconds time alone will change it."""

    status: Object
    changes_in_s: float | None


def status(replicaset: Object, pods: list[Object], now: datetime, failure: str = "") -> Observed:
    """The ReplicaSet's status.

    Args:
        replicaset: the object.
        pods: the pods it controls.
        now: the time, for ``minReadySeconds``.
        failure: why pods could not be made or removed, or empty.
    """
    min_ready_s = int(spec_of(replicaset).get("minReadySeconds") or 0)
    template = (spec_of(replicaset).get("template") or {}).get("metadata") or {}
    wanted = (template.get("labels") or {}).items()
    alive = [pod for pod in pods if active(pod)]
    waits = [available_in_s(pod, min_ready_s, now) for pod in alive]
    pending = [wait for wait in waits if wait]
    conditions = _conditions(replicaset, rfc3339(now), failure)
    return Observed(
        {
            "replicas": len(alive),
            "fullyLabeledReplicas": sum(wanted <= labels_of(pod).items() for pod in alive) or None,
            "readyReplicas": sum(wait is not None for wait in waits) or None,
            "availableReplicas": sum(wait == 0 for wait in waits) or None,
            "observedGeneration": meta(replicaset).get("generation"),
            "conditions": conditions or None,
        },
        min(pending, default=None),
    )


def _conditions(replicaset: Object, now: str, failure: str) -> list[Object]:
    current = status_of(replicaset).get("conditions") or ()
    conditions = [dict(each) for each in current]
    if failure:
        reason, _, message = failure.partition(": ")
        set_condition(
            conditions,
            {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": message},
            now,
        )
        return conditions
    return [each for each in conditions if each["type"] != "ReplicaFailure"]
