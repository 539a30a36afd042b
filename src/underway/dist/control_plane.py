"""The control-plane process: API server, controllers, the capabilities' HTTP services, console."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

import uvloop

from underway.api.objects import Object
from underway.base.home import Home, Settings
from underway.base.memory import collect_seldom
from underway.dist import assembly, processes
from underway.dist.deferred import deferred
from underway.dist.web import lazy
from underway.kit import Route, registry
from underway.reconcile.manager import Manager
from underway.server.nodes import NodeConnector
from underway.transport import front, pki
from underway.transport.tunnel import tunnel
from underway.wire.http import Handler, Request, Response


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

        async def serve(handler: Handler, port: int) -> None:
            host = settings.bind_address
            server = await front.serve(handler, host=host, port=port, tls=context)
            await stack.enter_async_context(server)

        services: dict[str, Handler] = {}
        for capability in capabilities:
            for route in capability.routes:
                handler = services[route.endpoint] = _service(route, home, ports)
                await serve(handler, getattr(settings, route.port_setting))
        await serve(lazy.console(home, plane.server.handle, services), settings.console_port)
        processes.tell_ready()
        collect_seldom()
        await run_until_signal(plane.manager)


def _service(route: Route, home: Home, ports: registry.Ports) -> Handler:
    def make() -> Handler:
        made: Handler = registry.load(route.app)(home, ports)
        return made

    return deferred(make) if route.lazy else make()


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
