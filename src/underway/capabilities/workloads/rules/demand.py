"""How many replicas a metric asks for.

Source: Kubernetes docs, "Horizontal Pod Autoscaling" (Algorithm details); kubernetes
``pkg/controller/podautoscaler/replica_calculator.go`` for what becomes of pods without a metric
and of those that are not ready.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from underway.api import quantity
from underway.api.objects import Object, deleting, find_condition, name_of
from underway.base.clock import parse_rfc3339
from underway.capabilities.workloads.model import phase, spec_of, status_of

TOLERANCE = 0.1
CPU_START_S = 300.0  # a pod's first minutes, whose CPU use says little of its load
READY_DELAY_S = 30.0  # a pod that was last unready so soon after its start has never been ready


class Unmeasured(Exception):
    """The metric gives no answer; ``reason`` is the condition's, the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Measured:
    """One pod's metric in thousandths of its unit, over a window that ended at ``at``."""

    milli: int
    at: datetime
    window_s: float = 60.0


@dataclass(frozen=True)
class Groups:
    """Pods by what their metric is worth."""

    ready: frozenset[str]
    unready: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]


@dataclass(frozen=True, slots=True)
class Proposal:
    """The replicas wanted; ``average`` is the metric's value: a percentage, or thousandths."""

    replicas: int
    average: int
    raw_average: int = 0


@dataclass(frozen=True)
class Fleet:
    """The pods of a scale target at one moment."""

    pods: Sequence[Object]
    replicas: int
    now: datetime
    tolerance_up: float = TOLERANCE
    tolerance_down: float = TOLERANCE

    def steady(self, ratio: float) -> bool:
        """Whether the ratio of use to target is near enough to 1."""
        # Rounded, so that a ratio of exactly 1.1 is within a tolerance of 0.1.
        low, high = round(1.0 - self.tolerance_down, 9), round(1.0 + self.tolerance_up, 9)
        return low <= round(ratio, 9) <= high


def group(fleet: Fleet, measured: Mapping[str, Measured], *, cpu: bool) -> Groups:
    """Tell the pods apart; readiness counts for CPU alone."""
    ready, unready, missing, ignored = set(), set(), set(), set()
    for pod in fleet.pods:
        name = name_of(pod)
        if deleting(pod) or phase(pod) == "Failed":
            ignored.add(name)
        elif phase(pod) == "Pending":
            unready.add(name)
        elif name not in measured:
            missing.add(name)
        elif cpu and _unready(pod, measured[name], fleet.now):
            unready.add(name)
        else:
            ready.add(name)
    return Groups(frozenset(ready), frozenset(unready), frozenset(missing), frozenset(ignored))


def _unready(pod: Object, measured: Measured, now: datetime) -> bool:
    condition = find_condition(status_of(pod).get("conditions"), "Ready")
    started = status_of(pod).get("startTime")
    if condition is None or not started:
        return True
    began = parse_rfc3339(started)
    changed = parse_rfc3339(condition.get("lastTransitionTime") or started)
    is_false = condition.get("status") == "False"
    if began + timedelta(seconds=CPU_START_S) > now:
        return is_false or measured.at < changed + timedelta(seconds=measured.window_s)
    return is_false and began + timedelta(seconds=READY_DELAY_S) > changed


