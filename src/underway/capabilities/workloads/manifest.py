"""The manifest of ``workloads``."""

from __future__ import annotations

from underway.kit import Capability

_HERE = "underway.capabilities.workloads.controller"

CAPABILITY = Capability(
    id="workloads",
    summary="Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, endpoints, clean-up",
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
            "cleanup",
        )
    ),
    embedded_only=True,
)
