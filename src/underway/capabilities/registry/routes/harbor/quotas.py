"""How much projects hold, and may hold."""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.projects import PROJECTS
from underway.capabilities.registry.routes.harbor.core import Call, Page, Route

_FIELDS = {"hard.storage": "quota_bytes", "used.storage": "used_bytes", "project_id": "id"}


def list_quotas(call: Call) -> Page:
    """Every project's."""
    where, params = "1 = 1", []
    if id := call.params.get("reference_id"):
        where, params = "id = ?", [int(id) if id.isdigit() else 0]
    rows, total = PROJECTS.page(
        call.hub.database, call.query, where, *params, order="id", fields=_FIELDS
    )
    return Page([_shown(row) for row in rows], total)


def get_quota(call: Call) -> dict[str, Any]:
    """One project's; a quota has the number of its project."""
    return _shown(PROJECTS.get(call.hub.database, call.id("id")))


def update_quota(call: Call) -> None:
    """Let a project hold more, or less; what it holds already stays."""
    limit = (call.body().get("hard") or {}).get("storage")
    if not isinstance(limit, int) or limit < -1 or limit == 0:
        raise BadRequest("hard.storage must be -1 or a number of bytes")
    row = PROJECTS.get(call.hub.database, call.id("id"))
    call.hub.projects.update(row["id"], {"quota_bytes": limit})
    call.tell("update", "quota", row["name"], row["id"])


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "ref": {"id": row["id"], "name": row["name"], "owner_name": row["owner_name"]},
        "hard": {"storage": row["quota_bytes"]},
        "used": {"storage": row["used_bytes"]},
        "creation_time": row["creation_time"],
        "update_time": row["update_time"],
    }


ROUTES: list[Route] = [
    ("GET", "/quotas", "system quota:list", list_quotas),
    ("GET", "/quotas/{id}", "system quota:read", get_quota),
    ("PUT", "/quotas/{id}", "system quota:update", update_quota),
]
