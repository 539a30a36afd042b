"""What this capability is made of."""

from underway.kit import Capability

_PACKAGE = "underway.capabilities.services"

CAPABILITY = Capability(
    id="services",
    summary="Services by nftables and cluster DNS, as kube-proxy and CoreDNS do it",
    controllers=(f"{_PACKAGE}.controller:publish",),
    permissions="underway.capabilities.services.permissions:ROLES",
    node_controllers=(f"{_PACKAGE}.controller:serve",),
    teardown=f"{_PACKAGE}.backend.packets:teardown",
    probe=f"{_PACKAGE}.backend.probe:probe",
    embedded_only=True,
)
