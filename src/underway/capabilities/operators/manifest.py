"""What this capability is made of."""

from underway.kit import Capability

_HERE = "underway.capabilities.operators"

CAPABILITY = Capability(
    id="operators",
    summary="Operators in any language by webhook (Metacontroller's API), and new ones in Python.",
    crds=(f"{_HERE}.crds:metacontroller.yaml",),
    controllers=(f"{_HERE}.controller.composite:add", f"{_HERE}.controller.decorator:add"),
    permissions="underway.capabilities.operators.permissions:ROLES",
    commands={"operator": f"{_HERE}.cli:operator"},
    command_summaries={"operator": "Write a new operator project."},
)
