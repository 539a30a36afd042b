"""Rows of workloads.

Source: Kubernetes ``pkg/printers/internalversion/printers.go``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from underway.api.objects import Object, controller_of, find_condition
from underway.api.tables.columns import (
    AGE,
    CONTAINERS,
    NAME,
    NONE,
    SELECTOR,
    UNSET,
    Column,
    Layout,
    age,
    containers_of,
    labels_text,
    name_of,
    selector_text,
    spec_of,
    status_of,
)
from underway.api.tables.durations import UNKNOWN, between, since


def _count(obj: Object, name: str) -> int:
    return int(status_of(obj).get(name) or 0)


def _number(name: str, description: str) -> Column:
    return Column(name, "integer", description)


def _desired(obj: Object) -> int:
    replicas = spec_of(obj).get("replicas")
    return 1 if replicas is None else int(replicas)


def _deployment(obj: Object, now: datetime) -> list[Any]:
    return [
        name_of(obj),
        f"{_count(obj, 'readyReplicas')}/{_desired(obj)}",
        _count(obj, "updatedReplicas"),
        _count(obj, "availableReplicas"),
        age(obj, now),
        *containers_of(obj),
        selector_text(spec_of(obj).get("selector")),
    ]


def _replica_set(obj: Object, now: datetime) -> list[Any]:
    selector = spec_of(obj).get("selector")
    plain = obj.get("kind") == "ReplicationController"
    return [
        name_of(obj),
        _desired(obj),
        _count(obj, "replicas"),
        _count(obj, "readyReplicas"),
        age(obj, now),
        *containers_of(obj),
        labels_text(selector) if plain else selector_text(selector),
    ]


def _stateful_set(obj: Object, now: datetime) -> list[Any]:
    ready = f"{_count(obj, 'readyReplicas')}/{_desired(obj)}"
    return [name_of(obj), ready, age(obj, now), *containers_of(obj)]


def _daemon_set(obj: Object, now: datetime) -> list[Any]:
    template = (spec_of(obj).get("template") or {}).get("spec") or {}
    return [
        name_of(obj),
        _count(obj, "desiredNumberScheduled"),
        _count(obj, "currentNumberScheduled"),
        _count(obj, "numberReady"),
        _count(obj, "updatedNumberScheduled"),
        _count(obj, "numberAvailable"),
        labels_text(template.get("nodeSelector")),
        age(obj, now),
        *containers_of(obj),
        selector_text(spec_of(obj).get("selector")),
    ]


def _job(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    completions, parallelism = spec.get("completions"), spec.get("parallelism") or 0
    done = _count(obj, "succeeded")
    if completions is not None:
        progress = f"{done}/{completions}"
    elif parallelism > 1:
        progress = f"{done}/1 of {parallelism}"
    else:
        progress = f"{done}/1"
    started, ended = status.get("startTime"), status.get("completionTime")
    duration = ""
    if started:
        duration = between(started, ended) if ended else since(started, now)
    return [
        name_of(obj),
        job_status(obj),
        progress,
        duration,
        age(obj, now),
        *containers_of(obj),
        selector_text(spec.get("selector")),
    ]


def job_status(job: Object) -> str:
    """``Running``, ``Complete``, ``Failed``, ``Suspended``, ``Terminating`` ..."""
    conditions = status_of(job).get("conditions")
    for kind in ("Complete", "Failed"):
        condition = find_condition(conditions, kind)
        if condition and condition.get("status") == "True":
            return kind
    if (job.get("metadata") or {}).get("deletionTimestamp"):
        return "Terminating"
    for kind, shown in (
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ):
        condition = find_condition(conditions, kind)
        if condition and condition.get("status") == "True":
            return shown
    return "Running"


def _cron_job(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    last = status.get("lastScheduleTime")
    suspend = spec.get("suspend")
    job = spec.get("jobTemplate") or {}
    return [
        name_of(obj),
        spec.get("schedule") or "",
        spec.get("timeZone") or NONE,
        UNSET if suspend is None else str(bool(suspend)),
        len(status.get("active") or ()),
        since(last, now) if last else NONE,
        age(obj, now),
        *containers_of(job),
        selector_text(spec_of(job).get("selector")),
    ]


def _autoscaler(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    target = spec.get("scaleTargetRef") or {}
    low = spec.get("minReplicas")
    return [
        name_of(obj),
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _targets(spec.get("metrics") or [], status.get("currentMetrics") or []),
        UNSET if low is None else str(low),
        spec.get("maxReplicas") or 0,
        status.get("currentReplicas") or 0,
        age(obj, now),
    ]


def _targets(wanted: list[Object], current: list[Object]) -> str:
    """``cpu: 10%/80%`` for two metrics at most, and how many more there are."""
    if not wanted:
        return NONE
    shown = []
    for number, metric in enumerate(wanted):
        kind = str(metric.get("type") or "")
        field = kind[:1].lower() + kind[1:]
        source = metric.get(field) or {}
        now = (current[number].get(field) or {}) if number < len(current) else {}
        name = source.get("name") or (source.get("metric") or {}).get("name") or ""
        goal, seen = source.get("target") or {}, now.get("current") or {}
        value = UNKNOWN
        if goal.get("averageUtilization") is not None:
            if seen.get("averageUtilization") is not None:
                value = f"{seen['averageUtilization']}%"
            text = f"{value}/{goal['averageUtilization']}%"
        elif goal.get("averageValue") is not None:
            average = "" if kind in ("Resource", "Pods", "ContainerResource") else " (avg)"
            text = f"{seen.get('averageValue', value)}/{goal['averageValue']}{average}"
        else:
            text = f"{seen.get('value', value)}/{goal.get('value', UNSET)}"
        labelled = kind in ("Resource", "ContainerResource")
        shown.append(f"{name}: {text}" if labelled else text)
    listed = ", ".join(shown[:2])
    return f"{listed} + {len(shown) - 2} more..." if len(shown) > 2 else listed


def _disruption_budget(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)

    def shown(name: str) -> str:
        return "N/A" if spec.get(name) is None else str(spec[name])

    return [
        name_of(obj),
        shown("minAvailable"),
        shown("maxUnavailable"),
        _count(obj, "disruptionsAllowed"),
        age(obj, now),
    ]


def _revision(obj: Object, now: datetime) -> list[Any]:
    owner = controller_of(obj)
    name = NONE
    if owner:
        group, slash, _ = str(owner.get("apiVersion", "")).partition("/")
        kind = str(owner.get("kind", "")).lower()
        name = f"{kind}.{group}/{owner['name']}" if slash else f"{kind}/{owner['name']}"
    return [name_of(obj), name, obj.get("revision") or 0, age(obj, now)]


_REPLICA_COLUMNS = (
    NAME,
    _number("Desired", "Pods wanted"),
    _number("Current", "Pods there are"),
    _number("Ready", "Pods that are ready"),
    AGE,
    *CONTAINERS,
    SELECTOR,
)

LAYOUTS = {
    ("", "ReplicationController"): Layout(_REPLICA_COLUMNS, _replica_set),
    ("apps", "ReplicaSet"): Layout(_REPLICA_COLUMNS, _replica_set),
    ("apps", "Deployment"): Layout(
        (
            NAME,
            Column("Ready", description="Pods that are ready, of those wanted"),
            Column("Up-to-date", "string", "Pods made from the current template"),
            Column("Available", "string", "Pods ready for at least minReadySeconds"),
            AGE,
            *CONTAINERS,
            SELECTOR,
        ),
        _deployment,
    ),
    ("apps", "StatefulSet"): Layout(
        (
            NAME,
            Column("Ready", description="Pods that are ready, of those wanted"),
            AGE,
            *CONTAINERS,
        ),
        _stateful_set,
    ),
    ("apps", "DaemonSet"): Layout(
        (
            NAME,
            _number("Desired", "Nodes that should run the pod"),
            _number("Current", "Nodes that run it"),
            _number("Ready", "Pods that are ready"),
            _number("Up-to-date", "Pods made from the current template"),
            _number("Available", "Pods ready for at least minReadySeconds"),
            Column("Node Selector", description="Labels a node must have"),
            AGE,
            *CONTAINERS,
            SELECTOR,
        ),
        _daemon_set,
    ),
    ("apps", "ControllerRevision"): Layout(
        (
            NAME,
            Column("Controller", description="Whose revision it is"),
            Column("Revision", description="Its number"),
            AGE,
        ),
        _revision,
    ),
    ("batch", "Job"): Layout(
        (
            NAME,
            Column("Status", description="Where the job is in its life"),
            Column("Completions", description="Pods that succeeded, of those wanted"),
            Column("Duration", description="How long it ran, or runs"),
            AGE,
            *CONTAINERS,
            SELECTOR,
        ),
        _job,
    ),
    ("batch", "CronJob"): Layout(
        (
            NAME,
            Column("Schedule", description="When it runs, in cron form"),
            Column("Timezone", description="The time zone the schedule is in"),
            Column("Suspend", "boolean", "Whether it is held"),
            _number("Active", "Jobs that run now"),
            Column("Last Schedule", description="Time since it last ran"),
            AGE,
            *CONTAINERS,
            SELECTOR,
        ),
        _cron_job,
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): Layout(
        (
            NAME,
            Column("Reference", description="What it scales"),
            Column("Targets", description="Each metric now and as wanted"),
            Column("MinPods", description="Fewest replicas"),
            Column("MaxPods", description="Most replicas"),
            Column("Replicas", description="Replicas now"),
            AGE,
        ),
        _autoscaler,
    ),
    ("policy", "PodDisruptionBudget"): Layout(
        (
            NAME,
            Column("Min Available", description="Pods that must stay"),
            Column("Max Unavailable", description="Pods that may go"),
            _number("Allowed Disruptions", "Evictions allowed now"),
            AGE,
        ),
        _disruption_budget,
    ),
}
