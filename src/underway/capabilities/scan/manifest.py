"""What this capability is made of."""

from underway.kit import Capability, Route

CAPABILITY = Capability(
    id="scan",
    summary="What images are made of and what is known to be wrong with it; Clair's API.",
    commands={"scan": "underway.capabilities.scan.cli:scan"},
    command_summaries={"scan": "Find known vulnerabilities in an image, a directory or an SBOM."},
    routes=(Route("scanner", "underway.capabilities.scan.routes:app", "scanner_port", lazy=True),),
    provides={"image-scanner": "underway.capabilities.scan.backend.port:make"},
)
