"""One HTTP/2 connection of the front.

Framing and header compression are h2's. Requests of one connection are answered side by side, a
task each; a client that resets a stream cancels the handler that works for it. What is received
and not yet read, and what is written and not yet taken, is bounded by the flow-control windows and
the socket's; a client that floods us with what costs it nothing (resets, pings, empty frames) is
sent away. Upgrades stay with HTTP/1.1: who needs one does not offer ``h2``.

Source: RFC 9113; CVE-2023-44487 (rapid reset), CVE-2019-9512 to 9518 (floods).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from underway.base.errors import BadRequest, RequestTimeout, UnderwayError
from underway.transport.answers import answer, error_response
from underway.transport.http1 import HeadersTooLarge, Owner, peer_of
from underway.transport.inbox import Inbox
from underway.wire.http import Peer, Request, Response

log = logging.getLogger(__name__)

_STREAMS = 100  # of one connection at a time
_STREAM_WINDOW = 256 * 1024  # bytes a client may send ahead of its reader, in one stream
_CONNECTION_WINDOW = 1024 * 1024  # and in all of them
_BACKLOG_BYTES = 1024 * 1024  # written and not yet taken, before we stop reading
_BODILESS = frozenset({204, 304})
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "date"}
)
_PATIENCE = 200.0  # cheap frames a client may send at once
_PATIENCE_PER_S = 50.0  # and in the long run


class _Stream:
    """A request as far as it has been received, and its answer as far as it has been sent."""

    __slots__ = (
        "acknowledged",
        "complete",
        "expects_continue",
        "fed",
        "headers",
        "id",
        "inbox",
        "last_read_s",
        "method",
        "room",
        "target",
        "task",
    )

    def __init__(self, number: int, inbox: Inbox, now_s: float) -> None:
        self.id = number
        self.inbox = inbox
        self.method = ""
        self.target = ""
        self.headers: dict[str, str] = {}
        self.complete = False
        self.expects_continue = False
        self.fed = self.acknowledged = 0
        self.last_read_s = now_s
        self.room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Http2Connection(asyncio.Protocol):
    """The protocol object of a connection on which ``h2`` was negotiated."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._limits = owner.limits
        config = H2Configuration(client_side=False, header_encoding="latin-1")
        self._h2 = H2Connection(config)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._peer = Peer()
        self._group: asyncio.TaskGroup | None = None
        self._streams: dict[int, _Stream] = {}
        self._early: list[tuple[_Stream, UnderwayError | None]] = []  # came before ``run`` began
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._reading = True
        self._closed = asyncio.Event()
        self._patience = _PATIENCE
        self._patience_s = 0.0
        self._quiet_since_s = 0.0
        self.draining = False

    # -- asyncio's side ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(self._transport)
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        )
        self._quiet_since_s = self._patience_s = self._owner.clock.monotonic()
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: _STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: self._limits.header_bytes,
        }
        self._h2.local_settings = Settings(client=False, initial_values=settings)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        if not self._owner.opened(self):
            self._go_away(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        self._flush()

    def started(self, task: asyncio.Task[None]) -> None:
        """``task`` runs this connection from now on."""

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._closed.is_set():
            return
        try:
            for event in self._h2.receive_data(data):
                self._handle(event)
        except ProtocolError as error:
            log.debug("an HTTP/2 client broke the protocol: %s", error)
            self._flush()  # h2 has written the GOAWAY that says why
            self._end()
            return
        self._flush()
        if self._transport.get_write_buffer_size() > _BACKLOG_BYTES and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:  # noqa: D102
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._closed.set()
        self._can_write.set()
        gone = ConnectionResetError("the client has gone")
        for stream in self._streams.values():
            stream.inbox.end(gone)
            stream.room.set()

    def pause_writing(self) -> None:  # noqa: D102
        self._can_write.clear()

    def resume_writing(self) -> None:  # noqa: D102
        self._can_write.set()
        if not self._reading and not self._closed.is_set():
            self._reading = True
            self._transport.resume_reading()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    # -- h2's side -----------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._request_received(event)
            case DataReceived():
                self._data(event)
            case StreamEnded():
                stream = self._streams.get(event.stream_id or 0)
                if stream is not None:
                    stream.complete = True
                    stream.inbox.end()
                    self._begin(stream)
            case StreamReset():
                stream = self._streams.get(event.stream_id or 0)
                if stream is not None:
                    self._give_up(stream)
                self._lose_patience()
            case WindowUpdated():
                self._more_room(event.stream_id or 0)
            case RemoteSettingsChanged():
                self._more_room(0)
                self._lose_patience()
            case PingReceived() | PriorityUpdated():
                self._lose_patience()

    def _request_received(self, event: RequestReceived) -> None:
        number = event.stream_id or 0
        self._quiet_since_s = now_s = self._owner.clock.monotonic()
        stream = _Stream(number, Inbox(lambda: self._acknowledge(stream)), now_s)
        if self.draining or len(self._streams) >= 2 * _STREAMS:
            # Handlers of streams that were reset may still be at work.
            self._h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            return
        self._streams[number] = stream
        try:
            self._read_head(stream, cast("list[tuple[str, str]]", event.headers or []))
        except UnderwayError as error:
            self._spawn(stream, error)
            return
        length = stream.headers.get("content-length", "")
        whole = length.isdecimal() and int(length) <= self._limits.whole_body_bytes
        if event.stream_ended is None and (not whole or stream.expects_continue):
            self._begin(stream)

    def _read_head(self, stream: _Stream, fields: list[tuple[str, str]]) -> None:
        """Take over the request's fields; raises BadRequest, HeadersTooLarge."""
        if len(fields) > self._limits.header_count + 4:
            raise HeadersTooLarge(f"more than {self._limits.header_count} header fields")
        headers = stream.headers
        for name, value in fields:
            match name:
                case ":method":
                    stream.method = value
                case ":path":
                    stream.target = value
                case ":authority":
                    headers["host"] = value
                case _ if name.startswith(":"):
                    continue
                case _ if name in headers:
                    if name != "host":  # what :authority says counts
                        headers[name] += f"{'; ' if name == 'cookie' else ', '}{value}"
                case _:
                    headers[name] = value
        if not stream.target.startswith("/"):
            if stream.method != "OPTIONS" or stream.target != "*":
                raise BadRequest(f"the request target is no path: {stream.target[:200]}")
            stream.target = "/*"
        if "expect" in headers:
            if headers["expect"].lower() != "100-continue":
                raise BadRequest("the only expectation served is 100-continue")
            stream.expects_continue = True

    def _data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id or 0)
        size, data = event.flow_controlled_length or 0, event.data or b""
        if not data and event.stream_ended is None:
            self._lose_patience()
        if stream is None or stream.inbox.ended:
            self._h2.acknowledge_received_data(size, event.stream_id or 0)
            return
        stream.last_read_s = self._owner.clock.monotonic()
        padding = size - len(data)
        if padding:
            self._h2.acknowledge_received_data(padding, stream.id)
        stream.fed += len(data)
        stream.inbox.feed(data)

    def _acknowledge(self, stream: _Stream) -> None:
        """Let the client send as much as has been read."""
        read = stream.fed - stream.inbox.size_bytes - stream.acknowledged
        if read > 0 and not self._closed.is_set():
            stream.acknowledged += read
            try:
                self._h2.acknowledge_received_data(read, stream.id)
            except ProtocolError:  # the stream or the connection is over
                return
            self._flush()

    def _more_room(self, number: int) -> None:
        for stream in self._streams.values() if number == 0 else (self._streams.get(number),):
            if stream is not None:
                stream.room.set()

    def _give_up(self, stream: _Stream) -> None:
        """The client wants no answer any more."""
        stream.inbox.end(ConnectionResetError("the client has reset the stream"))
        if stream.task is not None:
            stream.task.cancel()
        else:
            self._forget(stream)

    def _lose_patience(self) -> None:
        now_s = self._owner.clock.monotonic()
        regained = (now_s - self._patience_s) * _PATIENCE_PER_S
        self._patience = min(_PATIENCE, self._patience + regained) - 1
        self._patience_s = now_s
        if self._patience < 0:
            log.warning("an HTTP/2 client at %s floods its connection", self._peer.address)
            self._go_away(ErrorCodes.ENHANCE_YOUR_CALM)

    def _go_away(self, code: ErrorCodes) -> None:
        if not self._closed.is_set():
            self._h2.close_connection(code)
            self._flush()
            self._end()

    def _end(self) -> None:
        self._closed.set()
        self._transport.close()

    # -- the connection's task -----------------------------------------------------------

    async def run(self) -> None:
        """Serve streams until the connection ends. Raises nothing but cancellation."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for stream, refusal in self._early:
                    self._spawn(stream, refusal)
                self._early.clear()
                await self._closed.wait()
                for stream in list(self._streams.values()):
                    self._give_up(stream)
        finally:
            self._closed.set()
            self._transport.close()

    def drain(self) -> None:
        """Take no further request: close now, or after those being served."""
        self.draining = True
        if not self._streams:  # h2 sends nothing more after its GOAWAY, so that comes last
            self._go_away(ErrorCodes.NO_ERROR)

    def expire(self, now_s: float) -> None:
        """End what is overdue at ``now_s`` of the owner's clock."""
        limits = self._limits
        for stream in list(self._streams.values()):
            quiet_s = now_s - stream.last_read_s
            if stream.task is None and quiet_s > limits.header_timeout_s:
                self._spawn(stream, RequestTimeout("the request's body did not come in time"))
            elif stream.inbox.waiting and quiet_s > limits.body_timeout_s:
                stream.inbox.end(RequestTimeout("the request's body stopped coming"))
        if not self._streams and now_s - self._quiet_since_s > limits.idle_timeout_s:
            self._go_away(ErrorCodes.NO_ERROR)

    def _begin(self, stream: _Stream) -> None:
        """Hand a request to its handler."""
        if stream.task is None:
            self._spawn(stream, None)

    def _spawn(self, stream: _Stream, refusal: UnderwayError | None) -> None:
        if stream.task is not None or self._closed.is_set():
            return
        if self._group is None:
            self._early.append((stream, refusal))
        else:
            stream.task = self._group.create_task(self._serve(stream, refusal))

    async def _serve(self, stream: _Stream, refusal: UnderwayError | None) -> None:
        try:
            if refusal is not None:
                response = error_response(refusal)
            else:
                request = self._request(stream)
                handler, gzip = self._owner.handler, self._limits.gzip_bytes
                response = await answer(handler, request, gzip)
            if response.upgrade is not None:
                text = "this path serves upgraded connections only, which HTTP/2 has not"
                response = error_response(BadRequest(text))
            await self._send(stream, response)
            if not stream.complete:  # nobody wanted the rest of the body
                self._reset(stream, ErrorCodes.NO_ERROR)
        except ConnectionError:
            pass  # the client has gone; there is nobody to tell
        except asyncio.CancelledError:
            self._reset(stream, ErrorCodes.CANCEL)
            raise
        except Exception:
            # The head is out: resetting the stream is the only way left to say so.
            log.exception("%s %s failed in its answer", stream.method, stream.target)
            self._reset(stream, ErrorCodes.INTERNAL_ERROR)
        finally:
            self._forget(stream)

    def _request(self, stream: _Stream) -> Request:
        path, _, query = stream.target.partition("?")
        body: bytes | AsyncIterator[bytes]
        body = stream.inbox.take() if stream.complete else self._body(stream)
        return Request(stream.method, path, query, stream.headers, body, self._peer)

    async def _body(self, stream: _Stream) -> AsyncIterator[bytes]:
        if stream.expects_continue:
            stream.expects_continue = False
            self._h2.send_headers(stream.id, [(":status", "100")])
            self._flush()
        while data := await stream.inbox.read():
            yield data

    def _forget(self, stream: _Stream) -> None:
        """Free what an ended stream held; what was received in vain counts as read."""
        self._streams.pop(stream.id, None)
        stream.inbox.discard()
        self._quiet_since_s = self._owner.clock.monotonic()
        if self.draining and not self._streams:
            self._go_away(ErrorCodes.NO_ERROR)

    def _reset(self, stream: _Stream, code: ErrorCodes) -> None:
        if self._closed.is_set():
            return
        try:
            self._h2.reset_stream(stream.id, code)
        except ProtocolError:
            return  # it has ended already
        self._flush()

    # -- sending -------------------------------------------------------------------------

    async def _send(self, stream: _Stream, response: Response) -> None:
        body = response.body
        fields = [(":status", str(response.status))]
        fields += [(k, v) for k, v in response.headers.items() if k not in _HOP_BY_HOP]
        date = self._owner.date().decode().partition(": ")[2].strip()
        fields.append(("date", date))
        bodiless = stream.method == "HEAD" or response.status in _BODILESS
        if isinstance(body, bytes) and response.status not in _BODILESS and (body or not bodiless):
            fields = [field for field in fields if field[0] != "content-length"]
            fields.append(("content-length", str(len(body))))
        ends = bodiless or body == b""
        try:
            self._check_open()
            self._h2.send_headers(stream.id, fields, end_stream=ends)
            if ends:
                self._flush()
            elif isinstance(body, bytes):
                await self._write(stream, body, last=True)
            else:
                self._flush()
                async for chunk in body:
                    if chunk:
                        await self._write(stream, chunk)
                self._check_open()
                self._h2.end_stream(stream.id)
                self._flush()
        except ProtocolError as error:
            raise ConnectionResetError(f"the client has reset the stream: {error}") from error
        finally:
            aclose = getattr(body, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _write(self, stream: _Stream, data: bytes, *, last: bool = False) -> None:
        """Send bytes as the windows allow, waiting while the client is slow."""
        rest = memoryview(data)
        while rest:
            self._check_open()
            allowed = min(
                self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size
            )
            if allowed <= 0:
                stream.room.clear()
                await stream.room.wait()
                continue
            piece, rest = rest[:allowed], rest[allowed:]
            self._h2.send_data(stream.id, bytes(piece), end_stream=last and not rest)
            self._flush()
            if not self._can_write.is_set():
                await self._can_write.wait()

    def _check_open(self) -> None:
        if self._closed.is_set() or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
