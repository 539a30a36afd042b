"""Scanners: who they are, and scanning one artifact or all."""

from __future__ import annotations

import uuid
from typing import Any

from underway.base.errors import BadRequest, Conflict, NotFound
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.backend.database import Cursor, Row
from underway.capabilities.registry.backend.projects import PROJECTS
from underway.capabilities.registry.backend.remote import check_url
from underway.capabilities.registry.backend.scanning import REPORTS, SCANNERS
from underway.capabilities.registry.routes.harbor import artifacts, jobs_shown
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route, pick
from underway.capabilities.registry.rules import times
from underway.wire.http import Response

_AUTHS = ("", "Basic", "Bearer", "X-ScannerAdapter-API-Key")


def list_scanners(call: Call) -> Page:
    """Every scanner."""
    rows, total = SCANNERS.page(call.hub.database, call.query, order="id")
    return Page([_shown(row) for row in rows], total)


def create_scanner(call: Call) -> Created:
    """Register a scanner; the first one is the default."""
    values = _values(call.body())
    now = times.text(call.hub.clock.now())
    values |= {"uuid": str(uuid.uuid4()), "create_time": now, "update_time": now}

    def change(cursor: Cursor) -> None:
        values["is_default"] = not SCANNERS.find(cursor, "is_default = 1")
        SCANNERS.insert(cursor, values)

    call.hub.database.write(change)
    call.tell("create", "scanner", values["name"])
    return Created(values["uuid"])


def get_scanner(call: Call) -> dict[str, Any]:
    """One scanner."""
    return _shown(_row(call))


def update_scanner(call: Call) -> None:
    """Change a scanner."""
    row = _row(call)
    values = _values({**row, **call.body()})
    values["update_time"] = times.text(call.hub.clock.now())
    call.hub.database.write(lambda cursor: SCANNERS.update(cursor, row["id"], values))


def set_default(call: Call) -> None:
    """Make a scanner the one of all projects that chose none."""
    row = _row(call)
    if not call.body().get("is_default"):
        raise BadRequest("is_default must be true")

    def change(cursor: Cursor) -> None:
        cursor.run("UPDATE scanners SET is_default = 0")
        SCANNERS.update(cursor, row["id"], {"is_default": True})

    call.hub.database.write(change)


def delete_scanner(call: Call) -> dict[str, Any]:
    """Forget a scanner."""
    row = _row(call)

    def change(cursor: Cursor) -> None:
        SCANNERS.delete(cursor, row["id"])
        cursor.run("UPDATE projects SET scanner_id = 0 WHERE scanner_id = ?", row["id"])

    call.hub.database.write(change)
    return _shown(row)


def ping(call: Call) -> None:
    """Whether a scanner, which the body describes, answers."""
    call.hub.scanning.metadata(_values(call.body()))


def metadata(call: Call) -> dict[str, Any]:
    """What a scanner says of itself."""
    return call.hub.scanning.metadata(_row(call))


def project_scanner(call: Call) -> dict[str, Any]:
    """The scanner of a project."""
    row = call.hub.scanning.scanner_of(call.project()["id"])
    return _shown(row) if row else {}


def set_project_scanner(call: Call) -> None:
    """Choose a project's scanner."""
    text = str(call.body().get("uuid") or "")
    row = SCANNERS.find(call.hub.database, "uuid = ?", text)
    if row is None:
        raise NotFound(f"there is no scanner {text[:50]}")
    id = call.project()["id"]
    call.hub.database.write(lambda cursor: PROJECTS.update(cursor, id, {"scanner_id": row["id"]}))


def scan(call: Call) -> Response:
    """Scan an artifact."""
    row = artifacts.ARTIFACTS.get(call.hub.database, _artifact_id(call))
    kind = str(call.body().get("scan_type") or "vulnerability")
    if kind not in ("vulnerability", "sbom"):
        raise BadRequest(f"scan_type {kind!r} is neither vulnerability nor sbom")
    if _running(call, row["id"]):
        raise Conflict("a scan of the artifact is under way")
    call.hub.scanning.start(row, kind=kind)
    return Response(202)


def stop_scan(call: Call) -> Response:
    """Stop the scan of an artifact."""
    for execution in _running(call, _artifact_id(call)):
        call.hub.jobs.stop(execution["id"])
    return Response(202)


def scan_log(call: Call) -> Response:
    """The log of a scan."""
    where = "uuid = ? AND artifact_id = ?"
    row = REPORTS.find(call.hub.database, where, call.path["report_id"], _artifact_id(call))
    if row is None:
        raise NotFound(f"there is no report {call.path['report_id'][:50]}")
    return Response(200, {"content-type": "text/plain; charset=utf-8"}, row["log"].encode())


