"""The Security Hub: what is wrong, across all projects."""

from __future__ import annotations

from typing import Any

from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.scanning import FINDINGS
from underway.capabilities.registry.routes.harbor.core import Call, Page, Route

_MOST = 5


def summary(call: Call) -> dict[str, Any]:
    """How much of what is wrong."""
    database = call.hub.database
    counts = {
        row["severity"]: row["count"]
        for row in database.all(
            "SELECT severity, count(*) AS count FROM findings GROUP BY severity"
        )
    }
    fixable = database.one("SELECT count(*) AS count FROM findings WHERE fixed_version <> ''")
    scanned = database.one(
        "SELECT count(DISTINCT artifact_id) AS count FROM scan_reports "
        "WHERE kind = 'vulnerability' AND status = 'Success'"
    )
    total = database.one("SELECT count(*) AS count FROM artifacts WHERE subject = ''")
    found: dict[str, Any] = {
        "total_vuls": sum(counts.values()),
        "fixable_cnt": fixable["count"] if fixable else 0,
        "scanned_cnt": scanned["count"] if scanned else 0,
        "total_artifact": total["count"] if total else 0,
    }
    for severity in ("Critical", "High", "Medium", "Low", "None", "Unknown"):
        found[f"{severity.lower()}_cnt"] = counts.get(severity, 0)
    if call.flag("with_dangerous_cve"):
        found["dangerous_cves"] = database.all(
            "SELECT cve_id, max(severity) AS severity, max(cvss_v3_score) AS cvss_score_v3, "
            "max(package) AS package, max(version) AS version FROM findings GROUP BY cve_id "
            "ORDER BY max(cvss_v3_score) DESC LIMIT ?",
            _MOST,
        )
    if call.flag("with_dangerous_artifact"):
        found["dangerous_artifacts"] = database.all(
            "SELECT f.project_id, r.name AS repository_name, a.digest, "
            "sum(CASE WHEN f.severity = 'Critical' THEN 1 ELSE 0 END) AS critical_cnt, "
            "sum(CASE WHEN f.severity = 'High' THEN 1 ELSE 0 END) AS high_cnt, "
            "sum(CASE WHEN f.severity = 'Medium' THEN 1 ELSE 0 END) AS medium_cnt "
            "FROM findings f JOIN artifacts a ON a.id = f.artifact_id "
            "JOIN repositories r ON r.id = a.repository_id "
            "GROUP BY f.project_id, r.name, a.digest "
            "ORDER BY critical_cnt DESC, high_cnt DESC, medium_cnt DESC LIMIT ?",
            _MOST,
        )
    return found


def vulnerabilities(call: Call) -> Page:
    """Everything that is wrong, one row an artifact and CVE."""
    rows, total = FINDINGS.page(call.hub.database, call.query, order="cvss_v3_score DESC, id")
    return Page([_shown(call, row) for row in rows], total)


def _shown(call: Call, row: Row) -> dict[str, Any]:
    place = call.hub.database.one(
        "SELECT a.digest, r.name FROM artifacts a JOIN repositories r ON r.id = a.repository_id "
        "WHERE a.id = ?",
        row["artifact_id"],
    )
    tags = call.hub.database.all("SELECT name FROM tags WHERE artifact_id = ?", row["artifact_id"])
    names = ("project_id", "cve_id", "severity", "package", "version", "fixed_version",
             "cvss_v3_score", "status", "links")  # fmt: skip
    found = {name: row[name] for name in names}
    return {
        **found, "desc": row["description"], "digest": place["digest"] if place else "",
        "repository_name": place["name"] if place else "", "tags": [tag["name"] for tag in tags],
    }  # fmt: skip


ROUTES: list[Route] = [
    ("GET", "/security/summary", "system security-hub:read", summary),
    ("GET", "/security/vul", "system security-hub:list", vulnerabilities),
]
