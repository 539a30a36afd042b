"""The registry's objects in the cluster, and the work that goes on behind it."""

from __future__ import annotations

from underway.base.home import Home
from underway.capabilities.registry.backend.hub import shared
from underway.capabilities.registry.controller import projects, remotes, robots
from underway.reconcile.manager import Manager


def setup(manager: Manager, home: Home) -> None:
    """Add the controllers, and the runner of the registry's jobs."""
    hub = shared(home)
    manager.add_runnable(hub.jobs.run, "registry-jobs")
    for group in (projects, robots, remotes):
        group.setup(manager, hub)
