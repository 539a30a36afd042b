"""API groups that other servers serve: APIServices, and the way of a request to one.

A request for such a group, authenticated and authorized here, goes on to a ready endpoint of the
APIService's Service over TLS. The front-proxy client certificate vouches for the headers that say
who the user is. A Service can also be a handler of this process (``ApiServer.serve_here``); then
there is no network in between, and the handler finds the user in the request's context.

Source: Kubernetes "Kubernetes API Aggregation Layer", "Configure the Aggregation Layer";
apiregistration/v1 ``APIService``; kube-aggregator ``pkg/apiserver/handler_proxy.go``.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from underway.api.objects import Object, name_of
from underway.base.errors import NotFound, ServiceUnavailable, UnderwayError
from underway.server.identity import User
from underway.server.proxies import Proxies
from underway.server.remotes import checked_context
from underway.server.store import Change, Key, Store
from underway.transport.pki import FRONT_PROXY_CLIENT
from underway.transport.tunnel import tunnel
from underway.wire.http import Handler, Request, Response

STORAGE = "apiservices.apiregistration.k8s.io"
USER_HEADER, UID_HEADER = "X-Remote-User", "X-Remote-Uid"
GROUP_HEADER, EXTRA_PREFIX = "X-Remote-Group", "X-Remote-Extra-"
_CREDENTIALS = frozenset({"authorization", "cookie"})
_CONTEXTS = 64


@dataclass(frozen=True)
class Backend:
    """An APIService that leads to a Service."""

    object_name: str
    group: str
    version: str
    namespace: str
    service: str
    port: int
    bundle: str
    insecure: bool
    group_priority: int
    version_priority: int
    available: bool

    @classmethod
    def of(cls, obj: Object) -> Backend | None:
        """What an APIService says; None if the group is served here."""
        spec = obj.get("spec") or {}
        service = spec.get("service")
        if not service:
            return None
        conditions = (obj.get("status") or {}).get("conditions") or ()
        return cls(
            name_of(obj),
            spec.get("group") or "",
            spec.get("version") or "",
            service.get("namespace") or "",
            service.get("name") or "",
            service.get("port") or 443,
            spec.get("caBundle") or "",
            bool(spec.get("insecureSkipTLSVerify")),
            spec.get("groupPriorityMinimum") or 0,
            spec.get("versionPriority") or 0,
            any(c.get("type") == "Available" and c.get("status") == "True" for c in conditions),
        )

    @property
    def path(self) -> str:
        """Where its group and version lie."""
        return f"/apis/{self.group}/{self.version}"


@dataclass(frozen=True)
class Described:
    """What a backend last said of itself.

    ``resources`` are entries of aggregated discovery; ``openapi`` the hash of its OpenAPI v3
    document, empty if it has none.
    """

    resources: tuple[Object, ...] = ()
    openapi: str = ""


@dataclass
class Aggregation:
    """The backends of a cluster.

    Args:
        store: where APIServices lie.
        proxies: finds the endpoints of Services.
        pki: the directory of the front-proxy client certificate.
        here: Services (namespace and name) that are handlers of this process.
    """

    store: Store
    proxies: Proxies
    pki: Path
    here: Mapping[tuple[str, str], Handler]
    described: dict[str, Described] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generation = 1
        self._backends: dict[tuple[str, str], Backend] = {}
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}

    def start(self) -> None:
        """Take in what is stored, and listen from now on."""
        self._read()
        self.store.subscribe(self._notice)

    def is_here(self, backend: Backend) -> bool:
        """Whether a handler of this process serves it."""
        return (backend.namespace, backend.service) in self.here

    def find(self, group: str, version: str) -> Backend | None:
        """Who serves a group and version, if somebody else does."""
        return self._backends.get((group, version))

    def backends(self) -> Iterable[Backend]:
        """All of them."""
        return self._backends.values()

    def describe(self, backend: Backend, described: Described) -> None:
        """Keep what a backend says of itself."""
        if self.described.get(backend.object_name) != described:
            self.described[backend.object_name] = described
            self.generation += 1

    def said_of(self, backend: Backend) -> Described:
        """What it last said of itself."""
        return self.described.get(backend.object_name) or Described()

    async def answer(self, backend: Backend, request: Request, user: User) -> Response:
        """The backend's answer; 503 in plain text, as upstream, where there is none."""
        if not backend.available:
            return _unavailable("service unavailable")
        try:
            return await self.send(backend, request, user)
        except NotFound:
            return _unavailable("service unavailable")
        except ServiceUnavailable as error:
            return _unavailable(f"error trying to reach service: {error.message}")

    async def send(self, backend: Backend, request: Request, user: User) -> Response:
        """The answer of a backend, whether it is known to be available or not.

        Raises:
            NotFound: there is no such Service.
            ServiceUnavailable: no endpoint is ready or reached, or it shows a wrong certificate.
            RequestTimeout: it does not answer.
        """
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in _CREDENTIALS and not name.startswith(("x-remote-", "impersonate-"))
        }
        here = self.here.get((backend.namespace, backend.service))
        if here is not None:
            return await here(replace(request, headers=headers, context={"user": user}))
        host, port = self._place(backend)
        return await tunnel(
            replace(request, headers=headers),
            host,
            port,
            self._context(backend),
            request.path,
            request.query,
            {"x-forwarded-uri": request.path, "x-forwarded-host": headers.get("host", "")},
            server_name=f"{backend.service}.{backend.namespace}.svc",
            repeated=remote_headers(user),
        )

    def _place(self, backend: Backend) -> tuple[str, int]:
        row = self.store.get(Key("services", backend.namespace, backend.service))
        spec = (row.decode().get("spec") or {}) if row else {}
        if spec.get("type") == "ExternalName":
            return str(spec.get("externalName")), backend.port
        return self.proxies.endpoint(backend.namespace, backend.service, str(backend.port))

    def _context(self, backend: Backend) -> ssl.SSLContext:
        key = (backend.bundle, backend.insecure)
        context = self._contexts.get(key)
        if context is None:
            context = checked_context(backend.bundle)
            if backend.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            certificate = self.pki / f"{FRONT_PROXY_CLIENT}.crt"
            if certificate.exists():
                context.load_cert_chain(certificate, self.pki / f"{FRONT_PROXY_CLIENT}.key")
            if len(self._contexts) >= _CONTEXTS:
                self._contexts.clear()
            self._contexts[key] = context
        return context

    def _notice(self, change: Change) -> None:
        if change.row.key.resource == STORAGE:
            self._read()

    def _read(self) -> None:
        found = (Backend.of(row.decode()) for row in self.store.rows(STORAGE))
        self._backends = {(each.group, each.version): each for each in found if each is not None}
        names = {each.object_name for each in self._backends.values()}
        self.described = {k: v for k, v in self.described.items() if k in names}
        self.generation += 1


