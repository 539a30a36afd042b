"""What publishes the platform's own Services may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

ROLES = {
    "services": Role(
        "services-controller",
        (
            Rule("create get update", "-", "services"),
            Rule("create get update", "discovery.k8s.io", "endpointslices"),
        ),
    ),
}
