"""Advisories in OSV's form.

Source: OSV schema 1.6 (ossf.github.io/osv-schema).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.scan.model import Advisory, Affected, Range
from underway.capabilities.scan.rules import cvss, ecosystems

_EVENTS = ("introduced", "fixed", "last_affected", "limit")
_WORDS = {
    "negligible": "Negligible", "unimportant": "Negligible", "low": "Low", "minor": "Low",
    "moderate": "Medium", "medium": "Medium", "important": "High", "high": "High",
    "critical": "Critical",
}  # fmt: skip


def parse(document: Any) -> Advisory:
    """One OSV document.

    Raises:
        BadRequest: it has no id, or a part is of another type than the schema says.
    """
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        raise BadRequest("an OSV document has no id")
    try:
        severity, score = _severity(document)
        return Advisory(
            id=document["id"],
            summary=str(document.get("summary") or document.get("details") or "")[:500],
            aliases=tuple(document.get("aliases") or ()),
            severity=severity,
            score=score,
            modified=str(document.get("modified") or ""),
            withdrawn=str(document.get("withdrawn") or ""),
            link=_link(document),
            affected=tuple(
                each for entry in document.get("affected") or () if (each := _affected(entry))
            ),
        )
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise BadRequest(f"OSV document {document['id']}: {error!r}") from error


def _affected(entry: Mapping[str, Any]) -> Affected | None:
    package = entry.get("package")
    if not package:
        return None
    ecosystem, name = package["ecosystem"], package["name"]
    order = ecosystems.order_of(ecosystem)
    if ecosystem == "PyPI":
        name = ecosystems.normalised("pypi", name)
    return Affected(
        ecosystem,
        name,
        tuple(
            Range(
                "semver" if each["type"] == "SEMVER" else order,
                tuple(
                    (kind, str(event[kind]))
                    for event in each["events"]
                    for kind in _EVENTS
                    if kind in event
                ),
            )
            for each in entry.get("ranges") or ()
            if each["type"] != "GIT"
        ),
        tuple(sorted(set(entry.get("versions") or ()))),
    )


def _severity(document: Mapping[str, Any]) -> tuple[str, float]:
    """The worst severity that the advisory, or one of its parts, gives."""
    scores = [
        cvss.score(each["score"])
        for holder in (document, *(document.get("affected") or ()))
        for each in holder.get("severity") or ()
        if str(each.get("type", "")).startswith("CVSS")
    ]
    best = max(scores, default=0.0)
    if best:
        return cvss.rating(best), best
    for holder in (document, *(document.get("affected") or ())):
        for part in ("database_specific", "ecosystem_specific"):
            said = holder.get(part) or {}
            word = str(said.get("severity") or said.get("urgency") or "").lower()
            if word in _WORDS:
                return _WORDS[word], 0.0
    return "Unknown", 0.0


def _link(document: Mapping[str, Any]) -> str:
    references = document.get("references") or ()
    advisories = [each.get("url", "") for each in references if each.get("type") == "ADVISORY"]
    return str(next(iter([*advisories, *(each.get("url", "") for each in references)]), ""))
