"""Which Jobs a CronJob starts, replaces and clears away.

Source: Kubernetes docs, "CronJob".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from underway.api.objects import Object, deleting, meta, name_of, owner_reference, uid_of
from underway.base.clock import parse_rfc3339, rfc3339
from underway.base.errors import BadRequest
from underway.capabilities.workloads.model import created_at, spec_of, status_of
from underway.capabilities.workloads.rules import cron
from underway.capabilities.workloads.rules.job import verdict_of

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MISSED_LIMIT = 100  # times passed over while nobody looked, before giving up on counting them


@dataclass(frozen=True)
class Plan:
    """The time to start a Job for, Jobs to delete, and when to look again.

    ``notes`` are events: whether it is a warning, the reason and the message.
    """

    start: datetime | None = None
    delete: tuple[Object, ...] = ()
    next_in_s: float | None = None
    notes: tuple[tuple[bool, str, str], ...] = ()


def plan(cronjob: Object, jobs: list[Object], now: datetime) -> Plan:
    """What is to be done now.

    Raises:
        BadRequest: the schedule or the time zone cannot be understood.
    """
    spec = spec_of(cronjob)
    old, notes = _history(cronjob, jobs), _ended(cronjob, jobs)
    if spec.get("suspend") or deleting(cronjob):
        return Plan(delete=old, notes=notes)
    schedule = cron.parse(spec["schedule"])
    zone = _zone(spec.get("timeZone"))
    due, too_many = _latest_due(cronjob, schedule, now.astimezone(zone))
    following = schedule.after(now.astimezone(zone))
    next_in_s = (following - now).total_seconds() if following else None
    running = [job for job in jobs if not verdict_of(job)]
    if too_many:
        text = (
            f"too many missed start times: {MISSED_LIMIT} or more. Set or decrease "
            ".spec.startingDeadlineSeconds or check clock skew"
        )
        notes += ((True, "TooManyMissedTimes", text),)
    if due is None:
        return Plan(delete=old, next_in_s=next_in_s, notes=notes)
    if any(name_of(job) == job_name(cronjob, due) for job in jobs):
        # It was started, but that could not be written down: nothing gives way to it again.
        return Plan(due, old, next_in_s, notes)
    policy = spec.get("concurrencyPolicy") or "Allow"
    if policy == "Forbid" and running:
        text = (
            "Not starting job because prior execution is running and concurrency policy is Forbid"
        )
        notes += ((False, "JobAlreadyActive", text),)
        return Plan(delete=old, next_in_s=next_in_s, notes=notes)
    if policy == "Replace":
        old += tuple(running)
    return Plan(due, old, next_in_s, notes)


def _ended(cronjob: Object, jobs: list[Object]) -> tuple[tuple[bool, str, str], ...]:
    """What became of the Jobs that ran when the status was last written."""
    by_uid = {uid_of(job): job for job in jobs}
    notes: list[tuple[bool, str, str]] = []
    for each in status_of(cronjob).get("active") or ():
        job = by_uid.get(each.get("uid", ""))
        if job is None:
            notes.append((False, "MissingJob", f"Active job went missing: {each.get('name')}"))
        elif verdict := verdict_of(job):
            text = f"Saw completed job: {name_of(job)}, condition: {verdict}"
            notes.append((False, "SawCompletedJob", text))
    return tuple(notes)


def _zone(name: str | None) -> tzinfo:
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise BadRequest(f"timeZone {name!r} is not known on this machine") from error


def _latest_due(
    cronjob: Object, schedule: cron.Schedule, now: datetime
) -> tuple[datetime | None, bool]:
    """The latest time that has come without a Job, and whether too many came to be counted."""
    last = status_of(cronjob).get("lastScheduleTime") or created_at(cronjob)
    earliest = parse_rfc3339(last).astimezone(now.tzinfo)
    deadline_s = spec_of(cronjob).get("startingDeadlineSeconds")
    if deadline_s is not None:
        earliest = max(earliest, now - timedelta(seconds=int(deadline_s)))
    due: datetime | None = None
    for _ in range(MISSED_LIMIT):
        following = schedule.after(due or earliest)
        if following is None or following > now:
            return due, False
        due = following
    # Too many to count: look back only as far as the last day.
    due = None
    following = schedule.after(now - timedelta(days=1))
    while following is not None and following <= now:
        due, following = following, schedule.after(following)
    return due, True


def _history(cronjob: Object, jobs: list[Object]) -> tuple[Object, ...]:
    spec = spec_of(cronjob)
    surplus: list[Object] = []
    for kind, name, default in (
        ("Complete", "successfulJobsHistoryLimit", 3),
        ("Failed", "failedJobsHistoryLimit", 1),
    ):
        limit = spec.get(name)
        limit = default if limit is None else int(limit)
        ended = sorted((job for job in jobs if verdict_of(job) == kind), key=created_at)
        surplus += ended[: max(0, len(ended) - limit)]
    return tuple(surplus)


def job_name(cronjob: Object, due: datetime) -> str:
    """The name of the Job for a scheduled time: it says the minute, so that there is only one."""
    return f"{name_of(cronjob)}-{int(due.timestamp()) // 60}"


def new_job(cronjob: Object, due: datetime) -> Object:
    """The Job for a scheduled time."""
    template = spec_of(cronjob)["jobTemplate"]
    header = template.get("metadata") or {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(cronjob, due),
            "namespace": meta(cronjob)["namespace"],
            "labels": dict(header.get("labels") or {}),
            "annotations": {**(header.get("annotations") or {}), SCHEDULED_AT: rfc3339(due)},
            "ownerReferences": [owner_reference(cronjob)],
        },
        "spec": template["spec"],
    }


def status(cronjob: Object, jobs: list[Object], started: datetime | None) -> Object:
    """The status: running Jobs, and when one was last started and last succeeded."""
    current = status_of(cronjob)
    succeeded = [
        status_of(job).get("completionTime") or "" for job in jobs if verdict_of(job) == "Complete"
    ]
    return {
        "active": [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "namespace": meta(job)["namespace"],
                "name": name_of(job),
                "uid": uid_of(job),
            }
            for job in sorted(jobs, key=name_of)
            if not verdict_of(job)
        ]
        or None,
        "lastScheduleTime": rfc3339(started) if started else current.get("lastScheduleTime"),
        "lastSuccessfulTime": max([*succeeded, current.get("lastSuccessfulTime") or ""]) or None,
    }
