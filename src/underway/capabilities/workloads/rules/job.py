"""How a Job runs pods to completion and counts each of them exactly once.

Every pod carries a finalizer until its end is on record: first its UID goes into
``status.uncountedTerminatedPods``, then the finalizer is taken off, then the UID moves into the
counters. After a crash between any two of these steps the next look continues with the same sum.

Source: Kubernetes docs, "Jobs" and "Job tracking with finalizers".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from underway.api.objects import (
    Object,
    annotations_of,
    deleting,
    find_condition,
    meta,
    set_condition,
    uid_of,
)
from underway.base.clock import parse_rfc3339, rfc3339
from underway.capabilities.workloads.model import (
    active,
    count,
    finished,
    is_ready,
    phase,
    restarts,
    spec_of,
    status_of,
)
from underway.capabilities.workloads.rules import jobpolicy
from underway.capabilities.workloads.rules.jobpolicy import IndexFailures

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
BURST = 500  # pods made in one go
BASE_DELAY_S = 10.0  # before a failed pod is replaced, doubling with each failure
MAX_DELAY_S = 600.0
UNCOUNTED_LIMIT = 500


@dataclass(frozen=True)
class Tally:
    """The pods of a Job, counted.

    ``newly`` are pods that ended and are not on record yet; ``recorded`` those whose UID is on
    record and whose finalizer may go.
    """

    active: tuple[Object, ...]
    terminating: int
    ready: int
    succeeded: int
    failed: int
    newly_succeeded: tuple[str, ...]
    newly_failed: tuple[str, ...]
    recorded: tuple[Object, ...]
    done_indexes: frozenset[int]
    last_failure: str | None
    indexes: IndexFailures = field(default_factory=IndexFailures)
    index_ended: Mapping[int, str] = field(default_factory=dict)  # when each last failed
    fails_job: str = ""  # why the pod failure policy ends the Job


def is_indexed(job: Object) -> bool:
    """Whether each pod stands for one completion index."""
    return spec_of(job).get("completionMode") == "Indexed"


def is_suspended(job: Object) -> bool:
    """Whether the Job is to have no pods for now."""
    return bool(spec_of(job).get("suspend"))


def verdict_of(job: Object) -> str:
    """``Complete``, ``Failed`` or empty while the Job runs."""
    for kind in ("Complete", "Failed"):
        condition = find_condition(status_of(job).get("conditions"), kind)
        if condition is not None and condition.get("status") == "True":
            return kind
    return ""


def index_of(pod: Object) -> int | None:
    """The completion index a pod stands for."""
    text = annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdecimal() else None


def tracked(pod: Object) -> bool:
    """Whether the pod's end is not on record for good."""
    return FINALIZER in (meta(pod).get("finalizers") or ())


def tally(job: Object, pods: list[Object]) -> Tally:
    """Count the pods the Job controls, together with what its status has on record."""
    uncounted = status_of(job).get("uncountedTerminatedPods") or {}
    on_record = {kind: list(uncounted.get(kind) or ()) for kind in ("succeeded", "failed")}
    known = {*on_record["succeeded"], *on_record["failed"]}
    newly: dict[str, list[str]] = {"succeeded": [], "failed": []}
    recorded: list[Object] = []
    ended_failures: list[str] = []
    # After the verdict every pod is given up, so that none keeps its finalizer for ever.
    over = bool(verdict_of(job)) or deleting(job)
    patient = jobpolicy.waits_for_end(job)
    for pod in pods:
        if not tracked(pod):
            continue
        end = _end(pod, patient)
        action = jobpolicy.action_on(job, pod)[0] if end == "failed" else ""
        if end == "failed" and action != jobpolicy.IGNORE:
            ended_failures.append(_ended_at(pod))
        if uid_of(pod) in known or (over and not active(pod)) or action == jobpolicy.IGNORE:
            recorded.append(pod)
        elif end and sum(map(len, newly.values())) < UNCOUNTED_LIMIT:
            newly[end].append(uid_of(pod))
    counted = {kind: count(job, kind) + len(on_record[kind]) + len(newly[kind]) for kind in newly}
    done = set(parse_indexes(status_of(job).get("completedIndexes")))
    for pod in pods:
        index = index_of(pod)
        if index is not None and phase(pod) == "Succeeded":
            done.add(index)
    size = int(spec_of(job).get("completions") or 0)
    done = {index for index in done if index < size}
    failed = _failed_by_index(pods, size)
    return Tally(
        active=tuple(pod for pod in pods if active(pod)),
        terminating=sum(deleting(pod) and not finished(pod) for pod in pods),
        ready=sum(active(pod) and is_ready(pod) for pod in pods),
        succeeded=len(done) if is_indexed(job) else counted["succeeded"],
        failed=counted["failed"],
        newly_succeeded=tuple(newly["succeeded"]),
        newly_failed=tuple(newly["failed"]),
        recorded=tuple(recorded),
        done_indexes=frozenset(done),
        last_failure=max(ended_failures, default=None),
        indexes=jobpolicy.index_failures(
            job, failed, parse_indexes(status_of(job).get("failedIndexes"))
        ),
        index_ended={
            index: max(_ended_at(pod) for at, pod in failed if at == index) for index, _ in failed
        },
        fails_job=_fails_job(job, pods),
    )


