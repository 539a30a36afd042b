"""The registry itself: health, what it is, what is configured."""

from __future__ import annotations

import shutil
from typing import Any

import msgspec

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.routes.harbor.core import Call, Route
from underway.capabilities.registry.routes.harbor.projects import cve_allowlist
from underway.wire.http import Response

VERSION = "v2.13.0-underway"  # Harbor's API as of this version, by somebody else
_SETTINGS: dict[str, Any] = {
    "auth_mode": "db_auth",
    "project_creation_restriction": "everyone",
    "quota_per_project_enable": True,
    "storage_per_project": -1,
    "read_only": False,
    "robot_name_prefix": "robot$",
    "robot_token_duration": 30,
    "self_registration": False,
    "token_expiration": 30,
    "audit_log_forward_endpoint": "",
    "banner_message": "",
}
_FIXED = ("auth_mode", "robot_name_prefix", "self_registration", "quota_per_project_enable",
          "token_expiration", "read_only", "audit_log_forward_endpoint")  # fmt: skip


def ping(call: Call) -> Response:
    """That somebody answers."""
    return Response(200, {"content-type": "text/plain; charset=utf-8"}, b"Pong")


def health(call: Call) -> dict[str, Any]:
    """Whether the parts work: each is used once."""
    states = {"core": "healthy", "portal": "healthy"}
    call.hub.database.one("SELECT 1 AS one")
    states["database"] = "healthy"
    shutil.disk_usage(call.hub.home.registry)
    states["registry"] = states["registryctl"] = "healthy"
    stuck = call.hub.database.one(
        "SELECT count(*) AS count FROM tasks WHERE status = 'Pending' AND due_s > 0 AND due_s < ?",
        call.hub.clock.now().timestamp() - 3600,
    )
    states["jobservice"] = "unhealthy" if stuck and stuck["count"] else "healthy"
    overall = "healthy" if set(states.values()) == {"healthy"} else "unhealthy"
    components = [{"name": name, "status": state} for name, state in states.items()]
    return {"status": overall, "components": components}


def system_info(call: Call) -> dict[str, Any]:
    """What this is; more for those who are logged in."""
    found: dict[str, Any] = {
        "auth_mode": "db_auth",
        "harbor_version": VERSION,
        "self_registration": False,
        "primary_auth_mode": False,
        "banner_message": _settings(call)["banner_message"],
    }
    if call.account.name:
        found |= {
            "registry_url": call.hub.host,
            "external_url": f"https://{call.hub.host}",
            "project_creation_restriction": _settings(call)["project_creation_restriction"],
            "has_ca_root": (call.hub.home.pki / "ca.crt").exists(),
            "read_only": False,
            "registry_storage_provider_name": type(call.hub.storage.contents).__name__.lower(),
            "current_time": call.hub.clock.now().isoformat(),
        }
    return found


def certificate(call: Call) -> Response:
    """The authority that signed the registry's certificate."""
    path = call.hub.home.pki / "ca.crt"
    if not path.exists():
        raise NotFound("the registry has no certificate of an authority of its own")
    return Response(200, {"content-type": "application/x-x509-ca-cert"}, path.read_bytes())


def volumes(call: Call) -> dict[str, Any]:
    """How much room there is for content."""
    usage = shutil.disk_usage(call.hub.home.registry)
    return {"storage": [{"total": usage.total, "free": usage.free}]}


def configurations(call: Call) -> dict[str, Any]:
    """What is configured, and what of it can be changed."""
    return {
        name: {"value": value, "editable": name not in _FIXED}
        for name, value in _settings(call).items()
    }


def internal_configurations(call: Call) -> dict[str, Any]:
    """The same."""
    return configurations(call)


def configure(call: Call) -> None:
    """Change what is configured."""
    body = call.body()
    for name, value in body.items():
        if name not in _SETTINGS or name in _FIXED:
            raise BadRequest(f"{name[:50]!r} cannot be configured")
        if not isinstance(value, type(_SETTINGS[name])):
            raise BadRequest(f"{name}: {value!r} is no {type(_SETTINGS[name]).__name__}")
    if body.get("project_creation_restriction", "everyone") not in ("everyone", "adminonly"):
        raise BadRequest("project_creation_restriction is neither everyone nor adminonly")

    def change(cursor: Cursor) -> None:
        for name, value in body.items():
            _save(cursor, name, value)

    call.hub.database.write(change)
    call.tell("update", "configuration", ",".join(sorted(body)))


def get_allowlist(call: Call) -> dict[str, Any]:
    """The CVEs that count nowhere."""
    row = call.hub.database.one("SELECT value FROM settings WHERE name = 'cve_allowlist'")
    found = msgspec.json.decode(row["value"]) if row else {"items": []}
    return {"id": 1, "project_id": 0, **found}


def set_allowlist(call: Call) -> None:
    """Change them."""
    found = cve_allowlist(call.body())
    call.hub.database.write(lambda cursor: _save(cursor, "cve_allowlist", found))


def _settings(call: Call) -> dict[str, Any]:
    rows = call.hub.database.all("SELECT name, value FROM settings")
    saved = {row["name"]: msgspec.json.decode(row["value"]) for row in rows}
    return {name: saved.get(name, value) for name, value in _SETTINGS.items()}


def _save(cursor: Cursor, name: str, value: Any) -> None:
    cursor.run(
        "INSERT INTO settings (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        name, msgspec.json.encode(value).decode(),
    )  # fmt: skip


ROUTES: list[Route] = [
    ("GET", "/ping", "anyone", ping),
    ("GET", "/health", "anyone", health),
    ("GET", "/systeminfo", "anyone", system_info),
    ("GET", "/systeminfo/getcert", "anyone", certificate),
    ("GET", "/systeminfo/volumes", "system system-volumes:read", volumes),
    ("GET", "/configurations", "admin", configurations),
    ("PUT", "/configurations", "admin", configure),
    ("GET", "/internalconfig", "admin", internal_configurations),
    ("GET", "/system/CVEAllowlist", "user", get_allowlist),
    ("PUT", "/system/CVEAllowlist", "admin", set_allowlist),
]
