"""Executions and tasks as Harbor shows them, whichever kind they are."""

from __future__ import annotations

from typing import Any

import msgspec

from underway.base.errors import NotFound
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.jobs import EXECUTIONS, TASKS
from underway.capabilities.registry.routes.harbor.core import Call, Page
from underway.capabilities.registry.rules import times
from underway.wire.http import Response


def executions(call: Call, vendor_type: str, vendor_id: int | None = None) -> tuple[list[Row], int]:
    """One page of a policy's executions, or of all of a kind, the last first."""
    where = "vendor_type = ?"
    params: list[object] = [vendor_type]
    if vendor_id is not None:
        where, params = f"{where} AND vendor_id = ?", [vendor_type, vendor_id]
    rows, total = EXECUTIONS.page(call.hub.database, call.query, where, *params)
    return [call.hub.jobs.counted(row) for row in rows], total


def execution(row: Row) -> dict[str, Any]:
    """An execution."""
    metrics = {f"{name.lower()}_task_count": count for name, count in row["metrics"].items()}
    return {
        **{name: row[name] for name in ("id", "vendor_type", "vendor_id", "status",
                                        "status_message", "trigger", "extra_attrs", "start_time")},
        "end_time": row["end_time"] or times.NEVER,
        "metrics": {"task_count": sum(row["metrics"].values()), **metrics},
    }  # fmt: skip


def tasks(call: Call, execution_id: int) -> Page:
    """One page of an execution's tasks."""
    rows, total = TASKS.page(call.hub.database, call.query, "execution_id = ?", execution_id)
    return Page([task(row) for row in rows], total)


def task(row: Row) -> dict[str, Any]:
    """A task."""
    return {
        **{name: row[name] for name in ("id", "execution_id", "status", "status_message",
                                        "extra_attrs", "creation_time", "update_time")},
        "run_count": row["attempts"],
        "start_time": row["start_time"] or times.NEVER,
        "end_time": row["end_time"] or times.NEVER,
    }  # fmt: skip


def log_of(call: Call, execution_id: int, task_id: int | None = None) -> Response:
    """The log of a task, or of an execution's only one, as text."""
    where, params = "execution_id = ?", [execution_id]
    if task_id is not None:
        where, params = f"{where} AND id = ?", [execution_id, task_id]
    row = TASKS.find(call.hub.database, where, *params)
    if row is None:
        raise NotFound(f"there is no task {task_id or ''} of the execution {execution_id}")
    return Response(200, {"content-type": "text/plain; charset=utf-8"}, row["log"].encode())


def system_job(row: Row, schedule: Row | None = None) -> dict[str, Any]:
    """A job of the registry itself: garbage collection, purging of the audit log."""
    return {
        "id": row["id"],
        "job_name": row["vendor_type"],
        "job_kind": row["trigger"],
        "job_parameters": msgspec.json.encode(row["extra_attrs"]).decode(),
        "schedule": schedule_shown(schedule) or {"type": "Manual"},
        "job_status": row["status"],
        "deleted": False,
        "creation_time": row["start_time"],
        "update_time": row["update_time"] or row["start_time"],
    }


def schedule_shown(row: Row | None) -> dict[str, Any]:
    """A schedule; empty for none."""
    if row is None:
        return {}
    return {
        "type": row["type"],
        "cron": row["cron"],
        "next_scheduled_time": times.of_s(row["next_s"]),
    }
