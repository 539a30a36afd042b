"""Serves the registry of the home given as argument, over TLS, until it is killed."""

import asyncio
import json
import sys
from pathlib import Path

import msgspec

from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.registry import routes
from underway.capabilities.registry.backend.hub import Hub
from underway.transport import front, pki


class NoPorts:
    def get(self, port):
        raise NotFound(port)


async def main(home):
    handlers = []

    async def handle(request):
        return await handlers[0](request)

    settings = home.load_settings()
    context = pki.server_context(home.pki / "apiserver.crt", home.pki / "apiserver.key")
    async with await front.serve(handle, port=settings.registry_port, tls=context) as server:
        # Credentials name the port, so it has to be known before there is a registry.
        home.save_settings(msgspec.structs.replace(settings, registry_port=server.port))
        hub = Hub(home)
        handlers.append(routes.serve(hub, NoPorts()))
        print(json.dumps({"port": server.port}), flush=True)
        await hub.jobs.run()


asyncio.run(main(Home(Path(sys.argv[1]))))
