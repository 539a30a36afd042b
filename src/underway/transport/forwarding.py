"""Port-forward: the server's side, over SPDY/3.1, bare or inside a WebSocket, and over channels.

With SPDY a forwarded connection is two streams of the same request id: ``data`` carries it,
``error`` says why it failed. Clients older than that inside WebSocket (the Python client among
them) name their ports in the query instead and get one connection for each: the n-th has the
channels 2n and 2n + 1.

Source: Kubernetes ``pkg/kubelet/cri/streaming/portforward``; KEP-4006 for SPDY inside WebSocket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from underway.base.errors import BadRequest, Forbidden, UnderwayError
from underway.transport import spdy
from underway.transport.bytestreams import Outbox, copy, splice
from underway.transport.inbox import Inbox
from underway.wire import remotecommand as rc
from underway.wire import websocket
from underway.wire.http import ByteStream, Request, Response

log = logging.getLogger(__name__)

_CHANNEL_PORTS = 64  # a channel is one byte, and a port takes two
_BUFFER_BYTES = 256 * 1024  # received and not yet passed on, of one connection
_PAIR_TIMEOUT_S = 30.0  # between a request's two streams

Dial = Callable[[int], Awaitable[ByteStream]]


def port_forward(request: Request, dial: Dial) -> Response:
    """Answer a port-forward request by the upgrade it asks for.

    Args:
        request: the upgrade request.
        dial: connects to a port of the pod; what it raises is told to the client.

    Raises:
        BadRequest: the request asks for no upgrade known here, or names no ports where it must.
        Forbidden: the protocol asked for is not ``portforward.k8s.io``.
    """
    if websocket.is_upgrade(request.headers):
        protocols = [rc.PORT_FORWARD_TUNNEL, rc.V4]
        protocol, headers = websocket.accept(request.headers, protocols)
        if protocol == rc.V4:
            ports = _queried_ports(request)

            async def serve_channels(stream: ByteStream) -> None:
                await _Channels(stream, ports, dial).run()

            return Response(101, headers, upgrade=serve_channels)

        async def serve_tunnel(stream: ByteStream) -> None:
            tunnel = _Tunnel(stream)
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(tunnel.run())
                try:
                    await _Forwarder(tunnel, dial).run()
                    await tunnel.finish()
                finally:
                    sender.cancel()

        return Response(101, headers, upgrade=serve_tunnel)
    if request.headers.get("upgrade", "").strip().lower() != "spdy/3.1":
        raise BadRequest("this path needs an upgrade to WebSocket or SPDY/3.1")
    offered = request.headers.get(rc.STREAM_PROTOCOL_HEADER, rc.PORT_FORWARD)
    if rc.PORT_FORWARD not in [name.strip() for name in offered.split(",")]:
        raise Forbidden(
            f"unable to upgrade: unable to negotiate protocol: client supports {offered}, "
            f"server accepts {rc.PORT_FORWARD}"
        )

    async def serve(stream: ByteStream) -> None:
        await _Forwarder(stream, dial).run()

    headers = {
        "upgrade": "SPDY/3.1",
        "connection": "Upgrade",
        rc.STREAM_PROTOCOL_HEADER: rc.PORT_FORWARD,
    }
    return Response(101, headers, upgrade=serve)


class _Pair:
    """The two streams of one forwarded connection, as they arrive."""

    def __init__(self) -> None:
        self.data: spdy.Stream | None = None
        self.error: spdy.Stream | None = None
        self.complete = asyncio.Event()


class _Forwarder:
    """One port-forward connection and the TCP connections behind it."""

    def __init__(self, stream: ByteStream, dial: Dial) -> None:
        self._dial = dial
        self._pairs: dict[str, _Pair] = {}
        self._session = spdy.Session(stream, self._on_stream)
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Forward until the client goes."""
        async with self._group:
            await self._session.run()
            for task in self._tasks:
                task.cancel()

    def _on_stream(self, stream: spdy.Stream) -> bool:
        kind = stream.headers.get(rc.STREAM_TYPE, "")
        port = stream.headers.get(rc.PORT, "")
        if kind not in {"data", "error"} or not port.isdecimal() or not 0 < int(port) < 2**16:
            log.info("a port-forward stream of type %r for port %r was refused", kind, port)
            return False
        # Clients that send no request id open the error stream just before the data stream.
        own_id = stream.id if kind == "error" else stream.id - 2
        request_id = stream.headers.get(rc.REQUEST_ID) or str(own_id)
        pair = self._pairs.get(request_id)
        if pair is None:
            pair = self._pairs[request_id] = _Pair()
            task = self._group.create_task(self._forward(request_id, pair, int(port)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if getattr(pair, kind) is not None:
            return False
        setattr(pair, kind, stream)
        if pair.data is not None and pair.error is not None:
            pair.complete.set()
        return True

    async def _forward(self, request_id: str, pair: _Pair, port: int) -> None:
        """Raises nothing but cancellation: other connections go on."""
        try:
            async with asyncio.timeout(_PAIR_TIMEOUT_S):
                await pair.complete.wait()
        except TimeoutError:
            log.info("a port-forward request for port %d stayed without its other stream", port)
        else:
            assert pair.data is not None
            assert pair.error is not None
            try:
                await self._connect(pair.data, pair.error, port)
            except ConnectionError as error:
                log.debug("a forwarded connection broke: %s", error)
        finally:
            self._pairs.pop(request_id, None)
            for stream in (pair.data, pair.error):
                if stream is not None:
                    with suppress(ConnectionError):
                        stream.close()

    async def _connect(self, data: spdy.Stream, error: spdy.Stream, port: int) -> None:
        try:
            remote = await self._dial(port)
        except (UnderwayError, OSError) as failure:
            await error.write(f"error forwarding port {port}: {failure}".encode())
            return
        try:
            async with asyncio.TaskGroup() as group:
                # A client that wants no more resets the stream, in whatever state it is.
                watch = group.create_task(data.until_reset())
                async with asyncio.TaskGroup() as copies:
                    copies.create_task(copy(data, remote))
                    copies.create_task(copy(remote, data))
                watch.cancel()
        except* OSError as failures:
            if not data.was_reset:
                await error.write(f"error forwarding port {port}: {_first(failures)}".encode())
        finally:
            remote.close()


def _first(failure: BaseException) -> BaseException:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _queried_ports(request: Request) -> list[int]:
    params = request.param_lists()
    texts = ",".join(params.get("ports", []) + params.get("port", [])).split(",")
    if not 0 < len(texts) <= _CHANNEL_PORTS or not all(map(_is_port, texts)):
        raise BadRequest(f"the query must name 1 to {_CHANNEL_PORTS} ports, as ports=80,443")
    return [int(text) for text in texts]


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**16


class _Port:
    """One forwarded connection of a channel protocol, as a ByteStream."""

    def __init__(self, send: Callable[[int, bytes], Awaitable[None]], index: int) -> None:
        self.inbox = Inbox()
        self._send = send
        self._channel = 2 * index

    async def read(self) -> bytes:
        return await self.inbox.read()

    async def write(self, data: bytes) -> None:
        await self._send(self._channel, data)

    async def write_error(self, message: bytes) -> None:
        await self._send(self._channel + 1, message)

    def write_eof(self) -> None:
        """The protocol has no word for the end of one direction."""

    def close(self) -> None:
        self.inbox.discard()


class _Channels:
    """One WebSocket of the channel protocol and the connections behind it."""

    def __init__(self, stream: ByteStream, ports: list[int], dial: Dial) -> None:
        self._stream = stream
        self._numbers = ports
        self._dial = dial
        self._socket = websocket.WebSocket()
        self._outbox = Outbox(stream, self._socket.ping)
        self._ports = [_Port(self._send, index) for index in range(len(ports))]

    async def run(self) -> None:
        """Forward until the client goes, or every connection has ended."""
        async with asyncio.TaskGroup() as group:
            receiver = group.create_task(self._receive())
            sender = group.create_task(self._outbox.run())
            async with asyncio.TaskGroup() as forwards:
                tasks = [
                    forwards.create_task(self._forward(port, number))
                    for port, number in zip(self._ports, self._numbers, strict=True)
                ]
                receiver.add_done_callback(lambda _: [task.cancel() for task in tasks])
            with suppress(ConnectionError):
                await self._outbox.send(self._socket.close())
            receiver.cancel()
            sender.cancel()

    async def _send(self, channel: int, data: bytes) -> None:
        await self._outbox.send(self._socket.message(bytes([channel]) + data))

    async def _forward(self, port: _Port, number: int) -> None:
        """Raises nothing but cancellation."""
        try:
            own_number = number.to_bytes(2, "little")
            await port.write(own_number)
            await port.write_error(own_number)
            remote = await self._dial(number)
        except ConnectionError as error:
            log.debug("a port-forward client has gone: %s", error)
            return
        except (UnderwayError, OSError) as failure:
            with suppress(ConnectionError):
                await port.write_error(f"error forwarding port {number}: {failure}".encode())
            return
        await splice(port, remote)

    async def _receive(self) -> None:
        try:
            while not self._socket.closed and (data := await self._stream.read()):
                for message in self._socket.feed(data):
                    channel, payload = rc.decode_message(rc.V4, message)
                    if channel % 2 == 0 and channel // 2 < len(self._ports):
                        self._ports[channel // 2].inbox.feed(payload)
                self._outbox.post(self._socket.replies())
                for port in self._ports:
                    await port.inbox.room(_BUFFER_BYTES)
        except UnderwayError as error:
            log.info("a port-forward WebSocket was ended: %s", error)
        except ConnectionError as error:
            log.debug("a port-forward WebSocket broke: %s", error)


class _Tunnel:
    """A ByteStream inside a WebSocket's binary messages."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._socket = websocket.WebSocket()
        self._outbox = Outbox(stream, self._socket.ping)

    async def run(self) -> None:
        """Send what is due by itself: pongs."""
        await self._outbox.run()

    async def read(self) -> bytes:
        """The payload of the next messages; empty at the end."""
        while not self._socket.closed:
            data = await self._stream.read()
            if not data:
                return b""
            payload = b"".join(self._socket.feed(data))
            self._outbox.post(self._socket.replies())
            if payload:  # an empty message, which kubectl does send, is no end
                return payload
        return b""

    async def write(self, data: bytes) -> None:
        """Send a message; raises ConnectionError."""
        if data:
            await self._outbox.send(self._socket.message(data))

    def write_eof(self) -> None:
        """End the WebSocket."""
        self._outbox.post(self._socket.close())

    def close(self) -> None:
        """End the WebSocket and the connection."""
        self.write_eof()
        self._stream.close()

    async def finish(self) -> None:
        """Close the WebSocket in good order."""
        with suppress(ConnectionError):
            await self._outbox.send(self._socket.close())
