"""The registry's HTTP service: who asks, and what then answers."""

from __future__ import annotations

from underway.base.clock import Clock, SystemClock
from underway.base.errors import NotFound, UnderwayError
from underway.base.home import Home
from underway.capabilities.registry.backend import garbage
from underway.capabilities.registry.backend.accounts import Accounts
from underway.capabilities.registry.backend.credentials import ensure_credentials
from underway.capabilities.registry.backend.projects import Projects
from underway.capabilities.registry.backend.standins import StandIns
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.backend.tokens import TokenKey
from underway.capabilities.registry.model import (
    LoginRequired,
    RegistryError,
    Scope,
)
from underway.capabilities.registry.routes.distribution import Registry
from underway.capabilities.registry.routes.tokens import answer_token
from underway.capabilities.registry.rules import access, distribution
from underway.kit.ports import BaseImages
from underway.kit.registry import Ports
from underway.wire.http import Handler, Request, Response, json_response


def app(home: Home, ports: Ports, clock: Clock | None = None) -> Handler:
    """The registry of a home, with its credentials and, where something makes them, stand-ins."""
    clock = clock or SystemClock()
    username, password = ensure_credentials(home, home.load_settings())
    storage = Storage(home.registry)
    garbage.drop_abandoned(storage, clock.now())
    key = TokenKey.load(home.registry / "token.key")
    accounts = Accounts(username, password, Projects(home.registry), key, clock)
    try:
        images: BaseImages | None = ports.get("base-images")
    except NotFound:
        images = None
    stand_ins = StandIns(storage, images, home.registry / "making")
    return Service(Registry(storage, stand_ins, accounts), accounts).handle


class Service:
    """Lets in who may, and writes errors as the distribution specification wants them."""

    def __init__(self, registry: Registry, accounts: Accounts) -> None:
        self._registry = registry
        self._accounts = accounts

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        wanted: Scope | None = None
        try:
            segments = request.segments()
            if segments == ["service", "token"]:
                return await answer_token(request, self._accounts)
            route = distribution.parse_path(segments)
            wanted = access.needed(request.method, route)
            identity = self._accounts.identify(request.headers.get("authorization", ""))
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
