"""Objects on disk: SQLite with group commit, and their bytes in memory for reading.

The event loop decides: it compares, assigns the next resourceVersion, encodes, and hands the
write to the one writer thread, which puts everything queued into one durable transaction. Only
after the commit does a write become visible to readers and watchers and its future resolve.
Writers see the *latest* state, including writes under way, because commits happen in order: a
write that stands on another is never durable without it.

Source: the storage semantics of Kubernetes (API concepts, "Resource versions").
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from underway.api.objects import Object
from underway.base.errors import AlreadyExists, Conflict, InternalError, ServiceUnavailable
from underway.base.files import fsync_dir

log = logging.getLogger(__name__)

_BATCH_LIMIT = 512  # writes in one transaction
_BATCH_BYTES = 16 * 1024 * 1024
_VACUUM_FREE_PAGES = 4096  # rebuild the file at start when this much of it is empty

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  uid TEXT NOT NULL UNIQUE, rv INTEGER NOT NULL, data BLOB NOT NULL,
  UNIQUE (resource, namespace, name));
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""

# Each is looked up by itself: comparing rows with a list of rows would read the whole table.
_DELETE = (
    "DELETE FROM objects WHERE rowid IN (SELECT o.rowid FROM gone CROSS JOIN objects o"
    " ON o.resource = gone.resource AND o.namespace = gone.namespace AND o.name = gone.name)"
)
_INSERT = "INSERT INTO objects (resource, namespace, name, uid, rv, data) VALUES"
_OR_REPLACE = (
    "ON CONFLICT (resource, namespace, name)"
    " DO UPDATE SET uid = excluded.uid, rv = excluded.rv, data = excluded.data"
)


class Key(NamedTuple):
    """Which object: ``resource`` is the storage resource (``deployments.apps``)."""

    resource: str
    namespace: str
    name: str


class Row(NamedTuple):
    """One stored object; ``data`` is its JSON, with its resourceVersion inside."""

    key: Key
    uid: str
    rv: int
    data: bytes

    def decode(self) -> Object:
        """The object, decoded anew, so that the caller may change it."""
        decoded: Object = msgspec.json.decode(self.data)
        return decoded


class Codec(Protocol):
    """How objects lie on disk; in memory they are JSON. Called by the writer's thread too."""

    def seal(self, key: Key, data: bytes) -> bytes:
        """The bytes to store for an object's JSON."""
        ...

    def open(self, key: Key, stored: bytes) -> bytes:
        """The object's JSON; raises InternalError where it cannot be had."""
        ...

    def is_current(self, key: Key, stored: bytes) -> bool:
        """Whether ``seal`` would store it the same way today."""
        ...


class _Plain:
    """Stores the JSON as it is."""

    def seal(self, _key: Key, data: bytes) -> bytes:
        return data

    def open(self, _key: Key, stored: bytes) -> bytes:
        return stored

    def is_current(self, _key: Key, _stored: bytes) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Change:
    """One committed write: ``type`` is ADDED, MODIFIED or DELETED.

    ``row`` carries the write's resourceVersion, also for a deletion, where it is the object's
    last state. ``previous`` is what stood there before.
    """

    type: str
    row: Row
    previous: Row | None


Along = Sequence[tuple[Object, Row]]
"""New states of objects, each with the latest one it was made from."""


@dataclass(slots=True)
class _Write:
    epoch: int
    row: Row
    deletes: bool
    done: asyncio.Future[Row]


