"""The manifest of ``workloads``."""

from __future__ import annotations

from underway.kit import Capability

_HERE = "underway.capabilities.workloads.controller"

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
        )
    ),
    embedded_only=True,
)
