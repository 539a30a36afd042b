"""The real embedded API server in the test's own process and event loop, for controllers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from underway.base.clock import Clock
from underway.base.home import Home, Settings
from underway.reconcile.testenv import Environment, running
from underway.server.app import ApiServer
from underway.transport import pki

_shared_pki: dict[str, bytes] = {}


def make_home(root: Path) -> Home:
    """A state directory with keys; the keys are made once for all tests of a run."""
    home = Home(root)
    if not _shared_pki:
        pki.ensure_pki(home, Settings())
        _shared_pki.update({file.name: file.read_bytes() for file in home.pki.iterdir()})
    home.pki.mkdir(parents=True, exist_ok=True)
    for name, data in _shared_pki.items():
        (home.pki / name).write_bytes(data)
    return home


@contextlib.asynccontextmanager
async def api_server(root: Path, clock: Clock | None = None) -> AsyncIterator[ApiServer]:
    """A started API server below ``root``."""
    server = ApiServer(make_home(root), settings=Settings(), clock=clock)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def cluster(
    root: Path, *factories: object, clock: Clock | None = None
) -> AsyncIterator[Environment]:
    """An API server and the controllers that ``factories`` add, running.

    Each factory is ``(manager, home) -> None``, as manifests name them.
    """
    async with api_server(root, clock) as server:
        environment = Environment(server.as_user("admin", ["system:masters"]), clock)
        for factory in factories:
            factory(environment.manager, Home(root))  # type: ignore[operator]
        async with running(environment):
            yield environment
