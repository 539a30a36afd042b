"""An ASGI application behind the front, met by a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from underway.transport import asgi, front
from underway.wire.http import Request as WireRequest


async def echo(request: Request) -> Response:
    wire: WireRequest = request.scope[asgi.REQUEST]
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    text = f"{request.method} {request.url.path} {request.query_params.get('q')} {size} {wire.path}"
    return PlainTextResponse(text, headers={"x-seen": request.headers.get("x-sent", "")})


async def broken(_: Request) -> Response:
    raise RuntimeError("no")


def run(routes: list[Route] | Any, scenario: Any) -> None:
    async def main() -> None:
        app = Starlette(routes=routes) if isinstance(routes, list) else routes
        async with (
            asyncio.timeout(30),
            await front.serve(asgi.serve(app)) as server,
            httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False) as client,
        ):
            await scenario(client)

    asyncio.run(main())


def test_request_and_response_pass_whole() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        got = await client.post(
            "/a%2Fb/ä?q=%C3%A9", content=b"x" * 200_000, headers={"x-sent": "y"}
        )
        assert got.text == "POST /a/b/ä é 200000 /a%2Fb/%C3%A4"
        assert got.headers["x-seen"] == "y"
        assert got.headers["content-type"] == "text/plain; charset=utf-8"
        # The connection stays usable, without a body too.
        assert (await client.get("/x")).text == "GET /x None 0 /x"
        assert (await client.head("/x")).status_code == 200

    run([Route("/{rest:path}", echo, methods=["GET", "POST"])], scenario)


def test_streamed_body_comes_as_it_is_made() -> None:
    more = asyncio.Event()

    async def stream(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first\n"
            await more.wait()
            yield b"second\n"

        return StreamingResponse(parts())

    async def scenario(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/") as got:
            lines = got.aiter_lines()
            assert await anext(lines) == "first"
            more.set()
            assert await anext(lines) == "second"
            assert [line async for line in lines] == []

    run([Route("/", stream)], scenario)


def test_client_that_leaves_ends_the_application() -> None:
    ended = asyncio.Event()

    async def endless(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"more\n"
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        return StreamingResponse(parts())

    async def scenario(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/") as got:
            await anext(got.aiter_lines())
        await ended.wait()

    run([Route("/", endless)], scenario)


def test_client_that_leaves_while_waiting_ends_the_application() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return Response()

    async def scenario(client: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(client.get("/"))
            await started.wait()
            asking.cancel()
        await ended.wait()

    run([Route("/", slow)], scenario)


def test_failure_before_the_response_is_an_error() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/")).status_code == 500

    run([Route("/", broken)], scenario)


def test_failure_in_the_body_cuts_the_connection() -> None:
    async def breaking(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("no")

        return StreamingResponse(parts())

    async def scenario(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")

    run([Route("/", breaking)], scenario)


def test_application_that_says_nothing_is_an_error() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        pass

    async def scenario(client: httpx.AsyncClient) -> None:
        got = await client.get("/")
        assert got.status_code == 500
        assert "without a response" in got.text

    run(silent, scenario)
