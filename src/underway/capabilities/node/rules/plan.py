"""What to do next for one pod: its spec and what was seen of it give a list of actions.

The plan is level-triggered: it is made anew from the whole picture each time anything changed, so
that it does not matter which change was missed or how often the agent was restarted.

Source: Kubernetes documentation "Pod Lifecycle", "Init Containers", "Sidecar Containers".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from underway.api.objects import Object, deleting, meta
from underway.base.clock import parse_rfc3339
from underway.capabilities.node.model import (
    ContainerRecord,
    ContainerSpec,
    Kind,
    Observed,
    containers_of,
    ephemeral_of,
)

BASE_BACKOFF_S = 10
MAX_BACKOFF_S = 300
BACKOFF_RESET_S = 600
DEFAULT_GRACE_S = 30
FORCED_GRACE_S = 2


@dataclass(frozen=True, slots=True)
class PrepareSandbox:
    """Make the pod's network, volumes and shared namespaces."""


@dataclass(frozen=True, slots=True)
class ReleaseSandbox:
    """Give the pod's address and mounts back; its logs and records stay."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Get a container's image ready."""

    name: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start a container; ``backoff_s`` is kept for after this run."""

    name: str
    attempt: int
    backoff_s: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Run the preStop hook, then send the stop signal."""

    id: str
    name: str
    grace_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL: the grace period is over."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing runs any more: remove all traces, then the object."""


Action = PrepareSandbox | ReleaseSandbox | Pull | Start | Stop | Kill | Forget