def by_utilization(
    fleet: Fleet, measured: Mapping[str, Measured], resource: str, target: int, container: str = ""
) -> Proposal:
    """Replicas for an average utilization of ``target`` percent of what the pods request.

    Raises:
        Unmeasured: a pod requests nothing of it, or no pod has a metric.
    """
    requests = {name_of(pod): _request(pod, resource, container) for pod in fleet.pods}
    groups = group(fleet, measured, cpu=resource == "cpu")
    values = _worth(measured, groups)

    def ratio(values: Mapping[str, int]) -> tuple[float, int]:
        asked = sum(requests[name] for name in values if name in requests)
        if not asked:
            raise Unmeasured("FailedGetResourceMetric", "no metrics returned matched known pods")
        percent = sum(v for name, v in values.items() if name in requests) * 100 // asked
        return percent / target, percent

    first, percent = ratio(values)
    average = sum(values.values()) // len(values)
    fill = {name: requests[name] * max(100, target) // 100 for name in groups.missing}
    replicas = _settle(fleet, groups, values, first, fill, lambda v: ratio(v)[0])
    return Proposal(replicas, percent, average)


def by_average(
    fleet: Fleet, measured: Mapping[str, Measured], target_milli: int, *, cpu: bool = False
) -> Proposal:
    """Replicas for an average of ``target_milli`` thousandths a pod.

    Raises:
        Unmeasured: no pod has a metric.
    """
    groups = group(fleet, measured, cpu=cpu)
    values = _worth(measured, groups)

    def ratio(values: Mapping[str, int]) -> float:
        return sum(values.values()) / len(values) / target_milli

    fill = dict.fromkeys(groups.missing, target_milli)
    average = sum(values.values()) // len(values)
    replicas = _settle(fleet, groups, values, ratio(values), fill, ratio)
    return Proposal(replicas, average)


def by_value(fleet: Fleet, value_milli: int, target_milli: int) -> Proposal:
    """Replicas that bring one value, of an object or from outside, to its target."""
    ratio = value_milli / target_milli
    if fleet.replicas == 0:
        return Proposal(math.ceil(ratio), value_milli)
    if fleet.steady(ratio):
        return Proposal(fleet.replicas, value_milli)
    return Proposal(math.ceil(round(ratio * _ready_count(fleet.pods), 9)), value_milli)


def by_share(fleet: Fleet, value_milli: int, target_milli: int) -> Proposal:
    """Replicas of which each gets a share of ``target_milli`` of one value."""
    replicas = fleet.replicas
    if not replicas or not fleet.steady(value_milli / (target_milli * replicas)):
        replicas = math.ceil(value_milli / target_milli)
    return Proposal(replicas, value_milli // max(replicas, 1))


def _worth(measured: Mapping[str, Measured], groups: Groups) -> dict[str, int]:
    out = groups.ignored | groups.unready
    values = {name: each.milli for name, each in measured.items() if name not in out}
    if not values:
        text = "did not receive metrics for targeted pods (pods might be unready)"
        raise Unmeasured("FailedGetResourceMetric", text)
    return values


def _settle(
    fleet: Fleet,
    groups: Groups,
    values: Mapping[str, int],
    ratio: float,
    fill: Mapping[str, int],
    again: Callable[[Mapping[str, int]], float],
) -> int:
    """The replicas for a ratio of use to target, which pods without a metric may only dampen.

    Args:
        values: the metrics of the pods that count.
        fill: what to take for missing pods when scaling down; 0 is taken when scaling up.
        again: the ratio of other values.
    """
    with_unready = bool(groups.unready) and ratio > 1.0
    if not with_unready and not groups.missing:
        if fleet.steady(ratio):
            return fleet.replicas
        return math.ceil(round(ratio * len(groups.ready), 9))
    assumed = dict(values)
    if ratio < 1.0:
        assumed |= fill
    elif ratio > 1.0:
        assumed |= dict.fromkeys(groups.missing, 0)
    if with_unready:
        assumed |= dict.fromkeys(groups.unready, 0)
    new = again(assumed)
    turned = (ratio < 1.0 < new) or (new < 1.0 < ratio)
    if fleet.steady(new) or turned:
        return fleet.replicas
    replicas = math.ceil(round(new * len(assumed), 9))
    if (new < 1.0 and replicas > fleet.replicas) or (new > 1.0 and replicas < fleet.replicas):
        return fleet.replicas
    return replicas


def _request(pod: Object, resource: str, container: str) -> int:
    """What the pod requests, in thousandths.

    Raises:
        Unmeasured: one of its containers requests nothing, or there is no such container.
    """
    containers = list(spec_of(pod).get("containers") or ())
    containers += [
        each
        for each in spec_of(pod).get("initContainers") or ()
        if each.get("restartPolicy") == "Always"
    ]
    chosen = [each for each in containers if container in ("", each["name"])]
    if not chosen:
        raise Unmeasured(
            "FailedGetResourceMetric", f"container {container} not found in Pod {name_of(pod)}"
        )
    total = 0
    for each in chosen:
        asked = ((each.get("resources") or {}).get("requests") or {}).get(resource)
        if asked is None:
            raise Unmeasured(
                "FailedGetResourceMetric",
                f"missing request for {resource} in container {each['name']} of Pod {name_of(pod)}",
            )
        total += math.ceil(quantity.parse(str(asked)) * 1000)
    return total


def _ready_count(pods: Iterable[Object]) -> int:
    return sum(
        phase(pod) == "Running"
        and (find_condition(status_of(pod).get("conditions"), "Ready") or {}).get("status")
        == "True"
        for pod in pods
    )
