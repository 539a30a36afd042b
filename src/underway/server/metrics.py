"""``/metrics``: what the server answered and how fast, under upstream's names.

Source: kubernetes/apiserver ``pkg/endpoints/metrics``; Prometheus text exposition format 0.0.4.
"""

from __future__ import annotations

import os
import resource as limits
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from underway.base.clock import Clock
from underway.server.audit import Seen
from underway.server.catalog import Served
from underway.wire.http import ByteStream, Request, Response, Upgrade

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds in seconds. Source: ``requestLatencies`` in upstream's metrics.go.
_BOUNDS_S = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0),
    *(8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
)
_VERBS = {
    "create": "POST",
    "delete": "DELETE",
    "deletecollection": "DELETECOLLECTION",
    "get": "GET",
    "list": "LIST",
    "patch": "PATCH",
    "update": "PUT",
    "watch": "WATCH",
}
_MEMORY = Path("/proc/self/statm")
_CONNECTING = frozenset({"attach", "exec", "portforward", "proxy"})
_NAMES = ("verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component")

Labels = tuple[str, ...]
"""The values of ``_NAMES``."""


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_S) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self.total_s += seconds


class Metrics:
    """Counts requests. Labels come from what is served, so their number is bounded."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.now().timestamp()
        self._requests: Counter[tuple[Labels, int]] = Counter()
        self._durations: dict[Labels, _Histogram] = {}
        self._running: Counter[Labels] = Counter()

    def record(
        self,
        request: Request,
        seen: Seen,
        served: Served | None,
        response: Response,
        began_s: float,
    ) -> None:
        """Count an answer; one that is a stream or an upgrade counts once it has ended.

        Args:
            request: the request.
            seen: what the server found out about it.
            served: the resource at its path, or None.
            response: the answer; its stream is wrapped.
            began_s: monotonic time at which the request came.
        """
        labels = _labels(request, seen, served)
        code = response.status

        def ended() -> None:
            self._requests[labels, code] += 1
            histogram = self._durations.setdefault(labels, _Histogram())
            histogram.observe(max(0.0, self._clock.monotonic() - began_s))

        if response.upgrade is not None:
            response.upgrade = self._during_upgrade(response.upgrade, labels, ended)
        elif isinstance(response.body, bytes):
            ended()
        else:
            response.body = self._during_stream(response.body, labels, ended)

    async def _during_stream(
        self, body: AsyncIterator[bytes], labels: Labels, ended: Callable[[], None]
    ) -> AsyncIterator[bytes]:
        self._running[labels] += 1
        try:
            async for chunk in body:
                yield chunk
        finally:
            self._running[labels] -= 1
            ended()
            aclose = getattr(body, "aclose", None)
            if aclose is not None:
                await aclose()

    def _during_upgrade(
        self,
        upgrade: Upgrade,
        labels: Labels,
        ended: Callable[[], None],
    ) -> Upgrade:
        async def run(stream: ByteStream) -> None:
            self._running[labels] += 1
            try:
                await upgrade(stream)
            finally:
                self._running[labels] -= 1
                ended()

        return run

    def render(self, objects: Mapping[tuple[str, str], int]) -> bytes:
        """The whole text; ``objects`` are the numbers stored, by group and resource."""
        lines = [
            *_head("apiserver_request_total", "counter", "Requests answered, by code."),
            *(
                f"apiserver_request_total{_written(labels, code=str(code))} {count}"
                for (labels, code), count in sorted(self._requests.items())
            ),
            *_head("apiserver_request_duration_seconds", "histogram", "Time to the answer's end."),
        ]
        for labels, histogram in sorted(self._durations.items()):
            lines += _buckets("apiserver_request_duration_seconds", labels, histogram)
        lines += _head("apiserver_longrunning_requests", "gauge", "Watches and streams open now.")
        lines += [
            f"apiserver_longrunning_requests{_written(labels)} {count}"
            for labels, count in sorted(self._running.items())
        ]
        lines += _head("apiserver_resource_objects", "gauge", "Objects stored.")
        lines += [
            f'apiserver_resource_objects{{group="{group}",resource="{name}"}} {count}'
            for (group, name), count in sorted(objects.items())
        ]
        return "\n".join([*lines, *self._process(), ""]).encode()

    def _process(self) -> Iterable[str]:
        used = limits.getrusage(limits.RUSAGE_SELF)
        pages = int(_MEMORY.read_bytes().split()[1])
        for name, kind, text, value in (
            ("process_cpu_seconds_total", "counter", "CPU time.", used.ru_utime + used.ru_stime),
            (
                "process_resident_memory_bytes",
                "gauge",
                "Memory in use.",
                pages * os.sysconf("SC_PAGE_SIZE"),
            ),
            ("process_start_time_seconds", "gauge", "Unix time of the start.", self._started),
        ):
            yield from _head(name, kind, text)
            yield f"{name} {value}"


def _labels(request: Request, seen: Seen, served: Served | None) -> Labels:
    wanted = seen.wanted
    known = (
        wanted is not None
        and served is not None
        and (not wanted.subresource or wanted.subresource in served.resource.subresources)
    )
    if wanted is None or not known:
        verb = request.method if request.method in _VERBS.values() else "other"
        return (verb, "", "", "", "", "", "", "apiserver")
    verb = _VERBS.get(wanted.verb, "other")
    if wanted.subresource in _CONNECTING:
        verb = "CONNECT"
    elif verb == "PATCH" and "apply-patch" in request.headers.get("content-type", ""):
        verb = "APPLY"
    scope = "resource" if wanted.name else "namespace" if wanted.namespace else "cluster"
    dry_run = "All" if "dryRun=All" in request.query else ""
    where = (wanted.group, wanted.version, wanted.resource, wanted.subresource)
    return (verb, dry_run, *where, scope, "apiserver")


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _written(labels: Labels, **more: str) -> str:
    pairs = [*zip(_NAMES, labels, strict=True), *more.items()]
    return "{" + ",".join(f'{name}="{value}"' for name, value in pairs) + "}"


def _buckets(name: str, labels: Labels, histogram: _Histogram) -> Iterable[str]:
    count = 0
    for bound, held in zip((*_BOUNDS_S, None), histogram.counts, strict=True):
        count += held
        limit = "+Inf" if bound is None else f"{bound:g}"
        yield f"{name}_bucket{_written(labels, le=limit)} {count}"
    yield f"{name}_sum{_written(labels)} {histogram.total_s:.6f}"
    yield f"{name}_count{_written(labels)} {count}"
