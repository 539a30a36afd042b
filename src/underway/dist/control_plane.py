"""The control-plane process: API server, controllers, and the capabilities' HTTP services."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

import uvloop

from underway.api.objects import Object
from underway.base.home import Home, Settings
from underway.dist import assembly, processes
from underway.kit import registry
from underway.reconcile.manager import Manager
from underway.server.nodes import NodeConnector
from underway.transport import front, pki
from underway.transport.tunnel import tunnel
from underway.wire.http import Request, Response


def main(home: Home) -> None:
    """Run until SIGTERM."""
    uvloop.run(_run(home))


async def _run(home: Home) -> None:
    settings = home.load_settings()
    capabilities = registry.runnable()
    connector = _node_connector(home, settings)
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(
            assembly.control_plane(home, settings, capabilities, connector=connector)
        )
        context = assembly.server_tls(home)
        ports = registry.Ports(capabilities, home)
        for capability in capabilities:
            for route in capability.routes:
                handler = registry.load(route.app)(home, ports)
                port = getattr(settings, route.port_setting)
                await stack.enter_async_context(
                    await front.serve(handler, host=settings.bind_address, port=port, tls=context)
                )
        processes.tell_ready()
        await run_until_signal(plane.manager)


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
