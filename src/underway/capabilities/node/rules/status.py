"""A pod's status, from its spec and what was seen of it.

Source: Kubernetes API reference "PodStatus", "ContainerStatus"; "Pod Lifecycle" (phase,
conditions) in the documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from underway.api.objects import (
    Object,
    deleting,
    find_condition,
    name_of,
    namespace_of,
    set_condition,
    uid_of,
)
from underway.base.clock import rfc3339
from underway.capabilities.node.model import (
    ContainerRecord,
    ContainerSpec,
    Kind,
    Observed,
    containers_of,
    ephemeral_of,
)
from underway.capabilities.node.rules import plan as rules
from underway.capabilities.node.rules.limits import qos_class

RUNTIME = "runc"


def pod_status(pod: Object, seen: Observed, host_ip: str) -> Object:
    """The whole ``status`` of a pod, with transition times kept where nothing changed."""
    now = rfc3339(seen.now)
    before = pod.get("status") or {}
    everyone = containers_of(pod)
    statuses = {each.name: container_status(pod, each, seen) for each in everyone}
    phase, reason, message = _phase(pod, everyone, seen)
    status: Object = {
        "phase": phase,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": before.get("startTime") or now,
        "qosClass": before.get("qosClass") or qos_class(pod),
        "containerStatuses": [statuses[e.name] for e in everyone if e.kind is Kind.APP],
    }
    if init := [statuses[e.name] for e in everyone if e.kind is not Kind.APP]:
        status["initContainerStatuses"] = init
    if ephemeral := ephemeral_of(pod):
        status["ephemeralContainerStatuses"] = [
            container_status(pod, each, seen) for each in ephemeral
        ]
    ip = seen.sandbox.ip if seen.sandbox else before.get("podIP")
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    if reason:
        status["reason"] = reason
    if message:
        status["message"] = message
    conditions = [dict(condition) for condition in before.get("conditions") or ()]
    for condition in _conditions(pod, everyone, statuses, phase, seen):
        set_condition(conditions, condition, now)
        for name in ("reason", "message"):
            if name not in condition:
                found = find_condition(conditions, condition["type"])
                (found or {}).pop(name, None)
    status["conditions"] = conditions
    return status


def container_status(pod: Object, each: ContainerSpec, seen: Observed) -> Object:
    """One entry of ``containerStatuses`` or ``initContainerStatuses``."""
    runs = list(seen.containers.get(each.name) or ())
    run = runs[-1] if runs else None
    state, last_run = _state(pod, each, run, runs, seen)
    running = "running" in state
    verdict = seen.verdict(run) if run else None
    started = bool(running and verdict and verdict.started)
    ready = bool(started and verdict and verdict.ready and run and run.id not in seen.stopping)
    if each.kind is Kind.INIT:
        started = False
        ready = bool(run and run.finished and run.exit_code == 0)
    if each.kind is Kind.EPHEMERAL:
        ready = False
    result: Object = {
        "name": each.name,
        "state": state,
        "lastState": {"terminated": _terminated(last_run)} if last_run else {},
        "ready": ready,
        "restartCount": run.attempt if run else 0,
        "image": run.image if run else each.spec.get("image", ""),
        "imageID": run.image_id if run else "",
        "started": started,
    }
    if run:
        result["containerID"] = f"{RUNTIME}://{run.id}"
    return result


def _state(
    pod: Object,
    each: ContainerSpec,
    run: ContainerRecord | None,
    runs: Sequence[ContainerRecord],
    seen: Observed,
) -> tuple[Object, ContainerRecord | None]:
    """The container's state, and the run that belongs into ``lastState``."""
    before = runs[-2] if len(runs) > 1 else None
    if run and run.running:
        return {"running": {"startedAt": run.started_at}}, before
    finished = run if run and run.finished else None
    going_on = not (seen.gone or deleting(pod) or rules.outcome(pod, seen))
    if finished and not (going_on and rules.restarts(pod, each, finished)):
        return {"terminated": _terminated(finished)}, before
    waiting = seen.waiting.get(each.name)
    if waiting:
        return {"waiting": _reason(waiting.reason, waiting.message)}, finished or before
    if finished:
        due = rules.backoff_end(finished)
        if due > seen.now:
            message = (
                f"back-off {_span(finished.backoff_s)} restarting failed container={each.name} "
                f"pod={name_of(pod)}_{namespace_of(pod)}({uid_of(pod)})"
            )
            return {"waiting": _reason("CrashLoopBackOff", message)}, finished
        return {"terminated": _terminated(finished)}, before
    if waiting := seen.waiting.get(""):
        return {"waiting": _reason("ContainerCreating", waiting.message)}, before
    has_init = bool((pod.get("spec") or {}).get("initContainers"))
    reason = "PodInitializing" if has_init and rules.initialized(pod, seen) else "ContainerCreating"
    return {"waiting": {"reason": reason}}, before


