"""Remote command (exec, attach): the server's side, over WebSocket or SPDY/3.1.

Source: Kubernetes ``pkg/kubelet/cri/streaming/remotecommand`` for the handshake and the order of
things, KEP-4006 for the WebSocket protocol v5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from underway.base.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    RequestTimeout,
    TooLarge,
    UnderwayError,
)
from underway.transport import spdy
from underway.transport.bytestreams import Outbox, chunks
from underway.transport.forwarding import port_forward
from underway.transport.inbox import Inbox
from underway.wire import remotecommand as rc
from underway.wire import websocket
from underway.wire.http import ByteStream, Request, Response

__all__ = ["CommandStreams", "RunCommand", "port_forward", "remote_command"]

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 30.0
_LINGER_S = 10.0  # for the client to take the last bytes and close
_STDIN_BYTES = 256 * 1024
_RESIZE_BYTES = 4096  # of one resize message


@dataclass(frozen=True)
class Wanted:
    """Which streams the request asks for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @classmethod
    def of(cls, request: Request) -> Wanted:
        """Read the query, in the kubelet's names or the API's; raises BadRequest."""
        params = request.params()

        def flag(*names: str) -> bool:
            return any(params.get(name) in {"1", "true"} for name in names)

        tty = flag("tty")
        wanted = cls(
            stdin=flag("input", "stdin"),
            stdout=flag("output", "stdout"),
            stderr=flag("error", "stderr") and not tty,
            tty=tty,
        )
        if not (wanted.stdin or wanted.stdout or wanted.stderr):
            raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
        return wanted

    def channels(self) -> list[rc.Channel]:
        """The channels a client opens for this."""
        pairs = (
            (True, rc.Channel.ERROR),
            (self.stdin, rc.Channel.STDIN),
            (self.stdout, rc.Channel.STDOUT),
            (self.stderr, rc.Channel.STDERR),
            (self.tty, rc.Channel.RESIZE),
        )
        return [channel for wanted, channel in pairs if wanted]


class _Session(Protocol):
    """A connection that carries a command's channels."""

    async def pump(self) -> None:
        """Receive until the client goes."""
        ...

    async def opened(self) -> None:
        """Return when the client's channels are there; raises RequestTimeout."""
        ...

    async def read(self, channel: rc.Channel) -> bytes:
        """The next bytes of a channel; empty at its end."""
        ...

    async def write(self, channel: rc.Channel, data: bytes) -> None:
        """Send on a channel; raises ConnectionError."""
        ...

    async def finish(self, status: dict[str, Any]) -> None:
        """End the output and send the result; raises ConnectionError."""
        ...

    def ignore_input(self) -> None:
        """Nobody reads what the client sends any more."""
        ...


@dataclass
class CommandStreams:
    """A command's side of the connection.

    ``stdin`` is None when it was not asked for. ``resizes`` yields width and height in characters.
    Writing to an output that was not asked for does nothing; writing raises ConnectionError once
    the client has gone, and then the whole command is cancelled, too.
    """

    tty: bool
    stdin: AsyncIterator[bytes] | None
    resizes: AsyncIterator[tuple[int, int]]
    _wanted: Wanted = field(repr=False)
    _session: _Session = field(repr=False)

    async def write_stdout(self, data: bytes) -> None:
        """Send output, waiting while the client is slow."""
        if data and self._wanted.stdout:
            await self._session.write(rc.Channel.STDOUT, data)

    async def write_stderr(self, data: bytes) -> None:
        """Send error output, waiting while the client is slow; with a terminal there is none."""
        if data and self._wanted.stderr:
            await self._session.write(rc.Channel.STDERR, data)


RunCommand = Callable[[CommandStreams], Awaitable[int | dict[str, Any]]]