def remote_headers(user: User) -> list[tuple[str, str]]:
    """The headers that say who a request is made for, each value on a line of its own."""
    found = [(USER_HEADER, _line(user.name)), *((GROUP_HEADER, _line(g)) for g in user.groups)]
    if user.uid:
        found.append((UID_HEADER, _line(user.uid)))
    for name, values in user.extra.items():
        found += [(f"{EXTRA_PREFIX}{quote(name, safe='')}", _line(value)) for value in values]
    return found


def _line(value: str) -> str:
    """A header's value: bytes of UTF-8 as latin-1 carries them, on one line."""
    return " ".join(value.splitlines()).encode().decode("latin-1")


def _unavailable(text: str) -> Response:
    headers = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
    return Response(503, headers, f"{text}\n".encode())


def authentication_config(pki: Path) -> Mapping[str, str]:
    """``data`` of the ConfigMap that tells extension servers whom to believe; empty without keys.

    Source: apiserver ``pkg/authentication/request/headerrequest``, kube-system/
    ``extension-apiserver-authentication``.
    """
    try:
        client = (pki / "ca.crt").read_text()
        proxy = (pki / "front-proxy-ca.crt").read_text()
    except FileNotFoundError:
        return {}
    return {
        "client-ca-file": client,
        "requestheader-allowed-names": f'["{FRONT_PROXY_CLIENT}"]',
        "requestheader-client-ca-file": proxy,
        "requestheader-extra-headers-prefix": f'["{EXTRA_PREFIX}"]',
        "requestheader-group-headers": f'["{GROUP_HEADER}"]',
        "requestheader-uid-headers": f'["{UID_HEADER}"]',
        "requestheader-username-headers": f'["{USER_HEADER}"]',
    }


def why(error: UnderwayError) -> str:
    """What a condition says of an error."""
    return error.message[:1024]
