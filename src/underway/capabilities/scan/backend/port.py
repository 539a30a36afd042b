"""The port ``image-scanner``: scan an image of the built-in registry and attach its SBOM."""

from __future__ import annotations

import msgspec

from underway.base.home import Home
from underway.capabilities.scan.backend.scanner import Scanner, Subject
from underway.capabilities.scan.model import Match
from underway.capabilities.scan.rules import reports, sbom
from underway.kit.ports import ImageScanner, Progress, ScanSummary, Vulnerability
from underway.transport.registry import RegistryClient, repository_for
from underway.wire import oci

_EMPTY = b"{}"
_UNKNOWN_TIME = "1970-01-01T00:00:00Z"


def make(home: Home) -> ImageScanner:
    """The provider of the port."""
    return PlatformScanner(home)


class PlatformScanner:
    """Scans images of the platform's own registry."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._scanner = Scanner(home)

    def scan(self, reference: str, progress: Progress) -> ScanSummary:
        """Index, attach the SBOM, match."""
        subject = self._scanner.index_image(reference, progress)
        report = self._scanner.match(subject)
        return ScanSummary(
            digest=subject.digest,
            status=report.status,
            packages=len(subject.inventory.packages),
            severities=reports.counts(report.matches),
            fixable=sum(bool(each.fixed) for each in report.matches),
            advisories_updated_at=report.advisories_updated_at,
            sbom_digest=attach_sbom(self._home, reference, subject),
            found=tuple(_vulnerability(each) for each in reports.ordered(report.matches)),
        )


def _vulnerability(match: Match) -> Vulnerability:
    advisory, package = match.advisory, match.package
    return Vulnerability(
        advisory.id, advisory.severity, package.name, package.version, match.fixed, advisory.aliases
    )


def attach_sbom(home: Home, reference: str, subject: Subject) -> str:
    """Push the image's SBOM as a referrer; the same image always has the same one.

    Returns:
        The digest of the SBOM's manifest.
    """
    settings = home.load_settings()
    parsed = oci.Reference.parse(reference)
    repository = repository_for(parsed, settings)
    # No clock: what is said of an image does not change with the day it is said.
    document = sbom.cyclonedx(subject.inventory, parsed.name, subject.digest, _UNKNOWN_TIME)
    data = msgspec.json.encode(document)
    with RegistryClient.of_platform(home, settings) as client:
        image = client.manifest(repository, subject.digest)
        manifest = msgspec.json.encode({
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": sbom.CYCLONEDX_MEDIA_TYPE,
            "config": _descriptor(oci.EMPTY, _EMPTY),
            "layers": [_descriptor(sbom.CYCLONEDX_MEDIA_TYPE, data)],
            "subject": _descriptor(image.media_type, image.data),
        })  # fmt: skip
        digest = oci.digest_of(manifest)
        if not client.manifest_exists(repository, digest):
            for blob in (_EMPTY, data):
                client.push_blob(repository, oci.digest_of(blob), blob, len(blob))
            client.push_manifest(repository, digest, manifest, oci.MANIFEST)
    return digest


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": oci.digest_of(data), "size": len(data)}
