"""Controllers: bring the world nearer to what one object says, whatever has changed.

A reconcile function is told a name, never an event: it reads what is desired and what is there
and acts on the difference. So it may be called at any time, any number of times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from underway.api.objects import Object, key_of, split_key
from underway.api.resources import Resource
from underway.base.clock import Clock, SystemClock
from underway.base.errors import Conflict, NotFound, UnderwayError
from underway.reconcile.informer import Entry, EventType, Informer, Metadata
from underway.reconcile.queue import WorkQueue

if TYPE_CHECKING:
    from underway.reconcile.manager import Manager

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """The object to reconcile; ``namespace`` is empty for cluster-scoped ones."""

    namespace: str
    name: str

    @property
    def key(self) -> str:
        """``namespace/name``, or the name alone."""
        return key_of(self.namespace, self.name)

    @classmethod
    def of(cls, key: str) -> Request:
        """The request for a key."""
        return cls(*split_key(key))


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
Source = Resource | Informer
MapFn = Callable[[Object], Iterable[Request]]
"""From an object that changed (not to be written to) to those to reconcile because of it."""
Predicate = Callable[[EventType, Object | None, Object | None], bool]
"""Whether a change of the primary object matters: the event, the object before and after."""


def generation_changed(kind: EventType, old: Object | None, new: Object | None) -> bool:
    """A predicate: the spec (or the deletion mark, or the existence) changed, not the status."""
    if kind != "MODIFIED" or old is None or new is None:
        return True
    before, after = old["metadata"], new["metadata"]
    return any(
        before.get(name) != after.get(name)
        for name in ("generation", "deletionTimestamp", "uid", "labels", "annotations")
    )


class Controller:
    """One reconcile function and what wakes it.

    Args:
        name: how the log and events name it.
        reconcile: ``async (Request) -> Done | RequeueAfter``; an error is retried with back-off,
            ``TerminalError`` is not.
        primary: the resource whose objects it reconciles.
        owns: resources whose objects wake the primary object that is their controller.
        watches: other resources, each with a function from a changed object to requests; for a
            change it is asked about the object before and after.
        workers: how many objects are reconciled at once.
        predicates: all must hold for a change of a primary object to count.
    """

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        primary: Source,
        owns: Sequence[Source] = (),
        watches: Sequence[tuple[Source, MapFn]] = (),
        workers: int = 1,
        predicates: Sequence[Predicate] = (),
    ) -> None:
        self.name = name
        self.primary = primary
        self.owns = tuple(owns)
        self.watches = tuple(watches)
        self._reconcile = reconcile
        self._workers = workers
        self._predicates = tuple(predicates)
        self._queue: WorkQueue[Request] | None = None
        self._clock: Clock = SystemClock()
        self._informers: list[Informer] = []

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
        self._queue = WorkQueue(clock)
        self._clock = clock
        primary = self._informer(manager, self.primary)
        primary.add_handler(self._on_primary)
        for source in self.owns:
            self._informer(manager, source).add_handler(self._on_owned(primary.resource))
        for source, map_fn in self.watches:
            self._informer(manager, source).add_handler(self._on_watched(map_fn))

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

    def _on_primary(self, kind: EventType, old: Entry | None, new: Entry | None) -> None:
        if self._predicates:
            before, after = old.view if old else None, new.view if new else None
            if not all(predicate(kind, before, after) for predicate in self._predicates):
                return
        for meta in _metadata(old, new):
            self.enqueue(Request(meta.namespace, meta.name))

    def _on_owned(self, owner: Resource) -> Callable[[EventType, Entry | None, Entry | None], None]:
        def handle(kind: EventType, old: Entry | None, new: Entry | None) -> None:
            for meta in _metadata(old, new):
                ref = meta.controller
                if ref is None or ref.kind != owner.kind or _group(ref.api_version) != owner.group:
                    continue
                namespace = meta.namespace if owner.namespaced else ""
                self.enqueue(Request(namespace, ref.name))

        return handle

    def _on_watched(self, map_fn: MapFn) -> Callable[[EventType, Entry | None, Entry | None], None]:
        def handle(kind: EventType, old: Entry | None, new: Entry | None) -> None:
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
        try:
            result = await self._reconcile(request)
        except TerminalError as error:
            log.error("%s: %s: %s; not trying again", self.name, request.key, error)  # noqa: TRY400  # the sentence says it
            queue.forget(request)
        except (Conflict, NotFound) as error:
            # What was read has changed or gone since; the next look sees that.
            log.debug("%s: %s: %s", self.name, request.key, error)
            queue.add_rate_limited(request)
        except UnderwayError as error:
            log.warning("%s: %s: %s", self.name, request.key, error)
            queue.add_rate_limited(request)
        except Exception:
            log.exception("%s: %s: reconciling failed", self.name, request.key)
            queue.add_rate_limited(request)
        else:
            queue.forget(request)
            if isinstance(result, RequeueAfter):
                # The delay counts from when the reconciler looked at the clock, not from now.
                queue.add_after(request, result.delay_s - (self._clock.monotonic() - started))


def _metadata(old: Entry | None, new: Entry | None) -> list[Metadata]:
    return [entry.meta for entry in (old, new) if entry is not None]


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]
