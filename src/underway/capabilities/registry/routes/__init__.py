"""The registry's HTTP service: who asks, and what then answers."""

from __future__ import annotations

from underway.base.clock import Clock
from underway.base.errors import NotFound, UnderwayError
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend import garbage
from underway.capabilities.registry.backend.hub import Hub, shared
from underway.capabilities.registry.backend.standins import StandIns
from underway.capabilities.registry.model import (
    LoginRequired,
    RegistryError,
    Scope,
)
from underway.capabilities.registry.routes.distribution import Registry
from underway.capabilities.registry.routes.harbor import Harbor
from underway.capabilities.registry.routes.tokens import answer_token
from underway.capabilities.registry.rules import access, distribution
from underway.kit.ports import BaseImages
from underway.kit.registry import Ports
from underway.wire.http import Handler, Request, Response, json_response


def app(home: Home, ports: Ports, clock: Clock | None = None) -> Handler:
    """The registry of a home, with its credentials and, where something makes them, stand-ins."""
    return serve(shared(home) if clock is None else Hub(home, clock), ports)


def serve(hub: Hub, ports: Ports) -> Handler:
    """The HTTP service of a registry that was put together."""
    garbage.drop_abandoned(hub.storage, hub.clock.now())
    try:
        images: BaseImages | None = ports.get("base-images")
    except NotFound:
        images = None
    stand_ins = StandIns(hub.storage, images, hub.home.registry / "making")
    return Service(hub, Registry(hub, stand_ins), Harbor(hub)).handle


class Service:
    """Lets in who may, and writes errors as the distribution specification wants them."""

    def __init__(self, hub: Hub, registry: Registry, harbor: Harbor) -> None:
        self._cluster = hub.cluster
        self._registry = registry
        self._accounts = hub.accounts
        self._harbor = harbor

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        if self._harbor.takes(request):
            return await self._harbor.handle(request)
        wanted: Scope | None = None
        try:
            segments = request.segments()
            await self._cluster.learn(request.headers.get("authorization", ""))
            if segments == ["service", "token"]:
                return await answer_token(request, self._accounts, self._cluster)
            route = distribution.parse_path(segments)
            wanted = access.needed(request.method, route)
            header = request.headers.get("authorization", "")
            if self._accounts.is_slow(header):
                identity = await run_blocking(self._accounts.identify, header)
            else:
                identity = self._accounts.identify(header)
            self._accounts.check(identity, wanted)
            response = await self._registry.answer(request, route, identity)
        except RegistryError as error:
            response = json_response(error.body(), error.code)
            if isinstance(error, LoginRequired):
                host = request.headers.get("host", "")
                scopes = (*((wanted,) if wanted else ()), *error.more)
                told = access.challenge(host, scopes, error.challenge)
                response.headers["www-authenticate"] = told
        except UnderwayError as error:  # a stand-in that could not be made, a full disk
            wrapped = RegistryError(error.message, hint=error.hint)
            response = json_response(wrapped.body(), error.code)
        response.headers["docker-distribution-api-version"] = "registry/2.0"
        return response
