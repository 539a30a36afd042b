"""Probes: one loop per probe of a running container, whose results become a verdict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from underway.api.objects import Object
from underway.base.clock import Clock
from underway.capabilities.node.backend import commands
from underway.capabilities.node.backend.containers import Containers
from underway.capabilities.node.model import ContainerRecord, Verdict
from underway.capabilities.node.rules.probing import Tally, Timing

log = logging.getLogger(__name__)

Tell = Callable[[str, str], None]
"""Called with the kind of probe and what went wrong."""


class Health:
    """The probes of one running container.

    Args:
        before: what was known of this run before the agent was restarted.
        changed: called when the verdict changed.
        tell: called with each failure.
    """

    def __init__(
        self,
        containers: Containers,
        clock: Clock,
        record: ContainerRecord,
        container: Object,
        pod_ip: str,
        before: Verdict | None,
        changed: Callable[[], None],
        tell: Tell,
    ) -> None:
        self._containers = containers
        self._clock = clock
        self._record = record
        self._container = container
        self._pod_ip = pod_ip
        self._changed = changed
        self._tell = tell
        self._started = asyncio.Event()
        fresh = Verdict(
            started="startupProbe" not in container, ready="readinessProbe" not in container
        )
        self.verdict = before or fresh
        if self.verdict.started:
            self._started.set()

    def fail(self, why: str, grace_s: int | None = None) -> None:
        """The container must be stopped and started again."""
        self._set(replace(self.verdict, failure=why, grace_s=grace_s, ready=False))

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            probe = self._container.get("startupProbe")
            if probe and not self._started.is_set():
                group.create_task(self._startup(probe))
            if probe := self._container.get("livenessProbe"):
                group.create_task(self._liveness(probe))
            if probe := self._container.get("readinessProbe"):
                group.create_task(self._readiness(probe))

    async def _startup(self, probe: Object) -> None:
        timing = Timing.of(probe)
        tally = Tally(timing, verdict=False)
        await self._clock.sleep(timing.initial_delay_s)
        while True:
            success = await self._attempt("Startup", probe, timing)
            if tally.add(success):
                if success:
                    self._started.set()
                    self._set(replace(self.verdict, started=True))
                else:
                    why = f"Container {self._record.name} failed startup probe"
                    self.fail(why, timing.grace_s)
                return
            await self._clock.sleep(timing.period_s)

    async def _liveness(self, probe: Object) -> None:
        await self._started.wait()
        timing = Timing.of(probe)
        tally = Tally(timing, verdict=True)
        await self._clock.sleep(timing.initial_delay_s)
        while True:
            success = await self._attempt("Liveness", probe, timing)
            if tally.add(success) and not success:
                why = f"Container {self._record.name} failed liveness probe"
                self.fail(why, timing.grace_s)
                return
            await self._clock.sleep(timing.period_s)

    async def _readiness(self, probe: Object) -> None:
        await self._started.wait()
        timing = Timing.of(probe)
        tally = Tally(timing, verdict=self.verdict.ready)
        await self._clock.sleep(timing.initial_delay_s)
        while True:
            success = await self._attempt("Readiness", probe, timing)
            if tally.add(success) and not self.verdict.failure:
                self._set(replace(self.verdict, ready=tally.verdict))
            await self._clock.sleep(timing.period_s)

    async def _attempt(self, kind: str, probe: Object, timing: Timing) -> bool:
        message = await commands.attempt(
            self._containers,
            self._record,
            self._container,
            probe,
            self._pod_ip,
            timing.timeout_s,
        )
        if message:
            self._tell(kind, message)
        return not message

    def _set(self, verdict: Verdict) -> None:
        if verdict != self.verdict:
            self.verdict = verdict
            self._changed()
