"""The webhook server's certificate: made, renewed before it ends, and made known to the API.

One Secret is shared by all replicas. The order of each pass makes every change graceful: first a
new authority joins those trusted, then whoever calls is told to trust it, and only then is a
certificate of it served.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from underway.api.objects import Object, name_of
from underway.api.resources import SECRETS, Resource
from underway.base.errors import AlreadyExists, Conflict
from underway.reconcile import authority
from underway.reconcile.authority import Material
from underway.reconcile.controller import Controller, RequeueAfter
from underway.reconcile.informer import Informer
from underway.reconcile.sources import Request, Watched
from underway.transport import pki

if TYPE_CHECKING:
    from underway.reconcile.manager import Manager

log = logging.getLogger(__name__)


class ManagedCertificate:
    """A server certificate in a Secret, signed by an authority in the same Secret.

    Args:
        namespace: of the Secret.
        name: of the Secret; it is created.
        names: DNS names and IP addresses the server is reached by; for a Service
            ``NAME.NAMESPACE.svc``.
        inject: objects whose ``caBundle`` is kept: webhook configurations, CRDs with a conversion
            webhook, APIServices; each a resource and a name. They may come later.
        life: of the server's certificate; it is renewed after two thirds of it.
        authority_life: of the authority; likewise.

    Attributes:
        context: for the server; new certificates are loaded into it, and every connection made
            afterwards uses them.
    """

    def __init__(
        self,
        *,
        namespace: str,
        name: str,
        names: Sequence[str],
        inject: Iterable[tuple[Resource, str]] = (),
        life: timedelta = authority.SERVER_LIFE,
        authority_life: timedelta = authority.AUTHORITY_LIFE,
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._request = Request(namespace, name)
        self._names = tuple(names)
        self._inject = tuple(inject)
        self._life = life
        self._authority_life = authority_life
        self._ready = asyncio.Event()
        self._loaded = b""
        self._manager: Manager | None = None
        self._targets: list[tuple[Informer, str]] = []

    async def ready(self) -> None:
        """Return once there is a certificate to serve."""
        await self._ready.wait()

    def attach(self, manager: Manager) -> None:
        """Keep the certificate with this manager, on every replica."""
        self._manager = manager
        secrets = manager.informer(
            SECRETS,
            namespace=self._request.namespace,
            fields=f"metadata.name={self._request.name}",
        )
        self._targets = [
            (manager.informer(resource, fields=f"metadata.name={name}"), name)
            for resource, name in self._inject
        ]
        controller = Controller(
            f"certificate-{self._request.name}",
            self._reconcile,
            primary=secrets,
            watches=[
                Watched(informer, lambda _obj: [self._request]) for informer, _ in self._targets
            ],
            every_replica=True,
        )
        manager.add(controller).enqueue(self._request)

    async def _reconcile(self, _request: Request) -> RequeueAfter:
        assert self._manager is not None
        now = self._manager.clock.now()
        secret, material = await self._ensure_authority(now)
        await self._tell(material.bundle)
        if not self._serves(material, now):
            pair = authority.new_server(material.authority, self._names, now, self._life)
            certificate, key = authority.pem(pair)
            material = replace(material, server_pem=certificate, server_key_pem=key)
            await self._write(secret, material)
            log.info("a new certificate for %s, until %s", self._names[0], _end(material))
        self._load(material)
        due = min(authority.renewal_of(material.server), material.authority.renewal())
        return RequeueAfter(max((due - now).total_seconds(), 1.0))

    async def _ensure_authority(self, now: datetime) -> tuple[Object, Material]:
        """The Secret and its material, with an authority that is not about to end."""
        assert self._manager is not None
        found = await self._manager.client.list(
            SECRETS, self._request.namespace, fields=f"metadata.name={self._request.name}"
        )
        secret = found.items[0] if found.items else {}
        material = authority.read(secret) if secret else None
        if material is None:
            pair = authority.new_authority(self._request.name, now, self._authority_life)
            server = authority.new_server(pair, self._names, now, self._life)
            material = Material((pair.certificate,), pair, *authority.pem(server))
            return await self._write(secret, material), material
        if now < material.authority.renewal():
            return secret, material
        pair = authority.new_authority(self._request.name, now, self._authority_life)
        still = [each for each in material.trusted if each.not_valid_after_utc > now]
        material = replace(material, trusted=(*still, pair.certificate), authority=pair)
        return await self._write(secret, material), material

    def _serves(self, material: Material, now: datetime) -> bool:
        server = material.server
        return now < authority.renewal_of(server) and authority.fits(
            server, material.authority, self._names
        )

    async def _write(self, secret: Object, material: Material) -> Object:
        assert self._manager is not None
        client = self._manager.client
        if secret:
            return await client.replace(SECRETS, {**secret, "data": material.data()})
        made = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._request.name, "namespace": self._request.namespace},
            "type": "kubernetes.io/tls",
            "data": material.data(),
        }
        try:
            return await client.create(SECRETS, made)
        except AlreadyExists as error:
            raise Conflict(f"another replica made the Secret {self._request.key}") from error

    async def _tell(self, bundle: bytes) -> None:
        """Have every caller trust the authorities.

        Raises:
            Conflict: a configuration changed meanwhile.
        """
        assert self._manager is not None
        encoded = base64.b64encode(bundle).decode()
        for informer, name in self._targets:
            obj = informer.get(name)
            if obj is not None and _inject(obj, encoded):
                await self._manager.client.replace(informer.resource, obj)
                log.info("%s %s trusts the webhook's authority", obj["kind"], name_of(obj))

    def _load(self, material: Material) -> None:
        if material.server_pem != self._loaded:
            pki.load_chain(self.context, material.server_pem, material.server_key_pem)
            self._loaded = material.server_pem
        self._ready.set()


def _inject(obj: Object, bundle: str) -> bool:
    """Put ``bundle`` wherever the object names a CA; whether that changed it."""
    configs: list[Any] = [hook.setdefault("clientConfig", {}) for hook in obj.get("webhooks") or ()]
    spec = obj.get("spec") or {}
    if obj["kind"] == "APIService":
        configs.append(spec)
    conversion = (spec.get("conversion") or {}).get("webhook")
    if conversion is not None:
        configs.append(conversion.setdefault("clientConfig", {}))
    changed = False
    for config in configs:
        if config.get("caBundle") != bundle:
            config["caBundle"] = bundle
            changed = True
    return changed


def _end(material: Material) -> str:
    return material.server.not_valid_after_utc.isoformat()
