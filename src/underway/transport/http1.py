"""One HTTP/1.1 connection of the front.

Parsing is httptools' (llhttp in its strict mode, which refuses what request smuggling needs:
repeated or malformed Content-Length, Content-Length beside Transfer-Encoding, a transfer coding
that does not end in chunked, folded headers, bare line feeds). Requests of one connection are
answered one after the other; a client that goes away cancels the handler that works for it.

Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import select
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools

from underway.base.clock import Clock
from underway.base.errors import (
    BadRequest,
    RequestTimeout,
    ServiceUnavailable,
    UnderwayError,
)
from underway.transport.answers import answer, error_response
from underway.transport.inbox import Inbox
from underway.transport.limits import Limits
from underway.wire.http import Handler, Peer, Request, Response

log = logging.getLogger(__name__)

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_JOIN_BYTES = 64 * 1024  # a body up to this goes out in one write with its head
# A longer one goes out in parts: TLS makes two copies of what it is given, and the client decrypts
# one part while the next is encrypted.
_PART_BYTES = 256 * 1024
_LINGER_S = 1.0
_BODILESS = frozenset({204, 304})
_FRAMING = frozenset({"content-length", "transfer-encoding", "date"})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HeadersTooLarge(UnderwayError):
    """The request's head breaks a limit."""

    reason = "RequestHeaderFieldsTooLarge"
    code = 431


class HeadTimeout(UnderwayError):
    """The request's head did not come in time."""

    reason = "Timeout"
    code = 408


class Served(Protocol):
    """A connection as its server sees it."""

    async def run(self) -> None:
        """Serve until the connection ends."""
        ...

    def started(self, task: asyncio.Task[None]) -> None:
        """``task`` runs this connection from now on."""
        ...

    def drain(self) -> None:
        """Take no further request."""
        ...

    def expire(self, now_s: float) -> None:
        """End what is overdue."""
        ...


