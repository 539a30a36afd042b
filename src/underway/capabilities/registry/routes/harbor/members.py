"""Who belongs to a project, and with which role."""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.projects import MEMBERS
from underway.capabilities.registry.backend.users import USERS
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route
from underway.capabilities.registry.rules import query, roles


def list_members(call: Call) -> Page:
    """The members of a project."""
    where, params = "project_id = ?", [call.project()["id"]]
    if name := call.params.get("entityname"):
        where += " AND lower(entity_name) LIKE ? ESCAPE '!'"
        params.append(query.like(name))
    rows, total = MEMBERS.page(call.hub.database, call.query, where, *params, order="id")
    return Page([_shown(row) for row in rows], total)


def add_member(call: Call) -> Created:
    """Give a user, or a group of the cluster's service accounts, a role."""
    project, body = call.project(), call.body()
    role = body.get("role_id")
    if not isinstance(role, int):
        raise BadRequest("role_id is missing")
    user, group = body.get("member_user") or {}, body.get("member_group") or {}
    if user:
        name = str(user.get("username") or "")
        if not name and user.get("user_id"):
            name = USERS.get(call.hub.database, int(user["user_id"]))["username"]
    else:
        name = str(group.get("group_name") or "")
    if not name:
        raise BadRequest("member_user or member_group is missing")
    id = call.hub.projects.add_member(project["id"], name, role, group=not user)
    call.tell("create", "member", name, project["id"])
    return Created(id)


def get_member(call: Call) -> dict[str, Any]:
    """One member."""
    return _shown(_member(call))


def update_member(call: Call) -> None:
    """Give a member another role."""
    row, role = _member(call), call.body().get("role_id")
    if role not in roles.ROLES:
        raise BadRequest(f"there is no role {role!r}")
    call.hub.database.write(lambda cursor: MEMBERS.update(cursor, row["id"], {"role_id": role}))
    call.tell("update", "member", row["entity_name"], row["project_id"])


def delete_member(call: Call) -> None:
    """Take a member's role away."""
    row = _member(call)
    call.hub.database.write(lambda cursor: MEMBERS.delete(cursor, row["id"]))
    call.tell("delete", "member", row["entity_name"], row["project_id"])


def _member(call: Call) -> Row:
    row = MEMBERS.get(call.hub.database, call.id("mid"))
    if row["project_id"] != call.project()["id"]:
        raise NotFound(f"there is no member {row['id']}")
    return row


def _shown(row: Row) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("id", "project_id", "entity_name", "entity_type",
                                        "entity_id", "role_id")},
        "role_name": roles.ROLES[row["role_id"]],
    }  # fmt: skip


_ALL = "/projects/{project_name_or_id}/members"
ROUTES: list[Route] = [
    ("GET", _ALL, "project member:list", list_members),
    ("POST", _ALL, "project member:create", add_member),
    ("GET", f"{_ALL}/{{mid}}", "project member:read", get_member),
    ("PUT", f"{_ALL}/{{mid}}", "project member:update", update_member),
    ("DELETE", f"{_ALL}/{{mid}}", "project member:delete", delete_member),
]
