"""Repositories of one project, and of all."""

from __future__ import annotations

from typing import Any

from underway.base.errors import NotFound
from underway.capabilities.registry.backend.database import Cursor, Row
from underway.capabilities.registry.backend.events import Happened
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.routes.harbor.core import Call, Page, Route
from underway.capabilities.registry.routes.harbor.projects import visible

REPOSITORIES = Table("repositories", "repository")
_DESCRIPTION_LIMIT = 64 * 1024  # characters


def list_repositories(call: Call) -> Page:
    """The repositories of a project."""
    where = "pushed = 1 AND project_id = ?"
    return _page(call, where, [call.project()["id"]])


def list_all(call: Call) -> Page:
    """The repositories of every project the caller may read."""
    condition, params = visible(call)
    where = f"pushed = 1 AND project_id IN (SELECT id FROM projects WHERE {condition})"  # noqa: S608  # constant
    return _page(call, where, params)


def get_repository(call: Call) -> dict[str, Any]:
    """One repository."""
    return _shown(call, _row(call))


def update_repository(call: Call) -> None:
    """Describe a repository."""
    text = str(call.body().get("description") or "")[:_DESCRIPTION_LIMIT]
    id = _row(call)["id"]
    call.hub.database.write(lambda cursor: REPOSITORIES.update(cursor, id, {"description": text}))


def delete_repository(call: Call) -> None:
    """Delete a repository with all its artifacts."""
    name, project_id = _row(call)["name"], call.project()["id"]
    happened = Happened("delete", "repository", name, project_id)

    def then(cursor: Cursor) -> None:
        call.hub.events.record(cursor, call.account, happened)

    call.hub.storage.delete_repository(name, then)


def _row(call: Call) -> Row:
    name = call.repository()
    row = REPOSITORIES.find(call.hub.database, "name = ? AND pushed = 1", name)
    if row is None:
        raise NotFound(f"there is no repository {name}")
    return row


def _page(call: Call, where: str, params: list[object]) -> Page:
    rows, total = REPOSITORIES.page(call.hub.database, call.query, where, *params, order="name")
    return Page([_shown(call, row) for row in rows], total)


def _shown(call: Call, row: Row) -> dict[str, Any]:
    count = call.hub.database.one(
        "SELECT count(*) AS count FROM artifacts WHERE repository_id = ? AND subject = ''",
        row["id"],
    )
    names = ("id", "name", "project_id", "description", "pull_count", "creation_time",
             "update_time")  # fmt: skip
    return {**{name: row[name] for name in names}, "artifact_count": count["count"] if count else 0}


_ONE = "/projects/{project_name}/repositories/{repository_name}"
ROUTES: list[Route] = [
    ("GET", "/repositories", "anyone", list_all),
    ("GET", "/projects/{project_name}/repositories", "project repository:list", list_repositories),
    ("GET", _ONE, "project repository:list", get_repository),
    ("PUT", _ONE, "project repository:update", update_repository),
    ("DELETE", _ONE, "project repository:delete", delete_repository),
]
