"""Clair's documents: index reports, vulnerability reports, notifications.

Source: Clair v4 ``httptransport/api/v1/openapi.yaml`` 1.2.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.scan.model import Distribution, Inventory, Match, Package, Report
from underway.wire import oci

LAYERS_LIMIT = 512


def parse_manifest(value: Any) -> tuple[str, list[dict[str, Any]]]:
    """The digest and the layers (``hash``, ``uri``, ``headers``) of a manifest to index.

    Raises:
        BadRequest: it is not of that form.
    """
    if not isinstance(value, dict) or not oci.is_digest(str(value.get("hash"))):
        raise BadRequest("a manifest has a hash and layers")
    layers = value.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= LAYERS_LIMIT:
        raise BadRequest(f"a manifest has between 1 and {LAYERS_LIMIT} layers")
    for layer in layers:
        if not isinstance(layer, dict) or not oci.is_digest(str(layer.get("hash"))):
            raise BadRequest("a layer has a hash that is a digest")
        if not str(layer.get("uri")).startswith(("http://", "https://")):
            raise BadRequest(f"layer {layer['hash']}: its uri is no http address")
        headers = layer.get("headers") or {}
        if not isinstance(headers, dict) or not all(
            isinstance(each, list) for each in headers.values()
        ):
            raise BadRequest(f"layer {layer['hash']}: headers are lists of values by name")
    return str(value["hash"]), layers


def index_report(digest: str, inventory: Inventory) -> dict[str, Any]:
    """What an image contains."""
    distributions, environments, packages = {}, {}, {}
    known = inventory.distribution
    distribution_id = _id("distribution", known.id, known.version) if known.id else ""
    if known.id:
        distributions[distribution_id] = _distribution(distribution_id, known)
    for package in inventory.packages:
        id_ = package_id(package)
        packages[id_] = _package(id_, package)
        environments[id_] = [{
            "package_db": package.location,
            "introduced_in": package.layer,
            "distribution_id": distribution_id if package.source else "",
            "repository_ids": [],
        }]  # fmt: skip
    return {
        "manifest_hash": digest, "state": "IndexFinished", "success": True, "err": "",
        "packages": packages, "distributions": distributions, "repository": {},
        "environments": environments,
    }  # fmt: skip


def vulnerability_report(report: Report) -> dict[str, Any]:
    """What is wrong with an image. ``enrichments`` says how complete that is."""
    found = index_report(report.digest, report.inventory)
    vulnerabilities: dict[str, Any] = {}
    by_package: dict[str, list[str]] = {}
    for match in report.matches:
        id_ = _id("vulnerability", match.advisory.id, match.package.name, match.fixed)
        vulnerabilities[id_] = _vulnerability(id_, match)
        by_package.setdefault(package_id(match.package), []).append(id_)
    return {
        **{key: found[key] for key in ("manifest_hash", "packages", "distributions", "repository",
                                       "environments")},
        "vulnerabilities": vulnerabilities,
        "package_vulnerabilities": by_package,
        "enrichments": {
            "message/vnd.underway.status; enricher=underway.status": [
                {"status": report.status, "reasons": list(report.reasons),
                 "advisories_updated_at": report.advisories_updated_at},
            ],
        },
    }  # fmt: skip


def page(items: Sequence[Mapping[str, Any]], size: int, after: str) -> dict[str, Any]:
    """One page of a notification's items, each with an ``id``."""
    ids = [str(each["id"]) for each in items]
    start = ids.index(after) + 1 if after in ids else 0
    shown = items[start : start + size]
    next_ = str(shown[-1]["id"]) if start + size < len(items) and shown else ""
    head: dict[str, Any] = {"size": size}
    if next_:
        head["next"] = next_
    return {"page": head, "notifications": list(shown)}


def notification(digest: str, match: Match, reason: str = "added") -> dict[str, Any]:
    """What a notification tells of one newly found match."""
    return {
        "id": _id("notification", digest, match.advisory.id, package_id(match.package)),
        "manifest": digest,
        "reason": reason,
        "vulnerability": {
            "name": match.advisory.id,
            "description": match.advisory.summary,
            "package": _package(package_id(match.package), match.package),
            "normalized_severity": match.advisory.severity,
            "severity": match.advisory.severity,
            "fixed_in_version": match.fixed,
            "links": match.advisory.link,
        },
    }


def package_id(package: Package) -> str:
    """The same package at the same place always has the same id."""
    return _id("package", package.type, package.name, package.version, package.location)


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _package(id_: str, package: Package) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": id_, "name": package.name, "version": package.version, "kind": "binary",
        "arch": package.arch, "module": "", "cpe": "", "normalized_version": "",
    }  # fmt: skip
    if package.source:
        value["source"] = {
            "id": f"{id_}s", "name": package.source, "kind": "source",
            "version": package.source_version or package.version,
        }  # fmt: skip
    return value


def _distribution(id_: str, known: Distribution) -> dict[str, Any]:
    return {
        "id": id_, "did": known.id, "name": known.name or known.id, "version": known.version,
        "version_code_name": known.codename, "version_id": known.version, "arch": "", "cpe": "",
        "pretty_name": known.name,
    }  # fmt: skip


def _vulnerability(id_: str, match: Match) -> dict[str, Any]:
    advisory = match.advisory
    return {
        "id": id_, "updater": "underway", "name": advisory.id, "description": advisory.summary,
        "issued": advisory.modified, "links": advisory.link, "severity": advisory.severity,
        "normalized_severity": advisory.severity, "fixed_in_version": match.fixed,
        "package": _package(package_id(match.package), match.package),
    }  # fmt: skip
