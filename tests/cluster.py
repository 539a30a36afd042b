"""The real embedded API server in the test's own process and event loop, for controllers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from underway.base.clock import Clock
from underway.base.home import Home, Settings
from underway.dist import permissions
from underway.kit import registry
from underway.reconcile.manager import Manager
from underway.reconcile.testenv import Environment, running
from underway.server.app import ApiServer
from underway.transport import pki
from underway.wire.http import Handler, Request, Response

_HERE = "underway.capabilities"
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


class Cluster(Environment):
    """Controllers of capabilities act as the users that the platform has them act as.

    What tests do by ``manager`` itself they do as its administrator.
    """

    def __init__(self, server: permissions.Users, home: Home, clock: Clock | None = None) -> None:
        super().__init__(server.as_user("admin", ["system:masters"]), clock)
        self._home = home
        self._installed: set[str] = set()
        self.watched = Watched(server)

    async def add(self, *factories: object) -> None:
        """Add controllers; each factory is ``(manager, home) -> None``, as manifests name them."""
        for factory in factories:
            factory(await self.acting(factory), self._home)  # type: ignore[operator]

    async def acting(self, factory: object) -> Manager:
        """The manager as the controllers that ``factory`` adds see it."""
        module = getattr(factory, "__module__", "")
        for capability in registry.installed():
            if f"{module}.".startswith(f"{_HERE}.{capability.id}."):
                if capability.id not in self._installed:
                    await permissions.install(self.client, [capability])
                    self._installed.add(capability.id)
                target = f"{module}:{getattr(factory, '__name__', '')}"
                client = permissions.controller_client(self.watched, capability, target)
                return self.manager.acting(client)
        return self.manager


@contextlib.asynccontextmanager
async def cluster(
    root: Path, *factories: object, clock: Clock | None = None
) -> AsyncIterator[Cluster]:
    """An API server and the controllers that ``factories`` add, running."""
    async with api_server(root, clock) as server:
        environment = Cluster(server, Home(root), clock)
        await environment.add(*factories)
        async with running(environment):
            yield environment
        assert not environment.watched.refused


class Watched:
    """A server that remembers what the users of controllers lacked the right to do."""

    def __init__(self, server: permissions.Users) -> None:
        self._server = server
        self.refused: list[str] = []

    def as_user(self, name: str, groups: Sequence[str] = ()) -> Handler:
        """As ``ApiServer.as_user``."""
        handler = self._server.as_user(name, groups)

        async def handle(request: Request) -> Response:
            response = await handler(request)
            if response.status == 403 and isinstance(response.body, bytes):
                message = str(msgspec.json.decode(response.body)["message"])
                if f'User "{name}" cannot' in message or "is attempting to grant" in message:
                    self.refused.append(f"{request.method} {request.path}: {message}")
            return response

        return handle
