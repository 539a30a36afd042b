"""What controllers with hooks may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

ROLES = {
    # Parents and children are of any kind. No verbs of RBAC's own: what it gives, it must have.
    "operators": Role(
        "operators-controller",
        (Rule("create delete get list patch update watch", "*", "*"),),
    ),
}
