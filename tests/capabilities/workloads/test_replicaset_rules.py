"""ReplicaSet decisions."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.capabilities.workloads.objects import pod, replicaset

from underway.api.objects import name_of
from underway.capabilities.workloads.rules import replicaset as rules

NOW = datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)


def test_the_least_useful_pods_are_given_up_first():
    pods = [
        pod("old-ready", since="2026-01-01T00:00:00Z"),
        pod("new-ready", since="2026-01-01T00:05:00Z"),
        pod("cheap", metadata=None),
        pod("unready", ready=False),
        pod("pending", phase="Pending", ready=False),
        pod("unscheduled", phase="Pending", ready=False, node=""),
    ]
    pods[2]["metadata"]["annotations"] = {rules.DELETION_COST: "-5"}
    assert [name_of(each) for each in rules.deletion_order(pods)] == [
        "unscheduled",
        "pending",
        "unready",
        "cheap",
        "new-ready",
        "old-ready",
    ]


@given(
    st.integers(0, 30),
    st.lists(st.sampled_from(["Pending", "Running", "Failed", "Deleting"]), max_size=30),
)
def test_carrying_out_the_plan_gives_exactly_the_wanted_pods(wanted, states):
    pods = []
    for number, state in enumerate(states):
        extra = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if state == "Deleting" else {}
        phase = "Running" if state == "Deleting" else state
        pods.append(pod(f"p{number}", phase=phase, **extra))
    plan = rules.plan(replicaset("rs", wanted), pods)
    alive = sum(state in ("Pending", "Running") for state in states)
    assert alive + plan.create - len(plan.delete) == wanted
    assert not (plan.create and plan.delete)


def test_a_pod_counts_as_available_only_after_min_ready_seconds():
    owner = replicaset("rs", 1)
    owner["spec"]["minReadySeconds"] = 30
    seen = rules.status(owner, [pod("p", labels={"set": "rs"})], NOW)
    assert seen.status["readyReplicas"] == 1
    assert seen.status["availableReplicas"] is None
    assert seen.changes_in_s == 20


def test_a_failure_is_told_in_a_condition_and_taken_back():
    owner = replicaset("rs", 1)
    failed = rules.status(owner, [], NOW, "FailedCreate: quota").status
    assert failed["conditions"][0]["reason"] == "FailedCreate"
    assert failed["conditions"][0]["message"] == "quota"
    owner["status"] = failed
    assert rules.status(owner, [], NOW).status["conditions"] is None
