"""What this capability is made of."""

from underway.kit import Capability, Route

CAPABILITY = Capability(
    id="registry",
    summary="An OCI registry: push and pull images with any client.",
    commands={"registry": "underway.capabilities.registry.cli:registry"},
    command_summaries={"registry": "The registry's images, projects, robots and logins."},
    routes=(Route("registry", "underway.capabilities.registry.routes:app", "registry_port"),),
)
