"""Watches: committed changes fanned out in order, with a bounded history to resume from.

One hub hears every commit. Each storage resource keeps its newest changes in a ring; a watch
that names a version inside the ring misses nothing, one that names an older version gets
``410 Expired``. A watcher that does not keep up with its bounded queue is cut off and lists again.

Source: Kubernetes API concepts, "Efficient detection of changes" and "Streaming lists".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from underway.api.objects import Object
from underway.base.clock import Clock
from underway.base.errors import Expired, RequestTimeout, UnderwayError
from underway.server.store import Change, Key, Row, Store
from underway.server.versions import Unconverted, converted, each

HISTORY_LIMIT = 4096  # changes kept for each resource
HISTORY_BYTES = 16 * 1024 * 1024  # and at most this much of their JSON
QUEUE_LIMIT = 2048  # changes one watcher may lag behind
BOOKMARK_INTERVAL_S = 60.0
TICK_S = 1.0
_WARM = 32  # newest events that keep their frames and decoded objects
_END_OF_INITIAL = "k8s.io/initial-events-end"


@dataclass(slots=True, eq=False)
class Event:
    """One change with the frames made from it so far, by view and type."""

    change: Change
    frames: dict[tuple[str, str], bytes] = field(default_factory=dict)
    decoded: Object | None = None
    decoded_previous: Object | None = None

    def cool(self) -> None:
        """Let go of what can be made again: most watchers have had the event by now."""
        self.frames.clear()
        self.decoded = self.decoded_previous = None

    @property
    def rv(self) -> int:
        """The version of the change."""
        return self.change.row.rv

    def object(self) -> Object:
        """The object after the change, decoded once for all watchers; not to be written to."""
        if self.decoded is None:
            self.decoded = self.change.row.decode()
        return self.decoded

    def previous(self) -> Object | None:
        """The object before the change; not to be written to."""
        if self.decoded_previous is None and self.change.previous is not None:
            self.decoded_previous = self.change.previous.decode()
        return self.decoded_previous


class View(Protocol):
    """How a watcher wants its objects: as they are, in another version, as a Table."""

    @property
    def name(self) -> str:
        """Equal names make equal bytes."""
        ...

    def one(self, data: bytes) -> bytes:
        """The JSON of one stored object, in this view."""
        ...

    def bookmark(self, metadata: Object) -> bytes:
        """The JSON of a bookmark's object."""
        ...


Match = Callable[[Object], bool]


@dataclass(frozen=True, slots=True)
class Watch:
    """What to watch: storage ``resource``; ``namespace`` and ``name`` empty mean all.

    ``since`` is the version to resume after; ``None`` starts with the current objects.
    ``match`` decides by the object, ``None`` takes all.
    """

    resource: str
    view: View
    namespace: str = ""
    name: str = ""
    since: int | None = None
    match: Match | None = None
    bookmarks: bool = False
    initial_bookmark: bool = False
    timeout_s: float = 1800.0


class _Ring:
    """The newest changes of one resource; those up to ``floor`` are no longer (all) there."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.events: deque[Event] = deque()
        self._size_bytes = 0

    def append(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) > _WARM:
            self.events[-_WARM - 1].cool()
        self._size_bytes += _weight(event)
        while len(self.events) > HISTORY_LIMIT or self._size_bytes > HISTORY_BYTES:
            dropped = self.events.popleft()
            self.floor = dropped.rv
            self._size_bytes -= _weight(dropped)

    def after(self, rv: int) -> list[Event]:
        newer: list[Event] = []
        for event in reversed(self.events):
            if event.rv <= rv:
                break
            newer.append(event)
        newer.reverse()
        return newer


def _weight(event: Event) -> int:
    return len(event.change.row.data)


class _Watcher:
    """One watch's queue, filled by the hub and emptied by the watch's stream."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.queue: deque[Event] = deque()
        self.wake = asyncio.Event()
        self.cut_off = False
        self.due = 0.0  # on the clock's monotonic scale

    def offer(self, event: Event) -> None:
        key = event.change.row.key
        if not _concerns(self.watch, key) or self.cut_off:
            return
        if len(self.queue) >= QUEUE_LIMIT:
            self.cut_off = True
        else:
            self.queue.append(event)
        self.wake.set()

    def close(self) -> None:
        self.cut_off = True
        self.wake.set()


def _concerns(watch: Watch, key: Key) -> bool:
    return (not watch.namespace or key.namespace == watch.namespace) and (
        not watch.name or key.name == watch.name
    )


