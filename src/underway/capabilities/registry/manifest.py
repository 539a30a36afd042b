"""What this capability is made of."""

from underway.kit import Capability, Page, Route

CAPABILITY = Capability(
    id="registry",
    summary="An OCI registry: push and pull images with any client.",
    commands={"registry": "underway.capabilities.registry.cli:registry"},
    command_summaries={"registry": "The registry's images, projects, robots and logins."},
    pages=(
        Page(
            "registry",
            "Registry",
            "underway.capabilities.registry.web:page",
            "Delivery",
            namespaced=False,
        ),
    ),
    crds=("underway.capabilities.registry.crds:registry.yaml",),
    controllers=("underway.capabilities.registry.controller:setup",),
    permissions="underway.capabilities.registry.permissions:ROLES",
    routes=(Route("registry", "underway.capabilities.registry.routes:app", "registry_port"),),
)
