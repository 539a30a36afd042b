"""The node process: what must run where the containers run, as the node's own user."""

from __future__ import annotations

import uvloop

from underway.base.clock import SystemClock
from underway.base.home import Home
from underway.client import Client
from underway.dist import processes
from underway.dist.control_plane import run_until_signal
from underway.kit import Ready, registry
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
        manager = Manager(Client(transport), SystemClock())
        for capability in registry.installed():
            if isinstance(registry.probe(capability), Ready):
                for target in capability.node_controllers:
                    registry.load(target)(manager, home)
        processes.tell_ready()
        await run_until_signal(manager)
    finally:
        await transport.aclose()
