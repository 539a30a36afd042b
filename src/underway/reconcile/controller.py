"""Controllers: bring the world nearer to what one object says, whatever has changed.

A reconcile function is told a name, never an event: it reads what is desired and what is there
and acts on the difference. So it may be called at any time, any number of times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from underway.api.resources import Resource
from underway.base.clock import Clock, SystemClock
from underway.base.errors import Conflict, NotFound, UnderwayError
from underway.reconcile.informer import Entry, EventType, Handler, Informer, Metadata, OwnerRef
from underway.reconcile.metrics import Metrics, QueueMetrics
from underway.reconcile.queue import WorkQueue
from underway.reconcile.sources import MapFn, Owned, Predicate, Request, Source, Watched

if TYPE_CHECKING:
    from underway.reconcile.manager import Manager

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do until something changes."""


@dataclass(frozen=True, slots=True)
class RequeueAfter:
    """Look again after ``delay_s`` seconds, even if nothing changes."""

    delay_s: float


class TerminalError(Exception):
    """Trying again cannot help until the object changes; logged, not retried."""


Result = Done | RequeueAfter
Reconcile = Callable[[Request], Awaitable[Result | None]]


class Controller:
    """One reconcile function and what wakes it.

    Args:
        name: how the log and events name it.
        reconcile: ``async (Request) -> Done | RequeueAfter``; an error is retried with back-off,
            ``TerminalError`` is not.
        primary: the resource whose objects it reconciles.
        owns: resources whose objects wake the primary object that is their controller; as
            ``Owned`` with predicates.
        watches: other resources, each with a function from a changed object to requests; as
            ``Watched`` with predicates.
        workers: how many objects are reconciled at once.
        predicates: all must hold for a change of a primary object to count.
        timeout_s: a reconciliation that takes longer is cancelled and counts as failed.
        every_replica: whether it runs also where another replica leads (see ``Manager.lead``).
    """

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        primary: Source,
        owns: Sequence[Source | Owned] = (),
        watches: Sequence[tuple[Source, MapFn] | Watched] = (),
        workers: int = 1,
        predicates: Sequence[Predicate] = (),
        timeout_s: float | None = None,
        every_replica: bool = False,
    ) -> None:
        self.name = name
        self.every_replica = every_replica
        self.primary = primary
        self.owns = tuple(each if isinstance(each, Owned) else Owned(each) for each in owns)
        self.watches = tuple(
            each if isinstance(each, Watched) else Watched(*each) for each in watches
        )
        self._timeout_s = timeout_s
        self._reconcile = reconcile
        self._workers = workers
        self._predicates = tuple(predicates)
        self._queue: WorkQueue[Request] | None = None
        self._clock: Clock = SystemClock()
        self._metrics = Metrics()
        self._queue_metrics: QueueMetrics | None = None
        self._informers: list[Informer] = []
        self._handlers: list[tuple[Informer, Handler]] = []

    def enqueue(self, request: Request) -> None:
        """Have an object reconciled soon."""
        if self._queue is None:
            raise RuntimeError(f"controller {self.name} was not added to a manager")
        self._queue.add(request)

    def enqueue_after(self, request: Request, delay_s: float) -> None:
        """Have an object reconciled after ``delay_s`` seconds."""
        if self._queue is None:
            raise RuntimeError(f"controller {self.name} was not added to a manager")
        self._queue.add_after(request, delay_s)

    @property
    def busy(self) -> bool:
        """Whether a request waits for a worker or is in one."""
        return self._queue is not None and self._queue.busy

    def attach(self, manager: Manager, clock: Clock) -> None:
        """Take informers from the manager and listen to them; called by ``Manager.add``."""
        self._metrics = manager.metrics
        self._metrics.workers.set(self.name, to=self._workers)
        self._metrics.active.set(self.name, to=0)
        self._queue_metrics = QueueMetrics(manager.metrics, self.name)
        self._queue = WorkQueue(clock, metrics=self._queue_metrics)
        self._clock = clock
        primary = self._informer(manager, self.primary)
        self._listen(primary, self._on_primary, self._predicates)
        for owned in self.owns:
            handler = self._on_owned(primary.resource, any_owner=owned.any_owner)
            self._listen(self._informer(manager, owned.source), handler, owned.predicates)
        for watched in self.watches:
            handler = self._on_watched(watched.map_fn)
            self._listen(self._informer(manager, watched.source), handler, watched.predicates)

    def detach(self) -> None:
        """Listen no longer; called by ``Manager.remove``."""
        for informer, handler in self._handlers:
            informer.remove_handler(handler)
        self._handlers.clear()
        if self._queue_metrics is not None:
            self._queue_metrics.close()
            self._queue_metrics = None

    async def run(self) -> None:
        """Work until cancelled, starting when every informer has its first list."""
        assert self._queue is not None
        for informer in self._informers:
            await informer.synced()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(), name=f"{self.name}/timer")
            for number in range(self._workers):
                group.create_task(self._work(self._queue), name=f"{self.name}/{number}")

    def _informer(self, manager: Manager, source: Source) -> Informer:
        informer = source if isinstance(source, Informer) else manager.informer(source)
        self._informers.append(informer)
        return informer

    def _listen(self, informer: Informer, act: Handler, predicates: Sequence[Predicate]) -> None:
        def handle(kind: EventType, old: Entry | None, new: Entry | None) -> None:
            before, after = old.view if old else None, new.view if new else None
            if all(predicate(kind, before, after) for predicate in predicates):
                act(kind, old, new)

        handler = handle if predicates else act
        self._handlers.append((informer, handler))
        informer.add_handler(handler)

    def _on_primary(self, _kind: EventType, old: Entry | None, new: Entry | None) -> None:
        for meta in _metadata(old, new):
            self.enqueue(Request(meta.namespace, meta.name))

    def _on_owned(self, owner: Resource, *, any_owner: bool) -> Handler:
        def is_owner(ref: OwnerRef) -> bool:
            return ref.kind == owner.kind and _group(ref.api_version) == owner.group

        def handle(_kind: EventType, old: Entry | None, new: Entry | None) -> None:
            for meta in _metadata(old, new):
                for ref in meta.owner_references or ():
                    if is_owner(ref) and (any_owner or ref.controller):
                        namespace = meta.namespace if owner.namespaced else ""
                        self.enqueue(Request(namespace, ref.name))

        return handle

    def _on_watched(self, map_fn: MapFn) -> Handler:
        def handle(_kind: EventType, old: Entry | None, new: Entry | None) -> None:
            for entry in (old, new):
                if entry is not None:
                    for request in map_fn(entry.view):
                        self.enqueue(request)

        return handle

    async def _work(self, queue: WorkQueue[Request]) -> None:
        while True:
            request = await queue.get()
            try:
                await self._reconcile_one(queue, request)
            finally:
                queue.done(request)

    async def _reconcile_one(self, queue: WorkQueue[Request], request: Request) -> None:
        started = self._clock.monotonic()
        self._metrics.active.add(self.name)
        outcome = "error"
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._reconcile(request)
        except TerminalError as error:
            log.error("%s: %s: %s; not trying again", self.name, request.key, error)  # noqa: TRY400  # the sentence says it
            self._metrics.terminal_errors.add(self.name)
            queue.forget(request)
        except (Conflict, NotFound) as error:
            # What was read has changed or gone since; the next look sees that.
            log.debug("%s: %s: %s", self.name, request.key, error)
            queue.add_rate_limited(request)
        except (UnderwayError, TimeoutError) as error:
            log.warning("%s: %s: %s", self.name, request.key, str(error) or "took too long")
            queue.add_rate_limited(request)
        except Exception as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # A task group whose member failed meanwhile hides that it was cancelled.
                raise asyncio.CancelledError from error
            log.exception("%s: %s: reconciling failed", self.name, request.key)
            self._metrics.panics.add(self.name)
            queue.add_rate_limited(request)
        else:
            outcome = "success"
            queue.forget(request)
            if isinstance(result, RequeueAfter):
                outcome = "requeue_after"
                # The delay counts from when the reconciler looked at the clock, not from now.
                queue.add_after(request, result.delay_s - (self._clock.monotonic() - started))
        finally:
            self._metrics.active.add(self.name, by=-1)
        self._count(outcome, self._clock.monotonic() - started)

    def _count(self, outcome: str, lasted_s: float) -> None:
        self._metrics.reconciles.add(self.name, outcome)
        self._metrics.durations.observe(self.name, value=lasted_s)
        if outcome == "error":
            self._metrics.errors.add(self.name)


def _metadata(old: Entry | None, new: Entry | None) -> list[Metadata]:
    return [entry.meta for entry in (old, new) if entry is not None]


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]
