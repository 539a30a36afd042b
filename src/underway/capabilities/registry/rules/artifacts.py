"""What a manifest says about its artifact.

Source: opencontainers/image-spec 1.1 (manifest, index, artifact usage); goharbor/harbor, the types
of its artifacts and accessories; sigstore/cosign's tag scheme.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from underway.capabilities.registry.model import Stored
from underway.capabilities.registry.rules import distribution
from underway.wire import oci

_COSIGN_TAG = re.compile(r"sha256-([0-9a-f]{64})\.(sig|att|sbom)")
_IMAGE_CONFIGS = (oci.CONFIG, oci.DOCKER_CONFIG)
_HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_NAMED = re.compile(r"application/vnd\.(?:[a-z0-9-]+\.)*?([a-z0-9-]+)(?:\.config|\.manifest)?\.v")
_ACCESSORIES = {
    "application/vnd.dev.cosign.artifact.sig.v1+json": "signature.cosign",
    "application/vnd.dev.sigstore.bundle.v0.3+json": "signature.cosign",
    "application/vnd.cncf.notary.signature": "signature.notation",
    "application/vnd.goharbor.harbor.sbom.v1": "sbom.harbor",
    "application/vnd.nydus.image.v1": "accelerator.nydus",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A ``blob`` or ``manifest`` that a manifest names; ``size`` in bytes."""

    digest: str
    kind: str
    size: int
    platform: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """``size`` is of the manifest and all it names, each once, in bytes."""

    type: str
    artifact_type: str
    config_digest: str
    subject: str
    size: int
    parts: Sequence[Part]
    annotations: Mapping[str, str] = field(default_factory=dict)


def describe(stored: Stored, tags: Sequence[str] = ()) -> Described:
    """What a manifest, which was checked, says."""
    content = msgspec.json.decode(stored.data)
    parts = {each.digest: Part(each.digest, "blob", each.size_bytes)
             for each in distribution.blobs_of(content)}  # fmt: skip
    raw = content.get("manifests") or []
    for descriptor, entry in zip(distribution.manifests_of(content), raw, strict=True):
        platform = entry.get("platform")
        parts[descriptor.digest] = Part(
            descriptor.digest, "manifest", descriptor.size_bytes,
            platform if isinstance(platform, dict) else None,
        )  # fmt: skip
    config = content.get("config") or {}
    config_type = str(config.get("mediaType", ""))
    subject = distribution.subject_of(content)
    for tag in tags:
        # Before there were referrers, cosign told by a tag what its signature is about.
        if not subject and (found := _COSIGN_TAG.fullmatch(tag)):
            subject = f"sha256:{found.group(1)}"
    annotations = content.get("annotations")
    kept = annotations if isinstance(annotations, dict) else {}
    return Described(
        _type(stored.media_type, config_type, content),
        str(content.get("artifactType") or config_type or stored.media_type),
        str(config.get("digest", "")),
        subject,
        len(stored.data) + sum(part.size for part in parts.values()),
        tuple(parts.values()),
        {str(name): str(value) for name, value in kept.items()},
    )


def accessory_type(artifact_type: str, tags: Sequence[str]) -> str:
    """What an artifact that is about another one is called by Harbor."""
    for tag in tags:
        if found := _COSIGN_TAG.fullmatch(tag):
            return {"sig": "signature.cosign", "att": "attestation.cosign",
                    "sbom": "sbom.cosign"}[found.group(2)]  # fmt: skip
    return _ACCESSORIES.get(artifact_type, "subject.accessory")


def build_history(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps an image was built by, from its configuration."""
    history = config.get("history")
    return [each for each in history if isinstance(each, dict)] if isinstance(history, list) else []


def extra_attrs(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Harbor shows of an image's configuration."""
    names = ("architecture", "author", "created", "os", "variant", "config")
    return {name: config[name] for name in names if config.get(name)}


def _type(media_type: str, config_type: str, content: Mapping[str, Any]) -> str:
    if media_type in (oci.INDEX, oci.DOCKER_LIST) or config_type in _IMAGE_CONFIGS:
        return "IMAGE"
    if config_type == _HELM_CONFIG:
        return "CHART"
    for kind in (str(content.get("artifactType") or ""), config_type):
        if kind and kind != oci.EMPTY and (found := _NAMED.match(kind)):
            return found.group(1).upper()
    return "UNKNOWN"