def _failed_by_index(pods: list[Object], size: int) -> list[tuple[int, Object]]:
    found = [(index_of(pod), pod) for pod in pods if phase(pod) == "Failed"]
    return [(index, pod) for index, pod in found if index is not None and index < size]


def _fails_job(job: Object, pods: list[Object]) -> str:
    for pod in pods:
        action, text = jobpolicy.action_on(job, pod)
        if action == jobpolicy.FAIL_JOB:
            return text
    return ""


def _end(pod: Object, patient: bool = False) -> str:
    """How the pod counts; ``patient`` waits with one that is taken away until it has ended."""
    if phase(pod) == "Succeeded":
        return "succeeded"
    if patient:
        return "failed" if phase(pod) == "Failed" else ""
    # A pod that is taken away before it succeeded will not succeed any more.
    return "failed" if phase(pod) == "Failed" or deleting(pod) else ""


def _ended_at(pod: Object) -> str:
    ends = [
        ((each.get("state") or {}).get("terminated") or {}).get("finishedAt") or ""
        for each in status_of(pod).get("containerStatuses") or ()
    ]
    return max([*ends, str(meta(pod).get("deletionTimestamp") or "")]) or str(
        meta(pod).get("creationTimestamp") or ""
    )


def judge(job: Object, found: Tally, now: datetime) -> Object | None:
    """The condition that ends the Job, if it is to end."""
    spec = spec_of(job)
    if found.fails_job:
        return _verdict("Failed", "PodFailurePolicy", found.fails_job)
    if text := jobpolicy.success(job, found.done_indexes):
        return _verdict("Complete", "SuccessPolicy", text)
    if verdict := _indexes_fail(job, found):
        return verdict
    limit = spec.get("backoffLimit")
    limit = 6 if limit is None else int(limit)
    if spec.get("backoffLimit") is None and jobpolicy.per_index(job) is not None:
        limit = 2**31 - 1
    completions = spec.get("completions")
    reached = (
        found.succeeded >= int(completions)
        if completions is not None
        else found.succeeded > 0 and not found.active
    )
    if reached:
        text = "Reached expected number of succeeded pods"
        return _verdict("Complete", "CompletionsReached", text)
    if found.failed > limit or _restarts_exceed(job, found, limit):
        return _verdict(
            "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        )
    left_s = deadline_in_s(job, now)
    if left_s is not None and left_s <= 0:
        return _verdict(
            "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
        )
    return None


def _indexes_fail(job: Object, found: Tally) -> Object | None:
    failed = found.indexes.failed
    if not failed:
        return None
    most = spec_of(job).get("maxFailedIndexes")
    if most is not None and len(failed) > int(most):
        text = "Job has exceeded the specified maximal number of failed indexes"
        return _verdict("Failed", "MaxFailedIndexesExceeded", text)
    if len(failed | found.done_indexes) >= int(spec_of(job).get("completions") or 0):
        return _verdict("Failed", "FailedIndexes", "Job has failed indexes")
    return None


def _verdict(kind: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def _restarts_exceed(job: Object, found: Tally, limit: int) -> bool:
    template = (spec_of(job).get("template") or {}).get("spec") or {}
    if template.get("restartPolicy") != "OnFailure":
        return False
    total = sum(restarts(pod) for pod in found.active)
    return total > 0 if limit == 0 else total >= limit


def deadline_in_s(job: Object, now: datetime) -> float | None:
    """Seconds until ``activeDeadlineSeconds`` have passed, if there is such a deadline."""
    deadline_s = spec_of(job).get("activeDeadlineSeconds")
    started = status_of(job).get("startTime")
    if deadline_s is None or not started or is_suspended(job):
        return None
    return int(deadline_s) - (now - parse_rfc3339(started)).total_seconds()


def expires_in_s(job: Object, now: datetime) -> float | None:
    """Seconds until a finished Job is to be deleted, if it is to be."""
    ttl_s = spec_of(job).get("ttlSecondsAfterFinished")
    kind = verdict_of(job)
    if ttl_s is None or not kind:
        return None
    condition = find_condition(status_of(job).get("conditions"), kind) or {}
    ended = parse_rfc3339(condition.get("lastTransitionTime") or rfc3339(now))
    return int(ttl_s) - (now - ended).total_seconds()


@dataclass(frozen=True)
class Plan:
    """What to do about a running Job's pods.

    ``create`` are completion indexes, or None for each pod without one. ``wait_s`` is how long
    failures hold new pods back.
    """

    create: tuple[int | None, ...] = ()
    delete: tuple[Object, ...] = ()
    wait_s: float | None = None


def plan(job: Object, found: Tally, now: datetime) -> Plan:
    """Which pods to make or remove so that the Job has as many as it may have at once."""
    if is_suspended(job):
        return Plan(delete=found.active)
    spec = spec_of(job)
    parallelism = spec.get("parallelism")
    parallelism = 1 if parallelism is None else int(parallelism)
    completions = spec.get("completions")
    running = len(found.active)
    if completions is not None:
        left = int(completions) - len(found.indexes.failed - found.done_indexes)
        wanted = min(parallelism, left - found.succeeded)
    else:
        wanted = running if found.succeeded else parallelism
        wanted = min(wanted, parallelism)
    extra = _superfluous(job, found)
    if running - len(extra) > wanted:
        rest = [pod for pod in found.active if pod not in extra]
        rest.sort(key=lambda pod: (is_ready(pod), phase(pod) == "Running"))
        extra += rest[: running - len(extra) - wanted]
    if extra:
        return Plan(delete=tuple(extra))
    leaving = found.terminating if jobpolicy.waits_for_end(job) else 0
    missing = min(wanted - running - leaving, BURST)
    if missing <= 0:
        return Plan()
    if jobpolicy.per_index(job) is not None:
        return _plan_by_index(job, found, missing, now)
    wait_s = _backoff_s(found, now)
    if wait_s > 0:
        return Plan(wait_s=wait_s)
    if not is_indexed(job):
        return Plan(create=(None,) * missing)
    return Plan(create=tuple(_free(job, found)[:missing]))


def _free(job: Object, found: Tally) -> list[int]:
    taken = {index_of(pod) for pod in found.active} | found.done_indexes | found.indexes.failed
    completions = int(spec_of(job).get("completions") or 0)
    return [index for index in range(completions) if index not in taken]


def _plan_by_index(job: Object, found: Tally, missing: int, now: datetime) -> Plan:
    """Each index waits for its own failures only."""
    create: list[int] = []
    waits: list[float] = []
    for index in _free(job, found):
        failures = found.indexes.counts.get(index, 0)
        wait_s = _delay_s(failures, found.index_ended.get(index), now)
        if wait_s > 0:
            waits.append(wait_s)
        elif len(create) < missing:
            create.append(index)
    return Plan(create=tuple(create), wait_s=min(waits, default=None))


def _superfluous(job: Object, found: Tally) -> list[Object]:
    """Pods of an Indexed Job whose index is done, taken by another, or out of range."""
    if not is_indexed(job):
        return []
    seen: set[int] = set()
    extra: list[Object] = []
    for pod in found.active:
        index = index_of(pod)
        out = index is None or index >= int(spec_of(job).get("completions") or 0)
        if out or index in seen or index in found.done_indexes:
            extra.append(pod)
        elif index is not None:
            seen.add(index)
    return extra


def _backoff_s(found: Tally, now: datetime) -> float:
    return _delay_s(found.failed, found.last_failure, now)


def _delay_s(failures: int, last: str | None, now: datetime) -> float:
    if not failures or not last:
        return 0.0
    delay_s = min(BASE_DELAY_S * 2.0 ** min(failures - 1, 20), MAX_DELAY_S)
    return delay_s - (now - parse_rfc3339(last)).total_seconds()


def status(job: Object, found: Tally, verdict: Object | None, now: datetime) -> Object:
    """The status that puts newly ended pods on record and shows the counts.

    UIDs whose pods have lost the finalizer (``found`` no longer lists them) become numbers.
    """
    old = status_of(job)
    moment = rfc3339(now)
    waiting = {uid_of(pod) for pod in found.recorded}
    uncounted = old.get("uncountedTerminatedPods") or {}
    fresh = {"succeeded": found.newly_succeeded, "failed": found.newly_failed}
    counts: dict[str, int] = {}
    pending: dict[str, list[str]] = {}
    for kind, newly in fresh.items():
        recorded = list(uncounted.get(kind) or ())
        still = [uid for uid in recorded if uid in waiting]
        counts[kind] = count(job, kind) + len(recorded) - len(still)
        pending[kind] = [*still, *newly]
    if is_indexed(job):
        counts["succeeded"] = len(found.done_indexes)
    result: Object = {
        **{k: v for k, v in old.items() if k in ("startTime", "completionTime")},
        "active": len(found.active) or None,
        "ready": found.ready,
        "terminating": found.terminating,
        "succeeded": counts["succeeded"] or None,
        "failed": counts["failed"] or None,
        "uncountedTerminatedPods": {kind: uids for kind, uids in pending.items() if uids},
        "completedIndexes": format_indexes(found.done_indexes) or None,
        "failedIndexes": _failed_indexes(job, found),
        "conditions": [dict(each) for each in old.get("conditions") or ()],
    }
    if not result.get("startTime") and not is_suspended(job):
        result["startTime"] = moment
    _suspension(job, result, moment)
    if verdict is not None:
        _conclude(result, verdict, found, moment)
    result["conditions"] = result["conditions"] or None
    return result


def _failed_indexes(job: Object, found: Tally) -> str | None:
    if jobpolicy.per_index(job) is None:
        return None
    return format_indexes(found.indexes.failed)


def _suspension(job: Object, result: Object, now: str) -> None:
    conditions = result["conditions"]
    current = find_condition(conditions, "Suspended")
    if is_suspended(job):
        result.pop("startTime", None)
        _set(conditions, "Suspended", "True", "JobSuspended", "Job suspended", now)
    elif current is not None and current.get("status") == "True":
        _set(conditions, "Suspended", "False", "JobResumed", "Job resumed", now)
        result["startTime"] = now


def _conclude(result: Object, verdict: Object, found: Tally, now: str) -> None:
    """First say that the end is decided; say that it is reached once no pod runs any more."""
    early = "SuccessCriteriaMet" if verdict["type"] == "Complete" else "FailureTarget"
    conditions = result["conditions"]
    _set(conditions, early, "True", verdict["reason"], verdict["message"], now)
    counted = not any(result["uncountedTerminatedPods"].values())
    if found.active or found.terminating or not counted:
        return
    _set(conditions, verdict["type"], "True", verdict["reason"], verdict["message"], now)
    if verdict["type"] == "Complete":
        result["completionTime"] = now


def _set(conditions: list[Object], kind: str, value: str, reason: str, text: str, now: str) -> None:
    condition = {"type": kind, "status": value, "reason": reason, "message": text}
    if set_condition(conditions, condition, now):
        current = find_condition(conditions, kind)
        assert current is not None
        current["lastProbeTime"] = now


def decided(job: Object) -> Object | None:
    """The verdict that was written down before but not reached yet, if any."""
    for early, kind in (("SuccessCriteriaMet", "Complete"), ("FailureTarget", "Failed")):
        condition = find_condition(status_of(job).get("conditions"), early)
        if condition is not None and condition.get("status") == "True":
            return _verdict(kind, condition.get("reason", ""), condition.get("message", ""))
    return None


def parse_indexes(text: str | None) -> list[int]:
    """Numbers from their compressed form, ``0-2,5``."""
    found: list[int] = []
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first:
            found.extend(range(int(first), int(last or first) + 1))
    return found


def format_indexes(indexes: frozenset[int]) -> str:
    """Numbers in their compressed form; two in a row stay apart by a comma."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(index) for index in run]
    return ",".join(parts)
