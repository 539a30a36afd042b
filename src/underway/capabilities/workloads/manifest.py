"""The manifest of ``workloads``."""

from __future__ import annotations

from underway.kit import Capability, Page

_HERE = "underway.capabilities.workloads.controller"
_WEB = "underway.capabilities.workloads.web"

CAPABILITY = Capability(
    id="workloads",
    summary="Deployments, other sets, Jobs, endpoints, disruption budgets, lost nodes, clean-up",
    controllers=tuple(
        f"{_HERE}.{name}:add"
        for name in (
            "deployment",
            "replicaset",
            "statefulset",
            "daemonset",
            "job",
            "cronjob",
            "endpoints",
            "mirroring",
            "cleanup",
            "nodes",
            "evictions",
            "podgc",
            "budgets",
            "autoscaler",
            "aggregation",
        )
    ),
    permissions="underway.capabilities.workloads.permissions:ROLES",
    pages=(
        Page("workloads", "Workloads", f"{_WEB}.workloads:page", "Workloads"),
        Page("pods", "Pods", f"{_WEB}.pods:page", "Workloads"),
    ),
    embedded_only=True,
)
