"""How many pods a disruption budget lets go."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.capabilities.workloads.objects import pod

from underway.capabilities.workloads.rules import budgets as rules

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def budget(disrupted=None, **spec) -> dict:
    return {
        "metadata": {"name": "b", "namespace": "default", "generation": 1},
        "spec": spec,
        "status": {"disruptedPods": disrupted or {}},
    }


def allowed(wanted: dict, pods: list[dict], *scales: int) -> int:
    counted = rules.required(wanted, len(pods), scales)
    return rules.observe(wanted, pods, counted, NOW).status["disruptionsAllowed"]


def pods(healthy: int, unready: int = 0) -> list[dict]:
    return [pod(f"p{number}", ready=number < healthy) for number in range(healthy + unready)]


def test_min_available_and_max_unavailable_by_number_and_percentage():
    assert allowed(budget(minAvailable=2), pods(3)) == 1
    assert allowed(budget(minAvailable=2), pods(2, 1)) == 0
    assert allowed(budget(minAvailable="50%"), pods(3), 3) == 1
    assert allowed(budget(maxUnavailable=1), pods(3), 3) == 1
    assert allowed(budget(maxUnavailable=1), pods(2, 1), 3) == 0
    assert allowed(budget(maxUnavailable="30%"), pods(10), 10) == 3
    assert allowed(budget(maxUnavailable="1%"), pods(10), 10) == 1
    assert allowed(budget(maxUnavailable=1), pods(2), 4) == 0
    assert allowed(budget(minAvailable=0), []) == 0


def test_a_granted_eviction_counts_until_the_pod_is_deleted_or_two_minutes_have_passed():
    granted = {"p0": "2025-12-31T23:59:00Z"}
    assert allowed(budget(granted, minAvailable=1), pods(3)) == 1
    observed = rules.observe(budget(granted, minAvailable=1), pods(3), rules.Counted(3, 1), NOW)
    assert observed.changes_in_s == 60
    late = NOW + timedelta(seconds=61)
    observed = rules.observe(budget(granted, minAvailable=1), pods(3), rules.Counted(3, 1), late)
    assert observed.status["disruptionsAllowed"] == 2
    assert observed.status["disruptedPods"] is None


def test_a_budget_that_cannot_be_counted_allows_nothing_and_says_why():
    status = rules.failed(budget(maxUnavailable=1), "jobs have no scale", NOW)
    assert status["disruptionsAllowed"] == 0
    assert status["conditions"][0]["reason"] == "SyncFailed"


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 12), st.booleans())
def test_using_up_what_is_allowed_never_leaves_fewer_healthy_pods_than_asked(
    healthy, unready, number, least
):
    wanted = budget(**{"minAvailable" if least else "maxUnavailable": number})
    total = healthy + unready
    gone = allowed(wanted, pods(healthy, unready), total)
    assert 0 <= gone <= healthy
    if gone:
        floor = number if least else total - number
        assert healthy - gone >= floor
