"""Robots: programs' accounts, of projects and of the whole registry."""

from __future__ import annotations

from typing import Any

import msgspec

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.projects import PROJECTS
from underway.capabilities.registry.backend.robots import (
    ROBOTS,
    check_permissions,
    permissions_from,
)
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route
from underway.capabilities.registry.rules import access, times

_DAY_S = 86_400


def list_robots(call: Call) -> Page:
    """The robots of the registry, or with ``q=Level=project,ProjectID=1`` of a project."""
    taken, wanted = call.query.take("Level", "ProjectID", "level", "project_id")
    values = {name.lower().replace("_", ""): each.values[0] for name, each in taken.items()}
    if values.get("level", "system") == "project":
        project_id = int(values.get("projectid") or 0)
        call.require("robot:list", _project_name(call, project_id) or "-")
    else:
        project_id = 0
        call.require("robot:list")
    rows, total = ROBOTS.page(call.hub.database, wanted, "project_id = ?", project_id)
    return Page([_shown(call, row) for row in rows], total)


def list_project_robots(call: Call) -> Page:
    """The robots of a project."""
    where = "project_id = ?"
    rows, total = ROBOTS.page(call.hub.database, call.query, where, call.project()["id"])
    return Page([_shown(call, row) for row in rows], total)


def create_robot(call: Call) -> Created:
    """Make a robot; its secret is shown this once."""
    body = call.body()
    wanted = permissions_from(body.get("permissions") or [])
    project = ""
    level = body.get("level")
    if level == "project":
        if len(wanted) != 1:
            raise BadRequest("a robot of a project has one permission, which names that project")
        project = wanted[0].namespace
    elif level != "system":
        raise BadRequest(f"level {level!r} is neither system nor project")
    call.require("robot:create", project)
    duration = body.get("duration", -1)
    if not isinstance(duration, int) or duration == 0 or duration < -1:
        raise BadRequest("duration must be -1 or a number of days")
    name = str(body.get("name") or "")
    id, secret = call.hub.robots.create(
        name, wanted, project=project, duration_days=duration, creator=call.account.name,
        description=str(body.get("description") or ""), secret=str(body.get("secret") or ""),
    )  # fmt: skip
    row = ROBOTS.get(call.hub.database, id)
    username = access.robot_username(project, name)
    call.tell("create", "robot", username, row["project_id"])
    made = {
        "id": id, "name": username, "secret": secret, "creation_time": row["creation_time"],
        "expires_at": row["expires_at"],
    }  # fmt: skip
    return Created(id, made)


def get_robot(call: Call) -> dict[str, Any]:
    """One robot."""
    return _shown(call, _row(call, "read"))


def update_robot(call: Call) -> None:
    """Change what a robot may do, or whether it may anything."""
    row, body = _row(call, "update"), call.body()
    values: dict[str, Any] = {"update_time": times.text(call.hub.clock.now())}
    if "permissions" in body:
        wanted = permissions_from(body["permissions"])
        check_permissions(wanted, _project_name(call, row["project_id"]))
        values["permissions"] = msgspec.to_builtins(wanted)
    if "disable" in body:
        values["disable"] = bool(body["disable"])
    if "description" in body:
        values["description"] = str(body["description"] or "")
    if isinstance(duration := body.get("duration"), int) and duration != row["duration"]:
        values["duration"] = duration
        created_s = int(times.parse(row["creation_time"]).timestamp())
        values["expires_at"] = -1 if duration == -1 else created_s + duration * _DAY_S
    call.hub.database.write(lambda cursor: ROBOTS.update(cursor, row["id"], values))
    call.tell("update", "robot", _username(call, row), row["project_id"])


def renew_secret(call: Call) -> dict[str, str]:
    """Give a robot another secret: the one sent, or a random one, which is answered."""
    row, given = _row(call, "update"), str(call.body().get("secret") or "")
    secret = call.hub.robots.renew(row["id"], given)
    call.tell("update", "robot", _username(call, row), row["project_id"])
    return {} if given else {"secret": secret}


def delete_robot(call: Call) -> None:
    """Delete a robot; it can do nothing from now on."""
    row = _row(call, "delete")
    call.hub.database.write(lambda cursor: ROBOTS.delete(cursor, row["id"]))
    call.tell("delete", "robot", _username(call, row), row["project_id"])


def _row(call: Call, action: str) -> Row:
    row = ROBOTS.find(call.hub.database, "id = ?", call.id("robot_id"))
    inside = "project_name_or_id" in call.path
    if row is None or (inside and row["project_id"] != call.project()["id"]):
        call.require(f"robot:{action}", call.project()["name"] if inside else "")
        raise NotFound(f"there is no robot {call.path['robot_id']}")
    if row["project_id"]:
        call.require(f"robot:{action}", _project_name(call, row["project_id"]))
    elif not call.account.administrator:
        call.require(f"robot:{action}")
    return row


def _project_name(call: Call, project_id: int) -> str:
    row = PROJECTS.find(call.hub.database, "id = ?", project_id) if project_id else None
    return row["name"] if row else ""


def _username(call: Call, row: Row) -> str:
    return access.robot_username(_project_name(call, row["project_id"]), row["name"])


def _shown(call: Call, row: Row) -> dict[str, Any]:
    names = ("id", "description", "level", "duration", "disable", "expires_at", "permissions",
             "creation_time", "update_time")  # fmt: skip
    return {
        **{name: row[name] for name in names},
        "name": _username(call, row),
        "editable": True,
        "creator_type": "local",
        "creator_ref": 1,
    }


_IN_PROJECT = "/projects/{project_name_or_id}/robots"
ROUTES: list[Route] = [
    ("GET", "/robots", "user", list_robots),
    ("POST", "/robots", "user", create_robot),
    ("GET", "/robots/{robot_id}", "user", get_robot),
    ("PUT", "/robots/{robot_id}", "user", update_robot),
    ("PATCH", "/robots/{robot_id}", "user", renew_secret),
    ("DELETE", "/robots/{robot_id}", "user", delete_robot),
    ("GET", _IN_PROJECT, "project robot:list", list_project_robots),
    ("GET", f"{_IN_PROJECT}/{{robot_id}}", "project robot:read", get_robot),
    ("PUT", f"{_IN_PROJECT}/{{robot_id}}", "project robot:update", update_robot),
    ("DELETE", f"{_IN_PROJECT}/{{robot_id}}", "project robot:delete", delete_robot),
]
