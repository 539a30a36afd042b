"""The embedded Kubernetes API server as a handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from underway.api.objects import Object
from underway.base.clock import Clock, SystemClock
from underway.base.errors import BadRequest, InternalError, Unauthorized, UnderwayError
from underway.base.home import Home, Settings
from underway.server.admission import Admission
from underway.server.aggregation import Aggregation, Backend, authentication_config
from underway.server.api_services import ApiServices
from underway.server.audit import AuditLog, Seen
from underway.server.auth import Authenticator, impersonate, wants_impersonation
from underway.server.authorizer import Authorizer
from underway.server.bootstrap import Bootstrap
from underway.server.call import Call, no_such_path
from underway.server.caretaker import Caretaker
from underway.server.catalog import Catalog
from underway.server.certificates import Approver, Certificates, Signer
from underway.server.deleting import Deleter
from underway.server.discovery import Discovery, version_info
from underway.server.encryption import KEY_FILE, SecretCodec
from underway.server.identity import (
    ANONYMOUS,
    AUTHENTICATED,
    User,
    attributes,
)
from underway.server.metrics import MEDIA, Metrics
from underway.server.negotiation import render_error
from underway.server.nodes import NodeConnector, Nodes, no_nodes
from underway.server.openapi import OpenApi
from underway.server.proxies import Proxies, Send, send
from underway.server.reading import Reader
from underway.server.remotes import Remotes
from underway.server.rest import Rest
from underway.server.reviews import Reviews
from underway.server.store import Key, Store
from underway.server.tokens import TokenKey
from underway.server.versions import ConversionWebhooks
from underway.server.watch import Hub
from underway.server.writing import Writer
from underway.wire.http import Handler, Request, Response, json_response

log = logging.getLogger(__name__)

_RBAC = "rbac.authorization.k8s.io"
_PUBLIC = (["healthz"], ["livez"], ["readyz"], ["version"])


class ApiServer:
    """One cluster's API.

    Args:
        home: where the database and the keys lie.
        settings: addresses; those of ``home`` if not given.
        clock: time.
        connector: reaches node agents, see ``nodes.NodeConnector``.
        advertised: address and port at which pods reach this server.
        token_file: static tokens, see ``auth.Authenticator``.
        forward: passes requests on to pods, see ``proxies.send``.

    ``start`` and ``stop`` are called by one task. What ``metrics_sources`` give, in Prometheus'
    text form, is part of ``/metrics``.
    """

    def __init__(
        self,
        home: Home,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        connector: NodeConnector = no_nodes,
        advertised: tuple[str, int] | None = None,
        token_file: Path | None = None,
        forward: Send = send,
    ) -> None:
        self._home = home
        self._settings = settings or home.load_settings()
        self._clock = clock or SystemClock()
        self._connector = connector
        self._advertised = advertised or (self._settings.bind_address, self._settings.api_port)
        self._token_file = token_file
        self._forward = forward
        self._running = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = False
        self._audit = AuditLog(home.logs / "audit.log", self._clock)
        self._metrics = Metrics(self._clock)
        self._served_here: dict[tuple[str, str], Handler] = {}
        self.metrics_sources: list[Callable[[], bytes]] = []

    async def start(self) -> None:
        """Open the store and bring the cluster to its initial state.

        Raises:
            ServiceUnavailable: another process has the store open.
            InternalError: the store or a key cannot be read.
        """
        codec = SecretCodec.load(self._home.pki / KEY_FILE)
        self.store = Store(self._home.database, codec)
        self.store.open()
        try:
            bootstrap, caretaker = self._assemble()
            caretaker.start()
            self.aggregation.start()
            self._api_services.start()
            self.hub.start()
            await bootstrap.run()
            await self._api_services.list_own()
        except BaseException:
            await self.store.close()
            raise
        group = await self._running.enter_async_context(asyncio.TaskGroup())
        upkeep = (self.hub.run(), caretaker.run(), self._api_services.run())
        self._tasks = [group.create_task(each) for each in upkeep]
        self._ready = True

    def _assemble(self) -> tuple[Bootstrap, Caretaker]:
        """Make the parts and connect them."""
        clock = self._clock
        self.hub = Hub(self.store, clock)
        self.catalog = Catalog()
        self._roles = _StoredRoles(self.store)
        self._rbac = Authorizer(self._roles, self.store)
        key = TokenKey.load(self._home.pki / "sa.key")
        self._authenticator = Authenticator(key, self._find, clock, self._token_file)
        admission = self._admission = Admission(
            self.store, self.catalog, self._rbac, clock, self._settings.service_cidr
        )
        self._remotes = Remotes(self.store)
        writer = Writer(self.store, self.catalog, admission, clock)
        deleter = Deleter(self.store, admission, clock)
        bootstrap = Bootstrap(
            self.store,
            self.catalog,
            writer,
            first_ip=admission.addresses.first,
            advertised=self._advertised,
            root_ca=_read_text(self._home.pki / "ca.crt"),
            extension_authentication=authentication_config(self._home.pki),
        )
        proxies = Proxies(self.store, self._forward)
        self.aggregation = Aggregation(self.store, proxies, self._home.pki, self._served_here)
        self._api_services = ApiServices(
            self.aggregation, self.catalog, self.store, writer, deleter, clock
        )
        self._openapi = OpenApi(self.catalog, self.aggregation)
        self._discovery = Discovery(self.catalog, self.aggregation)
        self._rest = Rest(
            self.store,
            Reader(self.store, self.hub, clock),
            writer,
            deleter,
            Reviews(self._rbac, self._authenticator, clock),
            Nodes(self.store, self._connector),
            proxies,
            self._authenticator,
            bootstrap,
            Certificates(self._rbac, clock),
            clock,
        )
        caretaker = Caretaker(
            self.store,
            self.hub,
            self.catalog,
            writer,
            deleter,
            bootstrap,
            admission.addresses,
            admission.quotas,
            Signer(self._home.pki, clock),
            Approver(self._rbac, clock),
            ConversionWebhooks(self._remotes).ask,
            clock,
        )
        return bootstrap, caretaker

    async def stop(self) -> None:
        """End the watches, finish the writes under way and close the store."""
        if not self._ready:
            return
        self._ready = False
        self._audit.close()
        self.hub.stop()
        for task in self._tasks:
            task.cancel()
        await self._running.aclose()
        await self._admission.aclose()
        await self._remotes.aclose()
        await self.store.close()

    def serve_here(self, namespace: str, service: str, handler: Handler) -> None:
        """Let a handler of this process be the Service that an APIService names.

        It gets the requests for the APIService's group and version, authorized, with the user
        (``identity.User``) in the request's context under ``user``.
        """
        self._served_here[namespace, service] = handler

    def as_user(self, name: str, groups: Sequence[str] = ()) -> Handler:
        """A handler for in-process clients that acts as this user."""
        user = User(name, (*groups, AUTHENTICATED))

        async def handle(request: Request) -> Response:
            request.context["user"] = user
            response = await self.handle(request)
            # As over a network, whoever tries again lets others have their turn, commits above all.
            await asyncio.sleep(0)
            return response

        return handle

    async def handle(self, request: Request) -> Response:
        """Answer a request; errors become Status answers."""
        began_s, seen = self._clock.monotonic(), Seen(self._clock.now())
        response = await self._guarded(request, seen)
        if self._ready:
            self._audit.record(request, seen, response.status)
            wanted = seen.wanted
            served = (
                self.catalog.find(wanted.group, wanted.version, wanted.resource) if wanted else None
            )
            self._metrics.record(request, seen, served, response, began_s)
        return response

    async def _guarded(self, request: Request, seen: Seen) -> Response:
        try:
            return await self._answer(request, seen)
        except UnderwayError as error:
            return render_error(error)
        except RecursionError:  # the body parsed, and what looks at it needs more room than that
            return render_error(BadRequest("the object is nested too deeply"))
        except Exception as error:  # a bug must not cost the connection
            log.exception("%s %s failed", request.method, request.path)
            return render_error(InternalError(f"Internal error occurred: {error}"))

    async def _answer(self, request: Request, seen: Seen) -> Response:
        if not self._ready:
            return Response(503, {"content-type": "text/plain"}, b"not ready")
        user = seen.asker = seen.user = self._authenticator.authenticate(request)
        wanted = seen.wanted = attributes(request)
        if user is ANONYMOUS and (wanted.resource or request.segments()[:1] not in _PUBLIC):
            raise Unauthorized("Unauthorized")
        if wants_impersonation(request):
            user = seen.user = impersonate(request, user, self._rbac.authorize)
        self._rbac.authorize(user, wanted)
        seen.allowed = True
        if not wanted.resource:
            return await self._answer_path(request, user)
        served = self.catalog.find(wanted.group, wanted.version, wanted.resource)
        backend = self.aggregation.find(wanted.group, wanted.version)
        if backend is not None:
            return await self.aggregation.answer(backend, request, user)
        if served is None:
            raise no_such_path()
        return await self._rest.answer(Call(request, user, wanted, served))

    async def _answer_path(self, request: Request, user: User) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise no_such_path()
        backend = self._backend_of_path(request.segments())
        if backend is not None:
            return await self.aggregation.answer(backend, request, user)
        address = f"{self._advertised[0]}:{self._advertised[1]}"
        found = self._discovery.respond(request, address)
        if found is not None:
            return found
        match request.segments():
            case []:
                paths = [
                    "/api",
                    "/apis",
                    "/healthz",
                    "/livez",
                    "/metrics",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/readyz",
                    "/version",
                ]
                return json_response({"paths": paths})
            case ["metrics"]:
                own = self._metrics.render(self._counts())
                rest = [source() for source in self.metrics_sources]
                return Response(200, {"content-type": MEDIA}, b"".join([own, *rest]))
            case ["version"]:
                return json_response(version_info())
            case ["healthz" | "livez" | "readyz" as check, *which]:
                return self._health(request, check, which)
            case ["openapi", "v3", *rest]:
                return await self._openapi.v3(request, rest)
            case ["openapi", "v2"]:
                return await self._openapi.v2(request, user)
            case [".well-known", "openid-configuration"]:
                return json_response(self._authenticator.oidc_configuration())
            case ["openid", "v1", "jwks"]:
                return Response(
                    200,
                    {"content-type": "application/jwk-set+json"},
                    json_response(self._authenticator.jwks()).body,
                )
        raise no_such_path()

    def _backend_of_path(self, segments: list[str]) -> Backend | None:
        """Who describes a group and version, if another server does."""
        match segments:
            case ["apis", group, version] | ["openapi", "v3", "apis", group, version]:
                return self.aggregation.find(group, version)
        return None

    def _counts(self) -> dict[tuple[str, str], int]:
        """How many objects of each resource are stored, by group and name."""
        return {
            (served.resource.group, served.resource.plural): len(self.store.rows(served.storage))
            for served in self.catalog
            if "list" in served.resource.verbs
        }

    def _health(self, request: Request, check: str, which: list[str]) -> Response:
        checks = ["ping", "log", "etcd", "poststarthook/rbac/bootstrap-roles"]
        text = {"content-type": "text/plain; charset=utf-8"}
        if which:
            if "/".join(which) not in checks:
                raise no_such_path()
            return Response(200, text, b"ok")
        if "verbose" in request.params():
            lines = [f"[+]{name} ok" for name in checks]
            return Response(200, text, "\n".join([*lines, f"{check} check passed", ""]).encode())
        return Response(200, text, b"ok")

    def _find(self, resource: str, namespace: str, name: str) -> Object | None:
        row = self.store.get(Key(resource, namespace, name))
        return row.decode() if row else None


class _StoredRoles:
    """Roles and bindings from the store, decoded once for each version."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decoded: dict[Key, tuple[int, Object]] = {}

    def objects(self, resource: str, namespace: str | None = None) -> list[Object]:
        rows = self._store.rows(f"{resource}.{_RBAC}", namespace)
        return [self._decode(row.key, row.rv, row.data) for row in rows]

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        row = self._store.get(Key(f"{resource}.{_RBAC}", namespace, name))
        return self._decode(row.key, row.rv, row.data) if row else None

    def _decode(self, key: Key, rv: int, data: bytes) -> Object:
        known = self._decoded.get(key)
        if known is None or known[0] != rv:
            known = self._decoded[key] = (rv, msgspec.json.decode(data))
        return known[1]


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
