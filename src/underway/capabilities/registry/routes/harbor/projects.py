"""Projects, their metadata, summaries and logs; statistics and search."""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest, Forbidden, NotFound
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.projects import MEMBERS, PROJECTS, why_not_deletable
from underway.capabilities.registry.backend.remote import REGISTRIES
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import PreconditionFailed
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route
from underway.capabilities.registry.rules import query

AUDIT = Table("audit_log", "audit record")
_METADATA = (
    "public", "enable_content_trust", "enable_content_trust_cosign", "prevent_vul", "severity",
    "auto_scan", "auto_sbom_generation", "reuse_sys_cve_allowlist", "retention_id",
    "proxy_speed_kb", "max_upstream_conn", "auto_purge",
)  # fmt: skip
_FOUND = (
    "SELECT r.name, r.pull_count, r.project_id, p.name AS project_name, p.public, "
    "(SELECT count(*) FROM artifacts a WHERE a.repository_id = r.id) AS artifact_count "
    "FROM repositories r JOIN projects p ON p.id = r.project_id WHERE r.pushed = 1 "
    "AND {} AND lower(r.name) LIKE ? ESCAPE '!' ORDER BY r.name LIMIT 100"
)
_SETTINGS_LIMIT = 1024  # characters of a metadata value


def visible(call: Call) -> tuple[str, list[object]]:
    """A condition of SQL: the projects that the caller may read."""
    if call.account.administrator or "project:list" in call.rights():
        return "1 = 1", []
    if call.account.kind == "robot":
        spaces = {each.namespace for each in call.account.permissions if each.kind == "project"}
        if "*" in spaces:
            return "1 = 1", []
        marks = ", ".join("?" for _ in spaces)
        return f"(public = 1 OR name IN ({marks}))" if spaces else "public = 1", [*spaces]
    if not call.account.name:
        return "public = 1", []
    mine = "SELECT project_id FROM members WHERE entity_name = ?"
    return f"(public = 1 OR id IN ({mine}))", [call.account.name]


def shown(call: Call, row: Row) -> dict[str, Any]:
    """A project as Harbor shows it."""
    role = call.hub.accounts.role(call.account, row["id"])
    allowlist = row["cve_allowlist"] or {"items": []}
    found = {
        "project_id": row["id"],
        "name": row["name"],
        "owner_id": row["owner_id"],
        "owner_name": row["owner_name"],
        "repo_count": row.get("repo_count", _repo_count(call, row["id"])),
        "metadata": metadata(row),
        "cve_allowlist": {"project_id": row["id"], "id": row["id"], **allowlist},
        "current_user_role_id": role,
        "current_user_role_ids": [role] if role else [],
        "creation_time": row["creation_time"],
        "update_time": row["update_time"],
        "deleted": False,
    }
    if row["registry_id"]:
        found["registry_id"] = row["registry_id"]
    return found


def metadata(row: Row) -> dict[str, str]:
    """A project's metadata; Harbor writes booleans as texts."""
    return {**(row["metadata"] or {}), "public": "true" if row["public"] else "false"}


def list_projects(call: Call) -> Page:
    """The projects the caller may read."""
    where, params = visible(call)
    if name := call.params.get("name"):
        where += " AND lower(name) LIKE ? ESCAPE '!'"
        params.append(query.like(name))
    if "public" in call.params:
        where += " AND public = ?"
        params.append(int(call.flag("public")))
    if owner := call.params.get("owner"):
        where += " AND owner_name = ?"
        params.append(owner)
    fields = {"project_id": "id"}
    rows, total = PROJECTS.page(
        call.hub.database, call.query, where, *params, order="name", fields=fields
    )
    return Page([shown(call, row) for row in rows], total)


def head_project(call: Call) -> None:
    """Whether a project's name is taken."""
    call.hub.projects.row(call.params.get("project_name", ""))


def create_project(call: Call) -> Created:
    """Make a project; its maker administers it."""
    body = call.body()
    by_robot = call.account.kind == "robot"
    if by_robot:
        call.require("project:create")
    elif not call.account.administrator and _creation_restricted(call):
        raise Forbidden("only the administrator may create projects here")
    name = str(body.get("project_name") or "")
    found = _metadata(body.get("metadata") or {})
    public = found.pop("public", str(body.get("public", "false")).lower()) == "true"
    registry_id = int(body.get("registry_id") or 0)
    if registry_id:
        if not call.account.administrator:
            raise Forbidden("only the administrator may create a proxy cache")
        REGISTRIES.get(call.hub.database, registry_id)
    quota = body.get("storage_limit")
    if quota is not None and not call.account.administrator:
        quota = None  # as in Harbor: others get the default
    id = call.hub.projects.create(
        name, public=public, metadata=found, registry_id=registry_id,
        quota_bytes=_quota(quota), owner=call.account.name,
        owner_id=0 if by_robot else call.account.id,
    )  # fmt: skip
    call.tell("create", "project", name, id)
    in_location = call.request.headers.get("x-resource-name-in-location", "").lower() == "true"
    return Created(name if in_location else id)


