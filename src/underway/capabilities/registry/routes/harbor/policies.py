"""Immutable tags and retention."""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest, Conflict, Forbidden, NotFound
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.backend.database import Cursor, Row
from underway.capabilities.registry.backend.immutable import RULES
from underway.capabilities.registry.backend.projects import PROJECTS
from underway.capabilities.registry.backend.retention import POLICIES
from underway.capabilities.registry.routes.harbor import jobs_shown
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route, pick
from underway.capabilities.registry.rules import retention, selectors
from underway.wire.http import Response

# -- immutable tags -------------------------------------------------------------------------------


def list_rules(call: Call) -> Page:
    """A project's rules."""
    where = "project_id = ?"
    rows, total = RULES.page(call.hub.database, call.query, where, call.project()["id"], order="id")
    return Page(rows, total)


def create_rule(call: Call) -> Created:
    """Add a rule."""
    project = call.project()
    values = {**_rule(call.body()), "project_id": project["id"]}
    same = "project_id = ? AND disabled = 0"
    for row in RULES.where(call.hub.database, same, project["id"]):
        if all(row[name] == values[name] for name in ("tag_selectors", "scope_selectors")):
            raise Conflict("there is such an immutable rule already")
    id = call.hub.database.write(lambda cursor: RULES.insert(cursor, values))
    call.tell("create", "immutable-rule", project["name"], project["id"])
    return Created(id)


def update_rule(call: Call) -> None:
    """Change a rule, or switch it off."""
    row = _own_rule(call)
    values = _rule({**row, **call.body()})
    call.hub.database.write(lambda cursor: RULES.update(cursor, row["id"], values))
    call.tell("update", "immutable-rule", call.project()["name"], row["project_id"])


def delete_rule(call: Call) -> None:
    """Take a rule away."""
    row = _own_rule(call)
    call.hub.database.write(lambda cursor: RULES.delete(cursor, row["id"]))
    call.tell("delete", "immutable-rule", call.project()["name"], row["project_id"])


def _own_rule(call: Call) -> Row:
    row = RULES.get(call.hub.database, call.id("immutable_rule_id"))
    if row["project_id"] != call.project()["id"]:
        raise NotFound(f"there is no immutable rule {row['id']}")
    return row


def _rule(body: dict[str, Any]) -> dict[str, Any]:
    tags, scopes = body.get("tag_selectors") or [], body.get("scope_selectors") or {}
    chosen = [*tags, *(each for values in scopes.values() for each in values)]
    if not tags or not all(isinstance(each, dict) for each in chosen):
        raise BadRequest("an immutable rule needs tag_selectors")
    for each in chosen:
        selectors.matches(str(each.get("pattern", "")), "")
    found = {
        "disabled": bool(body.get("disabled")),
        "action": "immutable",
        "template": "immutable_template",
        "tag_selectors": tags,
        "scope_selectors": scopes,
    }
    return {**found, **pick(body, "priority", "params")}


# -- retention ------------------------------------------------------------------------------------


def metadatas(call: Call) -> dict[str, Any]:
    """What rules can be made of."""
    units = {"latestPushedK": "COUNT", "latestPulledN": "COUNT", "nDaysSinceLastPush": "DAYS",
             "nDaysSinceLastPull": "DAYS"}  # fmt: skip
    templates = [
        {
            "rule_template": name,
            "display_text": text,
            "action": "retain",
            "params": [{"type": "int", "unit": units[name], "required": True}]
            if name in units
            else [],
        }
        for name, text in retention.TEMPLATES.items()
    ]
    return {
        "templates": templates,
        "scope_selectors": [
            {"display_text": "Repositories", "kind": "doublestar",
             "decorations": ["repoMatches", "repoExcludes"]}
        ],
        "tag_selectors": [
            {"display_text": "Tags", "kind": "doublestar", "decorations": ["matches", "excludes"]}
        ],
    }  # fmt: skip


def create_policy(call: Call) -> Created:
    """Give a project a policy; it has one at most."""
    body = call.body()
    scope = body.get("scope") or {}
    if scope.get("level") != "project" or not isinstance(scope.get("ref"), int):
        raise BadRequest("scope must be a project's: {level: project, ref: ID}")
    project = PROJECTS.find(call.hub.database, "id = ?", scope["ref"])
    call.require("tag-retention:create", project["name"] if project else "-")
    assert project is not None
    retention.check(body)

    def change(cursor: Cursor) -> int:
        id = POLICIES.insert(cursor, {"project_id": project["id"], "policy": body})
        POLICIES.update(cursor, id, {"policy": {**body, "id": id}})
        found = {**(project["metadata"] or {}), "retention_id": str(id)}
        PROJECTS.update(cursor, project["id"], {"metadata": found})
        _schedule(call, cursor, id, body)
        return id

    id = call.hub.database.write(change)
    call.tell("create", "tag-retention", project["name"], project["id"])
    return Created(id)


def get_policy(call: Call) -> dict[str, Any]:
    """One policy."""
    row = _policy(call, "read")
    return {**row["policy"], "id": row["id"]}