def _terminated(run: ContainerRecord) -> Object:
    result: Object = {
        "exitCode": run.exit_code,
        "reason": run.reason or ("Completed" if run.exit_code == 0 else "Error"),
        "startedAt": run.started_at or None,
        "finishedAt": run.finished_at,
        "containerID": f"{RUNTIME}://{run.id}",
    }
    if run.message:
        result["message"] = run.message
    return result


def _reason(reason: str, message: str) -> Object:
    return {"reason": reason, "message": message} if message else {"reason": reason}


def _span(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _phase(pod: Object, everyone: Sequence[ContainerSpec], seen: Observed) -> tuple[str, str, str]:
    before = pod.get("status") or {}
    ended = rules.outcome(pod, seen)
    if seen.running():
        begun = any(seen.last(e.name) for e in everyone if e.kind is Kind.APP)
        return ("Running" if begun else "Pending"), "", ""
    if ended:
        return ended.phase, ended.reason, ended.message
    apps = [seen.last(each.name) for each in everyone if each.kind is Kind.APP]
    if deleting(pod):
        good = all(run and run.finished and run.exit_code == 0 for run in apps)
        return ("Succeeded" if good and apps else "Failed"), before.get("reason") or "", ""
    # A container that runs never again, or not yet again, has started once: the pod is running.
    begun = bool(apps) and all(run and (run.started_at or run.finished) for run in apps)
    return ("Running" if begun else "Pending"), "", ""


def _conditions(
    pod: Object,
    everyone: Sequence[ContainerSpec],
    statuses: dict[str, Object],
    phase: str,
    seen: Observed,
) -> list[dict[str, Any]]:
    incomplete = rules.initialized(pod, seen)
    unready = [
        each.name
        for each in everyone
        if each.kind is not Kind.INIT and not statuses[each.name]["ready"]
    ]
    over = phase in ("Succeeded", "Failed")
    initialized: dict[str, Any] = {"type": "Initialized", "status": "True"}
    if phase == "Succeeded":
        initialized["reason"] = "PodCompleted"
    elif incomplete:
        initialized |= {
            "status": "False",
            "reason": "ContainersNotInitialized",
            "message": f"containers with incomplete status: [{' '.join(incomplete)}]",
        }
    containers: dict[str, Any] = {"type": "ContainersReady", "status": "True"}
    if over:
        reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
        containers |= {"status": "False", "reason": reason}
    elif unready:
        containers |= {
            "status": "False",
            "reason": "ContainersNotReady",
            "message": f"containers with unready status: [{' '.join(unready)}]",
        }
    ready = {**containers, "type": "Ready"}
    closed = _closed_gates(pod)
    if ready["status"] == "True" and closed:
        ready |= {
            "status": "False",
            "reason": "ReadinessGatesNotReady",
            "message": f'the status of pod readiness gate "{closed[0]}" is not "True"',
        }
    sandbox = {
        "type": "PodReadyToStartContainers",
        "status": "True" if seen.sandbox and not over else "False",
    }
    return [sandbox, initialized, ready, containers]


def _closed_gates(pod: Object) -> list[str]:
    gates = (pod.get("spec") or {}).get("readinessGates") or ()
    conditions = (pod.get("status") or {}).get("conditions")
    return [
        gate["conditionType"]
        for gate in gates
        if (find_condition(conditions, gate["conditionType"]) or {}).get("status") != "True"
    ]
