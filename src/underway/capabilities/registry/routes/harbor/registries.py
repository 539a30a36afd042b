"""Other registries, for replication and proxy caches."""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest, UnderwayError
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.remote import ADAPTERS, REGISTRIES, Remote, check_url
from underway.capabilities.registry.model import PreconditionFailed
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route
from underway.capabilities.registry.rules import times


def list_registries(call: Call) -> Page:
    """Every registry that was named here."""
    rows, total = REGISTRIES.page(call.hub.database, call.query, order="name")
    return Page([shown(row) for row in rows], total)


def create_registry(call: Call) -> Created:
    """Name a registry; it has to answer now."""
    values = _values(call.body(), {})
    now = times.text(call.hub.clock.now())
    values |= {"creation_time": now, "update_time": now, "status": "healthy"}
    _ping(call, {"id": 0, **_DEFAULTS, **values})
    id = call.hub.database.write(lambda cursor: REGISTRIES.insert(cursor, values))
    call.tell("create", "registry", values["name"])
    return Created(id)


def get_registry(call: Call) -> dict[str, Any]:
    """One registry."""
    return shown(REGISTRIES.get(call.hub.database, call.id("id")))


def update_registry(call: Call) -> None:
    """Change a registry's address or credentials."""
    row = REGISTRIES.get(call.hub.database, call.id("id"))
    values = _values(call.body(), row)
    _ping(call, {**row, **values})
    values |= {"update_time": times.text(call.hub.clock.now()), "status": "healthy"}
    call.hub.database.write(lambda cursor: REGISTRIES.update(cursor, row["id"], values))
    call.tell("update", "registry", row["name"])


def delete_registry(call: Call) -> None:
    """Forget a registry that nothing uses."""
    row = REGISTRIES.get(call.hub.database, call.id("id"))
    for table, what in (("replication_policies", "replication policy"), ("projects", "project")):
        sql = f"SELECT name FROM {table} WHERE registry_id = ?"  # noqa: S608  # constant
        if user := call.hub.database.one(sql, row["id"]):
            raise PreconditionFailed(f"the {what} {user['name']} uses the registry {row['name']}")
    call.hub.database.write(lambda cursor: REGISTRIES.delete(cursor, row["id"]))
    call.tell("delete", "registry", row["name"])


def ping(call: Call) -> None:
    """Whether a registry answers: one that is named here, or that the body describes."""
    body = call.body()
    row: Row = {"id": 0, **_DEFAULTS}
    if body.get("id"):
        row = REGISTRIES.get(call.hub.database, int(body["id"]))
    changed = {name: value for name, value in body.items() if value is not None}
    _ping(call, {**row, **_values(changed, {"name": "ping", **row})})


def info(call: Call) -> dict[str, Any]:
    """What replication can do with a registry."""
    row = REGISTRIES.get(call.hub.database, call.id("id"))
    return {
        "type": row["type"],
        "description": row["description"],
        "supported_resource_filters": [
            {"type": "name", "style": "input"},
            {"type": "tag", "style": "input"},
        ],
        "supported_triggers": ["manual", "scheduled", "event_based"],
    }


def adapters(call: Call) -> list[str]:
    """The kinds of registries that are known."""
    return list(ADAPTERS)


def adapter_infos(call: Call) -> dict[str, Any]:
    """The same, with what a form for them needs."""
    pattern = {"endpoint_pattern": {"endpoint_type": "EndpointPatternTypeStandard"},
               "credential_pattern": None}  # fmt: skip
    return dict.fromkeys(ADAPTERS, pattern)


def shown(row: Row) -> dict[str, Any]:
    """A registry, without its secret."""
    names = ("id", "name", "description", "type", "url", "insecure", "status", "creation_time",
             "update_time")  # fmt: skip
    credential = {}
    if row["access_key"]:
        credential = {"type": "basic", "access_key": row["access_key"], "access_secret": "*****"}
    return {**{name: row[name] for name in names}, "credential": credential}


_DEFAULTS = {"access_key": "", "access_secret": "", "insecure": False, "ca_certificate": "",
             "type": "docker-registry", "url": ""}  # fmt: skip


def _values(body: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    credential = body.get("credential") or {}
    found = {
        name: body[name]
        for name in ("name", "description", "type", "url", "insecure", "ca_certificate")
        if body.get(name) is not None
    }
    for flat in ("access_key", "access_secret"):
        value = credential.get(flat, body.get(flat))
        if value is not None and value != "*****":
            found[flat] = str(value)
    merged = {**row, **found}
    if not merged.get("name"):
        raise BadRequest("a registry needs a name")
    if merged.get("type") not in ADAPTERS:
        raise BadRequest(f"{merged.get('type')!r} is no kind of registry", hint=", ".join(ADAPTERS))
    found["url"] = check_url(str(merged.get("url") or ""))
    return found  # fmt: skip


def _ping(call: Call, row: Row) -> None:
    try:
        with Remote(row, call.hub.home.registry / "fetching") as remote:
            remote.ping()
    except UnderwayError as error:
        raise BadRequest(f"the registry cannot be used: {error.message}") from error


ROUTES: list[Route] = [
    ("GET", "/registries", "system registry:list", list_registries),
    ("POST", "/registries", "system registry:create", create_registry),
    ("POST", "/registries/ping", "system registry:read", ping),
    ("GET", "/registries/{id}", "system registry:read", get_registry),
    ("PUT", "/registries/{id}", "system registry:update", update_registry),
    ("DELETE", "/registries/{id}", "system registry:delete", delete_registry),
    ("GET", "/registries/{id}/info", "system registry:read", info),
    ("GET", "/replication/adapters", "system replication-adapter:list", adapters),
    ("GET", "/replication/adapterinfos", "system replication-adapter:list", adapter_infos),
]
