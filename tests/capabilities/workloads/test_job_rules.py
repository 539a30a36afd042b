"""Job decisions: every pod counts exactly once, whatever is interrupted."""

import copy
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capabilities.workloads.objects import pod

from underway.api.objects import uid_of
from underway.capabilities.workloads.rules import job as rules

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def make_job(**spec: object) -> dict:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": "default", "uid": "job", "generation": 1},
        "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 6, "template": {}, **spec},
    }


def job_pod(
    name: str, phase: str = "Running", index: int | None = None, **metadata: object
) -> dict:
    made = pod(name, phase=phase, finalizers=[rules.FINALIZER], **metadata)
    if index is not None:
        made["metadata"]["annotations"] = {rules.INDEX: str(index)}
    return made


def step(job: dict, pods: dict[str, dict], crash: str) -> None:
    """One reconciliation that may stop before the status, before or amid the releases."""
    seen = copy.deepcopy(list(pods.values()))
    found = rules.tally(job, seen)
    if crash == "before status":
        return
    job["status"] = {
        name: value
        for name, value in rules.status(job, found, None, NOW).items()
        if value is not None
    }
    if crash == "before release":
        return
    recorded = list(rules.tally(job, seen).recorded)
    for each in recorded[:1] if crash == "amid release" else recorded:
        # Without the finalizer a finished pod may go at once.
        del pods[uid_of(each)]


crashes = st.sampled_from(["", "", "before status", "before release", "amid release"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["Succeeded", "Failed", "Deleted"]), crashes), max_size=15)
)
def test_every_pod_is_counted_once_whatever_is_interrupted(ends):
    job = make_job(completions=1000, parallelism=1000)
    pods: dict[str, dict] = {}
    for number, (end, crash) in enumerate(ends):
        made = job_pod(f"p{number}")
        pods[uid_of(made)] = made
        if end == "Deleted":
            made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            made["status"]["phase"] = end
        step(job, pods, crash)
    for _ in range(3):
        step(job, pods, "")
    assert not pods
    status = job.get("status") or {}
    succeeded = sum(end == "Succeeded" for end, _ in ends)
    assert (status.get("succeeded") or 0) == succeeded
    assert (status.get("failed") or 0) == len(ends) - succeeded
    assert not status.get("uncountedTerminatedPods")


def test_no_more_pods_are_made_than_completions_are_missing():
    job = make_job(parallelism=5, completions=3)
    job["status"] = {"succeeded": 2}
    assert len(rules.plan(job, rules.tally(job, []), NOW).create) == 1


def test_a_failed_pod_is_replaced_only_after_the_back_off():
    job = make_job(parallelism=1)
    failed = job_pod("p", "Failed")
    failed["status"]["containerStatuses"] = [
        {"state": {"terminated": {"finishedAt": "2026-01-01T00:59:57Z"}}}
    ]
    plan = rules.plan(job, rules.tally(job, [failed]), NOW)
    assert not plan.create
    assert plan.wait_s == 7
    later = rules.plan(job, rules.tally(job, [failed]), NOW + timedelta(seconds=7))
    assert later.create == (None,)


def test_too_many_failures_fail_the_job():
    job = make_job(backoffLimit=1)
    pods = [job_pod("a", "Failed"), job_pod("b", "Failed")]
    verdict = rules.judge(job, rules.tally(job, pods), NOW)
    assert verdict is not None
    assert (verdict["type"], verdict["reason"]) == ("Failed", "BackoffLimitExceeded")


def test_a_job_past_its_deadline_fails():
    job = make_job(activeDeadlineSeconds=60)
    job["status"] = {"startTime": "2026-01-01T00:58:00Z"}
    verdict = rules.judge(job, rules.tally(job, []), NOW)
    assert verdict is not None
    assert verdict["reason"] == "DeadlineExceeded"


def test_without_completions_one_success_ends_the_job_once_the_others_have_ended():
    job = make_job(completions=None, parallelism=2)
    pods = [job_pod("a", "Succeeded"), job_pod("b")]
    found = rules.tally(job, pods)
    assert rules.judge(job, found, NOW) is None
    assert rules.plan(job, found, NOW) == rules.Plan()
    pods[1]["status"]["phase"] = "Succeeded"
    verdict = rules.judge(job, rules.tally(job, pods), NOW)
    assert verdict is not None
    assert verdict["type"] == "Complete"


def test_complete_is_said_only_when_every_pod_has_ended_and_is_counted():
    job = make_job(completions=1, parallelism=1)
    pods = [job_pod("a", "Succeeded"), job_pod("b")]
    found = rules.tally(job, pods)
    verdict = rules.judge(job, found, NOW)
    first = rules.status(job, found, verdict, NOW)
    assert [each["type"] for each in first["conditions"]] == ["SuccessCriteriaMet"]
    job["status"] = first
    last = rules.status(job, rules.tally(job, []), rules.decided(job), NOW)
    assert [each["type"] for each in last["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    assert last["completionTime"] == "2026-01-01T01:00:00Z"
    assert last["succeeded"] == 1


def test_indexed_jobs_fill_the_free_indexes_and_drop_doubles():
    job = make_job(completionMode="Indexed", completions=4, parallelism=4)
    pods = [job_pod("a", "Succeeded", 0), job_pod("b", "Running", 2)]
    assert rules.plan(job, rules.tally(job, pods), NOW).create == (1, 3)
    pods.append(job_pod("c", "Running", 2))
    assert [
        each["metadata"]["name"] for each in rules.plan(job, rules.tally(job, pods), NOW).delete
    ]


@given(st.frozensets(st.integers(0, 60)))
def test_indexes_survive_their_compressed_form(indexes):
    assert frozenset(rules.parse_indexes(rules.format_indexes(indexes))) == indexes


def test_a_suspended_job_gives_up_its_pods_and_starts_anew():
    job = make_job(suspend=True)
    job["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    found = rules.tally(job, [job_pod("a")])
    assert len(rules.plan(job, found, NOW).delete) == 1
    status = rules.status(job, found, None, NOW)
    assert "startTime" not in status
    assert status["conditions"][0]["type"] == "Suspended"
    job = {**job, "spec": {**job["spec"], "suspend": False}, "status": status}
    resumed = rules.status(job, rules.tally(job, []), None, NOW)
    assert resumed["conditions"][0]["status"] == "False"
    assert resumed["startTime"] == "2026-01-01T01:00:00Z"
