"""Metrics in Prometheus' text form, under the names controller-runtime and client-go use.

Source: controller-runtime ``pkg/internal/controller/metrics``, ``pkg/metrics`` (work queue, REST
client, leader election); Prometheus text exposition format 0.0.4.
"""

from __future__ import annotations

import os
import resource as limits
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from underway.base.clock import Clock, SystemClock

MEDIA = "text/plain; version=0.0.4; charset=utf-8"

# Upper bounds in seconds, those of the originals.
RECONCILE_BOUNDS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8),
    *(0.9, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0),
    *(15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0),
)
QUEUE_BOUNDS_S = tuple(10.0**power for power in range(-8, 4))

_STATM = Path("/proc/self/statm")


class _Family(Protocol):
    name: str

    def lines(self) -> Iterator[str]: ...


F = TypeVar("F", bound=_Family)


class Counter:
    """A number for each set of label values, which grows (or, as a gauge, also shrinks)."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.labels = tuple(labels)
        self._text = text
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Count ``by`` more for these label values."""
        self._values[labels] = self._values.get(labels, 0) + by

    def value(self, *labels: str) -> float:
        """The number now."""
        return self._values.get(labels, 0)

    def drop(self, *labels: str) -> None:
        """Forget these label values."""
        self._values.pop(labels, None)

    def lines(self) -> Iterator[str]:
        """The family's text, a line each."""
        yield from _head(self.name, self.kind, self._text)
        for labels, value in sorted(self._values.items()):
            yield f"{self.name}{_written(self.labels, labels)} {_number(value)}"


class Gauge(Counter):
    """A number for each set of label values that is set."""

    kind = "gauge"

    def set(self, *labels: str, to: float) -> None:
        """The number is now ``to``."""
        self._values[labels] = to


class Histogram:
    """How often a value fell below each of some bounds."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.labels = tuple(labels)
        self._text = text
        self._bounds = tuple(bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, *labels: str, value: float) -> None:
        """Count a value."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + value

    def count(self, *labels: str) -> int:
        """How many values there were."""
        return sum(self._counts.get(labels, ()))

    def lines(self) -> Iterator[str]:
        """The family's text, a line each."""
        yield from _head(self.name, "histogram", self._text)
        names = (*self.labels, "le")
        for labels, counts in sorted(self._counts.items()):
            total = 0
            for bound, count in zip((*self._bounds, None), counts, strict=True):
                total += count
                limit = "+Inf" if bound is None else f"{bound:g}"
                yield f"{self.name}_bucket{_written(names, (*labels, limit))} {total}"
            own = _written(self.labels, labels)
            yield f"{self.name}_sum{own} {_number(self._sums[labels])}"
            yield f"{self.name}_count{own} {total}"


