"""What the scheduler may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

ROLES = {
    "scheduler": Role(
        "scheduler-controller",
        (
            Rule("get delete", "-", "pods"),
            Rule("create", "-", "pods/binding"),
            Rule("get patch", "-", "pods/status"),
            Rule("get patch", "-", "persistentvolumes persistentvolumeclaims"),
        ),
    ),
}
