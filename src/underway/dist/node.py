"""The node process: what must run where the containers run, as the node's own user."""

from __future__ import annotations

import uvloop

from underway.api.objects import Object, find_condition
from underway.api.resources import NODES
from underway.base.clock import SystemClock
from underway.base.home import Home
from underway.client import Client
from underway.dist import processes
from underway.dist.control_plane import run_until_signal
from underway.kit import registry
from underway.reconcile.manager import Manager
from underway.transport import pki
from underway.transport.client import HttpTransport


def main(home: Home) -> None:
    """Run until SIGTERM. Containers go on running."""
    uvloop.run(_run(home))


async def _run(home: Home) -> None:
    settings = home.load_settings()
    context = pki.client_context(home.pki / "ca.crt", home.pki / "node.crt", home.pki / "node.key")
    transport = HttpTransport(f"https://{settings.bind_address}:{settings.api_port}", tls=context)
    try:
        client = Client(transport)
        manager = Manager(client, SystemClock())
        capabilities = registry.runnable()
        for capability in capabilities:
            for target in capability.node_controllers:
                registry.load(target)(manager, home)

        async def announce() -> None:
            if any(capability.id == "node" for capability in capabilities):
                await _node_ready(client, settings.node_name)
            processes.tell_ready()

        manager.add_runnable(announce, "announcing the node")
        await run_until_signal(manager)
    finally:
        await transport.aclose()


async def _node_ready(client: Client, name: str) -> None:
    while True:
        found = await client.list(NODES, fields=f"metadata.name={name}")
        if any(_is_ready(node) for node in found.items):
            return
        async for event in client.watch(
            NODES, fields=f"metadata.name={name}", resource_version=found.resource_version
        ):
            if _is_ready(event.object):
                return


def _is_ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions")
    return (find_condition(conditions, "Ready") or {}).get("status") == "True"
