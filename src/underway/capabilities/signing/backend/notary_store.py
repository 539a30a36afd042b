"""What the Notary service keeps: every version of every role, its keys, and what changed when."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from underway.base.clock import Clock, SystemClock, rfc3339
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.signing.backend.keystore import FileKeys, passphrase_from_environment
from underway.capabilities.signing.rules import notary

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    gun TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL,
    sha256 TEXT NOT NULL, data BLOB NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (gun, role, version)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_digest ON files (gun, role, sha256);
CREATE TABLE IF NOT EXISTS keys (
    id INTEGER PRIMARY KEY, gun TEXT NOT NULL, role TEXT NOT NULL, key_id TEXT NOT NULL,
    public BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, gun TEXT NOT NULL, version INTEGER NOT NULL,
    sha256 TEXT NOT NULL, category TEXT NOT NULL, created REAL NOT NULL
);
"""
_RECORDS = 1000  # changes in one answer


class NotaryStore:
    """One transaction an update: it stands whole, durably, or not at all. Blocking."""

    def __init__(self, home: Home, clock: Clock | None = None) -> None:
        directory: Path = home.signing / "notary"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file, self._clock = directory / "notary.db", clock or SystemClock()
        self._keys = FileKeys(directory / "keys", passphrase_from_environment())
        with self._connection() as database:
            database.executescript(_SCHEMA)

    def read(self, gun: str, role: str, *, version: int = -1, sha256: str = "") -> bytes:
        """A role's metadata: the newest, or that of a version or digest.

        Timestamps, and snapshots whose key is here, are signed anew once half their life is over.

        Raises:
            NotFound: there is none.
        """
        with self._connection() as database:
            if role == "timestamp" and version < 0 and not sha256:
                self._renew(database, gun)
            query, params = "SELECT data FROM files WHERE gun = ? AND role = ?", [gun, role]
            if sha256:
                query, params = f"{query} AND sha256 = ?", [*params, sha256]
            if version >= 0:
                query, params = f"{query} AND version = ?", [*params, version]  # type: ignore[list-item]
            row = database.execute(f"{query} ORDER BY version DESC LIMIT 1", params).fetchone()
        if row is None:
            raise NotFound(f"{gun} has no {role} of that version")
        return bytes(row[0])

    def key(self, gun: str, role: str, *, rotate: bool = False) -> bytes:
        """The server's public key for a role, made when there is none or another is wanted."""
        if role not in notary.SERVER_ROLES:
            raise BadRequest(f"the server holds no key of {role}")
        with self._transaction() as database:
            query = "SELECT public FROM keys WHERE gun = ? AND role = ? ORDER BY id DESC LIMIT 1"
            row = database.execute(query, (gun, role)).fetchone()
            if row is not None and not rotate:
                return bytes(row[0])
            from underway.capabilities.signing.rules import keys

            made = cast("ec.EllipticCurvePrivateKey", keys.generate())
            public = notary.public_key(made.public_key())
            key_id, data = notary.key_id(public), notary.canonical(public)
            self._keys.add(key_id, made)
            database.execute(
                "INSERT INTO keys (gun, role, key_id, public) VALUES (?, ?, ?, ?)",
                (gun, role, key_id, data),
            )
            return data

    def update(self, gun: str, files: dict[str, bytes]) -> None:
        """Take an update: all of it, with the snapshot and timestamp that go with it.

        Raises:
            Refused, OldVersion: it does not hold, and nothing changed.
        """
        parsed = {role: notary.parse(role, data) for role, data in files.items()}
        if not parsed:
            raise BadRequest("the update is empty")
        with self._transaction() as database:
            current, now = self._current(database, gun), self._clock.now()
            server = {role: self._key_ids(database, gun, role) for role in notary.SERVER_ROLES}
            after = notary.validate(parsed, current, server, now)
            for file in parsed.values():
                self._put(database, gun, file)
            if "snapshot" not in parsed:
                after["snapshot"] = self._make_snapshot(database, gun, after)
            self._make_timestamp(database, gun, after)

    def delete(self, gun: str) -> None:
        """Forget all of a name's metadata; the server's keys stay for its next life."""
        with self._transaction() as database:
            found = database.execute("DELETE FROM files WHERE gun = ?", (gun,)).rowcount
            if found:
                self._changed(database, gun, 0, "", "deletion")

    def changes(self, gun: str, after: int, count: int) -> list[dict[str, Any]]:
        """What changed, for one name or all, after a change id; backwards for a negative count."""
        forward = count >= 0
        where = f"id {'>' if forward else '<'} ?" if after or forward else "id > ?"
        query = f"SELECT * FROM changes WHERE {where}"  # noqa: S608  # no text from outside
        params: list[Any] = [after]
        if gun:
            query, params = f"{query} AND gun = ?", [*params, gun]
        query = f"{query} ORDER BY id {'ASC' if forward else 'DESC'} LIMIT ?"
        with self._connection() as database:
            rows = database.execute(query, (*params, min(abs(count), _RECORDS))).fetchall()
        return [
            {
                "ID": str(number),
                "CreatedAt": rfc3339(datetime.fromtimestamp(created, UTC)),
                "GUN": name,
                "Version": version,
                "SHA256": sha256,
                "Category": category,
            }
            for number, name, version, sha256, category, created in rows
        ]

    def _renew(self, database: sqlite3.Connection, gun: str) -> None:
        current = self._current(database, gun)
        if "timestamp" not in current or not self._due(current):
            return
        database.execute("BEGIN IMMEDIATE")
        current = self._current(database, gun)
        keyids = set(current["root"].signed["roles"]["snapshot"]["keyids"])
        mine = keyids & self._key_ids(database, gun, "snapshot")
        if mine and self._half_over(current["snapshot"]):
            current["snapshot"] = self._make_snapshot(database, gun, current)
        self._make_timestamp(database, gun, current)
        database.execute("COMMIT")

    def _due(self, current: dict[str, notary.File]) -> bool:
        return any(self._half_over(current[role]) for role in notary.SERVER_ROLES)

    def _half_over(self, file: notary.File) -> bool:
        return file.expires - self._clock.now() <= notary.LIFE[file.role] / 2

    def _make_snapshot(
        self, database: sqlite3.Connection, gun: str, after: dict[str, notary.File]
    ) -> notary.File:
        version = after["snapshot"].version + 1 if "snapshot" in after else 1
        signed = notary.snapshot(after, version, self._clock.now())
        made = self._sign(database, gun, "snapshot", signed, after["root"])
        self._put(database, gun, made)
        return made

    def _make_timestamp(
        self, database: sqlite3.Connection, gun: str, after: dict[str, notary.File]
    ) -> None:
        version = after["timestamp"].version + 1 if "timestamp" in after else 1
        signed = notary.timestamp(after["snapshot"], version, self._clock.now())
        made = self._sign(database, gun, "timestamp", signed, after["root"])
        self._put(database, gun, made)
        self._changed(database, gun, made.version, made.sha256, "update")

    def _sign(
        self,
        database: sqlite3.Connection,
        gun: str,
        role: str,
        signed: dict[str, Any],
        root: notary.File,
    ) -> notary.File:
        mine = self._key_ids(database, gun, role)
        for key_id in root.signed["roles"][role]["keyids"]:
            if key_id in mine:
                key = cast("ec.EllipticCurvePrivateKey", self._keys.private(key_id))
                return notary.sign(role, signed, key)
        raise notary.Refused("ErrBadRoot", f"the root's {role} key is not the server's")

    def _current(self, database: sqlite3.Connection, gun: str) -> dict[str, notary.File]:
        query = (
            "SELECT role, data FROM files AS f WHERE gun = ?1 AND version ="
            " (SELECT MAX(version) FROM files WHERE gun = ?1 AND role = f.role)"
        )
        rows = database.execute(query, (gun,)).fetchall()
        return {role: notary.parse(role, bytes(data)) for role, data in rows}

    def _put(self, database: sqlite3.Connection, gun: str, file: notary.File) -> None:
        now = self._clock.now().timestamp()
        row = (gun, file.role, file.version, file.sha256, file.data, now)
        database.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", row)

    def _changed(
        self, database: sqlite3.Connection, gun: str, version: int, sha256: str, category: str
    ) -> None:
        database.execute(
            "INSERT INTO changes (gun, version, sha256, category, created) VALUES (?, ?, ?, ?, ?)",
            (gun, version, sha256, category, self._clock.now().timestamp()),
        )

    def _key_ids(self, database: sqlite3.Connection, gun: str, role: str) -> set[str]:
        query = "SELECT key_id FROM keys WHERE gun = ? AND role = ?"
        return {key_id for (key_id,) in database.execute(query, (gun, role))}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._file, isolation_level=None, timeout=30)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            yield database
        except sqlite3.Error as error:
            raise ServiceUnavailable(f"the Notary database {self._file}: {error}") from error
        finally:
            database.close()  # what was not committed is undone


def encode_changes(records: list[dict[str, Any]]) -> bytes:
    """The answer of the change feed."""
    return msgspec.json.encode({"count": len(records), "records": records})
