"""The manifest of ``storage``."""

from __future__ import annotations

from underway.kit import Capability

_HERE = "underway.capabilities.storage.controller"

CAPABILITY = Capability(
    id="storage",
    summary="PersistentVolumes: binding, local directories as volumes, protection, clean-up",
    controllers=tuple(
        f"{_HERE}.{name}:add"
        for name in ("binder", "provisioner", "protection", "ephemeral", "classes")
    ),
    permissions="underway.capabilities.storage.permissions:ROLES",
    embedded_only=True,
)
