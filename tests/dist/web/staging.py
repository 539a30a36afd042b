"""A console in process, before a real API server with accounts of different rights."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from underway.api.resources import CLUSTERROLEBINDINGS, SERVICEACCOUNTS
from underway.base.clock import Clock, SystemClock
from underway.base.home import Home, Settings
from underway.client import Client
from underway.dist.web import lazy
from underway.server.app import ApiServer
from underway.transport import pki
from underway.wire.http import Handler, Peer, Request, Response

HOST = "console.test"


@dataclass
class Browser:
    """Sends requests as a browser does, and keeps its one cookie."""

    handler: Handler
    peer: Peer = field(default_factory=lambda: Peer("127.0.0.1:4"))
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        method: str,
        target: str,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        path, _, query = target.partition("?")
        sent = {"host": HOST, "cookie": self.cookie, **self.headers}
        body = b""
        if form is not None:
            body = urlencode(form).encode()
            sent["content-type"] = "application/x-www-form-urlencoded"
            sent["origin"] = f"https://{HOST}"
        response = await self.handler(
            Request(method, path, query, {**sent, **(headers or {})}, body, self.peer)
        )
        if given := response.headers.get("set-cookie"):
            self.cookie = given.partition(";")[0]
        return response

    async def get(self, target: str, **headers: str) -> Response:
        return await self.send("GET", target, headers=headers)

    async def text(self, target: str) -> str:
        response = await self.get(target)
        assert isinstance(response.body, bytes)
        assert response.status == 200, (response.status, response.body[:2000])
        return response.body.decode()

    async def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', await self.text("/"))
        assert found
        return found[1]

    async def post(self, target: str, **fields: str) -> Response:
        """A change made through a page: with the session's token."""
        return await self.send("POST", target, {"csrf": await self.csrf(), **fields})


@dataclass
class Stage:
    """A console and the API server behind it."""

    console: Handler
    server: ApiServer
    clock: Clock

    @property
    def admin(self) -> Client:
        return Client(self.server.as_user("admin", ("system:masters",)))

    async def token(self, name: str, role: str = "") -> str:
        """A token of the account ``default/NAME``, made with a cluster role bound to it."""
        metadata = {"name": name, "namespace": "default"}
        await self.admin.create(SERVICEACCOUNTS, {"metadata": metadata})
        if role:
            await self.admin.create(
                CLUSTERROLEBINDINGS,
                {
                    "metadata": {"name": name},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role,
                    },
                    "subjects": [{"kind": "ServiceAccount", **metadata}],
                },
            )  # fmt: skip
        lasting = {"spec": {"expirationSeconds": 24 * 3600}}
        made = await self.admin.create(
            SERVICEACCOUNTS, lasting, "default", name=name, subresource="token"
        )
        token: str = made["status"]["token"]
        return token

    async def browser(self, token: str) -> Browser:
        """A browser that is logged in with a token."""
        browser = Browser(self.console)
        response = await browser.send("POST", "/login", {"token": token})
        assert response.status == 303, response.body
        return browser


@contextlib.asynccontextmanager
async def stage(
    root: Path, services: dict[str, Handler] | None = None, clock: Clock | None = None
) -> AsyncIterator[Stage]:
    home = Home(root)
    settings = Settings()
    pki.ensure_pki(home, settings)
    clock = clock or SystemClock()
    server = ApiServer(home, settings=settings, clock=clock)
    await server.start()
    try:
        yield Stage(lazy.console(home, server.handle, services or {}, clock), server, clock)
    finally:
        await server.stop()


async def events(response: Response) -> AsyncIterator[tuple[str, str]]:
    """The events of a stream, as name and data."""
    assert not isinstance(response.body, bytes), response.body
    pending = ""
    async for chunk in response.body:
        pending += chunk.decode()
        *whole, pending = pending.split("\n\n")
        for block in whole:
            lines = block.split("\n")
            name = [line[7:] for line in lines if line.startswith("event: ")]
            data = [line[6:] for line in lines if line.startswith("data: ")]
            if name:
                yield name[0], "\n".join(data)


def run(coroutine) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await coroutine

    asyncio.run(bounded())
