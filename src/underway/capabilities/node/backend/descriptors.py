"""Reading and writing file descriptors (pipes, terminals, packet sockets) without blocking."""

from __future__ import annotations

import asyncio
import os

CHUNK_BYTES = 32 * 1024


async def read(descriptor: int) -> bytes:
    """The next bytes or packet; empty at the end, also where a terminal was hung up."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(descriptor, 2 * CHUNK_BYTES)
        except BlockingIOError:
            pass
        except OSError:
            return b""
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(descriptor, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)


async def write(descriptor: int, data: bytes) -> None:
    """Write everything, in pieces that fit a packet.

    Raises:
        ConnectionError: nobody reads any more.
    """
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view[:CHUNK_BYTES]) :]
            continue
        except BlockingIOError:
            pass
        except OSError as error:
            raise ConnectionResetError(str(error)) from error
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(descriptor, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_writer(descriptor)


async def readable(descriptor: int) -> None:
    """Return once something can be read (from a pidfd: the process has ended)."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
