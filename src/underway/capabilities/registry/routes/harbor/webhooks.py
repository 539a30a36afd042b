"""Webhooks of projects, and their deliveries."""

from __future__ import annotations

from typing import Any

from underway.base.errors import NotFound
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.webhooks import POLICIES, check_policy
from underway.capabilities.registry.routes.harbor import jobs_shown
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route
from underway.capabilities.registry.rules import payloads, times
from underway.wire.http import Response


def list_policies(call: Call) -> Page:
    """A project's webhooks."""
    rows, total = POLICIES.page(
        call.hub.database, call.query, "project_id = ?", call.project()["id"]
    )
    return Page(rows, total)


def create_policy(call: Call) -> Created:
    """Make a webhook."""
    project, body = call.project(), call.body()
    values = _values(call, body)
    values |= {"project_id": project["id"], "creator": call.account.name,
               "creation_time": values["update_time"]}  # fmt: skip
    id = call.hub.database.write(lambda cursor: POLICIES.insert(cursor, values))
    call.tell("create", "webhook-policy", values["name"], project["id"])
    return Created(id)


def get_policy(call: Call) -> Row:
    """One webhook."""
    return _row(call)


def update_policy(call: Call) -> None:
    """Change a webhook."""
    row = _row(call)
    values = _values(call, {**row, **call.body()})
    call.hub.database.write(lambda cursor: POLICIES.update(cursor, row["id"], values))
    call.tell("update", "webhook-policy", row["name"], row["project_id"])


def delete_policy(call: Call) -> None:
    """Delete a webhook."""
    row = _row(call)
    call.hub.database.write(lambda cursor: POLICIES.delete(cursor, row["id"]))
    call.tell("delete", "webhook-policy", row["name"], row["project_id"])


def supported_events(call: Call) -> dict[str, Any]:
    """What a webhook can tell, and how."""
    return {
        "event_type": list(payloads.EVENTS),
        "notify_type": list(payloads.NOTIFY_TYPES),
        "payload_formats": [
            {"notify_type": "http", "formats": list(payloads.FORMATS)},
            {"notify_type": "slack", "formats": ["Default"]},
        ],
    }


def last_trigger(call: Call) -> list[dict[str, Any]]:
    """When each webhook last told something."""
    found = []
    for policy in POLICIES.where(call.hub.database, "project_id = ?", call.project()["id"]):
        row = call.hub.database.one(
            "SELECT max(start_time) AS last FROM executions "
            "WHERE vendor_type = ? AND vendor_id = ?",
            jobs.WEBHOOK, policy["id"],
        )  # fmt: skip
        last = (row and row["last"]) or times.NEVER
        found += [
            {"policy_name": policy["name"], "event_type": kind, "enabled": policy["enabled"],
             "creation_time": policy["creation_time"], "last_trigger_time": last}
            for kind in policy["event_types"]
        ]  # fmt: skip
    return found


def list_jobs(call: Call) -> Page:
    """The deliveries of one webhook, in Harbor's old form."""
    text = call.params.get("policy_id", "")
    policy = _row(call, int(text) if text.isdigit() else 0)
    rows, total = jobs_shown.executions(call, jobs.WEBHOOK, policy["id"])
    found = [
        {"id": row["id"], "policy_id": policy["id"], "status": row["status"],
         "event_type": row["extra_attrs"].get("event_type", ""),
         "notify_type": policy["targets"][0]["type"], "job_detail": "",
         "creation_time": row["start_time"], "update_time": row["update_time"]}
        for row in rows
    ]  # fmt: skip
    return Page(found, total)


def list_executions(call: Call) -> Page:
    """The times a webhook had something to tell."""
    rows, total = jobs_shown.executions(call, jobs.WEBHOOK, _row(call)["id"])
    return Page([jobs_shown.execution(row) for row in rows], total)


def list_tasks(call: Call) -> Page:
    """One delivery a target."""
    call.hub.jobs.execution(call.id("execution_id"), jobs.WEBHOOK, _row(call)["id"])
    return jobs_shown.tasks(call, call.id("execution_id"))


def task_log(call: Call) -> Response:
    """What the target answered."""
    call.hub.jobs.execution(call.id("execution_id"), jobs.WEBHOOK, _row(call)["id"])
    return jobs_shown.log_of(call, call.id("execution_id"), call.id("task_id"))


def _row(call: Call, id: int | None = None) -> Row:
    row = POLICIES.get(call.hub.database, call.id("webhook_policy_id") if id is None else id)
    if row["project_id"] != call.project()["id"]:
        raise NotFound(f"there is no webhook policy {row['id']}")
    return row


def _values(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    check_policy(body)
    targets = [
        {**target, "payload_format": target.get("payload_format") or "Default"}
        for target in body["targets"]
    ]
    return {
        "name": str(body["name"]), "description": str(body.get("description") or ""),
        "targets": targets, "event_types": body["event_types"],
        "enabled": body.get("enabled", True), "update_time": times.text(call.hub.clock.now()),
    }  # fmt: skip


_HOOK = "/projects/{project_name_or_id}/webhook"
_ONE = f"{_HOOK}/policies/{{webhook_policy_id}}"
_RUN = f"{_ONE}/executions/{{execution_id}}"
ROUTES: list[Route] = [
    ("GET", f"{_HOOK}/policies", "project notification-policy:list", list_policies),
    ("POST", f"{_HOOK}/policies", "project notification-policy:create", create_policy),
    ("GET", f"{_HOOK}/events", "project notification-policy:read", supported_events),
    ("GET", f"{_HOOK}/lasttrigger", "project notification-policy:read", last_trigger),
    ("GET", f"{_HOOK}/jobs", "project notification-policy:read", list_jobs),
    ("GET", _ONE, "project notification-policy:read", get_policy),
    ("PUT", _ONE, "project notification-policy:update", update_policy),
    ("DELETE", _ONE, "project notification-policy:delete", delete_policy),
    ("GET", f"{_ONE}/executions", "project notification-policy:read", list_executions),
    ("GET", f"{_RUN}/tasks", "project notification-policy:read", list_tasks),
    ("GET", f"{_RUN}/tasks/{{task_id}}/log", "project notification-policy:read", task_log),
]
