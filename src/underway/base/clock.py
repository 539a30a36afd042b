"""Time as a value that can be handed in, so that tests hold the clock."""

from __future__ import annotations

import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # slow to import: a command that waits for nothing does without it
    import asyncio


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Wall-clock time, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after ``delay_s`` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Wall-clock time, in UTC."""
        return datetime.now(UTC)  # noqa: TID251  # this is the one place that reads it

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Return after ``delay_s`` seconds."""
        import asyncio

        await asyncio.sleep(delay_s)


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        """The time it was last moved to, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds it was moved by so far."""
        return self._elapsed

    async def sleep(self, delay_s: float) -> None:
        """Return once the clock was advanced by ``delay_s`` seconds."""
        import asyncio

        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + delay_s, next(self._order), wake))
        await wake

    async def advance(self, delay_s: float) -> None:
        """Move time, waking each sleeper at its own moment and letting it run."""
        import asyncio

        end = self._elapsed + delay_s
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, wake = heapq.heappop(self._sleepers)
            self._move_to(due)
            if not wake.done():
                wake.set_result(None)
            for _ in range(20):
                await asyncio.sleep(0)
        self._move_to(end)
        await asyncio.sleep(0)

    def _move_to(self, elapsed: float) -> None:
        self._now += timedelta(seconds=elapsed - self._elapsed)
        self._elapsed = elapsed


def rfc3339(moment: datetime, *, micro: bool = False) -> str:
    """``metav1.Time`` (or ``MicroTime``) text: ``2026-01-01T00:00:00Z``."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds" if micro else "seconds")
    return f"{text.removesuffix('+00:00')}Z"


def parse_rfc3339(text: str) -> datetime:
    """The moment a ``metav1.Time`` or ``MicroTime`` text names.

    Raises:
        ValueError: the text is no RFC 3339 time.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
