"""Rows of pods.

Source: Kubernetes ``pkg/printers/internalversion/printers.go`` (printPod), and the documentation's
table of what STATUS can say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from underway.api.objects import Object, find_condition
from underway.api.tables.columns import (
    AGE,
    NAME,
    NONE,
    Column,
    Layout,
    age,
    name_of,
    spec_of,
    status_of,
    wide,
)
from underway.api.tables.durations import since

_COLUMNS = (
    NAME,
    Column("Ready", description="Containers that are ready, of all"),
    Column("Status", description="Where the pod is in its life, or what is in its way"),
    Column("Restarts", description="How often its containers were restarted, and when last"),
    AGE,
    wide("IP", description="The pod's address"),
    wide("Node", description="The node it runs on"),
    wide("Nominated Node", description="The node that room is being made on"),
    wide("Readiness Gates", description="Gates that are open, of all"),
)


@dataclass
class _Tally:
    """What the statuses of a pod's containers add up to."""

    reason: str
    ready: int = 0
    restarts: int = 0
    last_restart: str = ""
    sidecar_restarts: int = 0
    sidecar_last: str = ""

    def restarted(self, status: Object, *, sidecar: bool = False) -> None:
        """Count a container's restarts."""
        count = int(status.get("restartCount") or 0)
        ended = ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        self.restarts += count
        self.last_restart = max(self.last_restart, ended)
        if sidecar:
            self.sidecar_restarts += count
            self.sidecar_last = max(self.sidecar_last, ended)


def pod_status(pod: Object) -> str:
    """What the STATUS column says: ``Running``, ``CrashLoopBackOff``, ``Init:0/1`` ..."""
    return _tally(pod).reason


def _tally(pod: Object) -> _Tally:
    status, spec = status_of(pod), spec_of(pod)
    conditions = status.get("conditions")
    tally = _Tally(str(status.get("reason") or status.get("phase") or ""))
    scheduled = find_condition(conditions, "PodScheduled")
    if scheduled and scheduled.get("reason") == "SchedulingGated":
        tally.reason = "SchedulingGated"
    initializing = _tally_init(tally, spec, status)
    if not initializing or _holds(conditions, "Initialized"):
        tally.restarts, tally.last_restart = tally.sidecar_restarts, tally.sidecar_last
        running = _tally_containers(tally, status)
        if tally.reason == "Completed" and running:
            tally.reason = "Running" if _holds(conditions, "Ready") else "NotReady"
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            tally.reason = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            tally.reason = "Terminating"
    return tally


def _holds(conditions: list[Object] | None, kind: str) -> bool:
    condition = find_condition(conditions, kind)
    return condition is not None and condition.get("status") == "True"


def _tally_init(tally: _Tally, spec: Object, status: Object) -> bool:
    """Go through the init containers; whether one of them is still to finish."""
    declared = spec.get("initContainers") or []
    sidecars = {each.get("name") for each in declared if each.get("restartPolicy") == "Always"}
    for number, container in enumerate(status.get("initContainerStatuses") or ()):
        sidecar = container.get("name") in sidecars
        tally.restarted(container, sidecar=sidecar)
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if sidecar and container.get("started"):
            tally.ready += bool(container.get("ready"))
            continue
        if terminated is not None:
            tally.reason = f"Init:{_end_reason(terminated)}"
        elif waiting.get("reason") not in (None, "", "PodInitializing"):
            tally.reason = f"Init:{waiting['reason']}"
        else:
            tally.reason = f"Init:{number}/{len(declared)}"
        return True
    return False


def _tally_containers(tally: _Tally, status: Object) -> bool:
    """Go through the containers, the first last; whether one of them runs and is ready."""
    running = False
    for container in reversed(status.get("containerStatuses") or ()):
        tally.restarted(container)
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if waiting.get("reason"):
            tally.reason = waiting["reason"]
        elif terminated is not None:
            tally.reason = _end_reason(terminated)
        elif container.get("ready") and state.get("running") is not None:
            running = True
            tally.ready += 1
    return running


def _end_reason(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _cells(pod: Object, now: datetime) -> list[Any]:
    tally = _tally(pod)
    spec, status = spec_of(pod), status_of(pod)
    sidecars = [
        each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"
    ]
    total = len(spec.get("containers") or ()) + len(sidecars)
    restarts = str(tally.restarts)
    if tally.restarts and tally.last_restart:
        restarts = f"{restarts} ({since(tally.last_restart, now)} ago)"
    addresses = status.get("podIPs") or [{"ip": status.get("podIP")}]
    gates = [gate.get("conditionType") for gate in spec.get("readinessGates") or ()]
    open_gates = sum(_holds(status.get("conditions"), str(gate)) for gate in gates)
    return [
        name_of(pod),
        f"{tally.ready}/{total}",
        tally.reason,
        restarts,
        age(pod, now),
        addresses[0].get("ip") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{open_gates}/{len(gates)}" if gates else NONE,
    ]


def row_conditions(pod: Object) -> list[Object]:
    """What marks the rows of pods that will not run again."""
    phase = status_of(pod).get("phase")
    if phase not in ("Succeeded", "Failed"):
        return []
    ending = {
        "Succeeded": "The pod has completed successfully.",
        "Failed": "The pod failed.",
    }
    return [{"type": "Completed", "status": "True", "reason": phase, "message": ending[phase]}]


LAYOUTS = {("", "Pod"): Layout(_COLUMNS, _cells)}
