"""Byte streams over sockets, and what connects them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from underway.base.errors import ServiceUnavailable
from underway.wire.http import ByteStream

CHUNK_BYTES = 64 * 1024
HEARTBEAT_S = 15.0
_PENDING_LIMIT = 1024 * 1024  # bytes of answers a peer may provoke without reading any


class SocketStream:
    """A ByteStream over asyncio's reader and writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        return await self._reader.read(CHUNK_BYTES)

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the peer is slow; ConnectionError when it has gone."""
        if self._writer.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._writer.write(data)
        await self._writer.drain()

    def write_eof(self) -> None:
        """End our direction; over TLS, which cannot do that, both."""
        if self._writer.is_closing():
            return
        if self._writer.can_write_eof():
            with suppress(OSError):
                self._writer.write_eof()
        else:
            self._writer.close()

    def close(self) -> None:
        """End both directions, once what was written is sent."""
        self._writer.close()

    def abort(self) -> None:
        """End both directions now."""
        self._writer.transport.abort()


async def dial(
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    *,
    server_name: str = "",
    timeout_s: float = 10.0,
) -> SocketStream:
    """Connect to ``host:port``; its certificate must name ``server_name``, or else ``host``.

    Raises:
        ServiceUnavailable: nothing answers there, or its certificate is not trusted.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                host,
                port,
                ssl=tls,
                server_hostname=server_name or None if tls else None,
                limit=4 * CHUNK_BYTES,
            )
    except TimeoutError as error:
        raise ServiceUnavailable(
            f"no connection to {host}:{port} within {timeout_s:.0f} s"
        ) from error
    except OSError as error:  # ssl.SSLError is one
        raise ServiceUnavailable(f"cannot connect to {host}:{port}: {error}") from error
    return SocketStream(reader, writer)


async def splice(one: ByteStream, other: ByteStream) -> None:
    """Copy both ways, ending each direction as its source ends, until both have; close both.

    A broken connection ends the whole.
    """
    whole = False
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(one, other))
            group.create_task(copy(other, one))
        whole = True
    except* ConnectionError:
        pass
    finally:
        for stream in (one, other):
            # After a failure nobody may be left to take what is still to be sent.
            end = stream.close if whole else getattr(stream, "abort", stream.close)
            end()


async def copy(source: ByteStream, sink: ByteStream) -> None:
    """Copy until ``source`` ends, then end that direction of ``sink``; raises ConnectionError."""
    while data := await source.read():
        await sink.write(data)
    sink.write_eof()


async def chunks(read: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    """What ``read`` returns, until it returns nothing."""
    while data := await read():
        yield data


class Outbox:
    """The sending side of a framed connection, shared by several writers and its own reader.

    The reader must never wait for the peer to read, or two busy peers block each other: it
    ``post``s its answers. Whatever is posted goes out before anything sent later.

    Args:
        stream: the connection.
        heartbeat: makes the bytes that go out now and then, so that a peer that has gone is found
            out even while nothing is read from it.
    """

    def __init__(self, stream: ByteStream, heartbeat: Callable[[], bytes]) -> None:
        self._stream = stream
        self._heartbeat = heartbeat
        self._posted: list[bytes] = []
        self._posted_bytes = 0
        self._due = asyncio.Event()
        self._lock = asyncio.Lock()

    def post(self, data: bytes) -> None:
        """Send later; raises ConnectionError when the peer reads none of its answers."""
        if not data:
            return
        self._posted.append(data)
        self._posted_bytes += len(data)
        if self._posted_bytes > _PENDING_LIMIT:
            raise ConnectionAbortedError("the peer does not read what it asks for")
        self._due.set()

    async def send(self, data: bytes) -> None:
        """Send now, waiting while the peer is slow; raises ConnectionError."""
        async with self._lock:
            out = b"".join((*self._posted, data))
            self._posted.clear()
            self._posted_bytes = 0
            self._due.clear()
            await self._stream.write(out)

    async def run(self) -> None:
        """Send what is posted, until cancelled or the connection is gone."""
        with suppress(ConnectionError):
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._due.wait()
                except TimeoutError:
                    self.post(self._heartbeat())
                await self.send(b"")
