"""Which Jobs a CronJob starts and clears away, by the rules alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from underway.api.objects import name_of
from underway.base.clock import rfc3339
from underway.base.errors import BadRequest
from underway.capabilities.workloads.rules import cronjob as rules

NOON = datetime(2026, 3, 28, 12, 0, 30, tzinfo=UTC)


def cron(schedule: str = "* * * * *", since: datetime | None = None, **spec: Any) -> Any:
    made = rfc3339(since or NOON - timedelta(minutes=1))
    return {
        "metadata": {"name": "tick", "namespace": "d", "uid": "u", "creationTimestamp": made},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": {}}, **spec},
        "status": {},
    }


def job(name: str, verdict: str = "", age_min: int = 1) -> Any:
    conditions = [{"type": verdict, "status": "True"}] if verdict else []
    made = rfc3339(NOON - timedelta(minutes=age_min))
    return {
        "metadata": {"name": name, "namespace": "d", "uid": name, "creationTimestamp": made},
        "status": {"conditions": conditions},
    }


def reasons(plan: rules.Plan) -> list[str]:
    return [reason for _, reason, _ in plan.notes]


def test_a_schedule_is_read_in_its_time_zone_through_the_change_of_clocks():
    # Berlin puts its clocks forward on 29 March 2026: nine o'clock is 8:00 UTC, then 7:00.
    owner = cron("0 9 * * *", since=NOON - timedelta(hours=4, seconds=31), timeZone="Europe/Berlin")
    plan = rules.plan(owner, [], NOON)
    assert plan.start == datetime(2026, 3, 28, 8, tzinfo=UTC)
    assert NOON + timedelta(seconds=plan.next_in_s or 0) == datetime(2026, 3, 29, 7, tzinfo=UTC)
    with pytest.raises(BadRequest, match="timeZone 'Nowhere/Land'"):
        rules.plan(cron(timeZone="Nowhere/Land"), [], NOON)


def test_while_one_runs_the_policy_decides():
    running = [job("tick-1")]
    assert rules.plan(cron(), running, NOON).start is not None
    forbidden = rules.plan(cron(concurrencyPolicy="Forbid"), running, NOON)
    assert forbidden.start is None
    assert reasons(forbidden) == ["JobAlreadyActive"]
    replaced = rules.plan(cron(concurrencyPolicy="Replace"), running, NOON)
    assert replaced.start is not None
    assert [name_of(each) for each in replaced.delete] == ["tick-1"]


def test_a_job_started_but_not_yet_written_down_is_not_replaced_by_itself():
    owner = cron(concurrencyPolicy="Replace")
    first = rules.plan(owner, [], NOON)
    assert first.start is not None
    started = job(rules.job_name(owner, first.start), age_min=0)
    again = rules.plan(owner, [started], NOON)
    assert again.start == first.start
    assert not again.delete


def test_what_came_up_too_long_ago_is_passed_over():
    owner = cron("0 11 * * *", since=NOON - timedelta(hours=3))
    assert rules.plan(owner, [], NOON).start == datetime(2026, 3, 28, 11, tzinfo=UTC)
    owner["spec"]["startingDeadlineSeconds"] = 600
    assert rules.plan(owner, [], NOON).start is None


def test_of_many_missed_times_only_the_last_is_made_up_for():
    plan = rules.plan(cron(since=NOON - timedelta(hours=1)), [], NOON)
    assert plan.start == NOON.replace(second=0)
    assert not plan.notes
    plan = rules.plan(cron(since=NOON - timedelta(days=30)), [], NOON)
    assert plan.start == NOON.replace(second=0)
    assert reasons(plan) == ["TooManyMissedTimes"]


def test_a_suspended_one_starts_nothing_but_still_clears_away():
    ended = [job(f"tick-{n}", "Complete", n) for n in range(1, 6)]
    plan = rules.plan(cron(suspend=True), ended, NOON)
    assert plan.start is None
    assert [name_of(each) for each in plan.delete] == ["tick-5", "tick-4"]


def test_each_outcome_has_its_own_history():
    ended = [job(f"good-{n}", "Complete", n) for n in (1, 2)]
    ended += [job(f"bad-{n}", "Failed", n) for n in (1, 2)]
    limits = {"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 1}
    plan = rules.plan(cron("0 0 1 1 *", **limits), ended, NOON)
    assert sorted(name_of(each) for each in plan.delete) == ["bad-2", "good-1", "good-2"]


def test_what_became_of_running_jobs_is_told_once():
    owner = cron("0 0 1 1 *")
    owner["status"]["active"] = [{"name": n, "uid": n} for n in ("a", "b", "c")]
    plan = rules.plan(owner, [job("a", "Complete"), job("b")], NOON)
    assert reasons(plan) == ["SawCompletedJob", "MissingJob"]
    left = rules.status(owner, [job("a", "Complete"), job("b")], None)
    assert [each["name"] for each in left["active"]] == ["b"]
