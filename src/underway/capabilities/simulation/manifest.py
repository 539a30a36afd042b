"""What this capability is made of."""

from underway.kit import Capability

CAPABILITY = Capability(
    id="simulation",
    summary="Simulated nodes and pods by the thousand, driven by kwok's Stages.",
    crds=("underway.capabilities.simulation.crds:stages.yaml",),
    controllers=("underway.capabilities.simulation.controller:add",),
    permissions="underway.capabilities.simulation.permissions:ROLES",
    commands={"simulate": "underway.capabilities.simulation.cli:simulate"},
    command_summaries={"simulate": "Nodes without machines: make, list and remove them."},
)
