"""An ASGI application as a handler, so that web frameworks serve behind the front.

What a request's layers found out travels along as ``scope["underway.request"]``. A response whose
first part is its last comes back whole; another is streamed, and the application waits while the
client is slow. When the client has gone the application's task is cancelled.

Source: ASGI 3.0, HTTP connection scope 2.4. WebSocket and lifespan scopes are not served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Self
from urllib.parse import unquote_to_bytes

from underway.base.errors import InternalError
from underway.wire.http import Handler, Request, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

REQUEST = "underway.request"


def serve(app: Application) -> Handler:
    """The application as a handler.

    Each call raises what the application raises before its response starts, and InternalError
    where it ends without one.
    """

    async def handle(request: Request) -> Response:
        return await _Exchange(app, request).response()

    return handle


class _Exchange:
    """One request: the application runs in a task, its messages pass through a queue of one.

    The task's group is entered in ``response`` and left in ``aclose``, both called by the task
    that serves the connection.
    """

    def __init__(self, app: Application, request: Request) -> None:
        self._app = app
        self._request = request
        self._incoming = _body(request)
        self._received = False
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(1)
        self._error: Exception | None = None
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def response(self) -> Response:
        """Run the application until its response starts."""
        await self._group.__aenter__()
        self._task = self._group.create_task(self._run(), name="asgi application")
        try:
            head = await self._next()
            first = await self._next() if head else None
            if head is None or first is None:
                raise self._error or InternalError("the application ended without a response")
        except BaseException:
            await self.aclose()
            raise
        headers = _headers(head)
        if first.get("more_body"):
            return Response(head["status"], headers, _Stream(self, first.get("body", b"")))
        await self.aclose()
        return Response(head["status"], headers, bytes(first.get("body", b"")))

    async def read(self) -> bytes | None:
        """The next part of a streamed body; None at its end. Raises what the application raises."""
        message = await self._next()
        if message is None:
            if self._error is not None:
                raise self._error
            return None
        return bytes(message.get("body", b""))

    async def aclose(self) -> None:
        """End the application's task."""
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        await self._group.__aexit__(None, None, None)

    async def _run(self) -> None:
        try:
            await self._app(_scope(self._request), self._receive, self._messages.put)
        except Exception as error:  # noqa: BLE001  # raised where the response is read
            self._error = error
        await self._messages.put(None)

    async def _next(self) -> Message | None:
        return await self._messages.get()

    async def _receive(self) -> Message:
        if self._received:
            # Nothing follows a body but the client's leaving, which cancels this task.
            await asyncio.get_running_loop().create_future()
        async for chunk in self._incoming:
            return {"type": "http.request", "body": chunk, "more_body": True}
        self._received = True
        return {"type": "http.request", "body": b"", "more_body": False}


class _Stream:
    """A streamed body."""

    def __init__(self, exchange: _Exchange, first: bytes) -> None:
        self._exchange = exchange
        self._first = first

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if first := self._first:
            self._first = b""
            return first
        data = await self._exchange.read()
        if data is None:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        await self._exchange.aclose()


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        yield chunk


def _headers(head: Message) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in head.get("headers") or ():
        found[name.decode("latin-1").lower()] = value.decode("latin-1")
    return found


def _scope(request: Request) -> dict[str, Any]:
    host, _, port = request.peer.address.rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": unquote_to_bytes(request.path).decode("utf-8", "replace"),
        "raw_path": request.path.encode("latin-1", "replace"),
        "query_string": request.query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in request.headers.items()
        ],
        "client": (host or request.peer.address, int(port) if port.isdigit() else 0),
        "server": None,
        "state": {},
        REQUEST: request,
    }
