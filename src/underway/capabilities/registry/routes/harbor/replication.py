"""Replication: policies and what came of them."""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest, Conflict
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.backend.database import Cursor, Row
from underway.capabilities.registry.backend.remote import REGISTRIES
from underway.capabilities.registry.backend.replication import POLICIES, check_policy
from underway.capabilities.registry.routes.harbor import jobs_shown
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route
from underway.capabilities.registry.routes.harbor.registries import shown as registry_shown
from underway.capabilities.registry.rules import times
from underway.wire.http import Response

_STATUS = {"Running": "InProgress", "Success": "Succeed", "Error": "Failed", "Pending": "Pending",
           "Stopped": "Stopped"}  # fmt: skip
_KEPT = ("dest_namespace", "dest_namespace_replace_count", "filters", "trigger", "override",
         "replicate_deletion", "deletion", "speed", "copy_by_chunk")  # fmt: skip


def list_policies(call: Call) -> Page:
    """Every policy."""
    where, params = "1 = 1", []
    if name := call.params.get("name"):
        where, params = "name = ?", [name]
    rows, total = POLICIES.page(call.hub.database, call.query, where, *params)
    return Page([_shown(call, row) for row in rows], total)


def create_policy(call: Call) -> Created:
    """Make a policy."""
    values = _values(call, call.body())
    values["creation_time"] = values["update_time"]

    def change(cursor: Cursor) -> int:
        id = POLICIES.insert(cursor, values)
        _schedule(call, cursor, id, values)
        return id

    id = call.hub.database.write(change)
    call.tell("create", "replication-policy", values["name"])
    return Created(id)


def get_policy(call: Call) -> dict[str, Any]:
    """One policy."""
    return _shown(call, POLICIES.get(call.hub.database, call.id("id")))


def update_policy(call: Call) -> None:
    """Change a policy."""
    row = POLICIES.get(call.hub.database, call.id("id"))
    values = _values(call, call.body())

    def change(cursor: Cursor) -> None:
        POLICIES.update(cursor, row["id"], values)
        _schedule(call, cursor, row["id"], values)

    call.hub.database.write(change)
    call.tell("update", "replication-policy", row["name"])


def delete_policy(call: Call) -> None:
    """Delete a policy that is not being followed now."""
    row = POLICIES.get(call.hub.database, call.id("id"))
    if call.hub.database.one(
        "SELECT id FROM executions WHERE vendor_type = ? AND vendor_id = ? AND status = 'Running'",
        jobs.REPLICATION, row["id"],
    ):  # fmt: skip
        raise Conflict(f"the policy {row['name']} is being followed now", hint="stop that first")

    def change(cursor: Cursor) -> None:
        POLICIES.delete(cursor, row["id"])
        call.hub.jobs.set_schedule(jobs.REPLICATION, row["id"], "", "", cursor=cursor)

    call.hub.database.write(change)
    call.tell("delete", "replication-policy", row["name"])


def list_executions(call: Call) -> Page:
    """When which policy was followed."""
    text = call.params.get("policy_id", "")
    policy_id = int(text) if text.isdigit() else None
    rows, total = jobs_shown.executions(call, jobs.REPLICATION, policy_id)
    return Page([_execution(row) for row in rows], total)


def start(call: Call) -> Created:
    """Follow a policy now."""
    id = call.body().get("policy_id")
    if not isinstance(id, int):
        raise BadRequest("policy_id is missing")
    return Created(call.hub.replication.start(id))


def get_execution(call: Call) -> dict[str, Any]:
    """One execution."""
    return _execution(call.hub.jobs.execution(call.id("id"), jobs.REPLICATION))


def stop(call: Call) -> None:
    """Stop one."""
    call.hub.jobs.execution(call.id("id"), jobs.REPLICATION)
    call.hub.jobs.stop(call.id("id"))


def list_tasks(call: Call) -> Page:
    """What became of each artifact."""
    call.hub.jobs.execution(call.id("id"), jobs.REPLICATION)
    found = jobs_shown.tasks(call, call.id("id"))
    return Page([_task(row) for row in found.rows], found.total)


def task_log(call: Call) -> Response:
    """A task's log."""
    call.hub.jobs.execution(call.id("id"), jobs.REPLICATION)
    return jobs_shown.log_of(call, call.id("id"), call.id("task_id"))


