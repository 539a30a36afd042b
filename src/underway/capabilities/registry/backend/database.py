"""Where the registry's records are: one port, and SQLite behind it.

Statements are written with ``?`` for parameters and in what SQLite and PostgreSQL both understand.
Reads see what is committed. Writes are functions of a ``Cursor``; those that come at the same time
share one transaction, and so one wait for the disk, each undone alone where it fails.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from underway.base.errors import InternalError, ServiceUnavailable, UnderwayError

T = TypeVar("T")
Row = dict[str, Any]

_BUSY_S = 30.0  # how long another process may hold the database


class Reader(Protocol):
    """Whatever answers a SELECT."""

    def all(self, sql: str, *params: object) -> list[Row]:
        """Every row, by column name."""
        ...

    def one(self, sql: str, *params: object) -> Row | None:
        """The first row, or None."""
        ...


class Cursor(Reader, Protocol):
    """A transaction under way."""

    def run(self, sql: str, *params: object) -> int:
        """Run a statement; gives how many rows it changed."""
        ...


class Database(Protocol):
    """The port."""

    local: bool
    """Whether reading takes microseconds, so that an event loop may do it."""

    id_type: str
    bytes_type: str

    def all(self, sql: str, *params: object) -> list[Row]:
        """Every row, by column name."""
        ...

    def one(self, sql: str, *params: object) -> Row | None:
        """The first row, or None."""
        ...

    def write(self, change: Callable[[Cursor], T]) -> T:
        """Run ``change`` in a transaction; gives what it gave once that is durable. Blocks.

        ``change`` may be run again, and must do nothing but read and write through its cursor.
        """
        ...

    def version(self) -> object:
        """Differs after anybody committed something."""
        ...

    def script(self, statements: list[str]) -> None:
        """Run statements that make the tables."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class Entry:
    """One write that waits for its transaction."""

    __slots__ = ("change", "done", "error", "value")

    def __init__(self, change: Callable[[Cursor], Any]) -> None:
        self.change = change
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """Lets whoever comes first commit for all who wait with it."""

    def __init__(self, commit: Callable[[list[Entry]], None]) -> None:
        self._commit = commit
        self._waiting: list[Entry] = []
        self._waiting_lock = threading.Lock()
        self._turn = threading.Lock()

    def write(self, change: Callable[[Cursor], T]) -> T:
        """See ``Database.write``."""
        mine = Entry(change)
        with self._waiting_lock:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                with self._waiting_lock:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if mine.error is not None:
            raise mine.error
        value: T = mine.value
        return value


class _SqliteCursor:
    """Statements on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self, sql: str, *params: object) -> list[Row]:
        """Every row."""
        return [dict(row) for row in self._connection.execute(sql, params)]

    def one(self, sql: str, *params: object) -> Row | None:
        """The first row, or None."""
        row = self._connection.execute(sql, params).fetchone()
        return None if row is None else dict(row)

    def run(self, sql: str, *params: object) -> int:
        """Run a statement."""
        return self._connection.execute(sql, params).rowcount


class SqliteDatabase:
    """A file, shared with the processes of commands. Raises ServiceUnavailable if locked."""

    local = True
    id_type = "INTEGER PRIMARY KEY AUTOINCREMENT"
    bytes_type = "BLOB"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._watching = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _mapped(path):
            self._writer = self._connect()
            self._watcher = self._connect()
        path.chmod(0o600)
        self._group = GroupCommit(self._commit)

    def all(self, sql: str, *params: object) -> list[Row]:
        """Every row."""
        with _mapped(self._path):
            return self._reader.all(sql, *params)

    def one(self, sql: str, *params: object) -> Row | None:
        """The first row, or None."""
        with _mapped(self._path):
            return self._reader.one(sql, *params)

    def write(self, change: Callable[[Cursor], T]) -> T:
        """See ``Database.write``."""
        with _mapped(self._path):
            return self._group.write(change)

    def version(self) -> object:
        """SQLite counts the commits of others; the watching connection makes none."""
        with self._watching:
            return self._watcher.execute("PRAGMA data_version").fetchone()[0]

    def script(self, statements: list[str]) -> None:
        """Make the tables; another process may be doing so."""
        with _mapped(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            for statement in statements:
                self._writer.execute(statement)
            self._writer.execute("COMMIT")

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open:
            connection.close()
        self._open.clear()

    @property
    def _reader(self) -> _SqliteCursor:
        found: _SqliteCursor | None = getattr(self._threads, "reader", None)
        if found is None:
            found = self._threads.reader = _SqliteCursor(self._connect())
        return found

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-1024")
        self._open.append(connection)
        return connection

    def _commit(self, batch: list[Entry]) -> None:
        connection, cursor = self._writer, _SqliteCursor(self._writer)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for entry in batch:
                connection.execute("SAVEPOINT entry")
                try:
                    entry.value = entry.change(cursor)
                except Exception as error:  # noqa: BLE001  # it is the writer's to handle
                    entry.error = error
                    connection.execute("ROLLBACK TO entry")
                connection.execute("RELEASE entry")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            for entry in batch:
                entry.error = entry.error or error
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        finally:
            for entry in batch:
                entry.done = True


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except UnderwayError:
        raise
    except sqlite3.OperationalError as error:
        raise ServiceUnavailable(f"the registry's database {path}: {error}") from error
    except sqlite3.Error as error:
        raise InternalError(f"the registry's database {path}: {error}") from error
