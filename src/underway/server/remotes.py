"""Servers the cluster names in its objects: by URL, or as a Service with a CA bundle.

Source: API reference ``WebhookClientConfig`` (apiextensions/v1), ``ServiceReference``
(apiregistration/v1).
"""

from __future__ import annotations

import base64
import binascii
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from underway.api.objects import Object
from underway.base.errors import ServiceUnavailable
from underway.server.store import Key, Store
from underway.transport import pki
from underway.transport.client import HttpTransport

_TRANSPORTS = 64


@dataclass(frozen=True)
class Remote:
    """A way to a server: ``shown`` is its URL as people know it, ``path`` where to ask."""

    shown: str
    path: str
    send: HttpTransport


class Remotes:
    """Connections to such servers, one pool each, closed by ``aclose``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._transports: dict[tuple[str, str, str], HttpTransport] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        while self._transports:
            await self._transports.popitem()[1].aclose()

    async def reach(self, config: Object) -> Remote:
        """The way to the server of a ``clientConfig``.

        Raises:
            ServiceUnavailable: its Service is not there, or its CA bundle is none.
        """
        name, service = "", config.get("service")
        if service:
            url, path = service_url(self._store, service), service.get("path") or "/"
            name = f"{service['name']}.{service['namespace']}.svc"
        else:
            parts = urlsplit(str(config.get("url")))
            url, path = f"https://{parts.netloc}", parts.path or "/"
        bundle = str(config.get("caBundle") or "")
        key = (url, bundle, name)
        transport = self._transports.get(key)
        if transport is None:
            context = checked_context(bundle)
            if len(self._transports) >= _TRANSPORTS:  # of configurations that changed, mostly
                await self._transports.pop(next(iter(self._transports))).aclose()
            transport = HttpTransport(url, tls=context, server_name=name)
            self._transports[key] = transport
        shown = f"https://{name}:{url.rpartition(':')[2]}" if name else url
        return Remote(shown, path, transport)


def checked_context(bundle: str) -> ssl.SSLContext:
    """A context that trusts a CA bundle (base64 of PEM); the machine's authorities if empty.

    Raises:
        ServiceUnavailable: it holds no certificates.
    """
    try:
        return pki.client_context(base64.b64decode(bundle, validate=True) or None)
    except (binascii.Error, ssl.SSLError, ValueError) as error:
        raise ServiceUnavailable("unable to load root certificates: the caBundle is none") from (
            error
        )


def service_url(store: Store, reference: Object) -> str:
    """``https://address:port`` of a Service.

    Raises:
        ServiceUnavailable: it is not there, or has no such port or address.
    """
    namespace, name = reference.get("namespace", ""), reference.get("name", "")
    row = store.get(Key("services", namespace, name))
    if row is None:
        raise ServiceUnavailable(f'service "{name}" not found')
    spec = row.decode().get("spec") or {}
    port = reference.get("port") or 443
    if spec.get("type") == "ExternalName":
        return f"https://{spec.get('externalName')}:{port}"
    if all(each.get("port") != port for each in spec.get("ports") or ()):
        raise ServiceUnavailable(f'no service port {port} found for service "{name}"')
    address = spec.get("clusterIP") or "None"
    if address == "None":
        raise ServiceUnavailable(f'service "{name}" has no cluster IP')
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"
