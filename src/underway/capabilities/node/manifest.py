"""What this capability is made of."""

from underway.kit import Capability

CAPABILITY = Capability(
    id="node",
    summary="Runs the pods bound to this machine, as the kubelet does on a cluster.",
    node_controllers=("underway.capabilities.node.controller:add",),
    teardown="underway.capabilities.node.backend.teardown:teardown",
    probe="underway.capabilities.node.probe:probe",
    embedded_only=True,
)
