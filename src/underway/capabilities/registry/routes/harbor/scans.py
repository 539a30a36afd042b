"""What scanners found, as artifacts show it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from underway.capabilities.registry.backend.scanning import (
    FINDINGS,
    REPORT_TYPE,
    REPORTS,
    SCANNERS,
)
from underway.capabilities.registry.routes.harbor.core import Call
from underway.capabilities.registry.rules import times


def report_of(call: Call, artifact_id: int, kind: str) -> dict[str, Any] | None:
    """The last report about an artifact, or None."""
    where = "artifact_id = ? AND kind = ? AND status = 'Success'"
    row = REPORTS.find(call.hub.database, where, artifact_id, kind)
    return row["report"] if row else None


def overview(call: Call, artifact_id: int) -> dict[str, Any] | None:
    """The summary of the last scan, by the report's type; None where there was none."""
    database = call.hub.database
    row = REPORTS.find(database, "artifact_id = ? AND kind = 'vulnerability'", artifact_id)
    if row is None:
        return None
    found = FINDINGS.where(database, "artifact_id = ?", artifact_id)
    scanner = SCANNERS.find(database, "id = ?", row["scanner_id"])
    duration = 0
    if row["end_time"]:
        taken = times.parse(row["end_time"]) - times.parse(row["start_time"])
        duration = int(taken.total_seconds())
    value = {
        "report_id": row["uuid"],
        "scan_status": row["status"],
        "severity": row["severity"],
        "duration": duration,
        "summary": {
            "total": len(found),
            "fixable": sum(bool(each["fixed_version"]) for each in found),
            "summary": dict(Counter(each["severity"] for each in found)),
        },
        "start_time": row["start_time"],
        "end_time": row["end_time"] or row["start_time"],
        "complete_percent": 100 if row["status"] == "Success" else 0,
        "scanner": {"name": scanner["name"], "vendor": "", "version": ""} if scanner else None,
    }
    return {REPORT_TYPE: value}
