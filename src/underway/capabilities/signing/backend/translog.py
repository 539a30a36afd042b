"""The platform's own transparency log: entries and tree in SQLite, signed with its own key."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from underway.base.clock import Clock
from underway.base.errors import NotFound, ServiceUnavailable
from underway.capabilities.signing.backend.keystore import FileKeys
from underway.capabilities.signing.rules import keys, merkle, translog

LOG_KEY = "log"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, body BLOB NOT NULL UNIQUE, integrated_time INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER NOT NULL, place INTEGER NOT NULL, hash BLOB NOT NULL,
    PRIMARY KEY (level, place)
) WITHOUT ROWID;
"""


class TransparencyLog:
    """An append-only log. Every call is blocking; processes may share the file.

    Args:
        file: the database; made when missing.
        store: holds the key ``log``, made when missing.
        clock: when entries were taken.
        origin: the log's name in its checkpoints.
    """

    def __init__(self, file: Path, store: FileKeys, clock: Clock, origin: str) -> None:
        self._file, self._store, self._clock, self._origin = file, store, clock, origin
        self.key = store.ensure(LOG_KEY)
        self.id = bytes.fromhex(keys.key_id(self.key))
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._connection() as database:
            database.executescript(_SCHEMA)

    def append(self, body: bytes) -> translog.Entry:
        """Add an entry, durably, or find it where it is there already."""
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            found = database.execute("SELECT id FROM entries WHERE body = ?", (body,)).fetchone()
            if found is None:
                index = self._size(database)
                now = int(self._clock.now().timestamp())
                database.execute("INSERT INTO entries VALUES (?, ?, ?)", (index, body, now))
                self._grow(database, index, merkle.leaf_hash(body))
            else:
                index = found[0]
            database.execute("COMMIT")
            return self._entry(database, index)

    def entry(self, index: int) -> translog.Entry:
        """The entry at an index, proved in the tree as it is now.

        Raises:
            NotFound: the log is shorter.
        """
        with self._connection() as database:
            return self._entry(database, index)

    def checkpoint(self) -> str:
        """The log's size and root now, as a signed note."""
        with self._connection() as database:
            database.execute("BEGIN")
            return self._checkpoint(database, self._size(database))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log only grew.

        Raises:
            NotFound: it never had those sizes.
        """
        with self._connection() as database:
            if not 0 <= old <= new <= self._size(database):
                raise NotFound(f"the log has no tree of {new} entries that goes on from {old}")
            return merkle.consistency(old, new, self._node(database))

    def size(self) -> int:
        """How many entries there are."""
        with self._connection() as database:
            return self._size(database)

    def _entry(self, database: sqlite3.Connection, index: int) -> translog.Entry:
        row = database.execute(
            "SELECT body, integrated_time FROM entries WHERE id = ?", (index,)
        ).fetchone()
        if row is None:
            raise NotFound(f"the log has no entry {index}")
        body, moment = row
        size = self._size(database)
        node = self._node(database)
        promised = translog.promise(body, moment, self.id, index)
        return translog.Entry(
            index,
            body,
            moment,
            self._store.sign(LOG_KEY, promised),
            size,
            merkle.root(size, node),
            tuple(merkle.inclusion(index, size, node)),
            self._checkpoint(database, size),
            self.id,
        )

    def _checkpoint(self, database: sqlite3.Connection, size: int) -> str:
        root = merkle.root(size, self._node(database))
        text = translog.checkpoint_text(self._origin, size, root)
        signature = self._store.sign(LOG_KEY, text.encode())
        return translog.note(text, self._origin, self.id, signature)

    @staticmethod
    def _grow(database: sqlite3.Connection, index: int, leaf: bytes) -> None:
        """Keep the leaf's hash and those of the subtrees it makes full."""
        node = TransparencyLog._node(database)
        level, place, value = 0, index, leaf
        database.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, place, value))
        for _ in range(merkle.completed(index)):
            value = merkle.node_hash(node(level, place - 1), value)
            level, place = level + 1, place >> 1
            database.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, place, value))

    @staticmethod
    def _node(database: sqlite3.Connection) -> merkle.Node:
        def node(level: int, place: int) -> bytes:
            (value,) = database.execute(
                "SELECT hash FROM nodes WHERE level = ? AND place = ?", (level, place)
            ).fetchone()
            return bytes(value)

        return node

    @staticmethod
    def _size(database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT COUNT(*) FROM entries").fetchone()[0])

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._file, isolation_level=None, timeout=30)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            yield database
        except sqlite3.Error as error:
            raise ServiceUnavailable(f"transparency log {self._file}: {error}") from error
        finally:
            database.close()