class Owner(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    clock: Clock

    def opened(self, connection: Served) -> bool:
        """Take the connection in and run it; False when there are too many."""
        ...

    def date(self) -> bytes:
        """The ``Date`` header's line."""
        ...


class _Message:
    """A request as far as it has been received."""

    __slots__ = (
        "complete",
        "content_length",
        "expects_continue",
        "headers",
        "inbox",
        "keep_alive",
        "method",
        "queued",
        "since_s",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, inbox: Inbox, since_s: float) -> None:
        self.since_s = since_s
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.headers: dict[str, str] = {}
        self.inbox = inbox
        self.content_length: int | None = None
        self.keep_alive = True
        self.expects_continue = False
        self.upgrade = False
        self.complete = False
        self.queued = False


class Connection(asyncio.Protocol):
    """The protocol object asyncio makes for each accepted socket."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._peer = Peer()
        self._task: asyncio.Task[None] | None = None
        self._incoming: _Message | None = None  # the one being parsed
        self._in_head = False
        self._head_bytes = 0  # received while the head was unfinished
        self._field_bytes = 0  # parsed
        self._header_count = 0
        self._queue: deque[_Message | UnderwayError] = deque()
        self._next: asyncio.Future[None] | None = None
        self._raw: Inbox | None = None  # everything after an upgrade request
        self._deaf = False  # nothing more is parsed: an error, or the last request was there
        self._reading = True
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._eof = asyncio.Event()
        self._is_tls = False
        self._gone = False
        self._last_read_s = 0.0
        self.busy = False
        self.draining = False

    # -- asyncio's side ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(self._transport)
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        # A machine that vanished without a word is found out in the end.
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        )
        self._last_read_s = self._owner.clock.monotonic()
        if not self._owner.opened(self):
            self._deaf = True
            error = ServiceUnavailable("too many connections", retry_after_s=1)
            refusal = error_response(error)
            self._transport.write(self._head(refusal, _length(refusal), close=True))
            self._transport.close()

    def started(self, task: asyncio.Task[None]) -> None:
        """``task`` runs this connection from now on."""
        self._task = task

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._last_read_s = self._owner.clock.monotonic()
        if self._raw is not None:
            self._raw.feed(data)
            return
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._raw = Inbox(self._adjust_reading)
            self._raw.feed(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, UnderwayError) else BadRequest(str(error)))
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"malformed HTTP request: {error}"))
        else:
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > self._limits.header_bytes:
                    self._refuse(_head_too_large(self._limits))
        self._enqueue_if_ready()
        self._adjust_reading()

    def eof_received(self) -> bool:  # noqa: D102
        self._eof.set()
        if self._raw is not None:
            self._raw.end()
            return not self._is_tls  # half-closed (TLS has no such state): the peer still reads
        if self.busy and self._task is not None:
            # HTTP clients do not half-close: nobody waits for this answer any more.
            self._task.cancel()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._gone = True
        self._eof.set()
        self._can_write.set()
        gone = ConnectionResetError("the client has gone")
        if self._raw is not None:
            self._raw.end(gone)
        if self._incoming is not None:
            self._incoming.inbox.end(gone)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:  # noqa: D102
        self._can_write.clear()

    def resume_writing(self) -> None:  # noqa: D102
        self._can_write.set()

    def _adjust_reading(self) -> None:
        waiting_bytes = self._raw.size_bytes if self._raw is not None else 0
        if self._incoming is not None:
            waiting_bytes += self._incoming.inbox.size_bytes
        behind = self.busy and bool(self._queue)
        wanted = self._deaf or (waiting_bytes <= self._limits.buffer_bytes and not behind)
        if wanted != self._reading and not self._gone:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # -- httptools' side -----------------------------------------------------------------

    def on_message_begin(self) -> None:  # noqa: D102
        self._incoming = _Message(Inbox(self._adjust_reading), self._last_read_s)
        self._in_head = True
        self._head_bytes = 0  # received while the head was unfinished
        self._field_bytes = 0  # parsed
        self._header_count = 0

    def on_url(self, url: bytes) -> None:  # noqa: D102
        message = self._current()
        message.target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._header_count += 1
        self._count_head(len(name) + len(value))
        if self._header_count > self._limits.header_count:
            raise HeadersTooLarge(f"more than {self._limits.header_count} header fields")
        if not self._in_head:
            return  # a trailer field; nothing here may come so late
        headers = self._current().headers
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        known = headers.get(key)
        if known is None:
            headers[key] = text
        elif key == "host":
            raise BadRequest("more than one Host header")
        else:
            headers[key] = f"{known}{'; ' if key == 'cookie' else ', '}{text}"

    def on_headers_complete(self) -> None:  # noqa: D102
        message = self._current()
        self._in_head = False
        message.method = self._parser.get_method().decode("latin-1")
        message.version = self._parser.get_http_version()
        message.keep_alive = self._parser.should_keep_alive()
        message.upgrade = self._parser.should_upgrade()
        headers = message.headers
        if message.version == "1.1" and "host" not in headers:
            raise BadRequest("no Host header")
        if "content-length" in headers:
            message.content_length = int(headers["content-length"])
        if headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise BadRequest("the only transfer coding served is chunked")
        if "expect" in headers:
            if headers["expect"].lower() != "100-continue":
                raise BadRequest("the only expectation served is 100-continue")
            message.expects_continue = message.version == "1.1"

    def on_body(self, data: bytes) -> None:  # noqa: D102
        self._current().inbox.feed(data)

    def on_message_complete(self) -> None:  # noqa: D102
        message = self._current()
        message.complete = True
        message.inbox.end()
        self._enqueue(message)
        self._incoming = None

    def _count_head(self, size_bytes: int) -> None:
        self._field_bytes += size_bytes
        if self._field_bytes > self._limits.header_bytes:
            raise _head_too_large(self._limits)

    def _current(self) -> _Message:
        assert self._incoming is not None
        return self._incoming

    def _enqueue_if_ready(self) -> None:
        """Hand on a request whose body is still coming, unless that is soon to be whole."""
        message = self._incoming
        if message is None or self._in_head:
            return
        length = message.content_length
        small = length is not None and length <= self._limits.whole_body_bytes
        if not small or message.expects_continue:
            self._enqueue(message)

    def _enqueue(self, message: _Message | UnderwayError) -> None:
        if isinstance(message, _Message):
            if message.queued:
                return
            message.queued = True
        self._queue.append(message)
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    def _refuse(self, error: UnderwayError) -> None:
        """Answer ``error`` once it is its turn, and read no more."""
        if self._deaf:
            return
        self._deaf = True
        message = self._incoming
        if message is not None and message.queued:
            message.inbox.end(error)  # its handler finds out when it reads on
        elif not any(isinstance(m, _Message) and not m.keep_alive for m in self._queue):
            self._enqueue(error)

    # -- the connection's task -----------------------------------------------------------

    async def run(self) -> None:
        """Serve requests until the connection ends. Raises nothing but cancellation."""
        try:
            while not self.draining:
                message = await self._receive()
                if isinstance(message, UnderwayError):
                    await self._send_whole(error_response(message), close=True)
                    await self._linger()
                    return
                if not await self._exchange(message):
                    return
                self.busy = False
        except ConnectionError:
            pass  # the client has gone; there is nobody to tell
        except Exception:
            log.exception("a connection failed")
            self._transport.abort()
        finally:
            self._transport.close()

    def drain(self) -> None:
        """Take no further request: close now, or after the one being served."""
        self.draining = True
        if not self.busy and not self._queue:
            self._transport.close()

    def expire(self, now_s: float) -> None:
        """End what is overdue at ``now_s`` of the owner's clock."""
        if not self._reading and self._hung_up():
            self._transport.abort()
            return
        message = self._incoming
        quiet_s = now_s - self._last_read_s
        if message is not None and message.queued:
            if message.inbox.waiting and quiet_s > self._limits.body_timeout_s:
                message.inbox.end(RequestTimeout("the request's body stopped coming"))
        elif message is not None:
            # Further bytes buy no time: a trickle would hold the connection for ever.
            if now_s - message.since_s > self._limits.header_timeout_s:
                self._refuse(HeadTimeout("the request's head did not come in time"))
        elif not self.busy and not self._queue and quiet_s > self._limits.idle_timeout_s:
            self._transport.close()

    def _hung_up(self) -> bool:
        """Whether the client has gone, which nobody tells while the socket is not read."""
        events = select.POLLHUP | select.POLLERR
        if self._is_tls or self._raw is None:
            events |= select.POLLRDHUP  # elsewhere that is a half-close, and in order
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), events)
        return bool(poll.poll(0))

    async def _receive(self) -> _Message | UnderwayError:
        while not self._queue:
            self._next = asyncio.get_running_loop().create_future()
            try:
                await self._next
            finally:
                self._next = None
        self.busy = True
        message = self._queue.popleft()
        self._adjust_reading()
        return message

    async def _exchange(self, message: _Message) -> bool:
        """Answer one request; whether the connection can take another."""
        try:
            request = self._request(message)
        except UnderwayError as error:
            await self._send_whole(error_response(error), close=True)
            return False
        response = await answer(self._owner.handler, request, self._limits.gzip_bytes)
        if response.upgrade is not None and self._raw is not None and message.upgrade:
            await self._upgrade(response, self._raw)
            return False
        if response.upgrade is not None:
            response = error_response(BadRequest("this path serves upgraded connections only"))
        self._raw = None
        close = not message.keep_alive or message.upgrade or self.draining
        if not message.complete:
            unsent = message.expects_continue  # the client may still withhold the body
            close = close or unsent or (message.content_length or 0) > self._limits.discard_bytes
        await self._send(message, response, close=close)
        if close and not message.complete:
            await self._linger()
        return not close and (message.complete or await self._discard(message))

    def _request(self, message: _Message) -> Request:
        target = message.target.decode("latin-1")
        if not target.startswith("/"):
            if message.method == "OPTIONS" and target == "*":
                target = "/*"
            elif target.startswith(("http://", "https://")):
                target = "/" + target.split("://", 1)[1].partition("/")[2]
            else:
                raise BadRequest(f"the request target is no path: {target[:200]}")
        path, _, query = target.partition("?")
        body: bytes | AsyncIterator[bytes]
        body = message.inbox.take() if message.complete else self._body(message)
        return Request(message.method, path, query, message.headers, body, self._peer)

    async def _body(self, message: _Message) -> AsyncIterator[bytes]:
        if message.expects_continue:
            message.expects_continue = False
            self._transport.write(_CONTINUE)
        while data := await message.inbox.read():
            yield data

    async def _discard(self, message: _Message) -> bool:
        """Skip the rest of a body nobody wanted; False when it is too long for that."""
        size = 0
        try:
            while data := await message.inbox.read():
                size += len(data)
                if size > self._limits.discard_bytes:
                    return False
        except UnderwayError:
            return False
        return True

    async def _linger(self) -> None:
        """Let the client read the answer before a reset, which unread bytes cause, destroys it."""
        self._deaf = True
        self._adjust_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._eof.wait()

    # -- sending -------------------------------------------------------------------------

    async def _send(self, message: _Message, response: Response, *, close: bool) -> None:
        version_1_0 = message.version != "1.1"
        if version_1_0 and not close:
            response.headers = {**response.headers, "connection": "keep-alive"}
        if isinstance(response.body, bytes):
            await self._send_whole(response, close=close, bodiless=message.method == "HEAD")
            return
        try:
            if message.method == "HEAD" or response.status in _BODILESS:
                framing = _given_length(response)
                await self._write(self._head(response, framing, close=close))
            else:
                await self._send_stream(response, close=close, version_1_0=version_1_0)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            # The head is out: cutting the connection is the only way left to say so.
            log.exception("%s %s failed in its answer", message.method, message.target)
            self._transport.abort()
            raise ConnectionAbortedError from None
        finally:
            aclose = getattr(response.body, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _send_whole(self, response: Response, *, close: bool, bodiless: bool = False) -> None:
        body = response.body
        assert isinstance(body, bytes)
        if bodiless and not body:
            framing = _given_length(response) or _length(response)
        elif response.status in _BODILESS:
            bodiless, framing = True, b""
        else:
            framing = _length(response)
        head = self._head(response, framing, close=close)
        if bodiless:
            await self._write(head)
        elif len(body) <= _JOIN_BYTES:
            await self._write(head + body)
        else:
            self._transport.write(head)
            whole = memoryview(body)
            for start in range(0, len(body), _PART_BYTES):
                await self._write(whole[start : start + _PART_BYTES])

    async def _send_stream(self, response: Response, *, close: bool, version_1_0: bool) -> None:
        assert not isinstance(response.body, bytes)
        framing = _given_length(response)
        chunked = not framing and not version_1_0
        if chunked:
            framing = b"transfer-encoding: chunked\r\n"
        elif not framing:
            close = True  # HTTP/1.0: the end of the connection is the end of the body
        await self._write(self._head(response, framing, close=close))
        sent = 0
        async for chunk in response.body:
            if not chunk:
                continue
            sent += len(chunk)
            await self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        if chunked:
            await self._write(b"0\r\n\r\n")
        elif version_1_0 and close:
            self._transport.close()
        elif sent != int(response.headers["content-length"]):
            raise ValueError(f"{sent} bytes sent where content-length promised another number")

    async def _upgrade(self, response: Response, raw: Inbox) -> None:
        assert response.upgrade is not None
        headers = {"connection": "Upgrade", **response.headers}
        await self._write(self._head(Response(101, headers), b"", close=False))
        try:
            await response.upgrade(Upgraded(self._transport, raw, self._write))
        except ConnectionError:
            raise
        except Exception:
            log.exception("an upgraded connection failed")
            self._transport.abort()

    async def _write(self, data: bytes | memoryview) -> None:
        if self._gone or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        if not self._can_write.is_set():
            await self._can_write.wait()
            if self._gone:
                raise ConnectionResetError("the client has gone")

    def _head(self, response: Response, framing: bytes, *, close: bool) -> bytes:
        """Status line and headers; ``framing`` are the lines that say how long the body is."""
        status = response.status
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n"]
        for name, value in response.headers.items():
            if name.lower() in _FRAMING or (close and name.lower() == "connection"):
                continue
            lines.append(f"{name}: {value}\r\n")
        if close:
            lines.append("connection: close\r\n")
        head = "".join(lines).encode("latin-1", "replace")
        return b"".join((head, self._owner.date(), framing, b"\r\n"))


class Upgraded:
    """The ByteStream of an upgraded connection; what came early is read first."""

    def __init__(
        self,
        transport: asyncio.Transport,
        inbox: Inbox,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._inbox = inbox
        self._write = write

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        return await self._inbox.read()

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the peer is slow; ConnectionError when it has gone."""
        await self._write(data)

    def write_eof(self) -> None:
        """End our direction; over TLS, which cannot do that, both."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close(self) -> None:
        """End both directions, once what was written is sent."""
        self._transport.close()


def http_date(seconds: float) -> bytes:
    """The ``Date`` header's line for a Unix time."""
    return f"date: {email.utils.formatdate(seconds, usegmt=True)}\r\n".encode()


def _length(response: Response) -> bytes:
    return b"content-length: %d\r\n" % len(cast(bytes, response.body))


def _given_length(response: Response) -> bytes:
    value = response.headers.get("content-length", "")
    return f"content-length: {value}\r\n".encode() if value.isdecimal() else b""


def _head_too_large(limits: Limits) -> HeadersTooLarge:
    return HeadersTooLarge(f"the request's head is longer than {limits.header_bytes} bytes")


def peer_of(transport: asyncio.Transport) -> Peer:
    """Who is on the other end."""
    name = transport.get_extra_info("peername")
    address = str(name[0]) if isinstance(name, tuple) else ""
    certificate: dict[str, Any] = transport.get_extra_info("peercert") or {}
    subject = [pair for names in certificate.get("subject", ()) for pair in names]
    common_names = [value for key, value in subject if key == "commonName"]
    organizations = tuple(value for key, value in subject if key == "organizationName")
    return Peer(address, common_names[-1] if common_names else "", organizations)
