"""The control-plane process: API server, controllers, and the capabilities' HTTP services."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from importlib import resources

import uvloop
import yaml

from underway.api.objects import Object, find_condition
from underway.api.resources import CUSTOMRESOURCEDEFINITIONS, Resource
from underway.base.clock import SystemClock
from underway.base.home import Home, Settings
from underway.client import Client
from underway.dist import processes
from underway.kit import Capability, Ready, registry
from underway.reconcile.manager import Manager
from underway.server.app import ApiServer
from underway.server.nodes import NodeConnector
from underway.transport import front, pki
from underway.transport.tunnel import tunnel
from underway.wire.http import Request, Response

_log = logging.getLogger(__name__)

_CONTROLLER_USER = "system:kube-controller-manager"
_MASTERS = ("system:masters",)


def main(home: Home) -> None:
    """Run until SIGTERM."""
    uvloop.run(_run(home))


async def _run(home: Home) -> None:
    settings = home.load_settings()
    capabilities = [each for each in registry.installed() if _can_run(each)]
    async with AsyncExitStack() as stack:
        server = ApiServer(home, settings=settings, connector=_node_connector(home, settings))
        await server.start()
        stack.push_async_callback(server.stop)
        context = pki.server_context(
            home.pki / "apiserver.crt", home.pki / "apiserver.key", home.pki / "ca.crt"
        )
        await stack.enter_async_context(
            await front.serve(
                server.handle, host=settings.bind_address, port=settings.api_port, tls=context
            )
        )
        client = Client(server.as_user(_CONTROLLER_USER, _MASTERS))
        await _install_crds(client, capabilities)
        ports = registry.Ports(capabilities, home)
        for capability in capabilities:
            for route in capability.routes:
                handler = registry.load(route.app)(home, ports)
                port = getattr(settings, route.port_setting)
                await stack.enter_async_context(
                    await front.serve(handler, host=settings.bind_address, port=port, tls=context)
                )
        manager = Manager(client, SystemClock())
        for capability in capabilities:
            for target in capability.controllers:
                registry.load(target)(manager, home)
        processes.tell_ready()
        await run_until_signal(manager)


async def run_until_signal(manager: Manager) -> None:
    """Run a manager until the process is asked to end."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, asked.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(manager.run())
        await asked.wait()
        running.cancel()


def _can_run(capability: Capability) -> bool:
    state = registry.probe(capability)
    if not isinstance(state, Ready):
        _log.warning("%s is off: %s", capability.id, state.reason)
    return isinstance(state, Ready)


async def _install_crds(client: Client, capabilities: list[Capability]) -> None:
    for capability in capabilities:
        for name in capability.crds:
            package, _, file = name.partition(":")
            text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
            for document in yaml.safe_load_all(text):
                await _install_crd(client, document)


async def _install_crd(client: Client, crd: Object) -> None:
    resource: Resource = CUSTOMRESOURCEDEFINITIONS
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


def _node_connector(home: Home, settings: Settings) -> NodeConnector:
    context = pki.client_context(
        home.pki / "ca.crt",
        home.pki / "apiserver-kubelet-client.crt",
        home.pki / "apiserver-kubelet-client.key",
    )

    async def connect(_node: Object, request: Request) -> Response:
        # One machine, one node: its agent listens where the platform's other services do.
        host, port = settings.bind_address, settings.node_port
        return await tunnel(request, host, port, context, request.path, request.query)

    return connect
