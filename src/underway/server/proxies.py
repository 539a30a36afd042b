"""pods/proxy and services/proxy: an HTTP request passed on to a pod.

A name is ``name``, ``name:port`` or ``scheme:name:port``. A Service's port is its name or number
and leads to a ready endpoint, chosen at random; a pod's is a number, by default the first
container port. Loopback, link-local and unspecified addresses are never dialled: behind them is
this machine, not a pod. The user's credentials do not travel on. A pod's certificate is not
checked, because nobody vouches for it.

Source: Kubernetes API reference, "Proxy operations"; kubernetes ``pkg/registry/core/pod/strategy``
(ResourceLocation), ``pkg/registry/core/service/storage`` (ResourceLocation), apimachinery
``pkg/util/proxy``.
"""

from __future__ import annotations

import ipaddress
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from underway.api.objects import Object, labels_of, name_of
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.server.call import Call
from underway.server.store import Key, Store
from underway.transport.tunnel import tunnel
from underway.wire.http import Request, Response

CONNECTS = ("pods", "services")
_PATH = re.compile(r"/+api/+v1/+(?:namespaces/+[^/]+/+)?[^/]+/+[^/]+/+proxy(?P<rest>/.*)?")
_SERVICE_NAME = "kubernetes.io/service-name"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Place:
    """Where a request goes on to."""

    scheme: str
    host: str
    port: int


Send = Callable[[Place, Request, str], Awaitable[Response]]
"""(place, request, path) -> the answer from there."""


async def send(place: Place, request: Request, path: str) -> Response:
    """Pass a request on over the network."""
    context = _unchecked() if place.scheme == "https" else None
    address, prefix = request.headers.get("host", ""), _prefix(request.path)
    headers = {
        "x-forwarded-host": address,
        "x-forwarded-proto": "https",
        "x-forwarded-uri": request.path,
    }
    passed = {
        name: value for name, value in request.headers.items() if not name.startswith("impersonate")
    }
    request = replace(request, headers=passed)
    response = await tunnel(request, place.host, place.port, context, path, request.query, headers)
    target = response.headers.get("location")
    if target is not None:
        response.headers["location"] = _seen_from_outside(target, place, prefix)
    return response


class Proxies:
    """Finds the pod behind a name and hands the request to it."""

    def __init__(self, store: Store, forward: Send = send) -> None:
        self._store = store
        self._forward = forward

    async def connect(self, call: Call) -> Response:
        """The pod's answer.

        Raises:
            NotFound: there is no such pod or Service.
            BadRequest: the name is malformed, or the pod has no address that may be dialled.
            ServiceUnavailable: the Service has no such port or no ready endpoint, or the pod
                does not answer.
        """
        request = call.request
        path = proxied_path(request.path)
        if not path:
            if request.method in ("GET", "HEAD"):
                query = f"?{request.query}" if request.query else ""
                return Response(301, {"location": f"{request.path}/{query}"})
            path = "/"
        scheme, name, port = split_name(call.attributes.name)
        find = self._pod if call.attributes.resource == "pods" else self.endpoint
        host, number = find(call.attributes.namespace, name, port)
        number = number or _DEFAULT_PORTS[scheme]
        _check_address(host)
        return await self._forward(Place(scheme, host, number), request, path)

    def _pod(self, namespace: str, name: str, port: str) -> tuple[str, int]:
        row = self._store.get(Key("pods", namespace, name))
        if row is None:
            raise NotFound(f'pods "{name}" not found', details={"name": name, "kind": "pods"})
        pod = row.decode()
        host = str((pod.get("status") or {}).get("podIP") or "")
        if not host:
            raise BadRequest(f"pod {name} has no IP address yet")
        if port:
            if not port.isdecimal() or not 0 < int(port) < 65536:
                raise BadRequest(f"invalid pod port {port!r} of {name}: it must be a number")
            return host, int(port)
        for container in (pod.get("spec") or {}).get("containers") or ():
            for each in container.get("ports") or ():
                return host, int(each["containerPort"])
        return host, 0

    def endpoint(self, namespace: str, name: str, port: str) -> tuple[str, int]:
        """The address and port of a ready endpoint of a Service's port, given by name or number.

        Raises:
            NotFound: there is no such Service.
            ServiceUnavailable: it has no such port or no ready endpoint.
        """
        row = self._store.get(Key("services", namespace, name))
        if row is None:
            details = {"name": name, "kind": "services"}
            raise NotFound(f'services "{name}" not found', details=details)
        port_name = _port_name(row.decode(), port)
        found: list[tuple[str, int]] = []
        for each in self._store.rows("endpointslices.discovery.k8s.io", namespace):
            if name.encode() in each.data:
                found += _ready(each.decode(), name, port_name)
        if not found:
            raise ServiceUnavailable(f'no endpoints available for service "{name}"')
        return random.choice(found)  # noqa: S311  # spreads load, guards nothing


def proxied_path(path: str) -> str:
    """What follows ``/proxy`` in a request's path, still encoded; empty if nothing does."""
    found = _PATH.fullmatch(path)
    return (found["rest"] or "") if found else ""


def _prefix(path: str) -> str:
    return path.removesuffix(proxied_path(path))


def split_name(text: str) -> tuple[str, str, str]:
    """(scheme, name, port) of ``name``, ``name:port`` or ``scheme:name:port``.

    Raises:
        BadRequest: it has another form, or the scheme is neither http nor https.
    """
    parts = text.split(":")
    if len(parts) == 1:
        return "http", text, ""
    if len(parts) == 2:
        return "http", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("", "http", "https"):
        return parts[0] or "http", parts[1], parts[2]
    raise BadRequest(f"invalid proxy name {text!r}: want name, name:port or scheme:name:port")


def _port_name(service: Object, port: str) -> str:
    """The name of the port meant by its name or number."""
    if not port.isdecimal():
        return port
    for each in (service.get("spec") or {}).get("ports") or ():
        if each.get("port") == int(port):
            return str(each.get("name") or "")
    raise ServiceUnavailable(f'no service port {port} found for service "{name_of(service)}"')


def _ready(piece: Object, service: str, port_name: str) -> list[tuple[str, int]]:
    """The addresses and ports of an EndpointSlice that serve a Service's port."""
    if labels_of(piece).get(_SERVICE_NAME) != service:
        return []
    ports = [
        int(port["port"])
        for port in piece.get("ports") or ()
        if (port.get("name") or "") == port_name and port.get("port")
    ]
    hosts = [
        str(endpoint["addresses"][0])
        for endpoint in piece.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready", True) and endpoint.get("addresses")
    ]
    return [(host, port) for host in hosts for port in ports]


def _check_address(host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise BadRequest(f"address not allowed: {host!r} is no IP address") from error
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    forbidden = address.is_loopback or address.is_link_local or address.is_unspecified
    if forbidden or address.is_multicast:
        raise BadRequest(f"address not allowed: {host}")


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _seen_from_outside(target: str, place: Place, prefix: str) -> str:
    """A redirect's target as the client can reach it: below the proxy's path."""
    parts = urlsplit(target)
    if parts.netloc and parts.hostname != place.host:
        return target
    if not parts.path.startswith("/"):
        return target
    query = f"?{parts.query}" if parts.query else ""
    return f"{prefix}{parts.path}{query}"