class Hub:
    """The watches of one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._rings: dict[str, _Ring] = {}
        self._watchers: dict[str, set[_Watcher]] = {}
        self._started_at = 0
        self._open = False

    def start(self) -> None:
        """Begin the history at the store's present version."""
        self._started_at = self._store.resource_version
        self._open = True
        self._store.subscribe(self._publish)

    def stop(self) -> None:
        """End every watch."""
        self._open = False
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()

    def end_watches(self, resource: str) -> None:
        """End the watches of one resource, whose definition changed."""
        for watcher in self._watchers.get(resource, ()):
            watcher.close()

    @property
    def watcher_count(self) -> int:
        """How many watches are open."""
        return sum(len(watchers) for watchers in self._watchers.values())

    def check(self, resource: str, since: int) -> None:
        """Whether a watch or an exact list at version ``since`` is possible.

        Raises:
            Expired: the history begins later.
            RequestTimeout: the version lies in the future.
        """
        floor = self._ring(resource).floor
        if since < floor:
            raise Expired(f"too old resource version: {since} ({floor})")
        current = self._store.resource_version
        if since > current:
            raise RequestTimeout(
                f"Too large resource version: {since}, current: {current}", retry_after_s=1
            )

    def rows_at(self, resource: str, namespace: str | None, rv: int) -> list[Row]:
        """The rows as they stood at version ``rv``: the present with later changes undone.

        Raises:
            Expired: the history begins later.
            RequestTimeout: the version lies in the future.
        """
        self.check(resource, rv)
        rows = self._store.rows(resource, namespace)
        newer = self._ring(resource).after(rv)
        if not newer:
            return rows
        by_key = {row.key: row for row in rows}
        for event in reversed(newer):
            key, previous = event.change.row.key, event.change.previous
            if namespace is not None and key.namespace != namespace:
                continue
            if previous is None:
                by_key.pop(key, None)
            else:
                by_key[key] = previous
        return [by_key[key] for key in sorted(by_key)]

    async def stream(self, watch: Watch) -> AsyncIterator[bytes]:
        """The watch's frames, one JSON line each, until its time is over.

        A version that is too old ends the stream with an ERROR frame.
        """
        if not self._open:
            return
        try:
            watcher, initial = await converted(lambda: self._begin(watch))
        except UnderwayError as error:
            yield _frame("ERROR", msgspec.json.encode(error.to_status()))
            return
        deadline = self._clock.monotonic() + watch.timeout_s
        sent = self._store.resource_version
        try:
            for row in initial:
                try:
                    data = watch.view.one(row.data)
                except Unconverted:
                    data = await converted(partial(watch.view.one, row.data))
                yield _frame("ADDED", data)
            if watch.initial_bookmark:
                yield self._bookmark(watch, sent, {_END_OF_INITIAL: "true"})
            last_bookmark = self._clock.monotonic()
            while self._open and not (watcher.cut_off and not watcher.queue):
                while watcher.queue:
                    event = watcher.queue.popleft()
                    sent = event.rv
                    try:
                        frame = render(event, watch)
                    except Unconverted:
                        frame = await converted(partial(render, event, watch))
                    if frame:
                        yield frame
                now = self._clock.monotonic()
                if now >= deadline:
                    break
                if watch.bookmarks and now >= last_bookmark + BOOKMARK_INTERVAL_S:
                    yield self._bookmark(watch, self._store.resource_version)
                    last_bookmark = now
                    continue
                next_bookmark = last_bookmark + BOOKMARK_INTERVAL_S
                watcher.due = min(deadline, next_bookmark) if watch.bookmarks else deadline
                watcher.wake.clear()
                if self._open and not watcher.cut_off:
                    await watcher.wake.wait()
        except UnderwayError as error:  # an object that cannot be converted
            yield _frame("ERROR", msgspec.json.encode(error.to_status()))
        finally:
            self._watchers[watch.resource].discard(watcher)

    def _begin(self, watch: Watch) -> tuple[_Watcher, list[Row]]:
        watcher = _Watcher(watch)
        initial: list[Row] = []
        if watch.since is None:
            rows = self._store.rows(watch.resource, watch.namespace or None)
            initial = [row for row in rows if _concerns(watch, row.key)]
            if watch.match is not None:
                match = watch.match
                matching = each(lambda row: match(row.decode()), initial)
                initial = [row for row, matches in zip(initial, matching, strict=True) if matches]
        else:
            self.check(watch.resource, watch.since)
            for event in self._ring(watch.resource).after(watch.since):
                if _concerns(watch, event.change.row.key):
                    # History is bounded already; the queue's limit is for what comes after it.
                    watcher.queue.append(event)
        self._watchers.setdefault(watch.resource, set()).add(watcher)
        return watcher, initial

    async def run(self) -> None:
        """Wake watchers whose bookmark or end is due; runs as long as the server does."""
        while True:
            await self._clock.sleep(TICK_S)
            now = self._clock.monotonic()
            for watchers in self._watchers.values():
                for watcher in watchers:
                    if watcher.due <= now:
                        watcher.wake.set()

    def _bookmark(self, watch: Watch, rv: int, annotations: dict[str, str] | None = None) -> bytes:
        metadata: Object = {"resourceVersion": str(rv), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        return _frame("BOOKMARK", watch.view.bookmark(metadata))

    def _publish(self, change: Change) -> None:
        resource = change.row.key.resource
        event = Event(change)
        self._ring(resource).append(event)
        for watcher in self._watchers.get(resource, ()):
            watcher.offer(event)

    def _ring(self, resource: str) -> _Ring:
        ring = self._rings.get(resource)
        if ring is None:
            ring = self._rings[resource] = _Ring(self._started_at)
        return ring


def render(event: Event, watch: Watch) -> bytes | None:
    """The frame a watch sends for an event; ``None`` if it does not concern its selector.

    An object that begins to match is ADDED, one that ceases to match is DELETED, with its last
    matching state under the version of the change.
    """
    change = event.change
    kind, data, source = change.type, change.row.data, "new"
    if watch.match is not None:
        previous = event.previous()
        before = previous is not None and watch.match(previous)
        after = kind != "DELETED" and watch.match(event.object())
        if kind == "DELETED":
            if not before:
                return None
        elif before and not after:
            assert previous is not None
            kind, source = "DELETED", "old"
        elif not after:
            return None
        else:
            kind = "MODIFIED" if before else "ADDED"
    cache_key = (f"{watch.view.name}/{source}", kind)
    frame = event.frames.get(cache_key)
    if frame is None:
        if source == "old":
            last = dict(event.previous() or {})
            last["metadata"] = {**last["metadata"], "resourceVersion": str(event.rv)}
            data = msgspec.json.encode(last)
        frame = event.frames[cache_key] = _frame(kind, watch.view.one(data))
    return frame


def _frame(kind: str, data: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), data)
