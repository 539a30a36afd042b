"""The manifest of ``metrics``."""

from __future__ import annotations

from underway.kit import Capability

_HERE = "underway.capabilities.metrics"

CAPABILITY = Capability(
    id="metrics",
    summary="The API metrics.k8s.io, behind kubectl top and autoscaling",
    controllers=(f"{_HERE}.controller:add",),
    permissions="underway.capabilities.metrics.permissions:ROLES",
    api_services={"kube-system/metrics-server": f"{_HERE}.routes:app"},
    embedded_only=True,
)
