"""What the registry's controllers may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

_GROUP = "registry.underway.dev"

ROLES = {
    "registry": Role(
        "registry-controller",
        (
            Rule("get patch update", _GROUP, "*"),
            # Credentials for pulling, by name; it cannot list those of others.
            Rule("create delete get patch", "-", "secrets"),
            Rule("get patch", "-", "serviceaccounts"),
        ),
    ),
}
