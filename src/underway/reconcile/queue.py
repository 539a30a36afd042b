"""The work queue between what changed and what is done about it.

A key waits at most once, is never in two workers at once, and when it is added while it is being
worked on it comes again afterwards. Failing keys come back with exponential delay.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

from underway.base.clock import Clock
from underway.reconcile.metrics import QueueMetrics

K = TypeVar("K", bound=Hashable)

BASE_DELAY_S = 0.005
MAX_DELAY_S = 1000.0
_MAX_DOUBLINGS = 40  # far past MAX_DELAY_S / BASE_DELAY_S; keeps the power small


class WorkQueue(Generic[K]):
    """A de-duplicating, rate-limited queue of keys.

    ``run`` must be running for delayed keys to arrive. ``metrics`` is told what happens.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        base_delay_s: float = BASE_DELAY_S,
        max_delay_s: float = MAX_DELAY_S,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._base_delay_s = base_delay_s
        self._max_delay_s = max_delay_s
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._dirty: set[K] = set()
        self._working: set[K] = set()
        self._failures: dict[K, int] = {}
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._order = itertools.count()
        self._earlier = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait, are being worked on, or are due again."""
        return len(self._dirty | self._working | self._due.keys())

    @property
    def busy(self) -> bool:
        """Whether a key waits for a worker or is in one; delayed keys do not count."""
        return bool(self._dirty or self._working)

    def add(self, key: K) -> None:
        """Have the key worked on as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if self._metrics:
            self._metrics.added(key)
        if key not in self._working:
            self._ready.put_nowait(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Add the key once ``delay_s`` seconds have passed; of several, the earliest counts."""
        if delay_s <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + delay_s
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._delayed, (due, next(self._order), key))
        if self._delayed[0][2] == key:
            self._earlier.set()

    def add_rate_limited(self, key: K) -> None:
        """Add a key that failed, each time in a row after twice the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        if self._metrics:
            self._metrics.retried()
        delay_s = self._base_delay_s * 2.0 ** min(failures, _MAX_DOUBLINGS)
        self.add_after(key, min(delay_s, self._max_delay_s))

    def forget(self, key: K) -> None:
        """Start over with the shortest delay: the key succeeded."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How often in a row the key failed."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key; it stays with the caller until ``done``."""
        key = await self._ready.get()
        self._dirty.discard(key)
        self._working.add(key)
        if self._metrics:
            self._metrics.taken(key)
        return key

    def done(self, key: K) -> None:
        """Give the key back; if it was added meanwhile it waits again."""
        self._working.discard(key)
        if self._metrics:
            self._metrics.finished(key)
        if key in self._dirty:
            self._ready.put_nowait(key)

    async def run(self) -> None:
        """Move delayed keys into the queue as they fall due, until cancelled."""
        while True:
            self._earlier.clear()
            self._release_due()
            await self._next_change()

    def _release_due(self) -> None:
        now = self._clock.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    async def _next_change(self) -> None:
        if not self._delayed:
            await self._earlier.wait()
            return
        async with asyncio.TaskGroup() as group:
            tasks = {
                group.create_task(self._sleep_until(self._delayed[0][0])),
                group.create_task(self._earlier.wait()),
            }
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _sleep_until(self, due: float) -> None:
        # The delay is taken when the task runs: the clock may have moved since it was made.
        await self._clock.sleep(max(due - self._clock.monotonic(), 0.0))