class _Table:
    """The committed objects of one resource."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Row]] = {}
        self._order: dict[str, list[str]] = {}
        self._namespaces: list[str] | None = None

    def get(self, namespace: str, name: str) -> Row | None:
        found = self._rows.get(namespace)
        return found.get(name) if found else None

    def put(self, row: Row) -> None:
        _, namespace, name = row.key
        rows = self._rows.get(namespace)
        if rows is None:
            rows = self._rows[namespace] = {}
            self._namespaces = None
        if name not in rows:
            self._order.pop(namespace, None)
        rows[name] = row

    def remove(self, key: Key) -> None:
        rows = self._rows.get(key.namespace, {})
        if rows.pop(key.name, None) is not None:
            self._order.pop(key.namespace, None)
        if not rows:
            self._rows.pop(key.namespace, None)
            self._namespaces = None

    def rows(self, namespace: str | None) -> Iterator[Row]:
        """In the order of namespace and name; ``None`` means every namespace."""
        if namespace is None:
            if self._namespaces is None:
                self._namespaces = sorted(self._rows)
            return itertools.chain.from_iterable(map(self.rows, self._namespaces))
        rows = self._rows.get(namespace)
        if not rows:
            return iter(())
        order = self._order.get(namespace)
        if order is None:
            order = self._order[namespace] = sorted(rows)
        return map(rows.__getitem__, order)


class Store:
    """All objects of one cluster. Every method belongs to the event loop's thread.

    Args:
        path: the database file; its directory is made. One process opens it at a time.
        codec: how objects lie in it.
    """

    def __init__(self, path: Path, codec: Codec | None = None) -> None:
        self._path = path
        self._codec: Codec = codec or _Plain()
        self._lock: IO[str] | None = None
        self._tables: dict[str, _Table] = {}
        self._pending: dict[Key, _Write] = {}
        self._listeners: list[Callable[[Change], None]] = []
        self._queue: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoch = 0
        self._assigned = 0
        self._committed = 0

    # -- life ------------------------------------------------------------------------------

    def open(self) -> None:
        """Read everything into memory and start the writer. Blocks; call it once at start.

        Raises:
            ServiceUnavailable: another process has the database open.
            InternalError: the file cannot be opened, is no database of ours, or holds a value
                that cannot be decrypted.
        """
        self._loop = asyncio.get_running_loop()
        self._lock = lock(self._path)
        try:
            connection = self._connect()
            self._assigned = self._committed = self._read(connection)
        except BaseException as error:
            self._lock.close()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise InternalError(f"cannot open {self._path}: {error}") from error
            raise
        self._thread = threading.Thread(
            target=self._run_writer, args=(connection,), name="store-writer", daemon=True
        )
        self._thread.start()

    async def close(self) -> None:
        """Finish the writes under way and close the file."""
        if self._thread is None:
            return
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        if self._lock is not None:
            self._lock.close()

    def _connect(self) -> sqlite3.Connection:
        # Others may read while we run (see ``copy``), so SQLite's own locks stay shared.
        connection = sqlite3.connect(
            self._path, timeout=0.5, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (total,) = connection.execute("PRAGMA page_count").fetchone()
        if free > _VACUUM_FREE_PAGES and free > total // 2:
            connection.execute("VACUUM")
        return connection

    def _read(self, connection: sqlite3.Connection) -> int:
        """Take every object into memory; the last resourceVersion given."""
        stale: list[tuple[bytes, str, str, str]] = []
        for resource, namespace, name, uid, rv, stored in connection.execute(
            "SELECT resource, namespace, name, uid, rv, data FROM objects"
        ):
            key = Key(resource, namespace, name)
            data = self._codec.open(key, stored)
            self._table(resource).put(Row(key, uid, rv, data))
            if not self._codec.is_current(key, stored):
                stale.append((self._codec.seal(key, data), *key))
        if stale:
            _reseal(connection, stale)
        found = connection.execute("SELECT value FROM counters WHERE name = 'rv'").fetchone()
        return found[0] if found else 1

    # -- reading ---------------------------------------------------------------------------

    @property
    def resource_version(self) -> int:
        """The version of the newest committed write."""
        return self._committed

    def get(self, key: Key) -> Row | None:
        """The committed object."""
        return self._table(key.resource).get(key.namespace, key.name)

    def rows(self, resource: str, namespace: str | None = None) -> list[Row]:
        """The committed objects by namespace and name; ``None`` means every namespace."""
        return list(self._table(resource).rows(namespace))

    def latest(self, key: Key) -> Row | None:
        """The object as the next write will find it, be it committed yet or not."""
        write = self._pending.get(key)
        if write is not None:
            return None if write.deletes else write.row
        return self.get(key)

    def latest_rows(self, resource: str, namespace: str) -> list[Row]:
        """The objects of a namespace as the next write will find them, in no order."""
        found = {row.key: row for row in self._table(resource).rows(namespace)}
        for key, write in self._pending.items():
            if key.resource == resource and key.namespace == namespace:
                if write.deletes:
                    found.pop(key, None)
                else:
                    found[key] = write.row
        return list(found.values())

    async def settle(self, key: Key) -> None:
        """Wait until no write of this object is under way."""
        while (write := self._pending.get(key)) is not None:
            await asyncio.wait([write.done])

    # -- writing ---------------------------------------------------------------------------

    def subscribe(self, listener: Callable[[Change], None]) -> None:
        """Call ``listener`` with each committed change, in order, on the event loop."""
        self._listeners.append(listener)

    async def create(self, key: Key, obj: Object) -> Row:
        """Store a new object; its ``metadata.resourceVersion`` is set.

        Raises:
            AlreadyExists: the name is taken.
        """
        if self.latest(key) is not None:
            raise AlreadyExists(f'{key.resource} "{key.name}" already exists')
        return await self._submit(key, obj, deletes=False)

    async def replace(self, key: Key, obj: Object, expected: Row, along: Along = ()) -> Row:
        """Store a new state of the object, if ``expected`` is still the latest.

        Args:
            along: new states of other objects, stored in the same transaction before this one.

        Raises:
            Conflict: it is not.
        """
        self._expect(key, expected)
        return await self._submit(key, obj, along, deletes=False)

    async def delete(self, key: Key, obj: Object, expected: Row, along: Along = ()) -> Row:
        """Remove the object, if ``expected`` is still the latest; ``along`` as for ``replace``.

        Returns:
            ``obj``, its last state, with the deletion's resourceVersion.

        Raises:
            Conflict: it is not.
        """
        self._expect(key, expected)
        return await self._submit(key, obj, along, deletes=True)

    def _expect(self, key: Key, expected: Row) -> None:
        latest = self.latest(key)
        if latest is None or latest.rv != expected.rv:
            raise Conflict(f'{key.resource} "{key.name}" has been modified')

    async def _submit(self, key: Key, obj: Object, along: Along = (), *, deletes: bool) -> Row:
        if self._thread is None or self._loop is None:
            raise ServiceUnavailable("the store is closed")
        for _, row in along:
            self._expect(row.key, row)
        group = [self._assign(row.key, other, deletes=False) for other, row in along]
        for other in group:  # who waits for the group hears of a failure
            other.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        write = self._assign(key, obj, deletes=deletes)
        self._queue.put([*group, write])
        # A caller that goes away must not take the write back: it may be durable already.
        return await asyncio.shield(write.done)

    def _assign(self, key: Key, obj: Object, *, deletes: bool) -> _Write:
        """Give a write its version; from now on it is the object's latest state."""
        assert self._loop is not None
        self._assigned += 1
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(self._assigned)
        row = Row(key, metadata["uid"], self._assigned, msgspec.json.encode(obj))
        write = self._pending[key] = _Write(self._epoch, row, deletes, self._loop.create_future())
        return write

    # -- the writer thread -----------------------------------------------------------------

    def _run_writer(self, connection: sqlite3.Connection) -> None:
        assert self._loop is not None
        failed_epoch = -1
        running = True
        while running:
            batch, running = self._next_batch()
            doomed = [write for write in batch if write.epoch <= failed_epoch]
            batch = [write for write in batch if write.epoch > failed_epoch]
            error: Exception | None = None
            if batch:
                try:
                    _commit(connection, batch, self._codec)
                except Exception as caught:  # noqa: BLE001  # whatever it is, callers must hear it
                    error = caught
                    failed_epoch = batch[-1].epoch
                    doomed, batch = doomed + batch, []
            try:
                if doomed:
                    self._loop.call_soon_threadsafe(self._fail, doomed, error)
                if batch:
                    self._loop.call_soon_threadsafe(self._publish, batch)
            except RuntimeError:  # the loop has closed: nobody waits for these any more
                running = False
        connection.close()

    def _next_batch(self) -> tuple[list[_Write], bool]:
        batch: list[_Write] = []
        size_bytes = 0
        try:
            item = self._queue.get()
            while item is not None:
                batch.extend(item)
                size_bytes += sum(len(write.row.data) for write in item)
                if len(batch) >= _BATCH_LIMIT or size_bytes >= _BATCH_BYTES:
                    return batch, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    # -- back on the event loop ------------------------------------------------------------

    def _publish(self, batch: list[_Write]) -> None:
        for write in batch:
            row, table = write.row, self._table(write.row.key.resource)
            previous = table.get(row.key.namespace, row.key.name)
            if write.deletes:
                kind = "DELETED"
                table.remove(row.key)
            else:
                kind = "MODIFIED" if previous else "ADDED"
                table.put(row)
            self._committed = row.rv
            if self._pending.get(row.key) is write:
                del self._pending[row.key]
            change = Change(kind, row, previous)
            for listener in self._listeners:
                try:
                    listener(change)
                except Exception:
                    # The write is durable: its caller and the other listeners must hear of it.
                    log.exception("a listener failed on %s of %s", kind, row.key)
            if not write.done.done():
                write.done.set_result(row)

    def _fail(self, batch: list[_Write], error: Exception | None) -> None:
        # Everything in flight stood on the state that was not written: all of it fails.
        if any(write.epoch == self._epoch for write in batch):
            self._epoch += 1
            self._pending.clear()
        for write in batch:
            if not write.done.done():
                failure = InternalError(
                    f"cannot write to {self._path}: {error or 'an earlier write failed'}",
                    hint="is the disk full?",
                )
                write.done.set_exception(failure)

    def _table(self, resource: str) -> _Table:
        table = self._tables.get(resource)
        if table is None:
            table = self._tables[resource] = _Table()
        return table


