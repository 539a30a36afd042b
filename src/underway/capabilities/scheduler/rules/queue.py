"""The order in which pods are scheduled: the most important first, then the first come.

A pod that no node could take waits until something happens that may help it, and then for its
back-off, which grows with every refusal. Whatever happens, it is looked at again after a while.

Source: Kubernetes docs, "Pod Priority and Preemption" (effect on scheduling order); kubernetes
``pkg/scheduler/backend/queue`` for the times.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from dataclasses import dataclass

BACKOFF_S = 1.0  # after the second refusal, then doubling; the first retry comes at once
MAX_BACKOFF_S = 10.0
LEFTOVER_S = 300.0


class Happening(enum.Flag):
    """What may let a refused pod in."""

    NODE = enum.auto()  # a node came, or offers something else
    FREED = enum.auto()  # a pod left a node
    PLACED = enum.auto()  # a pod came to a node, or its labels changed
    OTHER = enum.auto()  # volumes, namespaces, budgets


@dataclass(slots=True)
class _Refused:
    priority: int
    attempts: int
    at: float
    wants: Happening
    active: bool = False
    due: float | None = None


class PodQueue:
    """Pods that wait, by key.

    ``backoff_s`` is how long one refused twice is kept back, which doubles up to ``max_backoff_s``.
    """

    def __init__(self) -> None:
        self.backoff_s = BACKOFF_S
        self.max_backoff_s = MAX_BACKOFF_S
        self._heap: list[tuple[int, int, str]] = []
        self._ready: dict[str, int] = {}  # key -> the sequence number that counts
        self._refused: dict[str, _Refused] = {}
        self._timers: list[tuple[float, str]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._ready.keys() | self._refused.keys())

    @property
    def ready(self) -> int:
        """How many may be scheduled now."""
        return len(self._ready)

    def add(self, key: str, priority: int) -> None:
        """A pod is new, or has changed so that it deserves a fresh look."""
        self._refused.pop(key, None)
        self._activate(key, priority)

    def discard(self, key: str) -> None:
        """A pod needs no node any more."""
        self._ready.pop(key, None)
        self._refused.pop(key, None)

    def pop(self) -> str | None:
        """The next pod, if any may be scheduled now."""
        while self._heap:
            _, number, key = heapq.heappop(self._heap)
            if self._ready.get(key) == number:
                del self._ready[key]
                return key
        return None

    def refuse(self, key: str, priority: int, now: float, wants: Happening) -> None:
        """No node could take the pod; ``wants`` is what may change that."""
        before = self._refused.get(key)
        attempts = before.attempts + 1 if before else 1
        self._refused[key] = _Refused(priority, attempts, now, wants)
        heapq.heappush(self._timers, (now + LEFTOVER_S, key))

    def happened(self, what: Happening, now: float) -> None:
        """Bring back those whom it may help, after their back-off."""
        for key, refused in self._refused.items():
            if not refused.wants & what or refused.active or refused.due is not None:
                continue
            due = refused.at + backoff_s(refused.attempts, self.backoff_s, self.max_backoff_s)
            if due <= now:
                self._return(key, refused)
            else:
                refused.due = due
                heapq.heappush(self._timers, (due, key))

    def tick(self, now: float) -> float | None:
        """Bring back those whose time has come; seconds until the next, if any waits."""
        while self._timers:
            due, key = self._timers[0]
            refused = self._refused.get(key)
            if (
                refused is None
                or refused.active
                or due not in (refused.due, refused.at + LEFTOVER_S)
            ):
                heapq.heappop(self._timers)
                continue
            if due > now:
                return due - now
            heapq.heappop(self._timers)
            self._return(key, refused)
        return None

    def _return(self, key: str, refused: _Refused) -> None:
        refused.active, refused.due = True, None
        self._activate(key, refused.priority)

    def _activate(self, key: str, priority: int) -> None:
        number = self._ready[key] = next(self._order)
        heapq.heappush(self._heap, (-priority, number, key))


def backoff_s(attempts: int, first_s: float = BACKOFF_S, most_s: float = MAX_BACKOFF_S) -> float:
    """How long a pod refused so many times in a row is kept back, in seconds."""
    if attempts <= 1:
        return 0.0
    return min(first_s * 2.0 ** min(attempts - 2, 10), most_s)