class Metrics:
    """The metrics of one manager; programs add families of their own with ``add``."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._started = self.clock.now().timestamp()
        self._families: dict[str, _Family] = {}
        self._refresh: list[Callable[[], None]] = []
        own = ("controller",)
        runtime = "controller_runtime"
        self.reconciles = self.add(
            Counter(f"{runtime}_reconcile_total", "Reconciliations by result.", (*own, "result"))
        )
        self.errors = self.add(Counter(f"{runtime}_reconcile_errors_total", "Failures.", own))
        self.terminal_errors = self.add(
            Counter(f"{runtime}_terminal_reconcile_errors_total", "Failures not retried.", own)
        )
        self.panics = self.add(
            Counter(f"{runtime}_reconcile_panics_total", "Unforeseen exceptions.", own)
        )
        self.durations = self.add(
            Histogram(
                f"{runtime}_reconcile_time_seconds",
                "Time of a reconciliation.",
                RECONCILE_BOUNDS_S,
                own,
            )
        )
        self.active = self.add(Gauge(f"{runtime}_active_workers", "Workers in use.", own))
        self.workers = self.add(Gauge(f"{runtime}_max_concurrent_reconciles", "Workers.", own))
        self.queues = QueueFamilies(self)
        self.requests = self.add(
            Counter("rest_client_requests_total", "Requests to the API.", ("code", "method"))
        )
        self.leading = self.add(
            Gauge("leader_election_master_status", "1 for the holder of the lease.", ("name",))
        )

    def add(self, family: F) -> F:
        """Show a family (Counter, Gauge, Histogram) too; returns it.

        Raises:
            ValueError: there is one of that name.
        """
        if family.name in self._families:
            raise ValueError(f"there is a metric called {family.name} already")
        self._families[family.name] = family
        return family

    def before_render(self, refresh: Callable[[], None]) -> None:
        """Call ``refresh`` before each rendering, to set what is not kept up to date."""
        self._refresh.append(refresh)

    def no_longer_before_render(self, refresh: Callable[[], None]) -> None:
        """Stop calling ``refresh``."""
        self._refresh.remove(refresh)

    def count_request(self, method: str, code: int) -> None:
        """An answer of the API; see ``Client.observed``."""
        self.requests.add(str(code), method)

    def render(self, *, process: bool = True) -> bytes:
        """The whole text; ``process`` adds the CPU time and memory of this process."""
        for refresh in self._refresh:
            refresh()
        lines = [line for family in self._families.values() for line in family.lines()]
        if process:
            lines += _process(self._started)
        return "\n".join([*lines, ""]).encode()


class QueueFamilies:
    """The work queues' families, shared by all queues of a manager."""

    def __init__(self, metrics: Metrics) -> None:
        names = ("name", "controller")
        add = metrics.add
        self.depth = add(Gauge("workqueue_depth", "Keys that wait for a worker.", names))
        self.adds = add(Counter("workqueue_adds_total", "Keys added.", names))
        self.waited = add(
            Histogram("workqueue_queue_duration_seconds", "Waiting.", QUEUE_BOUNDS_S, names)
        )
        self.worked = add(
            Histogram("workqueue_work_duration_seconds", "Working.", QUEUE_BOUNDS_S, names)
        )
        self.retries = add(Counter("workqueue_retries_total", "Keys added with delay.", names))
        self.unfinished = add(
            Gauge("workqueue_unfinished_work_seconds", "Work in progress, summed.", names)
        )
        self.longest = add(
            Gauge("workqueue_longest_running_processor_seconds", "The oldest work.", names)
        )


class QueueMetrics:
    """What one work queue reports."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._families = metrics.queues
        self._clock = metrics.clock
        self._labels = (name, name)
        self._added: dict[Hashable, float] = {}
        self._started: dict[Hashable, float] = {}
        metrics.before_render(self._refresh)

    def added(self, key: Hashable) -> None:
        """A key was added that did not wait already."""
        self._families.adds.add(*self._labels)
        self._added.setdefault(key, self._clock.monotonic())

    def taken(self, key: Hashable) -> None:
        """A worker took a key."""
        now = self._clock.monotonic()
        waited_s = now - self._added.pop(key, now)
        self._families.waited.observe(*self._labels, value=waited_s)
        self._started[key] = now

    def finished(self, key: Hashable) -> None:
        """A worker gave a key back."""
        now = self._clock.monotonic()
        worked_s = now - self._started.pop(key, now)
        self._families.worked.observe(*self._labels, value=worked_s)

    def retried(self) -> None:
        """A key is to come again after a delay."""
        self._families.retries.add(*self._labels)

    def close(self) -> None:
        """The queue is no more: show only what it counted."""
        self._metrics.no_longer_before_render(self._refresh)
        for gauge in (self._families.depth, self._families.unfinished, self._families.longest):
            gauge.drop(*self._labels)

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        ages_s = [now - started for started in self._started.values()]
        self._families.depth.set(*self._labels, to=len(self._added))
        self._families.unfinished.set(*self._labels, to=sum(ages_s))
        self._families.longest.set(*self._labels, to=max(ages_s, default=0))


def _process(started: float) -> Iterable[str]:
    used = limits.getrusage(limits.RUSAGE_SELF)
    resident = int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    for name, kind, text, value in (
        ("process_cpu_seconds_total", "counter", "CPU time.", used.ru_utime + used.ru_stime),
        ("process_resident_memory_bytes", "gauge", "Memory in use.", float(resident)),
        ("process_start_time_seconds", "gauge", "Unix time of the start.", started),
    ):
        yield from _head(name, kind, text)
        yield f"{name} {_number(value)}"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _written(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = ",".join(f'{n}="{_escaped(v)}"' for n, v in zip(names, values, strict=True))
    return f"{{{pairs}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
