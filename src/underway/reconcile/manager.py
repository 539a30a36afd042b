"""The manager: what a set of controllers shares, and their running.

Controllers get the client, the clock, informers and the event recorder from it. One that breaks
is reported and started again; the others go on.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import ssl
from collections.abc import Awaitable, Callable

from underway.api.resources import Resource
from underway.base.clock import Clock, SystemClock
from underway.client import Client
from underway.reconcile.controller import Controller
from underway.reconcile.events import Recorder
from underway.reconcile.informer import Informer
from underway.reconcile.leases import LeaderElector, LeaderLost
from underway.reconcile.management import ManagementServer
from underway.reconcile.metrics import Metrics
from underway.reconcile.webhooks import WebhookServer

log = logging.getLogger(__name__)

BASE_RESTART_S = 1.0
MAX_RESTART_S = 60.0

Runnable = Callable[[], Awaitable[None]]


class Manager:
    """Runs controllers against one cluster, as one user.

    Informers, controllers and runnables may be added before ``run`` and while it runs.

    Attributes:
        client: the client given, whose requests ``metrics`` counts.
        clock: time for everything below.
        metrics: what the parts report; see ``serve``.
        events: tells users of objects what happened.
    """

    def __init__(
        self, client: Client, clock: Clock | None = None, *, component: str = "underway"
    ) -> None:
        self._whole = self
        self.clock: Clock = clock or SystemClock()
        self.metrics = Metrics(self.clock)
        self.client = client.observed(self.metrics.count_request)
        self.events = Recorder(self.client, self.clock, component=component)
        self._informers: dict[tuple[str, ...], Informer] = {}
        self._controllers: list[Controller] = []
        self._waiting: list[tuple[str, Runnable]] = [("event recorder", self.events.run)]
        self._problems: dict[str, str] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._elector: LeaderElector | None = None
        self._leading = asyncio.Event()

    def acting(self, client: Client) -> Manager:
        """The same manager for controllers that act as another user, that of ``client``.

        Only ``client`` differs: informers are shared, and they and events stay the manager's own.
        """
        view = copy.copy(self)
        view.client = client.observed(self.metrics.count_request)
        return view

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
                self._whole.client,
                self.clock,
                resource,
                namespace=namespace,
                labels=labels,
                fields=fields,
            )
            self._start(f"informer {resource.group_resource}", informer.run)
        return self._informers[which]

    def add(self, controller: Controller) -> Controller:
        """Run a controller; where ``lead`` was called, only while this replica leads."""
        controller.attach(self, self.clock)
        self._controllers.append(controller)
        name = f"controller {controller.name}"
        self._start(name, controller.run, everywhere=controller.every_replica)
        return controller

    def remove(self, controller: Controller) -> None:
        """Stop a controller; what it is doing is cancelled. Its informers stay for others."""
        controller.detach()
        self._controllers.remove(controller)
        name = f"controller {controller.name}"
        self._waiting[:] = [each for each in self._waiting if each[0] != name]
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        self._problems.pop(name, None)

    def add_runnable(self, runnable: Runnable, name: str = "", *, leader: bool = False) -> None:
        """Run any coroutine function beside the controllers; it is restarted when it raises.

        With ``leader`` it runs only while this replica leads.
        """
        name = name or getattr(runnable, "__qualname__", "runnable")
        self._start(name, runnable, everywhere=not leader)

    def lead(self, *, namespace: str, name: str, identity: str) -> LeaderElector:
        """Run controllers only while this replica holds the Lease ``namespace/name``.

        Caches, webhooks, metrics and controllers marked ``every_replica`` run all the time, so
        that taking over is quick. To be called before ``run``, which raises ``LeaderLost`` when
        the lease is lost: the program should end then, and be started again.
        """
        if self._elector is not None:
            raise RuntimeError("the manager takes part in an election already")
        self._elector = LeaderElector(
            self.client, self.clock, namespace=namespace, name=name, identity=identity
        )
        self.metrics.leading.set(name, to=0)
        return self._elector

    def serve(
        self, *, host: str = "127.0.0.1", port: int = 8080, tls: ssl.SSLContext | None = None
    ) -> ManagementServer:
        """Serve ``/metrics``, ``/healthz``, ``/livez`` and ``/readyz`` while it runs.

        ``/readyz`` fails until every informer has its first list and while something is failing.
        """
        server = ManagementServer(self.metrics, host=host, port=port, tls=tls)
        server.add_ready_check("informers", lambda: "; ".join(self.problems()))
        self.add_runnable(server.run, "management server")
        return server

    def add_webhooks(self, server: WebhookServer) -> WebhookServer:
        """Serve webhooks, and keep their certificate, on every replica."""
        server.certificate.attach(self)
        self.add_runnable(server.run, "webhooks")
        return server

    async def run(self) -> None:
        """Run everything that was added, until cancelled.

        Raises:
            LeaderLost: another replica may lead now (see ``lead``).
        """
        if self._group is not None:
            raise RuntimeError("the manager is running already")
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name, runnable in self._waiting:
                    self._spawn(name, runnable)
                self._waiting.clear()
                if self._elector is not None:
                    group.create_task(self._elect(self._elector), name="leader election")
                else:
                    self._leading.set()
                await asyncio.Event().wait()
        except BaseExceptionGroup as group:
            lost = [each for each in group.exceptions if isinstance(each, LeaderLost)]
            if lost:
                raise lost[0] from group
            raise
        finally:
            self._group = None
            self._tasks.clear()

    async def _elect(self, elector: LeaderElector) -> None:
        async def lead() -> None:
            self.metrics.leading.set(elector.name, to=1)
            self._leading.set()
            await asyncio.Event().wait()

        try:
            await elector.run(lead)
        finally:
            self.metrics.leading.set(elector.name, to=0)

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

    def _start(self, name: str, runnable: Runnable, *, everywhere: bool = True) -> None:
        async def when_leading() -> None:
            await self._leading.wait()
            await runnable()

        chosen = runnable if everywhere else when_leading
        whole = self._whole
        if whole._group is None:  # noqa: SLF001  # its own, seen from a view
            self._waiting.append((name, chosen))
        else:
            whole._spawn(name, chosen)  # noqa: SLF001

    def _spawn(self, name: str, runnable: Runnable) -> None:
        assert self._group is not None
        self._tasks[name] = self._group.create_task(self._supervise(name, runnable), name=name)

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
