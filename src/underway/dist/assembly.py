"""The parts of a control plane put together: API server, its port, CRDs, controllers.

The platform and ``underway.testing`` are both made of this, so that tests meet what users run.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib import resources

import yaml

from underway.api.objects import Object, find_condition
from underway.api.resources import CUSTOMRESOURCEDEFINITIONS
from underway.base.clock import Clock, SystemClock
from underway.base.home import Home, Settings
from underway.client import Client
from underway.dist import permissions
from underway.kit import Capability, registry
from underway.reconcile.manager import Manager
from underway.server.app import ApiServer
from underway.server.nodes import NodeConnector
from underway.transport import front, pki
from underway.wire.http import Request, Response

_MASTERS = ("system:masters",)


@dataclass(frozen=True)
class ControlPlane:
    """A served API; ``manager`` holds the capabilities' controllers and waits to be run.

    ``client`` may do anything, in process. ``port`` is TCP on the settings' ``bind_address``.
    """

    server: ApiServer
    client: Client
    manager: Manager
    port: int


@contextlib.asynccontextmanager
async def control_plane(
    home: Home,
    settings: Settings,
    capabilities: Sequence[Capability],
    *,
    connector: NodeConnector,
    clock: Clock | None = None,
) -> AsyncIterator[ControlPlane]:
    """Serve the API of the cluster in ``home`` over TLS, with the CRDs of the capabilities.

    Keys must be there (``transport.pki.ensure_pki``). An ``api_port`` of 0 picks a free one.

    Raises:
        Conflict: the port is taken.
        ServiceUnavailable: another process has the cluster's database open.
    """
    clock = clock or SystemClock()
    server: ApiServer | None = None

    async def handle(request: Request) -> Response:
        # The port is bound first, because the server tells its own address to its clients.
        return Response(503) if server is None else await server.handle(request)

    async with await front.serve(
        handle, host=settings.bind_address, port=settings.api_port, tls=server_tls(home), http2=True
    ) as listener:
        starting = ApiServer(
            home,
            settings=settings,
            clock=clock,
            connector=connector,
            advertised=(settings.bind_address, listener.port),
        )
        await starting.start()
        server = starting
        try:
            client = Client(server.as_user("system:apiserver", _MASTERS))
            manager = Manager(permissions.manager_client(server), clock)
            await permissions.install(client, capabilities)
            server.metrics_sources.append(lambda: manager.metrics.render(process=False))
            for capability in capabilities:
                await _install_crds(client, capability)
                for target in capability.controllers:
                    acting = permissions.controller_client(server, capability, target)
                    registry.load(target)(manager.acting(acting), home)
                for service, target in capability.api_services.items():
                    namespace, _, name = service.partition("/")
                    acting = permissions.controller_client(server, capability, target)
                    handler = registry.load(target)(manager.acting(acting))
                    server.serve_here(namespace, name, handler)
            yield ControlPlane(server, client, manager, listener.port)
        finally:
            await server.stop()


def server_tls(home: Home) -> ssl.SSLContext:
    """TLS for what the control plane serves; clients may show a certificate of the platform."""
    keys = home.pki
    return pki.server_context(keys / "apiserver.crt", keys / "apiserver.key", keys / "ca.crt")


async def _install_crds(client: Client, capability: Capability) -> None:
    for name in capability.crds:
        package, _, file = name.partition(":")
        text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
        for document in yaml.safe_load_all(text):
            await install_crd(client, document)


async def install_crd(client: Client, crd: Object) -> None:
    """Apply a CustomResourceDefinition and wait until it is served."""
    resource = CUSTOMRESOURCEDEFINITIONS
    created = await client.apply(resource, crd, field_manager="underway")
    while not _established(created):
        version = created["metadata"]["resourceVersion"]
        name = created["metadata"]["name"]
        async for event in client.watch(
            resource, resource_version=version, fields=f"metadata.name={name}"
        ):
            created = event.object
            if _established(created):
                return


def _established(crd: Object) -> bool:
    conditions = (crd.get("status") or {}).get("conditions")
    found = find_condition(conditions, "Established")
    return found is not None and found.get("status") == "True"
