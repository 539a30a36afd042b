"""A whole Kubernetes cluster for tests, in the test's own process: API, controllers, nodes.

Nothing is imported before it is used, because pytest loads this package in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from underway.base.clock import FakeClock
    from underway.testing.client import ClusterClient
    from underway.testing.clock import MovableClock
    from underway.testing.cluster import Cluster
    from underway.testing.node import SimulatedNode, fake_nodes

__all__ = ["Cluster", "ClusterClient", "FakeClock", "MovableClock", "SimulatedNode", "fake_nodes"]

_HOMES = {
    "Cluster": "underway.testing.cluster",
    "ClusterClient": "underway.testing.client",
    "FakeClock": "underway.base.clock",
    "MovableClock": "underway.testing.clock",
    "SimulatedNode": "underway.testing.node",
    "fake_nodes": "underway.testing.node",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
