"""The port ``provenance-recorder``: what was shipped is attested, linked and noted."""

from __future__ import annotations

import functools

from underway.base.clock import Clock, SystemClock, rfc3339
from underway.base.home import Home
from underway.capabilities.provenance.backend.grafeas import GrafeasStore
from underway.capabilities.provenance.backend.links import LinkStore
from underway.capabilities.provenance.rules import metadata, slsa
from underway.capabilities.provenance.rules.notes import Json
from underway.kit import registry
from underway.kit.ports import (
    ImageSigner,
    ProvenanceRecorder,
    ScanSummary,
    ShippedImage,
    Signed,
)
from underway.wire import oci


def make(home: Home) -> ProvenanceRecorder:
    """The provider of the port."""
    return PlatformRecorder(home, registry.Ports(registry.installed(), home).find("image-signer"))


class PlatformRecorder:
    """Records in the platform's home; without a signer nothing is attached, only kept here."""

    def __init__(self, home: Home, signer: ImageSigner | None, clock: Clock | None = None) -> None:
        self._home = home
        self._signer = signer
        self._clock = clock or SystemClock()

    @functools.cached_property
    def _store(self) -> GrafeasStore:
        return GrafeasStore(self._home.provenance / "grafeas.db", self._clock)

    def record(self, image: ShippedImage, scan: ScanSummary | None) -> tuple[Signed, ...]:
        """Attach SLSA provenance and in-toto links, and note them in the Grafeas store."""
        links = slsa.links(image)
        LinkStore(self._home.provenance).write(image.digest, links)
        attached: list[Signed] = []
        if self._signer is not None:
            reference = by_digest(image.reference, image.digest)
            provenance = slsa.predicate(image)
            attached.append(self._signer.attest(reference, slsa.PREDICATE, provenance))
            for link in links:
                said = metadata.link_attestation(link)
                attached.append(self._signer.attest(reference, metadata.LINK_PREDICATE, said))
        found = slsa.built_notes(image, tuple(attached))
        if scan is not None:
            found |= slsa.scan_notes(scan)
        self._note(slsa.resource(image.reference, image.digest), found)
        return tuple(attached)

    def deployed(self, reference: str, place: str) -> None:
        """Note that an image by digest runs as ``NAMESPACE/APPLICATION``."""
        uri = slsa.resource(reference, oci.Reference.parse(reference).digest)
        now = rfc3339(self._clock.now())
        self._note(uri, {"deployment": slsa.deployment_note(uri, place, now)}, place)

    def _note(self, uri: str, found: dict[str, tuple[Json, Json]], extra: str = "") -> None:
        occurrences: dict[str, Json] = {}
        for note_id, (note, said) in found.items():
            name = self._store.ensure_note(slsa.PROJECT, note_id, note)
            occurrence = {"resourceUri": uri, "noteName": name, **said}
            occurrences[slsa.occurrence_id(uri, note_id, extra)] = occurrence
        names = list(occurrences)
        for start in range(0, len(names), 500):
            batch = {name: occurrences[name] for name in names[start : start + 500]}
            self._store.put_occurrences(slsa.PROJECT, batch)


def by_digest(reference: str, digest: str) -> str:
    """A reference's name with the digest for its tag."""
    return f"{oci.Reference.parse(reference).name}@{digest}"
