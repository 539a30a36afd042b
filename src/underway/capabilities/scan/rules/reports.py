"""A report as people and programs read it: a table, JSON, SARIF, Clair's and Harbor's forms.

Source: SARIF 2.1.0; Clair v4 OpenAPI 1.2 (IndexReport, VulnerabilityReport); Harbor pluggable
scanner API 1.1 (HarborVulnerabilityReport).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from underway.capabilities.scan.model import SEVERITIES, Inventory, Match, Report
from underway.capabilities.scan.rules.ecosystems import purl

_LEVELS = {"Critical": "error", "High": "error", "Medium": "warning"}


def counts(matches: Iterable[Match]) -> dict[str, int]:
    """How many matches there are of each severity, the worst first; those without are left out."""
    found = Counter(each.advisory.severity for each in matches)
    return {name: found[name] for name in reversed(SEVERITIES) if found[name]}


def ordered(matches: Iterable[Match]) -> list[Match]:
    """The worst first, then by package and id."""
    return sorted(
        matches,
        key=lambda m: (-SEVERITIES.index(m.advisory.severity), m.package.name, m.advisory.id),
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report with ``matches[].{id,severity,fixed,package{name,version,purl}}``."""
    distribution = report.inventory.distribution
    return {
        "name": report.name,
        "digest": report.digest,
        "status": report.status,
        "reasons": list(report.reasons),
        "distribution": {"id": distribution.id, "version": distribution.version},
        "packages": len(report.inventory.packages),
        "advisoriesUpdatedAt": report.advisories_updated_at,
        "severities": counts(report.matches),
        "problems": list(report.inventory.problems),
        "matches": [_match(report.inventory, each) for each in ordered(report.matches)],
    }


def _match(inventory: Inventory, match: Match) -> dict[str, Any]:
    advisory, package = match.advisory, match.package
    return {
        "id": advisory.id,
        "aliases": list(advisory.aliases),
        "severity": advisory.severity,
        "score": advisory.score,
        "summary": advisory.summary,
        "link": advisory.link,
        "fixed": match.fixed,
        "package": {
            "name": package.name, "version": package.version, "type": package.type,
            "source": package.source, "location": package.location, "layer": package.layer,
            "purl": purl(package, inventory.distribution),
        },
    }  # fmt: skip


def as_lines(report: Report) -> list[str]:
    """The report as a table and a verdict that never says more than is known."""
    rows = [("SEVERITY", "ID", "PACKAGE", "VERSION", "FIXED IN")]
    rows += [
        (each.advisory.severity, each.advisory.id, each.package.name, each.package.version,
         each.fixed or "-")
        for each in ordered(report.matches)
    ]  # fmt: skip
    lines = _table(rows) if report.matches else []
    found = ", ".join(f"{count} {name}" for name, count in counts(report.matches).items())
    about = f"{len(report.inventory.packages)} packages"
    if report.inventory.distribution.name or report.inventory.distribution.id:
        about += f" on {report.inventory.distribution.name or report.inventory.distribution.id}"
    lines.append(f"{report.name}: {about}: {found or 'no known vulnerability'}")
    if report.status != "complete":
        lines[-1] += f" ({report.status}: this says less than it should)"
        lines += [f"  {reason}" for reason in report.reasons]
    lines += [f"  not read: {each}" for each in report.inventory.problems]
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def as_sarif(report: Report) -> dict[str, Any]:
    """The report as SARIF."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for match in ordered(report.matches):
        advisory, package = match.advisory, match.package
        rules.setdefault(advisory.id, {
            "id": advisory.id,
            "shortDescription": {"text": advisory.summary[:200] or advisory.id},
            **({"helpUri": advisory.link} if advisory.link else {}),
            "properties": {"security-severity": str(advisory.score), "tags": ["security"]},
        })  # fmt: skip
        remedy = f"fixed in {match.fixed}" if match.fixed else "there is no fix yet"
        results.append({
            "ruleId": advisory.id,
            "level": _LEVELS.get(advisory.severity, "note"),
            "message": {"text": f"{package.name} {package.version}: {advisory.id}, {remedy}"},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": package.location or report.name},
                "region": {"startLine": 1},
            }}],
        })  # fmt: skip
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "underway", "rules": list(rules.values())}},
            "results": results,
            "properties": {"status": report.status, "reasons": list(report.reasons)},
        }],
    }  # fmt: skip


def as_harbor(report: Report, when: str) -> dict[str, Any]:
    """The report as a scanner gives it to Harbor."""
    worst = next(iter(counts(report.matches)), "None")
    return {
        "generated_at": when,
        "scanner": {"name": "underway", "vendor": "Underway", "version": "1"},
        "severity": worst,
        "vulnerabilities": [
            {
                "id": match.advisory.id,
                "package": match.package.name,
                "version": match.package.version,
                "fix_version": match.fixed,
                "severity": match.advisory.severity,
                "description": match.advisory.summary,
                "links": [match.advisory.link] if match.advisory.link else [],
                "layer": {"diff_id": match.package.layer},
                "preferred_cvss": {"score_v3": match.advisory.score},
            }
            for match in ordered(report.matches)
        ],
    }
