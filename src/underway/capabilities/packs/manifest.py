"""What this capability is made of."""

from underway.kit import Capability

CAPABILITY = Capability(
    id="packs",
    summary="From source to Dockerfile, manifests, charts and pipelines, whatever the language.",
    commands={"pack": "underway.capabilities.packs.cli:pack"},
    command_summaries={"pack": "Detect what a source directory is and write what it lacks."},
    provides={"source-fitter": "underway.capabilities.packs.backend.fitting:make"},
)
