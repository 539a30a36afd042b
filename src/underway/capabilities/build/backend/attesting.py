"""Attestations of a pushed image, made by the capabilities that know how."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from underway.base.clock import SystemClock, rfc3339
from underway.base.errors import BadRequest, NotFound
from underway.base.home import Home
from underway.capabilities.build.backend.outputs import Made
from underway.kit.ports import BuildResult, Progress, ScanSummary, ShippedImage
from underway.kit.registry import Ports, installed
from underway.wire import oci


def attest(
    wanted: Collection[str],
    name: str,
    made: Made,
    result: BuildResult,
    build_args: Sequence[str],
    tell: Progress,
) -> None:
    """Attach an SBOM (port ``image-scanner``) and provenance (port ``provenance-recorder``).

    Raises:
        BadRequest: no installed capability makes what is wanted.
    """
    home = Home.from_environment()
    ports = Ports(installed(), home)
    digest = made.documents.digest
    reference = f"{oci.Reference.parse(name).name}@{digest}"
    scan: ScanSummary | None = None
    if "sbom" in wanted:
        scan = _port(ports, "image-scanner", "sbom").scan(reference, tell)
        tell(f"sbom {scan.sbom_digest}")
    if "provenance" in wanted:
        now = rfc3339(SystemClock().now())
        shipped = ShippedImage(
            reference=reference,
            digest=digest,
            source={"digest": result.inputs_digest, "repository": "", "commit": ""},
            parameters={"buildArgs": sorted(text.partition("=")[0] for text in build_args)},
            materials={base.reference: base.digest for base in result.bases},
            started_at=now,
            finished_at=now,
        )
        for signed in _port(ports, "provenance-recorder", "provenance").record(shipped, scan):
            tell(f"provenance {signed.digest}")


def _port(ports: Ports, name: str, kind: str) -> Any:
    try:
        return ports.get(name)
    except NotFound as error:
        raise BadRequest(
            f"--attest type={kind}: no installed capability makes it", hint=f"port {name}"
        ) from error