def remote_command(request: Request, run: RunCommand) -> Response:
    """Answer an exec or attach request by the upgrade it asks for, and ``run`` over it.

    Args:
        request: its query says which streams (``input``/``stdin`` …, ``tty``).
        run: gets the streams and returns the exit code, or a ``Status``. What it raises becomes
            the ``Status``. It is cancelled when the client goes.

    Raises:
        BadRequest: no stream is asked for, or the request asks for no upgrade known here.
        Forbidden: no protocol version is common to both sides.
    """
    wanted = Wanted.of(request)
    if websocket.is_upgrade(request.headers):
        protocols = (*rc.COMMAND_PROTOCOLS, *rc.BASE64_PROTOCOLS, "")
        protocol, headers = websocket.accept(request.headers, protocols)

        async def serve_websocket(stream: ByteStream) -> None:
            await _serve(_WebSocketSession(stream, protocol, wanted), wanted, run)

        return Response(101, headers, upgrade=serve_websocket)
    protocol = _spdy_protocol(request)

    async def serve_spdy(stream: ByteStream) -> None:
        await _serve(_SpdySession(stream, protocol, wanted), wanted, run)

    headers = {"upgrade": "SPDY/3.1", "connection": "Upgrade", rc.STREAM_PROTOCOL_HEADER: protocol}
    return Response(101, headers, upgrade=serve_spdy)


def _spdy_protocol(request: Request) -> str:
    if request.headers.get("upgrade", "").strip().lower() != "spdy/3.1":
        raise BadRequest("this path needs an upgrade to WebSocket or SPDY/3.1")
    offered = request.headers.get(rc.STREAM_PROTOCOL_HEADER, "")
    names = [name.strip() for name in offered.split(",") if name.strip()]
    if not names:
        return rc.COMMAND_PROTOCOLS[-1]  # the first version knew no header
    for name in names:
        if name in rc.COMMAND_PROTOCOLS:
            return name
    raise Forbidden(
        f"unable to upgrade: unable to negotiate protocol: client supports {names}, "
        f"server accepts {list(rc.COMMAND_PROTOCOLS)}"
    )


