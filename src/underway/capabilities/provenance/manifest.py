"""What this capability is made of."""

from underway.kit import Capability, Route

_HERE = "underway.capabilities.provenance"

CAPABILITY = Capability(
    id="provenance",
    summary="Where images come from, what is known of them (Grafeas), and which may run.",
    crds=(f"{_HERE}.crds:policies.yaml",),
    controllers=(f"{_HERE}.controller:add",),
    permissions=f"{_HERE}.permissions:ROLES",
    commands={
        "provenance": f"{_HERE}.cli.provenance:provenance",
        "policy": f"{_HERE}.cli.policy:policy",
    },
    command_summaries={
        "provenance": "Where an image comes from, and in-toto layouts that prove it.",
        "policy": "Which images may run, and why one may not.",
    },
    routes=(Route("grafeas", f"{_HERE}.routes.grafeas:app", "grafeas_port", lazy=True),),
    provides={"provenance-recorder": f"{_HERE}.backend.recorder:make"},
)
