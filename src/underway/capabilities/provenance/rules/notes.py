"""Grafeas notes and occurrences as JSON: their kinds, names, checks and changes by field mask.

Source: grafeas ``proto/v1/grafeas.proto`` and ``proto/v1/common.proto``; proto3 JSON mapping.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from underway.base.errors import BadRequest

Json = dict[str, Any]

KINDS = {
    "VULNERABILITY": "vulnerability",
    "BUILD": "build",
    "IMAGE": "image",
    "PACKAGE": "package",
    "DEPLOYMENT": "deployment",
    "DISCOVERY": "discovery",
    "ATTESTATION": "attestation",
    "UPGRADE": "upgrade",
    "COMPLIANCE": "compliance",
    "DSSE_ATTESTATION": "dsseAttestation",
    "VULNERABILITY_ASSESSMENT": "vulnerabilityAssessment",
    "SBOM_REFERENCE": "sbomReference",
    "SECRET": "secret",
}
"""Kind -> the member that holds what is said; notes and occurrences alike."""
_COMMON = {"name", "kind", "createTime", "updateTime"}
_NOTE = _COMMON | {
    "shortDescription", "longDescription", "relatedUrl", "expirationTime", "relatedNoteNames",
}  # fmt: skip
_OCCURRENCE = _COMMON | {"resourceUri", "noteName", "remediation", "envelope"}
_FIXED = {"name", "kind", "createTime", "updateTime"}
_ID = re.compile(r"[A-Za-z0-9_.~%+:-]{1,256}\Z")
_NOTE_NAME = re.compile(r"projects/([^/]+)/notes/([^/]+)\Z")
SEVERITIES = {
    "Negligible": "MINIMAL",
    "Low": "LOW",
    "Medium": "MEDIUM",
    "High": "HIGH",
    "Critical": "CRITICAL",
}
"""The scanner's words -> Grafeas'; another is SEVERITY_UNSPECIFIED."""


def camel(name: str) -> str:
    """A field's name as proto3 JSON has it: ``note_name`` is ``noteName``."""
    head, *tail = name.split("_")
    return head + "".join(each[:1].upper() + each[1:] for each in tail)


def check_id(value: str, what: str) -> str:
    """An id that may stand in a name.

    Raises:
        BadRequest: it may not.
    """
    if not _ID.match(value):
        raise BadRequest(f"{what} {value!r} is no id: letters, digits and _.~%+:- only")
    return value


def note_key(name: str) -> tuple[str, str]:
    """Project and id from ``projects/P/notes/N``.

    Raises:
        BadRequest: it is no note's name.
    """
    found = _NOTE_NAME.match(name)
    if found is None:
        raise BadRequest(f"{name!r} is no note: projects/PROJECT/notes/NOTE")
    return found[1], found[2]


def checked_note(value: Any) -> Json:
    """A note as it is stored, without name and times.

    Raises:
        BadRequest: it has not exactly one kind's member, or an unknown one.
    """
    return _checked(value, _NOTE, "note")


def checked_occurrence(value: Any) -> Json:
    """An occurrence as it is stored, without name and times.

    Raises:
        BadRequest: it lacks resource, note or kind, or has an unknown member.
    """
    found = _checked(value, _OCCURRENCE, "occurrence")
    if not isinstance(found.get("resourceUri"), str) or not found["resourceUri"]:
        raise BadRequest("an occurrence needs a resourceUri")
    note_key(str(found.get("noteName") or ""))
    return found


def _checked(value: Any, common: set[str], what: str) -> Json:
    if not isinstance(value, dict):
        raise BadRequest(f"the {what} is no object")
    members = {camel(name): each for name, each in value.items()}
    kinds = [kind for kind, member in KINDS.items() if member in members]
    if len(kinds) != 1:
        raise BadRequest(f"the {what} has {len(kinds)} kinds of content instead of one")
    unknown = members.keys() - common - {KINDS[kinds[0]]}
    if unknown:
        raise BadRequest(f"a {what} has no member {min(unknown)}")
    said = members.get("kind")
    if said not in (None, "", "NOTE_KIND_UNSPECIFIED", kinds[0]):
        raise BadRequest(f"the {what} says it is {said} and holds {kinds[0]}")
    if not isinstance(members[KINDS[kinds[0]]], dict):
        raise BadRequest(f"{KINDS[kinds[0]]} is no object")
    kept = {name: each for name, each in members.items() if name not in _FIXED}
    return {**kept, "kind": kinds[0]}


def changed(old: Mapping[str, Any], new: Any, mask: Iterable[str]) -> Json:
    """An object with the members a mask names taken from ``new``; all that it has without a mask.

    Raises:
        BadRequest: ``new`` is no object, or the mask names what cannot be changed.
    """
    if not isinstance(new, dict):
        raise BadRequest("the change is no object")
    members = {camel(name): each for name, each in new.items()}
    paths = [".".join(camel(part) for part in path.split(".")) for path in mask if path]
    if paths in ([], ["*"]):
        paths = [name for name in members if name not in _FIXED]
    result: Json = dict(old)
    for path in paths:
        parts = path.split(".")
        if parts[0] in _FIXED:
            raise BadRequest(f"{path} cannot be changed")
        _copy(result, members, parts)
    return {name: each for name, each in result.items() if name not in _FIXED - {"kind"}}


def _copy(into: Json, source: Any, parts: list[str]) -> None:
    name, rest = parts[0], parts[1:]
    inner = source.get(name) if isinstance(source, dict) else None
    if not rest:
        if inner is None:
            into.pop(name, None)
        else:
            into[name] = inner
        return
    before = into.get(name)
    into[name] = dict(before) if isinstance(before, dict) else {}
    _copy(into[name], inner, rest)


def vulnerability_summary(occurrences: Iterable[Mapping[str, Any]]) -> Json:
    """Counts by resource and severity, and how many of them can be fixed."""
    total: Counter[tuple[str, str]] = Counter()
    fixable: Counter[tuple[str, str]] = Counter()
    for each in occurrences:
        said = each.get("vulnerability") or {}
        severity = said.get("effectiveSeverity") or said.get("severity")
        key = (each.get("resourceUri", ""), severity or "SEVERITY_UNSPECIFIED")
        total[key] += 1
        issues = said.get("packageIssue") or []
        fixable[key] += any(issue.get("fixAvailable") for issue in issues)
    counts = [
        {
            "resourceUri": resource,
            "severity": severity,
            "fixableCount": str(fixable[resource, severity]),
            "totalCount": str(count),
        }
        for (resource, severity), count in sorted(total.items())
    ]
    return {"counts": counts}
