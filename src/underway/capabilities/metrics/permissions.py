"""What the metrics API may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

ROLES = {
    "metrics": Role(
        "metrics-controller",
        (
            Rule("get", "-", "nodes/proxy nodes/metrics"),
            Rule(
                "create get patch",
                "apiregistration.k8s.io",
                "apiservices",
                "v1beta1.metrics.k8s.io",
            ),
            Rule(
                "create get patch",
                "rbac.authorization.k8s.io",
                "clusterroles",
                "system:aggregated-metrics-reader",
            ),
            # Nobody gives what they do not have: that role lets people read this.
            Rule("get list watch", "metrics.k8s.io", "pods nodes"),
        ),
    ),
}
