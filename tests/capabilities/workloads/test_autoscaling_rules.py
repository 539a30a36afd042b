"""How many replicas metrics ask for, and how fast they come, by the rules alone."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from underway.base.clock import rfc3339
from underway.capabilities.workloads.rules import demand, scaling
from underway.capabilities.workloads.rules.demand import Fleet, Measured, Unmeasured
from underway.capabilities.workloads.rules.scaling import Event, History

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = rfc3339(NOW - timedelta(hours=1))


def pod(name: str, cpu: str | None = "1", *, ready: bool = True, **changes: Any) -> Any:
    requests = {"requests": {"cpu": cpu}} if cpu else {}
    status = {
        "phase": "Running",
        "startTime": LONG_AGO,
        "conditions": [
            {"type": "Ready", "status": str(ready), "lastTransitionTime": LONG_AGO},
        ],
        **changes,
    }
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "resources": requests}]},
        "status": status,
    }


def fleet(*pods: Any, replicas: int = 0) -> Fleet:
    return Fleet(pods, replicas or len(pods), NOW)


def using(**millis: int) -> dict[str, Measured]:
    return {name: Measured(milli, NOW) for name, milli in millis.items()}


def utilization(of: Fleet, measured: dict[str, Measured], target: int) -> int:
    return demand.by_utilization(of, measured, "cpu", target).replicas


def test_replicas_follow_the_ratio_of_use_to_target():
    three = fleet(pod("a"), pod("b"), pod("c"))
    assert utilization(three, using(a=300, b=500, c=700), 30) == 5
    assert utilization(three, using(a=100, b=100, c=100), 50) == 1
    assert demand.by_average(three, using(a=20000, b=10000, c=10000), 6000).replicas == 7


def test_near_the_target_nothing_changes():
    three = fleet(pod("a"), pod("b"), pod("c"))
    for milli in (460, 500, 550):
        assert utilization(three, using(a=milli, b=milli, c=milli), 50) == 3
    assert utilization(three, using(a=560, b=560, c=560), 50) == 4


def test_pods_that_are_not_ready_count_as_idle_when_scaling_up_and_not_at_all_otherwise():
    starting = rfc3339(NOW - timedelta(seconds=10))
    fresh = pod("c", ready=False, startTime=starting)
    assert utilization(fleet(pod("a"), pod("b"), fresh), using(a=900, b=900, c=900), 30) == 6
    assert utilization(fleet(pod("a"), pod("b"), fresh), using(a=100, b=100, c=900), 50) == 1


def test_a_pod_without_a_metric_dampens_both_ways():
    three = fleet(pod("a"), pod("b"), pod("c"))
    # Scaling up it is idle: (1000 + 1000 + 0) / 3000 = 66 %.
    assert utilization(three, using(a=1000, b=1000), 50) == 4
    # Scaling down it works hard, which may undo the whole change.
    assert utilization(three, using(a=100, b=100), 50) == 3


def test_without_requests_or_metrics_there_is_no_answer():
    with pytest.raises(Unmeasured, match="missing request for cpu in container c of Pod a"):
        utilization(fleet(pod("a", None)), using(a=1), 50)
    with pytest.raises(Unmeasured, match="did not receive metrics"):
        utilization(fleet(pod("a", phase="Pending")), using(a=100), 50)


def test_values_of_objects_are_shared_or_reached():
    three = fleet(pod("a"), pod("b"), pod("c"))
    assert demand.by_value(three, 20_000, 10_000).replicas == 6
    assert demand.by_value(three, 10_500, 10_000).replicas == 3
    assert demand.by_share(three, 20_000, 2_000).replicas == 10


def scaler(least: int = 1, most: int = 100, **behavior: Any) -> Any:
    spec = {"minReplicas": least, "maxReplicas": most}
    if behavior:
        spec["behavior"] = behavior
    return {"spec": spec}


def decide(of: Any, current: int, wanted: int, history: History | None = None) -> int:
    return scaling.decide(of, current, wanted, history or History(), NOW).replicas


def test_by_default_it_doubles_or_adds_four_each_period():
    assert decide(scaler(), 1, 50) == 5
    assert decide(scaler(), 10, 50) == 20
    lately = History(events=[Event(NOW - timedelta(seconds=5), 5)])
    assert decide(scaler(), 10, 50, lately) == 10
    assert decide(scaler(most=12), 10, 50) == 12


def test_scaling_down_waits_for_the_highest_recommendation_of_five_minutes():
    history = History(recommended=[(NOW - timedelta(seconds=299), 8)])
    assert decide(scaler(), 10, 2, history) == 8
    history = History(recommended=[(NOW - timedelta(seconds=301), 8)])
    assert decide(scaler(), 10, 2, history) == 2
    at_once = scaler(scaleDown={"stabilizationWindowSeconds": 0})
    assert decide(at_once, 10, 2, History(recommended=[(NOW, 8)])) == 2


def test_policies_limit_and_can_forbid_a_direction():
    slow = {
        "stabilizationWindowSeconds": 0,
        "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 60},
            {"type": "Percent", "value": 50, "periodSeconds": 60},
        ],
    }
    assert decide(scaler(scaleDown=slow), 10, 1) == 5
    assert decide(scaler(scaleDown={**slow, "selectPolicy": "Min"}), 10, 1) == 9
    assert decide(scaler(scaleDown={**slow, "selectPolicy": "Disabled"}), 10, 1) == 10
    assert decide(scaler(scaleUp={"selectPolicy": "Disabled"}), 10, 20) == 10


def test_whatever_is_asked_the_bounds_and_the_rates_hold():
    random.seed(4)
    for _ in range(2000):
        least = random.randint(0, 5)
        most = least + random.randint(1, 30)
        current = random.randint(max(least, 1), most)
        up, down = random.randint(1, 6), random.randint(1, 6)
        rules = {
            "scaleUp": {"policies": [{"type": "Pods", "value": up, "periodSeconds": 60}]},
            "scaleDown": {
                "policies": [{"type": "Pods", "value": down, "periodSeconds": 60}],
                "stabilizationWindowSeconds": random.choice([0, 60]),
            },
        }
        history, now = History(), NOW
        seen = [(now - timedelta(hours=2), current)]
        for _ in range(10):
            now += timedelta(seconds=random.randint(1, 40))
            wanted = random.randint(0, 60)
            decision = scaling.decide(scaler(least, most, **rules), current, wanted, history, now)
            assert least <= decision.replicas <= most
            change = decision.replicas - current
            start = next(n for at, n in reversed(seen) if at <= now - timedelta(seconds=60))
            if change > 0:
                assert decision.replicas - start <= up
            elif change < 0:
                assert start - decision.replicas <= down
            if change:
                history.events.append(Event(now, change))
            current = decision.replicas
            seen.append((now, current))


def test_more_load_never_asks_for_fewer_replicas():
    random.seed(5)
    for _ in range(500):
        pods = [
            pod(
                f"p{n}",
                ready=random.random() < 0.8,
                phase=random.choice(["Running", "Running", "Running", "Pending"]),
            )
            for n in range(random.randint(1, 6))
        ]
        known = [p["metadata"]["name"] for p in pods if random.random() < 0.8]
        loads = {name: random.randint(0, 2000) for name in known}
        of = fleet(*pods)
        try:
            low = utilization(of, using(**loads), 50)
            high = utilization(of, using(**{n: v + 100 for n, v in loads.items()}), 50)
        except Unmeasured:
            continue
        assert low <= high
