"""The manager: what a set of controllers shares, and their running.

Controllers get the client, the clock, informers and the event recorder from it. One that breaks
is reported and started again; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from underway.api.resources import Resource
from underway.base.clock import Clock, SystemClock
from underway.client import Client
from underway.reconcile.controller import Controller
from underway.reconcile.events import Recorder
from underway.reconcile.informer import Informer

log = logging.getLogger(__name__)

BASE_RESTART_S = 1.0
MAX_RESTART_S = 60.0

Runnable = Callable[[], Awaitable[None]]


class Manager:
    """Runs controllers against one cluster, as one user.

    Informers, controllers and runnables may be added before ``run`` and while it runs.
    """

    def __init__(
        self, client: Client, clock: Clock | None = None, *, component: str = "underway"
    ) -> None:
        self.client = client
        self.clock: Clock = clock or SystemClock()
        self.events = Recorder(client, self.clock, component=component)
        self._informers: dict[tuple[str, ...], Informer] = {}
        self._controllers: list[Controller] = []
        self._waiting: list[tuple[str, Runnable]] = [("event recorder", self.events.run)]
        self._problems: dict[str, str] = {}
        self._group: asyncio.TaskGroup | None = None

    def informer(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
    ) -> Informer:
        """The shared informer of a resource, or of those objects that the selectors choose."""
        which = (resource.api_version, resource.plural, namespace or "", labels, fields)
        if which not in self._informers:
            informer = self._informers[which] = Informer(
                self.client,
                self.clock,
                resource,
                namespace=namespace,
                labels=labels,
                fields=fields,
            )
            self._start(f"informer {resource.group_resource}", informer.run)
        return self._informers[which]

    def add(self, controller: Controller) -> Controller:
        """Run a controller."""
        controller.attach(self, self.clock)
        self._controllers.append(controller)
        self._start(f"controller {controller.name}", controller.run)
        return controller

    def add_runnable(self, runnable: Runnable, name: str = "") -> None:
        """Run any coroutine function beside the controllers; it is restarted when it raises."""
        self._start(name or getattr(runnable, "__qualname__", "runnable"), runnable)

    async def run(self) -> None:
        """Run everything that was added, until cancelled."""
        if self._group is not None:
            raise RuntimeError("the manager is running already")
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name, runnable in self._waiting:
                    group.create_task(self._supervise(name, runnable), name=name)
                self._waiting.clear()
                await asyncio.Event().wait()
        finally:
            self._group = None

    async def synced(self) -> None:
        """Return once every informer there is has its first list."""
        for informer in list(self._informers.values()):
            await informer.synced()

    def busy(self) -> bool:
        """Whether any controller has an object waiting or in work."""
        return any(controller.busy for controller in self._controllers)

    def healthy(self) -> bool:
        """Whether it runs, every informer follows its resource and nothing is failing."""
        return self._group is not None and not self.problems()

    def problems(self) -> list[str]:
        """What is failing now, a sentence each."""
        informers = self._informers.values()
        waiting = [
            f"{i.resource.group_resource}: not read yet" for i in informers if not i.has_synced
        ]
        failing = [informer.problem for informer in informers if informer.problem]
        return [*self._problems.values(), *failing, *waiting]

    def _start(self, name: str, runnable: Runnable) -> None:
        if self._group is None:
            self._waiting.append((name, runnable))
        else:
            self._group.create_task(self._supervise(name, runnable), name=name)

    async def _supervise(self, name: str, runnable: Runnable) -> None:
        failures = 0
        while True:
            started = self.clock.monotonic()
            try:
                await runnable()
                self._problems.pop(name, None)
                return
            except Exception as error:
                log.exception("%s failed", name)
                self._problems[name] = f"{name}: {error}"
            if self.clock.monotonic() - started > MAX_RESTART_S:
                failures = 0
            delay_s = min(BASE_RESTART_S * 2.0 ** min(failures, 10), MAX_RESTART_S)
            failures += 1
            await self.clock.sleep(delay_s)
            self._problems.pop(name, None)
