"""Bills of materials: an inventory as CycloneDX or SPDX, and back.

Source: CycloneDX 1.6 (ECMA-424) JSON; SPDX 2.3 JSON, sections 6, 7 and 11.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from underway.base.errors import BadRequest
from underway.capabilities.scan.model import Distribution, Inventory, Package
from underway.capabilities.scan.rules.ecosystems import purl

CYCLONEDX_MEDIA_TYPE = "application/vnd.cyclonedx+json"
SPDX_MEDIA_TYPE = "application/spdx+json"
_PURL = re.compile(
    r"pkg:(?P<type>[a-z]+)/(?P<path>[^@?#]+)(?:@(?P<version>[^?#]+))?(?:\?(?P<query>[^#]*))?"
)
_DISTRIBUTION_TYPES = frozenset({"deb", "rpm", "apk"})


def cyclonedx(inventory: Inventory, name: str, digest: str, when: str) -> dict[str, Any]:
    """The inventory as CycloneDX; the same inventory and time give the same document."""
    distribution = inventory.distribution
    components: list[dict[str, Any]] = []
    if distribution.id:
        components.append({
            "type": "operating-system", "bom-ref": f"os:{distribution.id}", "name": distribution.id,
            "version": distribution.version,
        })  # fmt: skip
    for package in inventory.packages:
        url = purl(package, distribution)
        components.append({
            "type": "library", "bom-ref": f"{url}#{package.location}", "name": package.name,
            "version": package.version, "purl": url,
            "properties": [
                {"name": f"underway:{key}", "value": value}
                for key, value in _particulars(package) if value
            ],
        })  # fmt: skip
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_identity(name, digest, when)}",
        "version": 1,
        "metadata": {
            "timestamp": when,
            "tools": {"components": [{"type": "application", "name": "underway"}]},
            "component": {
                "type": "container",
                "bom-ref": "subject",
                "name": name,
                "version": digest,
            },
        },
        "components": components,
    }  # fmt: skip


def _particulars(package: Package) -> list[tuple[str, str]]:
    return [
        ("location", package.location), ("layer", package.layer), ("source", package.source),
        ("sourceVersion", package.source_version),
    ]  # fmt: skip


def _identity(*parts: str) -> uuid.UUID:
    """A UUID made of what the document is about, so that the same is the same."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "\0".join(parts))


def spdx(inventory: Inventory, name: str, digest: str, when: str) -> dict[str, Any]:
    """The inventory as SPDX; the same inventory and time give the same document."""
    packages: list[dict[str, Any]] = [
        {"SPDXID": "SPDXRef-image", "name": name, "versionInfo": digest, "filesAnalyzed": False,
         "downloadLocation": "NOASSERTION", "primaryPackagePurpose": "CONTAINER"},
    ]  # fmt: skip
    distribution = inventory.distribution
    if distribution.id:
        packages.append({
            "SPDXID": "SPDXRef-os", "name": distribution.id, "versionInfo": distribution.version,
            "filesAnalyzed": False, "downloadLocation": "NOASSERTION",
            "primaryPackagePurpose": "OPERATING-SYSTEM",
        })  # fmt: skip
    for package in inventory.packages:
        url = purl(package, distribution)
        short = hashlib.sha256(f"{url}\0{package.location}".encode()).hexdigest()[:16]
        entry: dict[str, Any] = {
            "SPDXID": f"SPDXRef-{package.type}-{short}", "name": package.name,
            "versionInfo": package.version, "filesAnalyzed": False,
            "downloadLocation": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                              "referenceLocator": url}],
        }  # fmt: skip
        if package.location:
            entry["sourceInfo"] = f"acquired from {package.location}"
        if package.source_version:
            entry["comment"] = f"source version {package.source_version}"
        packages.append(entry)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:uuid:{_identity('spdx', name, digest, when)}",
        "creationInfo": {"created": when, "creators": ["Tool: underway"]},
        "packages": packages,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
             "relatedSpdxElement": "SPDXRef-image"},
            *({"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS",
               "relatedSpdxElement": each["SPDXID"]} for each in packages[1:]),
        ],
    }  # fmt: skip


