"""Asking nodes what they use, when somebody wants to know.

Nothing is sampled while nobody asks. The first question takes two readings a second apart; the
next ones make their rates from the reading before.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from underway.base.clock import Clock
from underway.base.errors import UnderwayError
from underway.capabilities.metrics.rules.exposition import Scrape, parse
from underway.client import Client

FRESH_S = 5.0  # a reading this young answers the next question too
STALE_S = 60.0  # an older one says nothing of now
FIRST_WINDOW_S = 1.0
_PATH = "/api/v1/nodes/{}/proxy/metrics/resource"


@dataclass(slots=True)
class _Node:
    read_at: float
    after: Scrape
    before: Scrape | None = None


class Sampler:
    """The newest two readings of each node."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def read(self, node: str) -> tuple[Scrape | None, Scrape] | None:
        """The reading before and the newest one of a node; None if it does not answer."""
        async with self._locks.setdefault(node, asyncio.Lock()):
            known = self._nodes.get(node)
            now = self._clock.monotonic()
            if known is None or now - known.read_at > STALE_S:
                known = None
            elif now - known.read_at < FRESH_S:
                return known.before, known.after
            try:
                if known is None:
                    first = await self._scrape(node)
                    await self._clock.sleep(FIRST_WINDOW_S)
                else:
                    first = known.after
                newest = await self._scrape(node)
            except UnderwayError:
                self._nodes.pop(node, None)
                return None
            self._nodes[node] = _Node(self._clock.monotonic(), newest, first)
            return first, newest

    def forget(self, nodes: set[str]) -> None:
        """Drop all nodes but these."""
        for name in self._nodes.keys() - nodes:
            del self._nodes[name]
        for name in [n for n in self._locks.keys() - nodes if not self._locks[n].locked()]:
            del self._locks[name]

    async def _scrape(self, node: str) -> Scrape:
        response = await self._client.request("GET", _PATH.format(node))
        return parse((await response.read()).decode())
