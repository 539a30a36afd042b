"""An API server in the test's own event loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from underway.base.home import Home
from underway.client import Client
from underway.server.app import ApiServer
from underway.wire.http import Request


@asynccontextmanager
async def running(root, **options):
    """A started server; its ``admin`` is a client that may do everything."""
    server = ApiServer(Home(root), **options)
    await server.start()
    try:
        server.admin = Client(server.as_user("admin", ["system:masters"]))
        yield server
    finally:
        await server.stop()


def serve(root, scenario, **options):
    """Run ``await scenario(server, server.admin)`` against a fresh server."""

    async def main():
        async with running(root, **options) as server:
            return await scenario(server, server.admin)

    return asyncio.run(main())


def request(method, path, query="", body=b"", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, query, named, body)


def pod(name, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "nginx"}], **spec},
    }


def configmap(name, labels=None, **data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **({"labels": labels} if labels else {})},
        "data": data,
    }


def deployment(name, **spec):
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "nginx"}]},
            },
            **spec,
        },
    }