def _commit(connection: sqlite3.Connection, batch: list[_Write], codec: Codec) -> None:
    """Write a batch as one transaction, durable when this returns.

    Of several writes of one object the last one counts. Few statements for many rows: after each
    the interpreter's lock must be had again from an event loop that is busy.
    """
    last = {write.row.key: write for write in batch}
    gone = [key for key, write in last.items() if write.deletes]
    kept = [write.row for write in last.values() if not write.deletes]
    try:
        connection.execute("BEGIN IMMEDIATE")
        if gone:
            connection.execute(
                f"WITH gone (resource, namespace, name) AS"
                f" (VALUES {_rows_of(len(gone), '(?, ?, ?)')})"
                f" {_DELETE}",
                [part for key in gone for part in key],
            )
        if kept:
            connection.execute(
                f"{_INSERT} {_rows_of(len(kept), '(?, ?, ?, ?, ?, ?)')} {_OR_REPLACE}",
                [
                    part
                    for key, uid, rv, data in kept
                    for part in (*key, uid, rv, codec.seal(key, data))
                ],
            )
        connection.execute(
            "INSERT INTO counters VALUES ('rv', ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (batch[-1].row.rv,),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _rows_of(count: int, row: str) -> str:
    return ", ".join([row] * count)


def _reseal(connection: sqlite3.Connection, rows: list[tuple[bytes, str, str, str]]) -> None:
    """Store values anew, leaving nothing of the old ones in the file."""
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "UPDATE objects SET data = ? WHERE resource = ? AND namespace = ? AND name = ?", rows
    )
    connection.execute("COMMIT")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA secure_delete = OFF")


