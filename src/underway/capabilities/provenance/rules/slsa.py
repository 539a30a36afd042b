"""SLSA provenance of an image, its in-toto links, and what Grafeas is told of it.

Source: slsa.dev/spec/v1.0/provenance; in-toto/attestation link v0.3; grafeas proto/v1.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from underway.capabilities.provenance.rules.metadata import Link
from underway.capabilities.provenance.rules.notes import SEVERITIES, Json
from underway.kit.ports import ScanSummary, ShippedImage, Signed
from underway.wire import oci

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://underway.dev/build/v1"
BUILDER = "https://underway.dev/builder/v1"
PROJECT = "underway"
"""The Grafeas project of what the platform itself notes."""


def predicate(image: ShippedImage) -> Json:
    """The provenance: what the image was built from, by whom and when."""
    source = dict(image.source)
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {**image.parameters, "source": source},
            "internalParameters": {},
            "resolvedDependencies": dependencies(image),
        },
        "runDetails": {
            "builder": {"id": BUILDER},
            "metadata": {
                "invocationId": f"{image.digest}/{image.started_at}",
                "startedOn": image.started_at,
                "finishedOn": image.finished_at,
            },
        },
    }


def dependencies(image: ShippedImage) -> list[Json]:
    """Source and base images, each with its digest."""
    source = image.source
    found: list[Json] = []
    if source.get("digest"):
        found.append({"name": "source", "digest": _digests(source["digest"])})
    if source.get("commit"):
        repository = source.get("repository", "")
        uri = f"git+{repository}@{source['commit']}" if repository else "git+file:///"
        found.append({"name": "commit", "uri": uri, "digest": {"gitCommit": source["commit"]}})
    for reference, digest in sorted(image.materials.items()):
        found.append({"name": "base", "uri": f"oci://{reference}", "digest": _digests(digest)})
    return found


def links(image: ShippedImage) -> list[Link]:
    """The links of the steps ``build`` and ``ship``."""
    name = product_name(image)
    materials = {
        reference: _digests(digest) for reference, digest in sorted(image.materials.items())
    }
    if image.source.get("digest"):
        materials["source"] = _digests(image.source["digest"])
    product = {name: _digests(image.digest)}
    return [
        Link("build", materials, product, ("underway", "build")),
        Link("ship", product, product, ("underway", "ship")),
    ]


def product_name(image: ShippedImage) -> str:
    """The image's repository without registry and tag: what links call it."""
    return oci.Reference.parse(image.reference).repository


def resource(reference: str, digest: str) -> str:
    """An image as Grafeas names resources: ``https://registry/repository@digest``."""
    return f"https://{oci.Reference.parse(reference).name}@{digest}"


def built_notes(image: ShippedImage, attached: tuple[Signed, ...]) -> dict[str, tuple[Json, Json]]:
    """Build and attestations: note id -> the note and its occurrence without ``noteName``."""
    statement = {
        "type": "https://in-toto.io/Statement/v1",
        "predicateType": PREDICATE,
        "subject": [{"name": product_name(image), "digest": _digests(image.digest)}],
        "predicate": predicate(image),
    }
    found = {
        "build": (
            {"shortDescription": "built by Underway", "build": {"builderVersion": BUILDER}},
            {"build": {"inTotoSlsaProvenanceV1": statement}},
        )
    }
    if attached:
        # The signatures' bytes stay with the image; here stands where, and by which keys.
        signatures = [{"publicKeyId": each.key_id} for each in attached]
        payload = "\n".join((image.digest, *(each.digest for each in attached))).encode()
        found["attestation"] = (
            {"attestation": {"hint": {"humanReadableName": "underway"}}},
            {"attestation": {"serializedPayload": _base64(payload), "signatures": signatures}},
        )
    return found


def scan_notes(scan: ScanSummary) -> dict[str, tuple[Json, Json]]:
    """Discovery, SBOM and vulnerabilities: note id -> the note and its occurrence."""
    status = {"complete": "FINISHED_SUCCESS", "stale": "FINISHED_SUCCESS"}
    found: dict[str, tuple[Json, Json]] = {
        "discovery": (
            {"discovery": {"analysisKind": "VULNERABILITY"}},
            {
                "discovery": {
                    "continuousAnalysis": "ACTIVE",
                    "analysisStatus": status.get(scan.status, "FINISHED_UNSUPPORTED"),
                }
            },
        )
    }
    if scan.sbom_digest:
        found["sbom"] = (
            {"sbomReference": {"format": "CycloneDX", "version": "1.6"}},
            {
                "sbomReference": {
                    "payload": {
                        "type": "https://in-toto.io/Statement/v1",
                        "predicateType": "https://grafeas.io/sbom/v0.1",
                        "predicate": {"digest": _digests(scan.sbom_digest)},
                        "subject": [{"digest": _digests(scan.digest)}],
                    },
                    "payloadType": "application/vnd.in-toto+json",
                }
            },
        )
    for each in scan.found or ():
        severity = SEVERITIES.get(each.severity, "SEVERITY_UNSPECIFIED")
        issue: Json = {
            "affectedPackage": each.package,
            "affectedVersion": _version(each.version),
            "fixedVersion": _version(each.fixed) if each.fixed else {"kind": "MAXIMUM"},
            "fixAvailable": bool(each.fixed),
            "effectiveSeverity": severity,
        }
        note_id = each.id.replace("/", "-")
        _, said = found.setdefault(
            note_id,
            (
                {"shortDescription": each.id, "vulnerability": {"severity": severity}},
                {
                    "vulnerability": {
                        "shortDescription": each.id,
                        "severity": severity,
                        "effectiveSeverity": severity,
                        "fixAvailable": False,
                        "packageIssue": [],
                    }
                },
            ),
        )
        said["vulnerability"]["packageIssue"].append(issue)
        said["vulnerability"]["fixAvailable"] |= bool(each.fixed)
    return found


def deployment_note(uri: str, place: str, now: str) -> tuple[Json, Json]:
    """That an image runs: the note and its occurrence."""
    return (
        {"shortDescription": "runs on Underway", "deployment": {"resourceUri": ["*"]}},
        {"deployment": {"deployTime": now, "address": place, "resourceUri": [uri]}},
    )


def occurrence_id(resource_uri: str, note_id: str, extra: str = "") -> str:
    """The same for the same finding, so that noting it again changes nothing."""
    return hashlib.sha256(f"{resource_uri}\0{note_id}\0{extra}".encode()).hexdigest()[:32]


def _digests(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


def _version(text: str) -> Json:
    return {"kind": "NORMAL", "name": text, "fullName": text}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def described(statement: Any) -> str:
    """One line about an in-toto statement."""
    predicate_type = str(statement.get("predicateType", ""))
    return "SLSA provenance v1" if predicate_type == PREDICATE else predicate_type