@dataclass
class Plan:
    """Actions for now, and in how many seconds to look again even if nothing happens."""

    actions: list[Action] = field(default_factory=list)
    wait_s: float | None = None

    def look_again(self, moment: datetime, now: datetime) -> None:
        """Look again at ``moment`` at the latest."""
        delay_s = max((moment - now).total_seconds(), 0.0)
        self.wait_s = delay_s if self.wait_s is None else min(self.wait_s, delay_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pod ended: ``phase`` is Succeeded or Failed."""

    phase: str
    reason: str = ""
    message: str = ""


def plan(pod: Object, seen: Observed) -> Plan:
    """The next actions for a pod."""
    result = Plan()
    if seen.gone or deleting(pod):
        if not _shut_down(pod, seen, _deletion_grace_s(pod, seen), result):
            result.actions.append(Forget())
        return result
    if outcome(pod, seen):
        grace_s = (pod.get("spec") or {}).get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
        if not _shut_down(pod, seen, grace_s, result) and seen.sandbox:
            result.actions.append(ReleaseSandbox())
        return result
    if deadline := _deadline(pod):
        result.look_again(deadline, seen.now)
    if seen.sandbox is None:
        _unless_waiting("", PrepareSandbox(), seen, result)
        return result
    for each in ephemeral_of(pod):
        if seen.last(each.name) is None:
            _start(each.name, Start(each.name, 0, 0), seen, result)
    everyone = containers_of(pod)
    if _initialize(pod, everyone, seen, result):
        for each in everyone:
            if each.kind is Kind.APP:
                _tend(pod, each, seen, result)
    return result


def outcome(pod: Object, seen: Observed) -> Outcome | None:
    """How the pod ended, or None while it is to go on."""
    status, spec = pod.get("status") or {}, pod.get("spec") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return Outcome(status["phase"], status.get("reason") or "", status.get("message") or "")
    deadline = _deadline(pod)
    if deadline and seen.now >= deadline:
        return Outcome(
            "Failed",
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        )
    policy = spec.get("restartPolicy") or "Always"
    everyone = containers_of(pod)
    for each in everyone:
        run = seen.last(each.name)
        if each.kind is Kind.INIT and run and run.finished and run.exit_code and policy == "Never":
            return Outcome("Failed")
    runs = [seen.last(each.name) for each in everyone if each.kind is Kind.APP]
    if policy == "Always" or not runs:
        return None
    finished = [run for run in runs if run and run.finished and not _restarts(policy, run)]
    if len(finished) < len(runs):
        return None
    return Outcome("Failed" if any(run.exit_code for run in finished) else "Succeeded")


def initialized(pod: Object, seen: Observed) -> list[str]:
    """Names of the init containers that are not done yet (of sidecars: not started)."""
    everyone = containers_of(pod)
    if any(seen.last(each.name) for each in everyone if each.kind is Kind.APP):
        return []
    return [each.name for each in everyone if each.kind is not Kind.APP and not _done(each, seen)]


def backoff_end(run: ContainerRecord) -> datetime:
    """When a container whose run ended may be started again."""
    finished = parse_rfc3339(run.finished_at)
    if run.started_at and (finished - parse_rfc3339(run.started_at)) >= timedelta(
        seconds=BACKOFF_RESET_S
    ):
        return finished
    return finished + timedelta(seconds=run.backoff_s)


def next_backoff_s(run: ContainerRecord) -> int:
    """The back-off to keep with the run after ``run``."""
    if run.backoff_s == 0 or backoff_end(run) == parse_rfc3339(run.finished_at):
        return BASE_BACKOFF_S
    return min(run.backoff_s * 2, MAX_BACKOFF_S)


def restarts(pod: Object, each: ContainerSpec, run: ContainerRecord) -> bool:
    """Whether a container whose run ended is to be started again."""
    policy = (pod.get("spec") or {}).get("restartPolicy") or "Always"
    if each.kind is Kind.EPHEMERAL:
        return False
    if each.kind is Kind.SIDECAR:
        return True
    if each.kind is Kind.INIT:
        return run.exit_code != 0 and policy != "Never"
    return _restarts(policy, run)


def _restarts(policy: str, run: ContainerRecord) -> bool:
    return policy == "Always" or (policy == "OnFailure" and run.exit_code != 0)


def _done(each: ContainerSpec, seen: Observed) -> bool:
    run = seen.last(each.name)
    if run is None:
        return False
    if each.kind is Kind.INIT:
        return run.finished and run.exit_code == 0
    return run.running and seen.verdict(run).started


def _initialize(
    pod: Object, everyone: Sequence[ContainerSpec], seen: Observed, result: Plan
) -> bool:
    """Bring the init containers on their way, one after the other; whether all are done."""
    begun = any(seen.last(each.name) for each in everyone if each.kind is Kind.APP)
    for each in everyone:
        if each.kind is Kind.APP:
            continue
        if each.kind is Kind.SIDECAR or (not begun and not _done(each, seen)):
            _tend(pod, each, seen, result)
        if not begun and not _done(each, seen):
            return False
    return True


def _tend(pod: Object, each: ContainerSpec, seen: Observed, result: Plan) -> None:
    """Start a container, or start it again, or stop it because it is not well."""
    run = seen.last(each.name)
    if run is None:
        _start(each.name, Start(each.name, 0, 0), seen, result)
    elif not run.finished:
        verdict = seen.verdict(run)
        grace_s = (pod.get("spec") or {}).get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
        if verdict.grace_s is not None:
            grace_s = verdict.grace_s
        if verdict.failure:
            _stop(run, grace_s, f"{verdict.failure}, will be restarted", seen, result)
        elif run.image != each.spec.get("image") and each.kind is not Kind.INIT:
            reason = f"Container {each.name} definition changed, will be restarted"
            _stop(run, grace_s, reason, seen, result)
    elif restarts(pod, each, run):
        due = backoff_end(run)
        if due > seen.now:
            result.look_again(due, seen.now)
        else:
            again = Start(each.name, run.attempt + 1, next_backoff_s(run))
            _start(each.name, again, seen, result)


def _start(name: str, start: Start, seen: Observed, result: Plan) -> None:
    if name in seen.pulling:
        return
    _unless_waiting(name, start if name in seen.images else Pull(name), seen, result)


def _unless_waiting(name: str, action: Action, seen: Observed, result: Plan) -> None:
    waiting = seen.waiting.get(name)
    if waiting and waiting.until and waiting.until > seen.now:
        result.look_again(waiting.until, seen.now)
    else:
        result.actions.append(action)


def _shut_down(pod: Object, seen: Observed, grace_s: float, result: Plan) -> bool:
    """Stop what runs, sidecars last; whether anything still ran."""
    running = seen.running()
    sidecars = {each.name for each in containers_of(pod) if each.kind is Kind.SIDECAR}
    first = [run for run in running if run.name not in sidecars]
    for run in _in_order(first or running):
        _stop(run, grace_s, "", seen, result)
    return bool(running)


def _in_order(runs: Iterable[ContainerRecord]) -> list[ContainerRecord]:
    return sorted(runs, key=lambda run: run.name)


def _stop(run: ContainerRecord, grace_s: float, reason: str, seen: Observed, result: Plan) -> None:
    begun = seen.stopping.get(run.id)
    if begun is None:
        result.actions.append(Stop(run.id, run.name, grace_s, reason))
        return
    if begun.killed:
        return
    deadline = begun.since + timedelta(seconds=min(begun.grace_s, grace_s))
    if seen.now >= deadline:
        result.actions.append(Kill(run.id, run.name))
    else:
        result.look_again(deadline, seen.now)


def _deletion_grace_s(pod: Object, seen: Observed) -> float:
    asked = meta(pod).get("deletionGracePeriodSeconds")
    if seen.gone and not deleting(pod):
        return FORCED_GRACE_S
    if asked is None:
        asked = (pod.get("spec") or {}).get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
    return max(float(asked), FORCED_GRACE_S) if seen.gone else float(asked)


def _deadline(pod: Object) -> datetime | None:
    limit_s = (pod.get("spec") or {}).get("activeDeadlineSeconds")
    started = (pod.get("status") or {}).get("startTime")
    if not limit_s or not started:
        return None
    return parse_rfc3339(started) + timedelta(seconds=limit_s)