async def _serve(session: _Session, wanted: Wanted, run: RunCommand) -> None:
    async with asyncio.TaskGroup() as group:
        pump = group.create_task(session.pump())
        work = group.create_task(_work(session, wanted, run))
        await asyncio.wait({pump, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            session.ignore_input()
            await asyncio.wait({pump}, timeout=_LINGER_S)
        work.cancel()
        pump.cancel()


async def _work(session: _Session, wanted: Wanted, run: RunCommand) -> None:
    async def read_stdin() -> bytes:
        return await session.read(rc.Channel.STDIN)

    try:
        await session.opened()
        stdin = chunks(read_stdin) if wanted.stdin else None
        streams = CommandStreams(wanted.tty, stdin, _resizes(session, wanted), wanted, session)
        await session.finish(await _result(streams, run))
    except ConnectionError as error:
        log.debug("a command's client has gone: %s", error)
    except RequestTimeout as error:
        log.info("%s", error)


async def _result(streams: CommandStreams, run: RunCommand) -> dict[str, Any]:
    try:
        result = await run(streams)
    except UnderwayError as error:
        return error.to_status()
    except ConnectionError:
        raise
    except Exception:
        log.exception("a command failed")
        return InternalError("Internal error: see the node agent's log").to_status()
    return rc.exit_status(result) if isinstance(result, int) else result


async def _resizes(session: _Session, wanted: Wanted) -> AsyncIterator[tuple[int, int]]:
    """Terminal sizes: JSON objects one after the other, however they are cut."""
    if not wanted.tty:
        return
    pending = b""
    while data := await session.read(rc.Channel.RESIZE):
        *objects, pending = (pending + data).split(b"}")
        for text in objects:
            yield rc.decode_resize(text + b"}")
        if len(pending) > _RESIZE_BYTES:
            raise BadRequest("no terminal size in a resize message")


class _WebSocketSession:
    """Channels as WebSocket messages."""

    def __init__(self, stream: ByteStream, protocol: str, wanted: Wanted) -> None:
        self._stream = stream
        self._protocol = protocol or rc.COMMAND_PROTOCOLS[-1]
        self._text = self._protocol in rc.BASE64_PROTOCOLS
        self._socket = websocket.WebSocket()
        self._outbox = Outbox(stream, self._socket.ping)
        self._inputs: dict[int, Inbox] = {
            int(channel): Inbox()
            for channel in wanted.channels()
            if channel in {rc.Channel.STDIN, rc.Channel.RESIZE}
        }

    async def pump(self) -> None:
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(self._outbox.run())
            try:
                await self._receive()
            finally:
                sender.cancel()
                for inbox in self._inputs.values():
                    inbox.end(ConnectionResetError("the client has gone"))

    async def opened(self) -> None:
        # Clients learn from an empty message that the other end is there.
        await self.write(rc.Channel.STDOUT, b"")

    async def read(self, channel: rc.Channel) -> bytes:
        return await self._inputs[channel].read()

    async def write(self, channel: rc.Channel, data: bytes) -> None:
        await self._outbox.send(self._message(channel, data))

    async def finish(self, status: dict[str, Any]) -> None:
        last = rc.final_message(self._protocol, status)
        message = self._message(rc.Channel.ERROR, last) if last else b""
        await self._outbox.send(message + self._socket.close())

    def ignore_input(self) -> None:
        for inbox in self._inputs.values():
            inbox.discard()

    def _message(self, channel: int, data: bytes) -> bytes:
        encoded = rc.encode_message(self._protocol, channel, data)
        return self._socket.message(encoded, text=self._text)

    async def _receive(self) -> None:
        try:
            while not self._socket.closed and (data := await self._stream.read()):
                for message in self._socket.feed(data):
                    self._take(*rc.decode_message(self._protocol, message))
                self._outbox.post(self._socket.replies())
                for inbox in self._inputs.values():
                    await inbox.room(_STDIN_BYTES)
            await self._outbox.send(b"")
        except UnderwayError as error:
            log.info("a command's WebSocket was ended: %s", error)
            too_big = isinstance(error, TooLarge)
            code = websocket.TOO_BIG if too_big else websocket.PROTOCOL_ERROR
            self._outbox.post(self._socket.close(code, error.message))
        except ConnectionError as error:
            log.debug("a command's WebSocket broke: %s", error)

    def _take(self, channel: int, data: bytes) -> None:
        if channel == rc.Channel.CLOSE and self._protocol == rc.V5:
            ended = self._inputs.get(data[0]) if data else None
            if ended is not None:
                ended.end()
        elif channel in self._inputs:
            self._inputs[channel].feed(data)


class _SpdySession:
    """Channels as SPDY streams, told apart by their ``streamtype`` header."""

    def __init__(self, stream: ByteStream, protocol: str, wanted: Wanted) -> None:
        self._protocol = protocol
        self._missing = {channel.name.lower(): channel for channel in wanted.channels()}
        self._streams: dict[rc.Channel, spdy.Stream] = {}
        self._complete = asyncio.Event()
        self._session = spdy.Session(stream, self._on_stream)

    async def pump(self) -> None:
        await self._session.run()

    async def opened(self) -> None:
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                await self._complete.wait()
        except TimeoutError as error:
            missing = ", ".join(self._missing)
            raise RequestTimeout(f"a command's client did not open: {missing}") from error

    async def read(self, channel: rc.Channel) -> bytes:
        return await self._streams[channel].read()

    async def write(self, channel: rc.Channel, data: bytes) -> None:
        await self._streams[channel].write(data)

    async def finish(self, status: dict[str, Any]) -> None:
        for channel in (rc.Channel.STDOUT, rc.Channel.STDERR):
            if channel in self._streams:
                self._streams[channel].write_eof()
        errors = self._streams[rc.Channel.ERROR]
        await errors.write(rc.final_message(self._protocol, status))
        errors.write_eof()
        await self._session.flush()

    def ignore_input(self) -> None:
        for stream in self._streams.values():
            stream.inbox.discard()

    def _on_stream(self, stream: spdy.Stream) -> bool:
        channel = self._missing.pop(stream.headers.get(rc.STREAM_TYPE, "").lower(), None)
        if channel is None:
            return False
        self._streams[channel] = stream
        if not self._missing:
            self._complete.set()
        return True
