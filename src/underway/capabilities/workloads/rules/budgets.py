"""How many pods may be taken away at once without breaking a PodDisruptionBudget.

Source: Kubernetes docs, "Specifying a Disruption Budget for your Application"; API reference,
PodDisruptionBudgetStatus.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from underway.api.objects import Object, deleting, meta, name_of, set_condition
from underway.base.clock import parse_rfc3339, rfc3339
from underway.capabilities.workloads.model import finished, is_ready, resolve, spec_of, status_of

DISRUPTED_S = 120.0  # a pod granted its eviction counts as gone for so long, then no more
CONDITION = "DisruptionAllowed"


@dataclass(frozen=True)
class Counted:
    """A budget's pods: how many are to be there, and how many must stay healthy."""

    expected: int
    desired: int


@dataclass(frozen=True)
class Observed:
    """A status, and after how many seconds it changes by itself, if it does."""

    status: Object
    changes_in_s: float | None


def pods_of(pods: Iterable[Object]) -> list[Object]:
    """Those of the pods chosen by the selector that count: the ones that have not ended."""
    return [pod for pod in pods if not finished(pod)]


def required(budget: Object, pods: int, scales: Iterable[int]) -> Counted:
    """What the budget asks for.

    Args:
        budget: the PodDisruptionBudget.
        pods: how many pods its selector chooses now.
        scales: the sizes wanted by the controllers of those pods, each controller once.

    ``maxUnavailable`` and percentages need to know how many pods there should be; a number in
    ``minAvailable`` does not.
    """
    spec = spec_of(budget)
    if spec.get("maxUnavailable") is not None:
        expected = sum(scales)
        unavailable = resolve(spec["maxUnavailable"], expected, up=True)
        return Counted(expected, max(0, expected - unavailable))
    least = spec.get("minAvailable")
    if isinstance(least, str):
        expected = sum(scales)
        return Counted(expected, resolve(least, expected, up=True))
    return Counted(pods, 1 if least is None else int(least))


def needs_scales(budget: Object) -> bool:
    """Whether the controllers of the pods matter."""
    spec = spec_of(budget)
    return spec.get("maxUnavailable") is not None or isinstance(spec.get("minAvailable"), str)


def observe(budget: Object, pods: list[Object], counted: Counted, now: datetime) -> Observed:
    """The budget's status."""
    disrupted, next_s = _still_disrupted(budget, pods, now)
    healthy = sum(
        is_ready(pod) and not deleting(pod) and name_of(pod) not in disrupted for pod in pods
    )
    allowed = max(0, healthy - counted.desired) if counted.expected else 0
    status = _base(budget, now)
    status.update(
        disruptionsAllowed=allowed,
        currentHealthy=healthy,
        desiredHealthy=counted.desired,
        expectedPods=counted.expected,
        disruptedPods=disrupted or None,
    )
    reason = "SufficientPods" if allowed else "InsufficientPods"
    _set(status, "True" if allowed else "False", reason, "", now)
    return Observed(status, next_s)


def failed(budget: Object, message: str, now: datetime) -> Object:
    """The status where the pods cannot be counted: nothing may be disrupted."""
    status = {**_base(budget, now), "disruptionsAllowed": 0}
    _set(status, "False", "SyncFailed", message, now)
    return status


def _base(budget: Object, now: datetime) -> Object:
    old = status_of(budget)
    return {
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "expectedPods": 0,
        **old,
        "observedGeneration": meta(budget).get("generation"),
        "conditions": [dict(each) for each in old.get("conditions") or ()],
    }


def _set(status: Object, value: str, reason: str, message: str, now: datetime) -> None:
    generation = status.get("observedGeneration")
    condition = {"type": CONDITION, "status": value, "reason": reason, "message": message}
    if generation is not None:
        condition["observedGeneration"] = generation
    set_condition(status["conditions"], condition, rfc3339(now))


def _still_disrupted(
    budget: Object, pods: list[Object], now: datetime
) -> tuple[dict[str, str], float | None]:
    """Pods whose eviction was granted and that are there still, undeleted, with when that was."""
    there = {name_of(pod) for pod in pods if not deleting(pod)}
    kept: dict[str, str] = {}
    ends: list[float] = []
    for name, granted in (status_of(budget).get("disruptedPods") or {}).items():
        end = parse_rfc3339(granted) + timedelta(seconds=DISRUPTED_S)
        if name in there and end > now:
            kept[name] = granted
            ends.append((end - now).total_seconds())
    return kept, min(ends, default=None)