def _values(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("name"):
        raise BadRequest("a replication policy needs a name")
    source = (body.get("src_registry") or {}).get("id") or 0
    target = (body.get("dest_registry") or {}).get("id") or 0
    if bool(source) == bool(target):
        raise BadRequest("either src_registry or dest_registry must be another registry")
    REGISTRIES.get(call.hub.database, source or target)
    policy = {name: body[name] for name in _KEPT if body.get(name) is not None}
    policy["replicate_deletion"] = bool(body.get("replicate_deletion") or body.get("deletion"))
    check_policy({**policy, "pull": bool(source)})
    return {
        "name": str(body["name"]), "description": str(body.get("description") or ""),
        "policy": policy, "enabled": body.get("enabled", True), "registry_id": source or target,
        "pull": bool(source), "update_time": times.text(call.hub.clock.now()),
    }  # fmt: skip


def _schedule(call: Call, cursor: Cursor, id: int, values: dict[str, Any]) -> None:
    trigger = values["policy"].get("trigger") or {}
    text = ""
    if trigger.get("type") == "scheduled" and values["enabled"]:
        text = (trigger.get("trigger_settings") or {}).get("cron") or ""
    call.hub.jobs.set_schedule(jobs.REPLICATION, id, "Custom", text, cursor=cursor)


def _shown(call: Call, row: Row) -> dict[str, Any]:
    other = REGISTRIES.find(call.hub.database, "id = ?", row["registry_id"])
    remote = registry_shown(other) if other else None
    local = {"id": 0, "name": "Local", "type": "harbor", "url": f"https://{call.hub.host}"}
    source, target = (remote, local) if row["pull"] else (local, remote)
    names = ("id", "name", "description", "enabled", "creation_time", "update_time")
    kept = {"dest_namespace_replace_count": -1, "override": True, "speed": 0, **row["policy"]}
    return {
        **{name: row[name] for name in names}, **kept,
        "src_registry": source, "dest_registry": target,
        "trigger": kept.get("trigger") or {"type": "manual", "trigger_settings": {}},
        "deletion": kept.get("replicate_deletion", False),
    }  # fmt: skip


def _execution(row: Row) -> dict[str, Any]:
    counts = row["metrics"]
    return {
        "id": row["id"],
        "policy_id": row["vendor_id"],
        "status": _STATUS[row["status"]],
        "status_text": row["status_message"],
        "trigger": row["trigger"].lower(),
        "start_time": row["start_time"],
        "end_time": row["end_time"] or times.NEVER,
        "total": sum(counts.values()),
        "failed": counts.get("Error", 0),
        "succeed": counts.get("Success", 0),
        "in_progress": counts.get("Running", 0) + counts.get("Pending", 0),
        "stopped": counts.get("Stopped", 0),
    }


def _task(row: dict[str, Any]) -> dict[str, Any]:
    attrs = row["extra_attrs"]
    return {
        "id": row["id"],
        "execution_id": row["execution_id"],
        "status": _STATUS[row["status"]],
        "job_id": str(row["id"]),
        "operation": attrs.get("operation", ""),
        "resource_type": "artifact",
        "src_resource": f"{attrs.get('source', '')}:{attrs.get('reference', '')}",
        "dst_resource": f"{attrs.get('target', '')}:{attrs.get('reference', '')}",
        "start_time": row["start_time"],
        "end_time": row["end_time"],
    }


_POLICIES, _EXECUTIONS = "/replication/policies", "/replication/executions"
ROUTES: list[Route] = [
    ("GET", _POLICIES, "system replication-policy:list", list_policies),
    ("POST", _POLICIES, "system replication-policy:create", create_policy),
    ("GET", f"{_POLICIES}/{{id}}", "system replication-policy:read", get_policy),
    ("PUT", f"{_POLICIES}/{{id}}", "system replication-policy:update", update_policy),
    ("DELETE", f"{_POLICIES}/{{id}}", "system replication-policy:delete", delete_policy),
    ("GET", _EXECUTIONS, "system replication:list", list_executions),
    ("POST", _EXECUTIONS, "system replication:create", start),
    ("GET", f"{_EXECUTIONS}/{{id}}", "system replication:read", get_execution),
    ("PUT", f"{_EXECUTIONS}/{{id}}", "system replication:create", stop),
    ("GET", f"{_EXECUTIONS}/{{id}}/tasks", "system replication:list", list_tasks),
    ("GET", f"{_EXECUTIONS}/{{id}}/tasks/{{task_id}}/log", "system replication:read", task_log),
]