# -- the database as a file ----------------------------------------------------------------


def lock(path: Path) -> IO[str]:
    """Keep the database at ``path`` for this process until the result is closed.

    Raises:
        ServiceUnavailable: another process has it.
        InternalError: its directory cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = path.with_name(f"{path.name}.lock").open("w")
    except OSError as error:
        raise InternalError(f"cannot open {path}: {error}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        held.close()
        raise ServiceUnavailable(
            f"{path} is in use by another process",
            hint="underway status shows whether the platform runs already",
        ) from error
    return held


def copy(source: Path, target: Path) -> None:
    """Write the database's present state to a new file, durably; its owner may be running.

    Source: SQLite documentation, ``VACUUM INTO``: one read transaction, so a consistent state.

    Raises:
        InternalError: the database cannot be read or the copy cannot be written.
    """
    try:
        with contextlib.closing(_existing(source)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
    except (sqlite3.Error, OSError) as error:
        raise InternalError(f"cannot copy {source} to {target}: {error}") from error
    fsync_dir(target.parent)


def revision_of(path: Path) -> int:
    """The highest resourceVersion a whole and undamaged database has given.

    Raises:
        InternalError: it is damaged or no database of ours.
    """
    try:
        with contextlib.closing(_existing(path)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise InternalError(f"{path} is damaged: {verdict}")
            connection.execute("SELECT 1 FROM objects LIMIT 1").fetchone()
            found = connection.execute("SELECT value FROM counters WHERE name = 'rv'").fetchone()
    except sqlite3.Error as error:
        raise InternalError(f"{path} is no database of a cluster: {error}") from error
    return found[0] if found else 1


def raise_revision(path: Path, revision: int) -> None:
    """Have the database go on counting from ``revision``; nobody else may have it open.

    Raises:
        InternalError: it cannot be written.
    """
    try:
        with contextlib.closing(_existing(path)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(
                "INSERT INTO counters VALUES ('rv', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                (revision,),
            )
    except sqlite3.Error as error:
        raise InternalError(f"cannot write to {path}: {error}") from error


def _existing(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, timeout=5.0, isolation_level=None
    )
