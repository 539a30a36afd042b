"""What the controllers of volumes may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

ROLES = {
    "storage": Role(
        "persistent-volume-binder",
        (
            Rule("get list create patch update delete", "-", "persistentvolumes"),
            Rule("get list create patch update", "-", "persistentvolumeclaims"),
            Rule("get patch update", "-", "persistentvolumes/status"),
            Rule("get patch update", "-", "persistentvolumeclaims/status"),
            Rule("get list", "-", "pods nodes"),
            Rule("get list create", "storage.k8s.io", "storageclasses"),
        ),
    ),
}
