"""Advisories in the forms distributions publish them: Alpine's secdb, Debian's tracker, CSAF,
and the changelogs of Debian's packages.

Each reader gives OSV-like advisories, so that there is one way of matching.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.scan.model import Advisory, Affected, Range

_CVE = re.compile(r"CVE-\d{4}-\d{4,}|GHSA(?:-[0-9a-z]{4}){3}|XSA-\d+|ALPINE-\d+")
_URGENCIES = {
    "unimportant": "Negligible", "low": "Low", "low**": "Low", "medium": "Medium",
    "medium**": "Medium", "high": "High", "high**": "High", "not yet assigned": "Unknown",
    "end-of-life": "Unknown",
}  # fmt: skip
_WORST = {"critical": "Critical", "important": "High", "high": "High", "moderate": "Medium",
          "medium": "Medium", "low": "Low"}  # fmt: skip


def alpine(document: Mapping[str, Any]) -> Iterator[Advisory]:
    """Alpine's secdb: package -> version that fixes -> ids. Version 0 means never affected.

    Source: Alpine secdb ``main.yaml``/``main.json`` (distroversion, packages[].pkg.secfixes).
    """
    release = f"Alpine:{document['distroversion']}"
    by_id: dict[str, list[Affected]] = {}
    clear: dict[str, list[tuple[str, str]]] = {}
    for entry in document.get("packages") or ():
        package = entry["pkg"]
        for version, ids in (package.get("secfixes") or {}).items():
            for id_ in _ids(ids):
                if str(version) == "0":
                    clear.setdefault(id_, []).append((release, package["name"]))
                    continue
                events = (("introduced", "0"), ("fixed", str(version)))
                affected = Affected(release, package["name"], (Range("apk", events),))
                by_id.setdefault(id_, []).append(affected)
    for id_ in sorted({*by_id, *clear}):
        yield Advisory(
            id_, affected=tuple(by_id.get(id_, ())), not_affected=tuple(clear.get(id_, ()))
        )


def _ids(words: Any) -> list[str]:
    found = [match for word in words or () for match in _CVE.findall(str(word))]
    return list(dict.fromkeys(found))


def debian_tracker(document: Mapping[str, Any], releases: Mapping[str, str]) -> Iterator[Advisory]:
    """Debian's security tracker: source package -> id -> codename; ``releases`` gives its number.

    Source: security-tracker.debian.org ``data/json``.
    """
    by_id: dict[str, list[Affected]] = {}
    clear: dict[str, list[tuple[str, str]]] = {}
    facts: dict[str, tuple[str, str]] = {}
    for package, entries in document.items():
        for id_, entry in entries.items():
            for codename, state in (entry.get("releases") or {}).items():
                if codename not in releases:
                    continue
                ecosystem = f"Debian:{releases[codename]}"
                fixed = state.get("fixed_version")
                if fixed == "0":
                    clear.setdefault(id_, []).append((ecosystem, package))
                    continue
                events = (("introduced", "0"), *((("fixed", fixed),) if fixed else ()))
                affected = Affected(ecosystem, package, (Range("dpkg", events),))
                by_id.setdefault(id_, []).append(affected)
                severity = _URGENCIES.get(state.get("urgency", ""), "Unknown")
                facts[id_] = (severity, str(entry.get("description") or "")[:500])
    for id_ in sorted({*by_id, *clear}):
        severity, summary = facts.get(id_, ("Unknown", ""))
        yield Advisory(
            id_, summary, severity=severity, affected=tuple(by_id.get(id_, ())),
            not_affected=tuple(clear.get(id_, ())),
        )  # fmt: skip


_HEADING = re.compile(r"^(?P<source>[a-z0-9][a-z0-9+.-]+) \((?P<version>[^()\s]+)\) ", re.MULTILINE)


def debian_changelog(text: str) -> Iterator[tuple[str, str, str]]:
    """(source package, version, id) of each fix that a Debian changelog mentions.

    Source: Debian Policy 4.4.
    """
    headings = list(_HEADING.finditer(text))
    for index, heading in enumerate(headings):
        end = headings[index + 1].start() if index + 1 < len(headings) else len(text)
        for id_ in dict.fromkeys(_CVE.findall(text, heading.end(), end)):
            yield heading["source"], heading["version"], id_


def from_changelogs(found: Mapping[tuple[str, str], str], ecosystem: str) -> Iterator[Advisory]:
    """Advisories from (source package, id) -> the version that fixed it first."""
    by_id: dict[str, list[Affected]] = {}
    for (package, id_), version in found.items():
        events = (("introduced", "0"), ("fixed", version))
        by_id.setdefault(id_, []).append(Affected(ecosystem, package, (Range("dpkg", events),)))
    for id_, affected in sorted(by_id.items()):
        yield Advisory(id_, "fixed according to the package's changelog", affected=tuple(affected))


_CPE_RHEL = re.compile(r"cpe:/[ao]:redhat:(?:enterprise_linux|rhel\w*):(\d+)")
_PURL = re.compile(r"pkg:rpm/[^/]+/([^@?]+)(?:@([^?]+))?(?:\?(.*))?")
_NEVRA = re.compile(r"(?P<name>.+)-(?P<evr>(?:\d+:)?[^-]+-[^-]+)\.(?P<arch>[\w]+)")


def csaf(document: Mapping[str, Any]) -> Iterator[Advisory]:
    """A CSAF 2.0 advisory or VEX document of an RPM distribution.

    Products are relationships "component of platform"; a fixed component's name and version are
    those of its package URL, else of its NEVRA.
    Source: OASIS CSAF 2.0, sections 3.2.2 (product tree) and 3.2.3 (vulnerabilities).

    Raises:
        BadRequest: it is no CSAF document.
    """
    header = document.get("document") or {}
    if not str(header.get("csaf_version", "")).startswith("2."):
        raise BadRequest("no CSAF 2.0 document")
    products = _products(document.get("product_tree") or {})
    severity = _WORST.get(
        str((header.get("aggregate_severity") or {}).get("text", "")).lower(), "Unknown"
    )
    modified = str((header.get("tracking") or {}).get("current_release_date") or "")
    for vulnerability in document.get("vulnerabilities") or ():
        status = vulnerability.get("product_status") or {}
        affected: list[Affected] = []
        for product in status.get("fixed") or ():
            for ecosystem, name, version in products.get(product, ()):
                if version:
                    events = (("introduced", "0"), ("fixed", version))
                    affected.append(Affected(ecosystem, name, (Range("rpm", events),)))
        for product in status.get("known_affected") or ():
            for ecosystem, name, _ in products.get(product, ()):
                affected.append(Affected(ecosystem, name, (Range("rpm", (("introduced", "0"),)),)))
        clear = [
            (ecosystem, name)
            for product in status.get("known_not_affected") or ()
            for ecosystem, name, _ in products.get(product, ())
        ]
        id_ = str(vulnerability.get("cve") or (header.get("tracking") or {}).get("id") or "")
        if id_ and (affected or clear):
            yield Advisory(
                id_, str(vulnerability.get("title") or header.get("title") or "")[:500],
                severity=severity, modified=modified, affected=tuple(dict.fromkeys(affected)),
                not_affected=tuple(dict.fromkeys(clear)),
            )  # fmt: skip


def _products(tree: Mapping[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """Product id -> (ecosystem, package, version)."""
    named: dict[str, Mapping[str, Any]] = {}
    pending = list(tree.get("branches") or ())
    while pending:
        branch = pending.pop()
        pending += branch.get("branches") or ()
        product = branch.get("product")
        if product:
            named[product["product_id"]] = product
    found: dict[str, list[tuple[str, str, str]]] = {}
    for relation in tree.get("relationships") or ():
        component = named.get(relation.get("product_reference", ""))
        platform = named.get(relation.get("relates_to_product_reference", ""))
        whole = relation.get("full_product_name") or {}
        ecosystem = _platform(platform)
        if component is None or not ecosystem or "product_id" not in whole:
            continue
        name, version = _component(component)
        if name:
            found.setdefault(whole["product_id"], []).append((ecosystem, name, version))
    return found


def _platform(product: Mapping[str, Any] | None) -> str:
    helper = (product or {}).get("product_identification_helper") or {}
    match = _CPE_RHEL.search(str(helper.get("cpe") or ""))
    return f"Red Hat:{match[1]}" if match else ""


def _component(product: Mapping[str, Any]) -> tuple[str, str]:
    helper = product.get("product_identification_helper") or {}
    purl = re.fullmatch(
        r"pkg:rpm/[^/]+/([^@?]+)(?:@([^?]+))?(?:\?(.*))?", str(helper.get("purl") or "")
    )
    if purl:
        epoch = re.search(r"(?:^|&)epoch=(\d+)", purl[3] or "")
        version = purl[2] or ""
        return purl[1], f"{epoch[1]}:{version}" if epoch and version else version
    nevra = _NEVRA.fullmatch(str(product.get("name") or ""))
    return (nevra["name"], nevra["evr"]) if nevra else (str(product.get("name") or ""), "")
