"""Garbage collection, purging of the audit log, schedules and the queues of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.routes.harbor import jobs_shown
from underway.capabilities.registry.routes.harbor.core import Call, Created, Handler, Page, Route
from underway.capabilities.registry.rules import times
from underway.wire.http import Response

_QUEUES = (jobs.WEBHOOK, jobs.REPLICATION, jobs.RETENTION, jobs.GC, jobs.PURGE, jobs.SCAN,
           jobs.SCAN_ALL)  # fmt: skip


def _history(vendor_type: str) -> Handler:
    def handler(call: Call) -> Page:
        rows, total = jobs_shown.executions(call, vendor_type)
        return Page([jobs_shown.system_job(row) for row in rows], total)

    return handler


def _one(vendor_type: str, name: str) -> Handler:
    def handler(call: Call) -> dict[str, Any]:
        return jobs_shown.system_job(call.hub.jobs.execution(call.id(name), vendor_type))

    return handler


def _stop(vendor_type: str, name: str) -> Handler:
    def handler(call: Call) -> None:
        call.hub.jobs.execution(call.id(name), vendor_type)
        call.hub.jobs.stop(call.id(name))

    return handler


def _log(vendor_type: str, name: str) -> Handler:
    def handler(call: Call) -> Response:
        call.hub.jobs.execution(call.id(name), vendor_type)
        return jobs_shown.log_of(call, call.id(name))

    return handler


def _get_schedule(vendor_type: str) -> Handler:
    def handler(call: Call) -> dict[str, Any]:
        row = call.hub.jobs.schedule(vendor_type)
        if row is None:
            return {}
        shown = {**row, "extra_attrs": row["parameters"], "start_time": row["creation_time"],
                 "status": "Pending", "trigger": "SCHEDULE"}  # fmt: skip
        return jobs_shown.system_job(shown, row)

    return handler


def _set_schedule(vendor_type: str) -> Handler:
    def handler(call: Call) -> Created | None:
        body = call.body()
        schedule, parameters = body.get("schedule") or {}, body.get("parameters") or {}
        kind = schedule.get("type", "Manual")
        if kind == "Manual":
            return Created(call.hub.maintenance.start(vendor_type, parameters))
        if kind not in ("Hourly", "Daily", "Weekly", "Custom", "None", "Schedule"):
            raise BadRequest(f"{kind!r} is no type of schedule")
        text = "" if kind == "None" else str(schedule.get("cron") or "")
        if kind != "None" and not text:
            raise BadRequest("the schedule has no cron")
        call.hub.jobs.set_schedule(vendor_type, 0, kind, text, parameters)
        return Created() if call.request.method == "POST" else None

    return handler


def schedules(call: Call) -> Page:
    """Everything that goes by a schedule."""
    rows, total = jobs.SCHEDULES.page(call.hub.database, call.query)
    found = [
        {"id": row["id"], "vendor_type": row["vendor_type"], "vendor_id": row["vendor_id"],
         "cron": row["cron"], "extra_attrs": row["parameters"],
         "creation_time": row["creation_time"], "update_time": row["update_time"]}
        for row in rows
    ]  # fmt: skip
    return Page(found, total)


def schedule_paused(call: Call) -> dict[str, bool]:
    """Whether schedules of a kind are held; they never are."""
    return {"paused": False}


def pools(call: Call) -> list[dict[str, Any]]:
    """Those who do the work: one pool, of this registry."""
    return [
        {
            "pid": 0,
            "worker_pool_id": "registry",
            "start_at": times.NEVER,
            "heartbeat_at": times.text(call.hub.clock.now()),
            "concurrency": jobs.AT_ONCE,
            "host": call.hub.host,
        }
    ]


def workers(call: Call) -> list[dict[str, Any]]:
    """What each of them does."""
    if call.path["pool_id"] not in ("registry", "all"):
        raise NotFound(f"there is no pool {call.path['pool_id'][:50]}")
    running = jobs.TASKS.where(call.hub.database, "status = 'Running'")
    return [
        {"id": row["worker"], "pool_id": "registry", "job_name": row["vendor_type"],
         "job_id": str(row["id"]), "start_at": row["start_time"]}
        for row in running
    ]  # fmt: skip


def queues(call: Call) -> list[dict[str, Any]]:
    """How much work of each kind waits, and for how many seconds."""
    now = call.hub.clock.now()
    found = []
    for kind in _QUEUES:
        row = call.hub.database.one(
            "SELECT count(*) AS count, min(creation_time) AS first FROM tasks "
            "WHERE status = 'Pending' AND vendor_type = ?",
            kind,
        )
        assert row is not None
        waited = int((now - times.parse(row["first"])).total_seconds()) if row["first"] else 0
        found.append({"job_type": kind, "count": row["count"], "latency": waited, "paused": False})
    return found


def change_queue(call: Call) -> None:
    """Stop all work of a kind that waits."""
    kind, action = call.path["job_type"], call.body().get("action")
    if action != "stop":
        raise BadRequest(f"{action!r} is no action of a queue: stop")
    where, params = "status = 'Pending'", []
    if kind != "all":
        where, params = f"{where} AND vendor_type = ?", [kind]
    for id in {row["execution_id"] for row in jobs.TASKS.where(call.hub.database, where, *params)}:
        call.hub.jobs.stop(id)


def job_log(call: Call) -> Response:
    """The log of a task."""
    row = jobs.TASKS.get(call.hub.database, call.id("job_id"))
    return jobs_shown.log_of(call, row["execution_id"], row["id"])


def stop_job(call: Call) -> None:
    """Stop the execution of a task."""
    call.hub.jobs.stop(jobs.TASKS.get(call.hub.database, call.id("job_id"))["execution_id"])


def _routes(prefix: str, vendor_type: str, name: str, resource: str) -> list[Route]:
    one = f"{prefix}/{{{name}}}"
    handlers: list[tuple[str, str, str, Callable[..., Any]]] = [
        ("GET", prefix, "list", _history(vendor_type)),
        ("GET", f"{prefix}/schedule", "read", _get_schedule(vendor_type)),
        ("POST", f"{prefix}/schedule", "create", _set_schedule(vendor_type)),
        ("PUT", f"{prefix}/schedule", "update", _set_schedule(vendor_type)),
        ("GET", one, "read", _one(vendor_type, name)),
        ("PUT", one, "stop", _stop(vendor_type, name)),
        ("GET", f"{one}/log", "read", _log(vendor_type, name)),
    ]
    return [(method, path, f"system {resource}:{action}", handler)
            for method, path, action, handler in handlers]  # fmt: skip


ROUTES: list[Route] = [
    *_routes("/system/gc", jobs.GC, "gc_id", "garbage-collection"),
    *_routes("/system/purgeaudit", jobs.PURGE, "purge_id", "purge-audit"),
    ("GET", "/schedules", "system jobservice-monitor:list", schedules),
    ("GET", "/schedules/{job_type}/paused", "user", schedule_paused),
    ("GET", "/jobservice/pools", "system jobservice-monitor:list", pools),
    ("GET", "/jobservice/pools/{pool_id}/workers", "system jobservice-monitor:list", workers),
    ("GET", "/jobservice/queues", "system jobservice-monitor:list", queues),
    ("PUT", "/jobservice/queues/{job_type}", "system jobservice-monitor:stop", change_queue),
    ("GET", "/jobservice/jobs/{job_id}/log", "system jobservice-monitor:list", job_log),
    ("PUT", "/jobservice/jobs/{job_id}", "system jobservice-monitor:stop", stop_job),
]
