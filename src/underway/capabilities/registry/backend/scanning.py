"""Asking scanners what is wrong with artifacts.

Source: goharbor/pluggable-scanner-spec, API 1.1 and 1.2: metadata, scan, report with Refresh-After.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable
from typing import Any

from underway.base.clock import Clock
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.backend.database import Cursor, Database, Row
from underway.capabilities.registry.backend.events import Events, Happened
from underway.capabilities.registry.backend.jobs import Jobs, Stopped, Task
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import Account
from underway.capabilities.registry.rules import times

SCANNERS = Table("scanners", "scanner")
REPORTS = Table("scan_reports", "scan report")
FINDINGS = Table("findings", "finding")
REPORT_TYPE = "application/vnd.security.vulnerability.report; version=1.1"
SBOM_TYPE = "application/vnd.security.sbom.report+json; version=1.0"
SEVERITIES = ("Unknown", "None", "Negligible", "Low", "Medium", "High", "Critical")
_SCAN_REQUEST = "application/vnd.scanner.adapter.scan.request+json; version=1.0"
_METADATA = "application/vnd.scanner.adapter.metadata+json; version=1.0"
_TIMEOUT_S = 30.0
_REPORT_TIMEOUT_S = 1800.0
_REPORT_LIMIT = 64 * 1024 * 1024  # bytes
_SOMEBODY = Account("scanner", administrator=True)


class Scanning:
    """Starts scans and keeps their reports. ``token`` makes a token to pull one repository."""

    def __init__(
        self,
        database: Database,
        jobs_: Jobs,
        events: Events,
        clock: Clock,
        registry_url: str,
        token: Callable[[str], str],
    ) -> None:
        self._database = database
        self._jobs = jobs_
        self._events = events
        self._clock = clock
        self._url = registry_url
        self._token = token
        jobs_.register(jobs.SCAN, self._scan)
        jobs_.register(jobs.SCAN_ALL, self._scan, self.start_all)

    def scanner_of(self, project_id: int) -> Row | None:
        """The project's scanner, or the default one, unless it is disabled."""
        row = self._database.one("SELECT scanner_id FROM projects WHERE id = ?", project_id)
        found = None
        if row and row["scanner_id"]:
            found = SCANNERS.find(self._database, "id = ? AND disabled = 0", row["scanner_id"])
        return found or SCANNERS.find(self._database, "is_default = 1 AND disabled = 0")

    def start(
        self, artifact: Row, *, kind: str = "vulnerability", trigger: str = "MANUAL",
        cursor: Cursor | None = None,
    ) -> int:  # fmt: skip
        """Scan one artifact; gives the execution's id. Raises BadRequest where nobody can."""
        if self.scanner_of(artifact["project_id"]) is None:
            raise BadRequest("there is no scanner", hint="register one: POST /api/v2.0/scanners")
        return self._jobs.start(
            jobs.SCAN, artifact["id"], [{"artifact_id": artifact["id"], "kind": kind}],
            trigger=trigger, project_id=artifact["project_id"], cursor=cursor,
        )  # fmt: skip

    def start_all(self, _vendor_id: int = 0, trigger: str = "MANUAL") -> int:
        """Scan every image; gives the execution's id."""
        rows = self._database.all("SELECT id FROM artifacts WHERE subject = '' ORDER BY id")
        tasks = [{"artifact_id": row["id"], "kind": "vulnerability"} for row in rows]
        return self._jobs.start(jobs.SCAN_ALL, 0, tasks, trigger=trigger)

    def on_event(self, cursor: Cursor, kind: str, data: dict[str, Any]) -> None:
        """Scan what was pushed, where the project wants that."""
        if kind != "PUSH_ARTIFACT":
            return
        project = cursor.one("SELECT metadata FROM projects WHERE id = ?", data["project_id"])
        if project is None or '"auto_scan":"true"' not in project["metadata"]:
            return
        artifact = cursor.one(
            "SELECT a.* FROM artifacts a JOIN repositories r ON r.id = a.repository_id "
            "WHERE r.name = ? AND a.digest = ? AND a.subject = ''",
            data["repository"], data["digest"],
        )  # fmt: skip
        if artifact and self.scanner_of(data["project_id"]) is not None:
            self.start(artifact, trigger="EVENT", cursor=cursor)

    def metadata(self, scanner: Row) -> dict[str, Any]:
        """What a scanner says of itself; raises ServiceUnavailable."""
        found: dict[str, Any] = self._ask(scanner, "GET", "/api/v1/metadata", _METADATA).json()
        return found

    def _scan(self, task: Task) -> None:
        artifact = self._database.one(
            "SELECT a.*, r.name AS repository FROM artifacts a "
            "JOIN repositories r ON r.id = a.repository_id WHERE a.id = ?",
            task.attrs["artifact_id"],
        )
        if artifact is None:
            task.log("the artifact is gone")
            return
        scanner = self.scanner_of(artifact["project_id"])
        if scanner is None:
            raise NotFound("there is no scanner")
        kind = task.attrs["kind"]
        report_id = self._begin(artifact, scanner, kind, task)
        started = times.text(self._clock.now())
        try:
            report = self._report(task, scanner, artifact, kind)
        except Stopped:
            self._end(report_id, artifact, task, status="Stopped", event="SCANNING_STOPPED")
            raise
        except (ServiceUnavailable, BadRequest, NotFound) as error:
            task.log(error.message)
            self._end(report_id, artifact, task, status="Error", event="SCANNING_FAILED")
            raise
        task.log(f"the scanner {scanner['name']} reported, having begun at {started}")
        self._end(
            report_id, artifact, task, status="Success", event="SCANNING_COMPLETED",
            report=report, kind=kind,
        )  # fmt: skip

    def _begin(self, artifact: Row, scanner: Row, kind: str, task: Task) -> int:
        """A report's row, which says Running; it takes the place of the one before."""

        def change(cursor: Cursor) -> int:
            cursor.run(
                "DELETE FROM scan_reports WHERE artifact_id = ? AND kind = ?", artifact["id"], kind
            )
            return REPORTS.insert(cursor, {
                "uuid": str(uuid.uuid4()), "project_id": artifact["project_id"],
                "artifact_id": artifact["id"], "scanner_id": scanner["id"], "kind": kind,
                "mime_type": SBOM_TYPE if kind == "sbom" else REPORT_TYPE, "status": "Running",
                "start_time": times.text(self._clock.now()),
            })  # fmt: skip

        return self._database.write(change)

    def _end(
        self,
        report_id: int,
        artifact: Row,
        task: Task,
        *,
        status: str,
        event: str,
        report: dict[str, Any] | None = None,
        kind: str = "",
    ) -> None:
        found = (report or {}).get("vulnerabilities") or []
        severity = str((report or {}).get("severity") or worst(found))

        def change(cursor: Cursor) -> None:
            if not cursor.one("SELECT id FROM artifacts WHERE id = ?", artifact["id"]):
                return
            REPORTS.update(cursor, report_id, {
                "status": status, "severity": severity, "report": report,
                "log": "\n".join(task.lines), "end_time": times.text(self._clock.now()),
            })  # fmt: skip
            if kind == "vulnerability":
                cursor.run("DELETE FROM findings WHERE artifact_id = ?", artifact["id"])
                for each in found:
                    FINDINGS.insert(cursor, _finding(artifact, each))
            data = {"repository": artifact["repository"], "digest": artifact["digest"], "tag": ""}
            happened = Happened(
                "scan", "artifact", f"{artifact['repository']}@{artifact['digest']}",
                artifact["project_id"], event, data,
            )  # fmt: skip
            self._events.record(cursor, _SOMEBODY, happened)

        self._database.write(change)

    def _report(self, task: Task, scanner: Row, artifact: Row, kind: str) -> dict[str, Any]:
        request = {
            "registry": {
                "url": self._url,
                "authorization": f"Bearer {self._token(artifact['repository'])}",
            },
            "artifact": {
                "repository": artifact["repository"],
                "digest": artifact["digest"],
                "mime_type": artifact["media_type"],
                "size": artifact["size"],
            },
            "enabled_capabilities": [
                {
                    "type": kind,
                    "produces_mime_types": [SBOM_TYPE if kind == "sbom" else REPORT_TYPE],
                }
            ],
        }
        accepted = self._ask(scanner, "POST", "/api/v1/scan", "application/json", json=request)
        scan_id = str(accepted.json().get("id", ""))
        if not scan_id or "/" in scan_id:
            raise ServiceUnavailable(f"the scanner {scanner['name']} gave no id for its scan")
        mime = SBOM_TYPE if kind == "sbom" else REPORT_TYPE
        deadline = time.monotonic() + _REPORT_TIMEOUT_S
        while time.monotonic() < deadline:
            task.check()
            answer = self._ask(scanner, "GET", f"/api/v1/scan/{scan_id}/report", mime)
            if answer.status_code == 200:
                if len(answer.content) > _REPORT_LIMIT:
                    raise BadRequest("the scanner's report is too large")
                found = answer.json()
                return found if isinstance(found, dict) else {}
            wait = answer.headers.get("refresh-after", "1")
            time.sleep(min(float(wait) if wait.replace(".", "", 1).isdigit() else 1.0, 60.0))
        raise ServiceUnavailable(f"the scanner {scanner['name']} gave no report in time")

    def _ask(self, scanner: Row, method: str, path: str, accept: str, json: Any = None) -> Any:
        import httpx

        headers = {"accept": accept}
        if json is not None:
            headers["content-type"] = _SCAN_REQUEST
        credential = scanner.get("access_credential") or ""
        match scanner.get("auth"):
            case "Basic":
                headers["authorization"] = f"Basic {base64.b64encode(credential.encode()).decode()}"
            case "Bearer":
                headers["authorization"] = f"Bearer {credential}"
            case "X-ScannerAdapter-API-Key":
                headers["x-scanneradapter-api-key"] = credential
        import msgspec

        try:
            answer = httpx.request(
                method, scanner["url"].rstrip("/") + path, headers=headers, timeout=_TIMEOUT_S,
                content=None if json is None else msgspec.json.encode(json), trust_env=False,
                verify=not scanner.get("skip_certVerify"), follow_redirects=False,
            )  # fmt: skip
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceUnavailable(f"the scanner at {scanner['url']}: {error}") from error
        if answer.status_code >= 400:
            raise ServiceUnavailable(
                f"the scanner at {scanner['url']} answered {answer.status_code} to {path}"
            )
        return answer


def worst(found: list[dict[str, Any]]) -> str:
    """The worst severity among findings; None where there are none."""
    ranks = [_rank(str(each.get("severity", ""))) for each in found]
    return SEVERITIES[max(ranks)] if ranks else "None"


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else 0


def _finding(artifact: Row, each: dict[str, Any]) -> dict[str, Any]:
    score = (each.get("preferred_cvss") or {}).get("score_v3")
    return {
        "project_id": artifact["project_id"], "artifact_id": artifact["id"],
        "cve_id": str(each.get("id", "")), "severity": str(each.get("severity", "Unknown")),
        "package": str(each.get("package", "")), "version": str(each.get("version", "")),
        "fixed_version": str(each.get("fix_version") or ""),
        "cvss_v3_score": float(score) if isinstance(score, int | float) else 0.0,
        "description": str(each.get("description", ""))[:4096],
        "links": each.get("links") or [], "status": str(each.get("status") or ""),
    }  # fmt: skip
