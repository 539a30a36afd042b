"""What a Job makes of single failures and of part of the work."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.capabilities.workloads.objects import pod

from underway.capabilities.workloads.rules import job as rules
from underway.capabilities.workloads.rules import jobpolicy

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def job(completions: int = 3, **spec: object) -> dict:
    base = {"completions": completions, "parallelism": completions, "completionMode": "Indexed"}
    return {"metadata": {"name": "j", "namespace": "default"}, "spec": {**base, **spec}}


def ended(index: int, code: int = 1, failures: int = 0, **conditions: str) -> dict:
    made = pod(
        f"p{index}-{failures}",
        phase="Failed" if code else "Succeeded",
        annotations={rules.INDEX: str(index), jobpolicy.FAILURES: str(failures)},
        finalizers=[rules.FINALIZER],
    )
    made["status"]["conditions"] = [{"type": k, "status": v} for k, v in conditions.items()]
    state = {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:00:00Z"}}
    made["status"]["containerStatuses"] = [{"name": "main", "state": state}]
    return made


def policy(*listed: dict) -> dict:
    return {"rules": list(listed)}


def on_codes(action: str, operator: str, *values: int, **more: str) -> dict:
    return {"action": action, "onExitCodes": {"operator": operator, "values": values, **more}}


DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}


def verdict(wanted: dict, *pods: dict) -> tuple[str, str] | None:
    found = rules.judge(wanted, rules.tally(wanted, list(pods)), NOW)
    return found and (found["type"], found["reason"])


def test_the_first_matching_rule_decides():
    wanted = job(
        podFailurePolicy=policy(
            DISRUPTED,
            on_codes("FailJob", "In", 42, containerName="main"),
            on_codes("Ignore", "NotIn", 1, 2),
        )
    )
    action, text = jobpolicy.action_on(wanted, ended(0, 42))
    assert action == "FailJob"
    assert text == (
        "Container main for pod default/p0-0 failed with exit code 42 matching FailJob rule at"
        " index 1"
    )
    assert jobpolicy.action_on(wanted, ended(0, 42, DisruptionTarget="True"))[0] == "Ignore"
    assert jobpolicy.action_on(wanted, ended(0, 7))[0] == "Ignore"
    assert jobpolicy.action_on(wanted, ended(0, 2))[0] == "Count"
    assert jobpolicy.action_on(wanted, ended(0, 0))[0] == "Count"


def test_a_failure_that_cannot_be_mended_ends_the_job_at_once():
    wanted = job(podFailurePolicy=policy(on_codes("FailJob", "In", 42)))
    assert verdict(wanted, ended(0, 42)) == ("Failed", "PodFailurePolicy")
    assert verdict(wanted, ended(0, 41)) is None


def test_ignored_failures_are_not_counted_and_their_pods_are_let_go():
    wanted = job(backoffLimit=0, podFailurePolicy=policy(DISRUPTED))
    lost = ended(0, 1, DisruptionTarget="True")
    found = rules.tally(wanted, [lost])
    assert (found.failed, found.recorded, found.last_failure) == (0, (lost,), None)
    assert rules.judge(wanted, found, NOW) is None
    assert 0 in rules.plan(wanted, found, NOW).create


def test_with_a_failure_policy_a_pod_is_replaced_only_once_it_has_ended():
    leaving = pod("p", annotations={rules.INDEX: "0"}, finalizers=[rules.FINALIZER])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    patient = job(1, podReplacementPolicy="Failed")
    assert rules.plan(patient, rules.tally(patient, [leaving]), NOW).create == ()
    hasty = job(1, podReplacementPolicy="TerminatingOrFailed")
    assert rules.tally(hasty, [leaving]).failed == 1
    assert rules.plan(hasty, rules.tally(hasty, [leaving]), NOW).create == (0,)


def test_each_index_has_its_own_limit():
    wanted = job(backoffLimitPerIndex=1)
    found = rules.tally(wanted, [ended(0, failures=1), ended(1, failures=0)])
    assert found.indexes.failed == {0}
    assert rules.plan(wanted, found, NOW).create == (1, 2)
    status = rules.status(wanted, found, None, NOW)
    assert status["failedIndexes"] == "0"
    # What is on record stays so when the pod is gone.
    later = rules.tally({**wanted, "status": status}, [])
    assert later.indexes.failed == {0}
    assert rules.plan({**wanted, "status": status}, later, NOW).create == (1, 2)


def test_a_job_with_failed_indexes_fails_when_the_others_are_done():
    wanted = job(2, backoffLimitPerIndex=0)
    assert verdict(wanted, ended(0)) is None
    assert verdict(wanted, ended(0), ended(1, 0)) == ("Failed", "FailedIndexes")
    strict = job(3, backoffLimitPerIndex=0, maxFailedIndexes=1)
    assert verdict(strict, ended(0)) is None
    assert verdict(strict, ended(0), ended(1)) == ("Failed", "MaxFailedIndexesExceeded")


def test_a_rule_can_give_an_index_up_at_once():
    wanted = job(
        2, backoffLimitPerIndex=5, podFailurePolicy=policy(on_codes("FailIndex", "In", 42))
    )
    assert rules.tally(wanted, [ended(0, 42)]).indexes.failed == {0}


def test_part_of_the_work_can_be_enough():
    leader = job(successPolicy=policy({"succeededIndexes": "0"}))
    assert verdict(leader, ended(0, 0)) == ("Complete", "SuccessPolicy")
    assert verdict(leader, ended(1, 0)) is None
    some = job(4, successPolicy=policy({"succeededIndexes": "1-3", "succeededCount": 2}))
    assert verdict(some, ended(0, 0), ended(1, 0)) is None
    assert verdict(some, ended(1, 0), ended(3, 0)) == ("Complete", "SuccessPolicy")
    any_two = job(4, successPolicy=policy({"succeededCount": 2}))
    assert verdict(any_two, ended(0, 0), ended(3, 0)) == ("Complete", "SuccessPolicy")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12), st.integers(0, 3))
def test_no_index_is_tried_more_often_than_its_limit_allows(failures, limit):
    wanted = job(5, backoffLimitPerIndex=limit)
    found = rules.tally(wanted, [ended(index, failures=count) for index, count in failures])
    created = rules.plan(wanted, found, NOW).create
    for index, count in failures:
        if count + 1 > limit:
            assert index not in created
    over = {index for index, count in failures if count >= limit}
    assert found.indexes.failed == over
