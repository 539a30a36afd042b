"""The seam: what a capability says of itself, and the ports through which they cooperate."""

from underway.kit.capability import (
    Capability,
    Error,
    Page,
    Probe,
    Process,
    Ready,
    Role,
    Route,
    Rule,
    Skip,
)

__all__ = [
    "Capability",
    "Error",
    "Page",
    "Probe",
    "Process",
    "Ready",
    "Role",
    "Route",
    "Rule",
    "Skip",
]
