"""What Stages may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

ROLES = {
    "simulation": Role(
        "simulation-controller",
        (
            Rule("create get patch", "coordination.k8s.io", "leases"),
            # A Stage drives objects of any kind, and may apply others.
            Rule("create delete get patch", "*", "*"),
        ),
    ),
}
