"""Waiting for a file or directory to change.

Source: inotify(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from underway.base.errors import InternalError

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x80, 0x100, 0x200
_CLOEXEC, _NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Tells when anything in a directory is written to, made, moved or removed."""

    def __init__(self, directory: Path) -> None:
        self._changed = asyncio.Event()
        self._fd = _libc.inotify_init1(_CLOEXEC | _NONBLOCK)
        if self._fd < 0:
            raise InternalError(f"inotify: {os.strerror(ctypes.get_errno())}")
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE
        if _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
            code = ctypes.get_errno()
            os.close(self._fd)
            raise InternalError(f"inotify {directory}: {os.strerror(code)}")

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._fd, self._drain)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    async def changed(self) -> None:
        """Return once something changed since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 65_536):
                pass
        self._changed.set()