def parse(document: Any) -> tuple[Inventory, str]:
    """What a bill of materials lists, ours or another tool's, and the name of its subject.

    Raises:
        BadRequest: it is neither CycloneDX nor SPDX.
    """
    if isinstance(document, dict) and document.get("bomFormat") == "CycloneDX":
        return _from_cyclonedx(document)
    if isinstance(document, dict) and str(document.get("spdxVersion", "")).startswith("SPDX-2"):
        return _from_spdx(document)
    raise BadRequest("neither a CycloneDX nor an SPDX 2 document")


def _from_cyclonedx(document: Mapping[str, Any]) -> tuple[Inventory, str]:
    distribution = Distribution()
    packages: list[Package] = []
    pending = list(document.get("components") or ())
    while pending:
        component = pending.pop(0)
        pending += component.get("components") or ()
        if component.get("type") == "operating-system":
            distribution = Distribution(
                str(component.get("name", "")).lower(), str(component.get("version", ""))
            )
        properties = {
            str(each.get("name", "")).rpartition(":")[2]: str(each.get("value", ""))
            for each in component.get("properties") or ()
        }
        package = _from_purl(str(component.get("purl") or ""), properties)
        if package is not None:
            packages.append(package)
    subject = (document.get("metadata") or {}).get("component") or {}
    distribution = _guessed(distribution, document.get("components") or ())
    return Inventory(distribution, tuple(packages)), str(subject.get("name") or "")


def _guessed(known: Distribution, components: Any) -> Distribution:
    """The distribution that package URLs name, where the document does not say it itself."""
    if known.id:
        return known
    for component in components:
        distro = re.search(r"[?&]distro=([a-z]+)-([\w.]+)", str(component.get("purl") or ""))
        if distro:
            return Distribution(distro[1], distro[2])
    return known


def _from_spdx(document: Mapping[str, Any]) -> tuple[Inventory, str]:
    distribution, packages = Distribution(), []
    as_components = []
    for entry in document.get("packages") or ():
        version = str(entry.get("versionInfo") or "")
        if entry.get("primaryPackagePurpose") in ("OPERATING-SYSTEM", "OPERATING_SYSTEM"):
            distribution = Distribution(str(entry.get("name", "")).lower(), version)
        for reference in entry.get("externalRefs") or ():
            if reference.get("referenceType") == "purl":
                url = str(reference.get("referenceLocator") or "")
                as_components.append({"purl": url})
                comment = re.fullmatch(r"source version (\S+)", str(entry.get("comment") or ""))
                properties = {"sourceVersion": comment[1]} if comment else {}
                package = _from_purl(url, properties)
                if package is not None:
                    packages.append(package)
    return (
        Inventory(_guessed(distribution, as_components), tuple(packages)),
        str(document.get("name") or ""),
    )


def _from_purl(url: str, properties: Mapping[str, str]) -> Package | None:
    match = _PURL.fullmatch(url)
    if match is None or not match["version"]:
        return None
    query = dict(
        each.partition("=")[::2] for each in unquote(match["query"] or "").split("&") if each
    )
    parts = [unquote(each) for each in match["path"].split("/")]
    kind, name = match["type"], parts[-1]
    if kind == "maven" and len(parts) > 1:
        name = f"{'/'.join(parts[:-1])}:{name}"
    elif kind not in _DISTRIBUTION_TYPES and len(parts) > 1:
        name = "/".join(parts)
    version = unquote(match["version"])
    if kind == "rpm" and query.get("epoch") and ":" not in version:
        version = f"{query['epoch']}:{version}"
    upstream, _, upstream_version = query.get("upstream", "").partition("@")
    return Package(
        kind, name, version, query.get("arch", ""),
        properties.get("source") or upstream or (name if kind == "deb" else ""),
        properties.get("sourceVersion") or upstream_version, properties.get("location", ""),
        properties.get("layer", ""),
    )  # fmt: skip
