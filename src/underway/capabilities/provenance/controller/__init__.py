"""Admission of images, and the policies that say what may run."""

from __future__ import annotations

from underway.base.home import Home
from underway.reconcile import Manager


def add(manager: Manager, home: Home) -> None:
    """Serve the webhooks and keep policies and what runs looked after."""
    from underway.capabilities.provenance.backend.evidence import EvidenceSource
    from underway.capabilities.provenance.controller.policies import install
    from underway.kit import registry

    ports = registry.Ports(registry.installed(), home)
    source = EvidenceSource(home, ports.find("image-scanner"), ports.find("image-signer"))
    install(manager, source, home.load_settings().bind_address)
