"""From the replicas that metrics ask for to those that are set now: bounds, windows, policies.

Source: Kubernetes docs, "Horizontal Pod Autoscaling" (Configurable scaling behavior, Default
behavior); conditions' reasons and messages are upstream's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from underway.api import quantity
from underway.api.objects import Object
from underway.capabilities.workloads.model import spec_of

_UP: Object = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_DOWN: Object = {
    "stabilizationWindowSeconds": 300,
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}
_LONGEST_S = 3600.0  # the longest window, the longest period


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the replicas at a moment."""

    at: datetime
    change: int


@dataclass
class History:
    """What one autoscaler recommended and did lately."""

    recommended: list[tuple[datetime, int]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def prune(self, now: datetime) -> None:
        """Forget what is older than any window."""
        since = now - timedelta(seconds=_LONGEST_S)
        self.recommended = [each for each in self.recommended if each[0] > since]
        self.events = [each for each in self.events if each.at > since]


@dataclass(frozen=True, slots=True)
class Condition:
    """What one condition is to say."""

    kind: str
    status: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The replicas to set, and what to say of how they came about."""

    replicas: int
    conditions: tuple[Condition, ...]


def rules_of(scaler: Object, direction: str) -> Object:
    """``behavior.scaleUp`` or ``behavior.scaleDown`` with what is not said filled in."""
    said = (spec_of(scaler).get("behavior") or {}).get(direction) or {}
    base = _UP if direction == "scaleUp" else _DOWN
    return {**base, **{name: value for name, value in said.items() if value is not None}}


def bounds(scaler: Object) -> tuple[int, int]:
    """``minReplicas`` and ``maxReplicas``."""
    least = spec_of(scaler).get("minReplicas")
    return (1 if least is None else int(least)), int(spec_of(scaler)["maxReplicas"])


def decide(scaler: Object, current: int, wanted: int, history: History, now: datetime) -> Decision:
    """The replicas to set; ``history`` gets the recommendation."""
    history.prune(now)
    stable, able = _stabilize(scaler, current, wanted, history, now)
    history.recommended.append((now, wanted))
    replicas, limited = _limit(scaler, current, stable, history, now)
    return Decision(replicas, (able, limited))


def _stabilize(
    scaler: Object, current: int, wanted: int, history: History, now: datetime
) -> tuple[int, Condition]:
    lowest = highest = wanted
    up_s = float(rules_of(scaler, "scaleUp")["stabilizationWindowSeconds"])
    down_s = float(rules_of(scaler, "scaleDown")["stabilizationWindowSeconds"])
    for at, recommended in history.recommended:
        if at > now - timedelta(seconds=up_s):
            lowest = min(lowest, recommended)
        if at > now - timedelta(seconds=down_s):
            highest = max(highest, recommended)
    stable = min(max(current, lowest), highest)
    if stable == wanted:
        text = "recommended size matches current size"
        return stable, Condition("AbleToScale", True, "ReadyForNewScale", text)
    if stable < wanted:
        reason, word = "ScaleUpStabilized", "lower"
    else:
        reason, word = "ScaleDownStabilized", "higher"
    other = "lowest" if word == "lower" else "highest"
    text = (
        f"recent recommendations were {word} than current one, "
        f"applying the {other} recent recommendation"
    )
    return stable, Condition("AbleToScale", True, reason, text)


def _limit(
    scaler: Object, current: int, wanted: int, history: History, now: datetime
) -> tuple[int, Condition]:
    least, most = bounds(scaler)
    if wanted > current:
        rate = max(_up_limit(rules_of(scaler, "scaleUp"), current, history.events, now), current)
        if wanted > min(most, rate):
            if most <= rate:
                return most, _limited("TooManyReplicas", "more than the maximum replica count")
            return rate, _limited("ScaleUpLimit", "increasing faster than the maximum scale rate")
    elif wanted < current:
        rules = rules_of(scaler, "scaleDown")
        rate = min(_down_limit(rules, current, history.events, now), current)
        if wanted < max(least, rate):
            if least >= rate:
                return least, _limited("TooFewReplicas", "less than the minimum replica count")
            return rate, _limited("ScaleDownLimit", "decreasing faster than the maximum scale rate")
    elif wanted > most:
        return most, _limited("TooManyReplicas", "more than the maximum replica count")
    elif wanted < least:
        return least, _limited("TooFewReplicas", "less than the minimum replica count")
    text = "the desired count is within the acceptable range"
    return wanted, Condition("ScalingLimited", False, "DesiredWithinRange", text)


def _limited(reason: str, what: str) -> Condition:
    return Condition("ScalingLimited", True, reason, f"the desired replica count is {what}")


def _up_limit(rules: Object, current: int, events: Sequence[Event], now: datetime) -> int:
    if rules["selectPolicy"] == "Disabled":
        return current
    proposals = []
    for policy in rules["policies"]:
        start = _at_period_start(policy, current, events, now)
        if policy["type"] == "Pods":
            proposals.append(start + int(policy["value"]))
        else:
            proposals.append(math.ceil(start * (100 + int(policy["value"])) / 100))
    return min(proposals) if rules["selectPolicy"] == "Min" else max(proposals)


def _down_limit(rules: Object, current: int, events: Sequence[Event], now: datetime) -> int:
    if rules["selectPolicy"] == "Disabled":
        return current
    proposals = []
    for policy in rules["policies"]:
        start = _at_period_start(policy, current, events, now)
        if policy["type"] == "Pods":
            proposals.append(start - int(policy["value"]))
        else:
            proposals.append(start * (100 - int(policy["value"])) // 100)
    return max(proposals) if rules["selectPolicy"] == "Min" else min(proposals)


def _at_period_start(policy: Object, current: int, events: Sequence[Event], now: datetime) -> int:
    since = now - timedelta(seconds=float(policy["periodSeconds"]))
    return current - sum(each.change for each in events if each.at > since)


def tolerance(scaler: Object, direction: str, default: float) -> float:
    """A direction's own tolerance, where it says one."""
    said = rules_of(scaler, direction).get("tolerance")
    return default if said is None else float(quantity.parse(str(said)))
