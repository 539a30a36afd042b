"""Time that passes by itself and can be put forward."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from underway.base.clock import SystemClock


class MovableClock(SystemClock):
    """The machine's clock, ahead of it by as much as it was put forward.

    What sleeps wakes when its time has come, whichever way. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        """Wall-clock time, in UTC."""
        return super().now() + timedelta(seconds=self._ahead_s)

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return super().monotonic() + self._ahead_s

    async def sleep(self, delay_s: float) -> None:
        """Return after ``delay_s`` seconds, or as soon as the clock was put past them."""
        due = self.monotonic() + delay_s
        await asyncio.sleep(0)
        while (left_s := due - self.monotonic()) > 0:
            moved = self._moved
            try:
                async with asyncio.timeout(left_s):
                    await moved.wait()
            except TimeoutError:
                return

    async def advance(self, delay_s: float) -> None:
        """Put the clock forward by ``delay_s`` seconds at once."""
        self._ahead_s += delay_s
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        await asyncio.sleep(0)