def update_policy(call: Call) -> None:
    """Change a policy."""
    row, body = _policy(call, "update"), call.body()
    retention.check(body)

    def change(cursor: Cursor) -> None:
        kept = {**body, "id": row["id"], "scope": row["policy"]["scope"]}
        POLICIES.update(cursor, row["id"], {"policy": kept})
        _schedule(call, cursor, row["id"], body)

    call.hub.database.write(change)


def delete_policy(call: Call) -> None:
    """Take a policy away."""
    row = _policy(call, "delete")

    def change(cursor: Cursor) -> None:
        POLICIES.delete(cursor, row["id"])
        call.hub.jobs.set_schedule(jobs.RETENTION, row["id"], "", "", cursor=cursor)
        project = PROJECTS.get(cursor, row["project_id"])
        found = {n: v for n, v in (project["metadata"] or {}).items() if n != "retention_id"}
        PROJECTS.update(cursor, project["id"], {"metadata": found})

    call.hub.database.write(change)


def list_executions(call: Call) -> Page:
    """When a policy was followed."""
    row = _policy(call, "list")
    rows, total = jobs_shown.executions(call, jobs.RETENTION, row["id"])
    return Page([_execution(each) for each in rows], total)


def start_execution(call: Call) -> Created:
    """Follow a policy now, or only say what that would do."""
    row = _policy(call, "operate")
    dry_run = bool(call.body().get("dry_run"))
    return Created(call.hub.retention.start(row["id"], dry_run=dry_run))


def stop_execution(call: Call) -> None:
    """Stop one."""
    row, action = _policy(call, "operate"), call.body().get("action")
    if action != "stop":
        raise BadRequest(f"{action!r} is no action: stop")
    call.hub.jobs.execution(call.id("eid"), jobs.RETENTION, row["id"])
    call.hub.jobs.stop(call.id("eid"))


def list_tasks(call: Call) -> Page:
    """What was done in each repository."""
    row = _policy(call, "list")
    call.hub.jobs.execution(call.id("eid"), jobs.RETENTION, row["id"])
    found = jobs_shown.tasks(call, call.id("eid"))
    rows = []
    for each in found.rows:
        attrs = each.pop("extra_attrs")
        more = {"total": attrs.get("total", 0), "retained": attrs.get("retained", 0)}
        rows.append({**each, "repository": attrs["repository"].partition("/")[2], **more})
    return Page(rows, found.total)


def task_log(call: Call) -> Response:
    """What became of each artifact."""
    row = _policy(call, "read")
    call.hub.jobs.execution(call.id("eid"), jobs.RETENTION, row["id"])
    return jobs_shown.log_of(call, call.id("eid"), call.id("tid"))


def _policy(call: Call, action: str) -> Row:
    row = POLICIES.find(call.hub.database, "id = ?", call.id("id"))
    if row is None:
        if call.account.administrator:
            raise NotFound(f"there is no retention policy {call.path['id']}")
        raise Forbidden("the account may not do this")
    project = PROJECTS.get(call.hub.database, row["project_id"])
    call.require(f"tag-retention:{action}", project["name"])
    return row


def _schedule(call: Call, cursor: Cursor, id: int, policy: dict[str, Any]) -> None:
    text = ((policy.get("trigger") or {}).get("settings") or {}).get("cron") or ""
    call.hub.jobs.set_schedule(jobs.RETENTION, id, "Custom", str(text), cursor=cursor)


def _execution(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"], "policy_id": row["vendor_id"], "start_time": row["start_time"],
        "end_time": row["end_time"], "status": row["status"], "trigger": row["trigger"],
        "dry_run": bool(row["extra_attrs"].get("dry_run")),
    }  # fmt: skip


_RULES = "/projects/{project_name_or_id}/immutabletagrules"
_EXECUTIONS = "/retentions/{id}/executions"
ROUTES: list[Route] = [
    ("GET", _RULES, "project immutable-tag:list", list_rules),
    ("POST", _RULES, "project immutable-tag:create", create_rule),
    ("PUT", f"{_RULES}/{{immutable_rule_id}}", "project immutable-tag:update", update_rule),
    ("DELETE", f"{_RULES}/{{immutable_rule_id}}", "project immutable-tag:delete", delete_rule),
    ("GET", "/retentions/metadatas", "user", metadatas),
    ("POST", "/retentions", "user", create_policy),
    ("GET", "/retentions/{id}", "user", get_policy),
    ("PUT", "/retentions/{id}", "user", update_policy),
    ("DELETE", "/retentions/{id}", "user", delete_policy),
    ("GET", _EXECUTIONS, "user", list_executions),
    ("POST", _EXECUTIONS, "user", start_execution),
    ("PATCH", f"{_EXECUTIONS}/{{eid}}", "user", stop_execution),
    ("GET", f"{_EXECUTIONS}/{{eid}}/tasks", "user", list_tasks),
    ("GET", f"{_EXECUTIONS}/{{eid}}/tasks/{{tid}}", "user", task_log),
]