def scan_all(call: Call) -> Created | None:
    """Scan everything, now or by a schedule."""
    schedule = call.body().get("schedule") or {}
    kind = schedule.get("type", "Manual")
    if kind == "Manual":
        return Created(call.hub.scanning.start_all())
    text = "" if kind == "None" else str(schedule.get("cron") or "")
    call.hub.jobs.set_schedule(jobs.SCAN_ALL, 0, kind, text)
    return Created() if call.request.method == "POST" else None


def scan_all_schedule(call: Call) -> dict[str, Any]:
    """When everything is scanned."""
    row = call.hub.jobs.schedule(jobs.SCAN_ALL)
    return {"schedule": jobs_shown.schedule_shown(row)} if row else {}


def stop_all(call: Call) -> Response:
    """Stop the scan of everything."""
    for row in jobs.EXECUTIONS.where(
        call.hub.database, "vendor_type = ? AND status = 'Running'", jobs.SCAN_ALL
    ):
        call.hub.jobs.stop(row["id"])
    return Response(202)


def scan_all_metrics(call: Call) -> dict[str, Any]:
    """How far the last scan of everything is."""
    last = call.hub.database.one(
        "SELECT max(id) AS id FROM executions WHERE vendor_type = ?", jobs.SCAN_ALL
    )
    if last is None or last["id"] is None:
        return {"total": 0, "completed": 0, "metrics": {}, "ongoing": False, "trigger": "Manual"}
    row = call.hub.jobs.execution(last["id"], jobs.SCAN_ALL)
    done = sum(count for name, count in row["metrics"].items() if name in jobs.FINAL)
    return {
        "total": sum(row["metrics"].values()), "completed": done, "metrics": row["metrics"],
        "ongoing": row["status"] == "Running", "trigger": row["trigger"].capitalize(),
    }  # fmt: skip


def _artifact_id(call: Call) -> int:
    return int(artifacts.get_artifact(call)["id"])


def _running(call: Call, artifact_id: int) -> list[Row]:
    where = "vendor_type = ? AND vendor_id = ? AND status = 'Running'"
    return jobs.EXECUTIONS.where(call.hub.database, where, jobs.SCAN, artifact_id)


def _row(call: Call) -> Row:
    row = SCANNERS.find(call.hub.database, "uuid = ?", call.path["registration_id"])
    if row is None:
        raise NotFound(f"there is no scanner {call.path['registration_id'][:50]}")
    return row


def _values(body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("name"):
        raise BadRequest("a scanner needs a name")
    if (body.get("auth") or "") not in _AUTHS:
        raise BadRequest(f"{body['auth']!r} is no way to log in to a scanner")
    found = pick(body, "description", "auth", "access_credential", "skip_certVerify", "disabled",
                 "use_internal_addr")  # fmt: skip
    return {**found, "name": str(body["name"]), "url": check_url(str(body.get("url") or ""))}


def _shown(row: Row) -> dict[str, Any]:
    hidden = ("id", "access_credential")
    return {name: value for name, value in row.items() if name not in hidden}


_SCANNER = "/scanners/{registration_id}"
_ARTIFACT = "/projects/{project_name}/repositories/{repository_name}/artifacts/{reference}"
_ALL = "/system/scanAll/schedule"
ROUTES: list[Route] = [
    ("GET", "/scanners", "system scanner:list", list_scanners),
    ("POST", "/scanners", "system scanner:create", create_scanner),
    ("POST", "/scanners/ping", "system scanner:read", ping),
    ("GET", _SCANNER, "system scanner:read", get_scanner),
    ("PUT", _SCANNER, "system scanner:update", update_scanner),
    ("PATCH", _SCANNER, "system scanner:update", set_default),
    ("DELETE", _SCANNER, "system scanner:delete", delete_scanner),
    ("GET", f"{_SCANNER}/metadata", "system scanner:read", metadata),
    ("GET", "/projects/{project_name_or_id}/scanner", "project scanner:read", project_scanner),
    ("PUT", "/projects/{project_name_or_id}/scanner", "project scanner:create",
     set_project_scanner),
    ("GET", "/projects/{project_name_or_id}/scanner/candidates", "project scanner:create",
     list_scanners),
    ("POST", f"{_ARTIFACT}/scan", "project scan:create", scan),
    ("POST", f"{_ARTIFACT}/scan/stop", "project scan:stop", stop_scan),
    ("GET", f"{_ARTIFACT}/scan/{{report_id}}/log", "project scan:read", scan_log),
    ("GET", _ALL, "system scan-all:read", scan_all_schedule),
    ("POST", _ALL, "system scan-all:create", scan_all),
    ("PUT", _ALL, "system scan-all:update", scan_all),
    ("POST", "/system/scanAll/stop", "system scan-all:stop", stop_all),
    ("GET", "/scans/all/metrics", "system scan-all:read", scan_all_metrics),
    ("GET", "/scans/schedule/metrics", "system scan-all:read", scan_all_metrics),
]  # fmt: skip
