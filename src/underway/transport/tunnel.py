"""One request passed on to another server with its upgrade, byte for byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Self

import httptools

from underway.base.errors import RequestTimeout, ServiceUnavailable
from underway.transport.bytestreams import SocketStream, dial, splice
from underway.wire.http import ByteStream, Request, Response

_HEAD_TIMEOUT_S = 60.0
_HEAD_LIMIT = 64 * 1024
# What belongs to the connection or the user in front and must not reach the server behind.
_NOT_PASSED = frozenset(
    {
        "host",
        "authorization",
        "cookie",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "keep-alive",
        "expect",
        "proxy-authorization",
        "accept-encoding",
    }
)
_NOT_RETURNED = frozenset({"transfer-encoding", "keep-alive", "connection"})


async def tunnel(
    request: Request,
    url_host: str,
    port: int,
    tls: ssl.SSLContext | None,
    path: str,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    *,
    server_name: str = "",
    repeated: Sequence[tuple[str, str]] = (),
) -> Response:
    """Send ``request`` to ``url_host:port`` as a request for ``path?query`` and return the answer.

    The user's own credentials are left out; ``headers`` are added, and ``repeated`` as lines of
    their own. ``server_name`` is whom the server's certificate must name, if not its host. Status
    101 becomes a response whose upgrade joins the two connections; any other body is streamed.

    Raises:
        ServiceUnavailable: the server cannot be reached or breaks off before its answer's head.
        RequestTimeout: no answer within a minute.
    """
    body = await request.read()
    upstream = await dial(url_host, port, tls, server_name=server_name)
    authority = f"{server_name or url_host}:{port}"
    try:
        await upstream.write(_head(request, authority, path, query, headers, repeated, body))
        answer = _Answer(upstream, f"{url_host}:{port}")
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                await answer.head()
        except TimeoutError as error:
            raise RequestTimeout(f"{url_host}:{port} did not answer {path}") from error
        except ConnectionError as error:
            raise ServiceUnavailable(f"{url_host}:{port} broke off: {error}") from error
    except BaseException:
        upstream.close()
        raise
    if answer.status != 101:
        if request.method == "HEAD":
            upstream.close()
            return Response(answer.status, answer.headers)
        kept = {k: v for k, v in answer.headers.items() if k not in _NOT_RETURNED}
        return Response(answer.status, kept, answer)

    async def upgrade(client: ByteStream) -> None:
        try:
            await client.write(answer.early)
        except ConnectionError:
            upstream.close()
            return
        await splice(client, upstream)

    return Response(101, answer.headers, upgrade=upgrade)


def _head(
    request: Request,
    authority: str,
    path: str,
    query: str,
    headers: Mapping[str, str] | None,
    repeated: Sequence[tuple[str, str]],
    body: bytes,
) -> bytes:
    fields = {k: v for k, v in request.headers.items() if k not in _NOT_PASSED}
    if "upgrade" not in fields:
        fields["connection"] = "close"
    fields.update({k.lower(): v for k, v in (headers or {}).items()})
    fields["host"] = authority
    if body or request.method in {"POST", "PUT", "PATCH"}:
        fields["content-length"] = str(len(body))
    target = f"{path}?{query}" if query else path
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    lines += [f"{name}: {value}" for name, value in repeated]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("line break in a request's head")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class _Answer:
    """The server's answer: its head, then its body as an async iterator."""

    def __init__(self, upstream: SocketStream, what: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.early = b""  # what followed a head with status 101
        self._upstream = upstream
        self._what = what
        self._parser = httptools.HttpResponseParser(self)
        self._has_head = False
        self._complete = False
        self._pieces: list[bytes] = []

    async def head(self) -> None:
        """Read until the head is there; raises ServiceUnavailable, ConnectionError."""
        size = 0
        while not self._has_head:
            size += await self._feed()
            if size > _HEAD_LIMIT and not self._has_head:
                raise ServiceUnavailable(f"{self._what} answered with an endless head")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            while not self._pieces and not self._complete:
                await self._feed()
        except ConnectionError as error:
            raise ServiceUnavailable(f"{self._what} broke off: {error}") from error
        if not self._pieces:
            self._upstream.close()
            raise StopAsyncIteration
        data, self._pieces = b"".join(self._pieces), []
        return data

    async def aclose(self) -> None:
        """Read no further."""
        self._upstream.close()

    async def _feed(self) -> int:
        data = await self._upstream.read()
        if not data:
            if not self._has_head or self._framed():
                raise ServiceUnavailable(f"{self._what} closed the connection in its answer")
            self._complete = True
            return 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.early = bytes(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            raise ServiceUnavailable(f"{self._what} does not speak HTTP: {error}") from error
        return len(data)

    def _framed(self) -> bool:
        return "content-length" in self.headers or "transfer-encoding" in self.headers

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if not self._has_head:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()
        if self.status == 100:
            self.headers.clear()
        else:
            self._has_head = True

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._complete = self._has_head
