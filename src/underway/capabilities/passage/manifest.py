"""What this capability is made of."""

from underway.kit import Capability, Page

CAPABILITY = Capability(
    id="passage",
    summary="From source to a running application: ship it, and explain where a pod came from.",
    crds=("underway.capabilities.passage.crds:passages.yaml",),
    commands={
        "ship": "underway.capabilities.passage.cli:ship",
        "explain": "underway.capabilities.passage.cli:explain",
    },
    command_summaries={
        "ship": "Build, push, deploy and probe the application in a directory.",
        "explain": "From a running pod back to its image, build inputs and source commit.",
    },
    pages=(
        Page(
            "passages",
            "Passages",
            "underway.capabilities.passage.web:page",
            "Delivery",
            summary="underway.capabilities.passage.web:summary",
        ),
    ),
    requires=("source-fitter", "image-builder"),
)
