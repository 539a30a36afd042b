"""What a manager serves about itself: ``/metrics``, ``/healthz``, ``/livez`` and ``/readyz``.

Source: controller-runtime ``pkg/metrics/server``, ``pkg/healthz``.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

from underway.reconcile.metrics import MEDIA, Metrics
from underway.transport import front
from underway.wire.http import Request, Response

log = logging.getLogger(__name__)

Check = Callable[[], str]
"""Says what is wrong; empty if nothing is."""

_TEXT = {"content-type": "text/plain; charset=utf-8"}


class ManagementServer:
    """Answers probes and scrapes; one per manager, see ``Manager.serve``.

    Attributes:
        port: TCP port it listens on, once ``started`` is set.
    """

    def __init__(
        self, metrics: Metrics, *, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self.metrics = metrics
        self.port = port
        self.started = asyncio.Event()
        self._host = host
        self._tls = tls
        self._alive: dict[str, Check] = {"ping": lambda: ""}
        self._ready: dict[str, Check] = {}

    def add_health_check(self, name: str, check: Check) -> None:
        """Have ``/healthz`` and ``/livez`` fail while ``check`` says something."""
        self._alive[name] = check

    def add_ready_check(self, name: str, check: Check) -> None:
        """Have ``/readyz`` fail while ``check`` says something."""
        self._ready[name] = check

    async def run(self) -> None:
        """Serve until cancelled."""
        server = await front.serve(self.handle, host=self._host, port=self.port, tls=self._tls)
        async with server:
            self.port = server.port
            log.info("metrics and probes on port %d", self.port)
            self.started.set()
            await asyncio.Event().wait()

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        if request.method not in ("GET", "HEAD"):
            return Response(405, _TEXT, b"method not allowed")
        match request.segments():
            case ["metrics"]:
                return Response(200, {"content-type": MEDIA}, self.metrics.render())
            case ["healthz" | "livez" as name, *which]:
                return self._probe(request, name, self._alive, which)
            case ["readyz", *which]:
                return self._probe(request, "readyz", {**self._alive, **self._ready}, which)
        return Response(404, _TEXT, b"not found")

    def _probe(
        self, request: Request, probe: str, checks: dict[str, Check], which: list[str]
    ) -> Response:
        if which:
            if "/".join(which) not in checks:
                return Response(404, _TEXT, b"no such check")
            checks = {name: checks[name] for name in which}
        found = {name: check() for name, check in checks.items()}
        failed = any(found.values())
        if not failed and "verbose" not in request.params():
            return Response(200, _TEXT, b"ok")
        lines = [
            f"[-]{name} failed: {problem}" if problem else f"[+]{name} ok"
            for name, problem in found.items()
        ]
        verdict = f"{probe} check {'failed' if failed else 'passed'}"
        body = "\n".join([*lines, verdict, ""]).encode()
        return Response(500 if failed else 200, _TEXT, body)
