"""The ports through which capabilities use one another, as Protocols.

A capability names the ports it provides and requires in its manifest; it gets those it requires
from ``kit.registry.Ports`` and never imports the capability behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Progress = Callable[[str], None]
"""Called with a line of text for the user each time something worth telling happened."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image that a build starts from or a pod runs.

    ``origin`` is ``registry`` (pulled from a configured upstream registry), ``stand-in``
    (assembled here from Debian packages) or ``layout`` (an OCI layout named for the build).
    ``repository`` is its repository in the built-in registry, ``digest`` its manifest's.
    """

    reference: str
    repository: str
    digest: str
    origin: str


class BaseImages(Protocol):
    """Port ``base-images``: images that no one pushed to the built-in registry."""

    def offers(self, reference: str) -> bool:
        """Whether a stand-in for this reference (``docker.io/library/redis:7``) can be made."""
        ...

    def provide(self, reference: str, layout: Path, progress: Progress) -> BaseImage:
        """Assemble the stand-in, or find it assembled, as an OCI image layout at ``layout``.

        Blocking; may take a minute. Raises UnderwayError with the failing command's last lines.
        """
        ...


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    ``dockerfile`` lies inside or outside ``context``. ``tag`` is the full reference to push to.
    """

    context: Path
    dockerfile: Path
    tag: str
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    push: bool = True


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What came of a build.

    ``inputs_digest`` identifies everything the image was made from: the same inputs give the
    same image ``digest``. ``steps_cached`` counts steps taken from the cache.
    """

    reference: str
    digest: str
    inputs_digest: str
    bases: tuple[BaseImage, ...] = ()
    exposed_ports: tuple[int, ...] = ()
    size_bytes: int = 0
    steps_total: int = 0
    steps_cached: int = 0


class ImageBuilder(Protocol):
    """Port ``image-builder``."""

    def build(self, request: BuildRequest, progress: Progress) -> BuildResult:
        """Build an image and push it.

        Blocking; runs untrusted steps in containers of their own. Raises BadRequest naming file
        and line for a Dockerfile with an error, UnderwayError for a step that failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class FittedSource:
    """A source directory with all it needs to be shipped.

    ``language`` is ``dockerfile``, ``python``, ``node``, ``static`` or ``go``. ``written`` are the
    files made now; files that were there are kept. ``manifests`` are Kubernetes objects as files
    below the source, with ``$(IMAGE)`` where the image belongs.
    """

    root: Path
    language: str
    dockerfile: Path
    manifests: tuple[Path, ...]
    port: int
    written: tuple[Path, ...] = ()
    evidence: str = ""


class SourceFitter(Protocol):
    """Port ``source-fitter``: from a source directory to Dockerfile and manifests."""

    def fit(self, root: Path, name: str, port: int | None) -> FittedSource:
        """Detect what the source is and write what it lacks.

        Raises BadRequest when nothing is recognised, saying what was looked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One thing known to be wrong with an image: ``fixed`` is empty where there is no remedy."""

    id: str
    severity: str
    package: str
    version: str
    fixed: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScanSummary:
    """What a scan found in one image.

    ``status`` is ``complete``, ``stale`` (the advisories are older than allowed), ``unsupported``
    (the distribution is unknown, or there are no advisories for it): only ``complete`` may be read
    as "nothing else is known". ``severities`` counts matches by name (``Critical``, ``High``,
    ``Medium``, ``Low``, ``Negligible``, ``Unknown``). ``sbom_digest`` is the manifest of the SBOM
    attached to the image, or empty. ``found`` are the matches one by one, or None where the scanner
    only counts them. Times are RFC 3339.
    """

    digest: str
    status: str
    packages: int
    severities: Mapping[str, int]
    fixable: int
    advisories_updated_at: str
    sbom_digest: str = ""
    found: tuple[Vulnerability, ...] | None = None


class ImageScanner(Protocol):
    """Port ``image-scanner``."""

    def scan(self, reference: str, progress: Progress) -> ScanSummary:
        """Index an image of the built-in registry, attach its SBOM and match it with advisories.

        ``reference`` has a digest. Blocking. Raises NotFound for an image that is not there.
        """
        ...


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature or attestation attached to an image: its manifest's digest and its key's id.

    ``identity`` and ``issuer`` are those of a short-lived certificate (keyless), else empty.
    """

    digest: str
    key_id: str
    identity: str = ""
    issuer: str = ""


class ImageSigner(Protocol):
    """Port ``image-signer``: signatures by the platform's own identity."""

    def sign(self, reference: str) -> Signed:
        """Sign an image by digest (cosign's form), unless this key has already. Blocking."""
        ...

    def attest(
        self, reference: str, predicate_type: str, predicate: Mapping[str, object]
    ) -> Signed:
        """Attach an in-toto Statement v1 about the image as a signed DSSE envelope. Blocking."""
        ...

    def verify(self, reference: str) -> tuple[Signed, ...]:
        """The signatures of an image that verify with keys trusted here; empty for none."""
        ...

    def attestations(self, reference: str) -> tuple[tuple[Signed, Mapping[str, object]], ...]:
        """The verified attestations of an image with their in-toto statements; empty for none."""
        ...


@dataclass(frozen=True, slots=True)
class ShippedImage:
    """What a passage knows of an image when its provenance is recorded.

    ``source`` has ``digest``, ``repository``, ``commit``; ``parameters`` are the build's external
    parameters; ``materials`` map a reference to a digest. Times are RFC 3339.
    """

    reference: str
    digest: str
    source: Mapping[str, str]
    parameters: Mapping[str, object]
    materials: Mapping[str, str]
    started_at: str
    finished_at: str


class ProvenanceRecorder(Protocol):
    """Port ``provenance-recorder``."""

    def record(self, image: ShippedImage, scan: ScanSummary | None) -> tuple[Signed, ...]:
        """Attach SLSA provenance and in-toto links, and note them in the Grafeas store.

        Blocking. Gives the attestations attached.
        """
        ...

    def deployed(self, reference: str, place: str) -> None:
        """Note in the Grafeas store that an image by digest runs as ``NAMESPACE/APPLICATION``."""
        ...
