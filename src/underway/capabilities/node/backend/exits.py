"""Noticing the end of a container: its conmon's pidfd becomes readable."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from underway.linux.oci_runtime import shim_alive


class ExitWatch:
    """Calls back, once, when the conmon of a container has ended for any reason."""

    def __init__(self) -> None:
        self._watched: dict[str, int] = {}
        self._ended: dict[str, asyncio.Event] = {}

    def add(self, container_id: str, shim_pid: int, callback: Callable[[], None]) -> None:
        """Watch a container; one whose conmon is gone already calls back at once."""
        if container_id in self._watched:
            return
        loop = asyncio.get_running_loop()
        ended = self._ended.setdefault(container_id, asyncio.Event())
        try:
            descriptor = os.pidfd_open(shim_pid)
        except OSError:
            ended.set()
            loop.call_soon(callback)
            return

        def fired() -> None:
            self.forget(container_id)
            ended.set()
            callback()

        self._watched[container_id] = descriptor
        loop.add_reader(descriptor, fired)
        if not shim_alive(shim_pid, container_id):  # the number belongs to another process by now
            loop.call_soon(fired)

    def forget(self, container_id: str) -> None:
        """Watch a container no longer."""
        descriptor = self._watched.pop(container_id, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def drop(self, container_id: str) -> None:
        """Forget that a container ever was."""
        self.forget(container_id)
        if ended := self._ended.pop(container_id, None):
            ended.set()

    async def wait(self, container_id: str) -> None:
        """Return once a watched container has ended."""
        if ended := self._ended.get(container_id):
            await ended.wait()

    def close(self) -> None:
        """Watch nothing any more."""
        for container_id in list(self._watched):
            self.forget(container_id)