def get_project(call: Call) -> dict[str, Any]:
    """One project."""
    return shown(call, call.project())


def update_project(call: Call) -> None:
    """Change metadata, CVE allow-list or quota."""
    row, body = call.project(), call.body()
    found = {**(row["metadata"] or {}), **_metadata(body.get("metadata") or {})}
    values: dict[str, Any] = {}
    if "public" in found:
        values["public"] = found.pop("public") == "true"
    values["metadata"] = found
    if body.get("cve_allowlist") is not None:
        values["cve_allowlist"] = cve_allowlist(body["cve_allowlist"])
    if body.get("storage_limit") is not None and call.account.administrator:
        values["quota_bytes"] = _quota(body["storage_limit"])
    call.hub.projects.update(row["id"], values)
    call.tell("update", "project", row["name"], row["id"])


def delete_project(call: Call) -> None:
    """Delete a project that has no repositories."""
    row = call.project()
    if why := why_not_deletable(call.hub.database, row["id"]):
        raise PreconditionFailed(f"the project {row['name']} {why}: it cannot be deleted")
    call.hub.projects.delete(row["name"])
    call.tell("delete", "project", row["name"], row["id"])


def deletable(call: Call) -> dict[str, Any]:
    """Whether a project can be deleted."""
    why = why_not_deletable(call.hub.database, call.project()["id"])
    return {"deletable": not why, "message": f"the project {why}" if why else ""}


def summary(call: Call) -> dict[str, Any]:
    """What is in a project."""
    row = call.project()
    found: dict[str, Any] = {"repo_count": _repo_count(call, row["id"])}
    if "member:list" in call.rights(row["name"]):
        names = {1: "project_admin_count", 4: "maintainer_count", 2: "developer_count",
                 3: "guest_count", 5: "limited_guest_count"}  # fmt: skip
        members = MEMBERS.where(call.hub.database, "project_id = ?", row["id"])
        for role, name in names.items():
            found[name] = sum(each["role_id"] == role for each in members)
    found["quota"] = {
        "hard": {"storage": row["quota_bytes"]},
        "used": {"storage": row["used_bytes"]},
    }
    if row["registry_id"]:
        registry = REGISTRIES.find(call.hub.database, "id = ?", row["registry_id"])
        if registry:
            found["registry"] = {name: registry[name] for name in ("id", "name", "type", "url")}
    return found


def get_metadata(call: Call) -> dict[str, str]:
    """All metadata, or one entry."""
    found = metadata(call.project())
    if (name := call.path.get("meta_name")) is None:
        return found
    if name not in found:
        raise NotFound(f"there is no metadata {name}")
    return {name: found[name]}


def set_metadata(call: Call) -> None:
    """Add or change entries."""
    row, given = call.project(), _metadata(call.body())
    if (name := call.path.get("meta_name")) is not None and set(given) != {name}:
        raise BadRequest(f"the body must hold {name} alone")
    _save_metadata(call, row, {**metadata(row), **given})


def delete_metadata(call: Call) -> None:
    """Take an entry away."""
    row = call.project()
    found = metadata(row)
    if found.pop(call.path["meta_name"], None) is None:
        raise NotFound(f"there is no metadata {call.path['meta_name']}")
    _save_metadata(call, row, {"public": "false", **found})


def project_logs(call: Call) -> Page:
    """Who did what in a project."""
    rows, total = AUDIT.page(call.hub.database, call.query, "project_id = ?", call.project()["id"])
    return Page([audit_shown(row) for row in rows], total)


def audit_logs(call: Call) -> Page:
    """Who did what, in the projects whose logs the caller may read."""
    where, params = "1 = 1", []
    if not call.account.administrator and "audit-log:list" not in call.rights():
        if call.account.kind == "robot":
            raise Forbidden("the account may not do this")
        where = (
            "project_id IN (SELECT project_id FROM members WHERE entity_name = ? AND role_id <> 5)"
        )
        params = [call.account.name]
    rows, total = AUDIT.page(call.hub.database, call.query, where, *params)
    return Page([audit_shown(row) for row in rows], total)


def audit_shown(row: Row) -> dict[str, Any]:
    """An audit record, in both of Harbor's forms."""
    return {
        **{name: row[name] for name in ("id", "username", "resource", "resource_type", "operation",
                                        "op_time")},
        "operation_description": row["description"] or f"{row['operation']} {row['resource_type']}",
        "operation_result": row["success"],
    }  # fmt: skip


def audit_events(call: Call) -> list[dict[str, str]]:
    """What the audit log can hold."""
    rows = call.hub.database.all(
        "SELECT DISTINCT operation, resource_type FROM audit_log ORDER BY 1, 2"
    )
    return [{"event_type": f"{row['operation']}_{row['resource_type']}"} for row in rows]


