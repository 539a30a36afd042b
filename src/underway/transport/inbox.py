"""Bytes on their way from a socket to one reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Inbox:
    """A queue of bytes with an end.

    Args:
        on_change: called whenever ``size_bytes`` changed, so that the owner can stop or resume
            reading its socket.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._chunks: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self.ended = False
        self.size_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether a reader is blocked until more arrives."""
        return self._waiter is not None

    def feed(self, data: bytes) -> None:
        """Add bytes; after the end they are dropped."""
        if self.ended or not data:
            return
        self._chunks.append(data)
        self.size_bytes += len(data)
        self._wake()
        self._on_change()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; with ``error`` the reader gets that once it has read the rest."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._wake()

    def discard(self) -> None:
        """Drop what is there and all that comes."""
        self._chunks.clear()
        self._taken()
        self.end()

    async def room(self, limit_bytes: int) -> None:
        """Return once no more than ``limit_bytes`` wait to be read."""
        while self.size_bytes > limit_bytes:
            if self._emptied is None or self._emptied.done():
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    async def read(self) -> bytes:
        """All that is there, waiting for at least one byte; empty at the end."""
        while not self._chunks:
            if self.ended:
                if self._error is not None:
                    raise self._error
                return b""
            if self._waiter is not None:
                raise RuntimeError("two readers on one stream")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def take(self) -> bytes:
        """All that is there now, without waiting."""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._taken()
        return data

    def _taken(self) -> None:
        self.size_bytes = 0
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        self._on_change()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
