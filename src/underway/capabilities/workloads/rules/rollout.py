"""What a Deployment's status says of its rollout, for people and for ``kubectl rollout``.

Source: Kubernetes docs, "Deployments" (Deployment status); the reasons are those of
kubernetes ``pkg/controller/deployment/util``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from underway.api.objects import Object, find_condition, meta, name_of
from underway.base.clock import parse_rfc3339, rfc3339
from underway.capabilities.workloads.model import count, replicas_of, spec_of, status_of
from underway.capabilities.workloads.rules.deployment import (
    is_complete,
    is_paused,
    max_unavailable,
)

AVAILABLE = "NewReplicaSetAvailable"
UPDATED = "ReplicaSetUpdated"
CREATED = "NewReplicaSetCreated"
FOUND = "FoundNewReplicaSet"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"
RESUMED = "DeploymentResumed"
CREATE_FAILED = "ReplicaSetCreateError"

NO_DEADLINE_S = 2**31 - 1


@dataclass(frozen=True)
class Observed:
    """The status to write, and in how many seconds the progress deadline may pass."""

    status: Object
    deadline_in_s: float | None


def progressing(status: str, reason: str, message: str, now: str) -> Object:
    """A Progressing condition."""
    return {
        "type": "Progressing",
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }


def observe(
    deployment: Object,
    new: Object | None,
    old: list[Object],
    now: datetime,
    note: Object | None = None,
) -> Observed:
    """The Deployment's status.

    Args:
        deployment: the object, with the status it has now.
        new: the ReplicaSet of its template, if there is one.
        old: the others.
        now: the time.
        note: a Progressing condition that this reconciliation has a reason to set.
    """
    everyone = [*old, *([new] if new else [])]
    available = sum(count(each, "availableReplicas") for each in everyone)
    wanted = sum(replicas_of(each) for each in everyone)
    status: Object = {
        "observedGeneration": meta(deployment).get("generation"),
        "replicas": sum(count(each, "replicas") for each in everyone) or None,
        "updatedReplicas": (count(new, "replicas") if new else 0) or None,
        "readyReplicas": sum(count(each, "readyReplicas") for each in everyone) or None,
        "availableReplicas": available or None,
        "unavailableReplicas": max(0, wanted - available) or None,
        "collisionCount": status_of(deployment).get("collisionCount"),
    }
    current = [dict(each) for each in status_of(deployment).get("conditions") or ()]
    moment = rfc3339(now)
    conditions = {each["type"]: each for each in current}
    _set(conditions, _availability(deployment, available, moment))
    _failure(conditions, everyone, moment)
    if note is not None:
        _set(conditions, note)
    deadline_in_s = _progress(conditions, deployment, status, new, now)
    status["conditions"] = list(conditions.values())
    return Observed(status, deadline_in_s)


def _availability(deployment: Object, available: int, now: str) -> Object:
    enough = available >= replicas_of(deployment) - max_unavailable(deployment)
    word = "Available" if enough else "Unavailable"
    text = "has" if enough else "does not have"
    return {
        "type": "Available",
        "status": "True" if enough else "False",
        "reason": f"MinimumReplicas{word}",
        "message": f"Deployment {text} minimum availability.",
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }


def _failure(conditions: dict[str, Object], everyone: list[Object], now: str) -> None:
    for each in everyone:
        found = find_condition(status_of(each).get("conditions"), "ReplicaFailure")
        if found is not None:
            _set(conditions, {**found, "lastUpdateTime": now, "lastTransitionTime": now})
            return
    conditions.pop("ReplicaFailure", None)


def _set(conditions: dict[str, Object], wanted: Object) -> None:
    """Put a condition in unless one of the same status and reason stands there."""
    current = conditions.get(wanted["type"])
    if current is not None:
        if (current.get("status"), current.get("reason")) == (wanted["status"], wanted["reason"]):
            return
        if current.get("status") == wanted["status"]:
            wanted = {**wanted, "lastTransitionTime": current.get("lastTransitionTime")}
    conditions[wanted["type"]] = wanted


def _progress(
    conditions: dict[str, Object],
    deployment: Object,
    status: Object,
    new: Object | None,
    now: datetime,
) -> float | None:
    deadline_s = int(spec_of(deployment).get("progressDeadlineSeconds") or NO_DEADLINE_S)
    if deadline_s == NO_DEADLINE_S:
        return None
    current = conditions.get("Progressing")
    finished = (
        current is not None
        and current.get("reason") == AVAILABLE
        and status["replicas"] == status["updatedReplicas"]
    )
    if finished:
        return None
    subject = f'ReplicaSet "{name_of(new)}"' if new else f'Deployment "{name_of(deployment)}"'
    moment = rfc3339(now)
    if is_complete(deployment, status):
        text = f"{subject} has successfully progressed."
        _set(conditions, progressing("True", AVAILABLE, text, moment))
        return None
    if is_paused(deployment):
        return None
    if _moved(deployment, status):
        wanted = progressing("True", UPDATED, f"{subject} is progressing.", moment)
        if current is not None and current.get("status") == "True":
            wanted["lastTransitionTime"] = current.get("lastTransitionTime")
        conditions["Progressing"] = wanted
        return float(deadline_s)
    if current is None or current.get("reason") in (AVAILABLE, TIMED_OUT):
        return None
    since = parse_rfc3339(current.get("lastUpdateTime") or moment)
    left_s = deadline_s - (now - since).total_seconds()
    if left_s > 0:
        return left_s
    text = f"{subject} has timed out progressing."
    _set(conditions, progressing("False", TIMED_OUT, text, moment))
    return None


def _moved(deployment: Object, status: Object) -> bool:
    """Whether the rollout is further than the status written last says."""
    before_total, total = count(deployment, "replicas"), status["replicas"] or 0
    before_new, updated = count(deployment, "updatedReplicas"), status["updatedReplicas"] or 0
    return (
        updated > before_new
        or total - updated < before_total - before_new
        or (status["readyReplicas"] or 0) > count(deployment, "readyReplicas")
        or (status["availableReplicas"] or 0) > count(deployment, "availableReplicas")
    )
