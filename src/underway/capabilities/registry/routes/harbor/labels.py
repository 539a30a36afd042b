"""Labels, of the registry and of projects."""

from __future__ import annotations

import re
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.registry.backend.database import Cursor, Row
from underway.capabilities.registry.backend.projects import PROJECTS
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route, pick
from underway.capabilities.registry.rules import query, times

LABELS = Table("labels", "label")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}|")


def list_labels(call: Call) -> Page:
    """The labels of a scope: ``g`` the registry's, ``p`` a project's."""
    scope, project_id = call.params.get("scope", "g"), 0
    if scope == "p":
        project_id = _project_id(call.params.get("project_id", ""))
        call.require("label:list", _name_of(call, project_id))
    elif scope != "g":
        raise BadRequest(f"scope {scope!r} is neither g nor p")
    where, params = "scope = ? AND project_id = ?", [scope, project_id]
    if name := call.params.get("name"):
        where += " AND lower(name) LIKE ? ESCAPE '!'"
        params.append(query.like(name))
    rows, total = LABELS.page(call.hub.database, call.query, where, *params, order="name")
    return Page(rows, total)


def create_label(call: Call) -> Created:
    """Make a label."""
    body = call.body()
    scope = body.get("scope", "g")
    if scope not in ("g", "p"):
        raise BadRequest(f"scope {scope!r} is neither g nor p")
    project_id = _project_id(str(body.get("project_id") or "")) if scope == "p" else 0
    _require(call, "create", project_id)
    now = times.text(call.hub.clock.now())
    values = {
        **_checked(body), "scope": scope, "project_id": project_id, "creation_time": now,
        "update_time": now,
    }  # fmt: skip
    return Created(call.hub.database.write(lambda cursor: LABELS.insert(cursor, values)))


def get_label(call: Call) -> Row:
    """One label."""
    row = LABELS.get(call.hub.database, call.id("label_id"))
    if row["project_id"]:
        call.require("label:read", _name_of(call, row["project_id"]))
    return row


def update_label(call: Call) -> None:
    """Change a label."""
    row = LABELS.get(call.hub.database, call.id("label_id"))
    _require(call, "update", row["project_id"])
    values = _checked({**row, **call.body()})
    values["update_time"] = times.text(call.hub.clock.now())
    call.hub.database.write(lambda cursor: LABELS.update(cursor, row["id"], values))


def delete_label(call: Call) -> None:
    """Delete a label, wherever it was put."""
    row = LABELS.get(call.hub.database, call.id("label_id"))
    _require(call, "delete", row["project_id"])

    def change(cursor: Cursor) -> None:
        LABELS.delete(cursor, row["id"])
        cursor.run("DELETE FROM artifact_labels WHERE label_id = ?", row["id"])

    call.hub.database.write(change)


def _require(call: Call, action: str, project_id: int) -> None:
    call.require(f"label:{action}", _name_of(call, project_id) if project_id else "")


def _name_of(call: Call, project_id: int) -> str:
    row = PROJECTS.find(call.hub.database, "id = ?", project_id)
    return row["name"] if row else "-"  # no project is called so: nobody but admin has rights in it


def _project_id(text: str) -> int:
    if not text.isdigit():
        raise BadRequest("project_id is missing")
    return int(text)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    name, color = values.get("name"), values.get("color") or ""
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise BadRequest("a label needs a name of up to 128 characters")
    if not _COLOR.fullmatch(str(color)):
        raise BadRequest(f"{color!r} is no colour", hint="#RRGGBB")
    return pick(values, "name", "description", "color")


ROUTES: list[Route] = [
    ("GET", "/labels", "user", list_labels),
    ("POST", "/labels", "user", create_label),
    ("GET", "/labels/{label_id}", "user", get_label),
    ("PUT", "/labels/{label_id}", "user", update_label),
    ("DELETE", "/labels/{label_id}", "user", delete_label),
]