def statistics(call: Call) -> dict[str, int]:
    """How many projects and repositories the caller sees."""
    where, params = visible(call)
    counts: dict[str, int] = {}
    for public in (1, 0):
        row = call.hub.database.one(
            f"SELECT count(*) AS projects, (SELECT count(*) FROM repositories WHERE pushed = 1 "  # noqa: S608  # constant
            f"AND project_id IN (SELECT id FROM projects WHERE {where} AND public = ?)) AS repos "
            f"FROM projects WHERE {where} AND public = ?",
            *params, public, *params, public,
        )  # fmt: skip
        assert row is not None
        kind = "public" if public else "private"
        counts |= {f"{kind}_project_count": row["projects"], f"{kind}_repo_count": row["repos"]}
    counts["total_project_count"] = counts["public_project_count"] + counts["private_project_count"]
    counts["total_repo_count"] = counts["public_repo_count"] + counts["private_repo_count"]
    used = call.hub.database.one("SELECT coalesce(sum(size), 0) AS used FROM contents")
    if call.account.administrator and used:
        counts["total_storage_consumption"] = int(used["used"])
    return counts


def search(call: Call) -> dict[str, Any]:
    """Projects and repositories with a text in their name."""
    text = query.like(call.params.get("q", ""))
    where, params = visible(call)
    rows = call.hub.database.all(
        f"SELECT * FROM projects WHERE {where} AND lower(name) LIKE ? ESCAPE '!' "  # noqa: S608  # constant
        "ORDER BY name LIMIT 100",
        *params, text,
    )  # fmt: skip
    seen = f"r.project_id IN (SELECT id FROM projects WHERE {where})"  # noqa: S608  # constant
    repositories = call.hub.database.all(_FOUND.format(seen), *params, text)
    return {
        "project": [shown(call, PROJECTS.value(row)) for row in rows],
        "repository": [
            {
                "project_id": row["project_id"],
                "project_name": row["project_name"],
                "project_public": bool(row["public"]),
                "repository_name": row["name"],
                "pull_count": row["pull_count"],
                "artifact_count": row["artifact_count"],
            }
            for row in repositories
        ],
    }


def cve_allowlist(given: dict[str, Any]) -> dict[str, Any]:
    """A list of CVEs that do not count, checked."""
    items = given.get("items") or []
    names = [str(each.get("cve_id", "")) for each in items if isinstance(each, dict)]
    if len(names) != len(items) or not all(names):
        raise BadRequest("items: each must have a cve_id")
    found: dict[str, Any] = {"items": [{"cve_id": name} for name in dict.fromkeys(names)]}
    if given.get("expires_at"):
        found["expires_at"] = int(given["expires_at"])
    return found


def _save_metadata(call: Call, row: Row, found: dict[str, str]) -> None:
    public = found.pop("public", "false") == "true"
    call.hub.projects.update(row["id"], {"metadata": found, "public": public})


def _metadata(given: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in given.items():
        if name not in _METADATA:
            raise BadRequest(f"{name[:50]!r} is no metadata of a project")
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if len(text) > _SETTINGS_LIMIT:
                raise BadRequest(f"{name}: the value is too long")
            found[name] = text
    return found


def _quota(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or value < -1 or value == 0:
        raise BadRequest(f"storage_limit {value!r} is neither -1 nor a number of bytes")
    return value


def _repo_count(call: Call, id: int) -> int:
    row = call.hub.database.one(
        "SELECT count(*) AS count FROM repositories WHERE project_id = ? AND pushed = 1", id
    )
    return int(row["count"]) if row else 0


def _creation_restricted(call: Call) -> bool:
    row = call.hub.database.one(
        "SELECT value FROM settings WHERE name = 'project_creation_restriction'"
    )
    return bool(row and "adminonly" in row["value"])


_ONE = "/projects/{project_name_or_id}"
ROUTES: list[Route] = [
    ("GET", "/projects", "anyone", list_projects),
    ("HEAD", "/projects", "user", head_project),
    ("POST", "/projects", "user", create_project),
    ("GET", _ONE, "project project:read", get_project),
    ("PUT", _ONE, "project project:update", update_project),
    ("DELETE", _ONE, "project project:delete", delete_project),
    ("GET", f"{_ONE}/_deletable", "project project:delete", deletable),
    ("GET", f"{_ONE}/summary", "project project:read", summary),
    ("GET", f"{_ONE}/metadatas", "project metadata:read", get_metadata),
    ("POST", f"{_ONE}/metadatas", "project metadata:create", set_metadata),
    ("GET", f"{_ONE}/metadatas/{{meta_name}}", "project metadata:read", get_metadata),
    ("PUT", f"{_ONE}/metadatas/{{meta_name}}", "project metadata:update", set_metadata),
    ("DELETE", f"{_ONE}/metadatas/{{meta_name}}", "project metadata:delete", delete_metadata),
    ("GET", "/projects/{project_name}/logs", "project log:list", project_logs),
    ("GET", "/projects/{project_name}/auditlog-exts", "project log:list", project_logs),
    ("GET", "/audit-logs", "user", audit_logs),
    ("GET", "/auditlog-exts", "user", audit_logs),
    ("GET", "/auditlog-exts/events", "user", audit_events),
    ("GET", "/statistics", "anyone", statistics),
    ("GET", "/search", "anyone", search),
]
