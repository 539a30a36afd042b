"""The manifest of ``scheduler``."""

from __future__ import annotations

from underway.kit import Capability

CAPABILITY = Capability(
    id="scheduler",
    summary="Binds pods to nodes by resources, selectors, affinity, taints and ports",
    controllers=("underway.capabilities.scheduler.controller:add",),
    permissions="underway.capabilities.scheduler.permissions:ROLES",
    embedded_only=True,
)
