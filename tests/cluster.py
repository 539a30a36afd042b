"""The real embedded API server in the test's own process and event loop, for controllers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
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


@contextlib.asynccontextmanager
async def cluster(
    root: Path, *factories: object, clock: Clock | None = None
) -> AsyncIterator[Environment]:
    """An API server and the controllers that ``factories`` add, running.

    Each factory is ``(manager, home) -> None``, as manifests name them. Those of capabilities
    act as the users that the platform has them act as.
    """
    async with api_server(root, clock) as server:
        environment = Environment(server.as_user("admin", ["system:masters"]), clock)
        watched = Watched(server)
        manager = await least_privileged(watched, environment, factories)
        for factory in factories:
            factory(manager(factory), Home(root))  # type: ignore[operator]
        async with running(environment):
            yield environment
        assert not watched.refused


class Watched:
    """A server that remembers what the users of controllers lacked the right to do."""

    def __init__(self, server: ApiServer) -> None:
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


async def least_privileged(
    server: ApiServer | Watched, environment: Environment, factories: Iterable[object]
) -> Callable[[object], Manager]:
    """Gives the manager for each factory; the environment's shared one reads only."""
    environment.manager = Manager(permissions.manager_client(server), environment.clock)
    modules = {factory: getattr(factory, "__module__", "") for factory in factories}
    capabilities = {
        each.id: each
        for each in registry.installed()
        if any(module.startswith(f"{_HERE}.{each.id}.") for module in modules.values())
    }
    await permissions.install(environment.client, capabilities.values())

    def manager(factory: object) -> Manager:
        module = modules[factory]
        capability = capabilities.get(module.removeprefix(f"{_HERE}.").partition(".")[0])
        client = environment.client
        if capability is not None:
            client = permissions.controller_client(server, capability, f"{module}:add")
        return environment.manager.acting(client)

    return manager
