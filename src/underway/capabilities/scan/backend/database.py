"""What was indexed, and the advisories: one SQLite file each, for any number of readers."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import ServiceUnavailable
from underway.capabilities.scan.model import Advisory, LayerIndex, Source

_BUSY_S = 30.0
_INDEXES = """
CREATE TABLE IF NOT EXISTS layer (
    digest TEXT NOT NULL, state TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (digest, state)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manifest (
    digest TEXT PRIMARY KEY, layers TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notification (
    id TEXT PRIMARY KEY, data BLOB NOT NULL
) WITHOUT ROWID;
"""
_ADVISORIES = """
CREATE TABLE IF NOT EXISTS source (
    name TEXT PRIMARY KEY, imported_at TEXT NOT NULL, newest TEXT NOT NULL,
    fingerprint TEXT NOT NULL, count INTEGER NOT NULL, place TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS advisory (
    source TEXT NOT NULL, id TEXT NOT NULL, modified TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (source, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS affected (
    base TEXT NOT NULL, name TEXT NOT NULL, source TEXT NOT NULL, id TEXT NOT NULL,
    ecosystem TEXT NOT NULL, PRIMARY KEY (base, name, source, id, ecosystem)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS affected_by_ecosystem ON affected (ecosystem);
CREATE INDEX IF NOT EXISTS affected_by_advisory ON affected (source, id);
"""


@contextmanager
def _opened(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(schema)
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ServiceUnavailable(f"{path}: {error}") from error


class Indexes:
    """Layer indexes by digest; one made by an older indexer is not found again."""

    def __init__(self, path: Path, state: str) -> None:
        self._path, self._state = path, state
        self._decoder = msgspec.msgpack.Decoder(LayerIndex)

    def get(self, digest: str) -> LayerIndex | None:
        """The index of a layer, or None where it has to be made."""
        with _opened(self._path, _INDEXES) as connection:
            row = connection.execute(
                "SELECT data FROM layer WHERE digest = ? AND state = ?", (digest, self._state)
            ).fetchone()
        return self._decoder.decode(zlib.decompress(row[0])) if row else None

    def put(self, digest: str, index: LayerIndex) -> None:
        """Keep the index of a layer."""
        data = zlib.compress(msgspec.msgpack.encode(index), 1)
        with _opened(self._path, _INDEXES) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO layer VALUES (?, ?, ?)", (digest, self._state, data)
            )

    def remove(self, digest: str) -> bool:
        """Forget a layer; says whether it was known."""
        with _opened(self._path, _INDEXES) as connection:
            return connection.execute("DELETE FROM layer WHERE digest = ?", (digest,)).rowcount > 0

    def keep_manifest(self, digest: str, layers: Sequence[str]) -> None:
        """Remember of which layers an image is made."""
        with _opened(self._path, _INDEXES) as connection:
            row = (digest, ",".join(layers))
            connection.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?)", row)

    def manifest(self, digest: str) -> list[str] | None:
        """The layers of an image that was indexed, or None."""
        with _opened(self._path, _INDEXES) as connection:
            row = connection.execute(
                "SELECT layers FROM manifest WHERE digest = ?", (digest,)
            ).fetchone()
        return [each for each in row[0].split(",") if each] if row else None

    def manifests(self) -> list[str]:
        """The images that were indexed."""
        with _opened(self._path, _INDEXES) as connection:
            return [row[0] for row in connection.execute("SELECT digest FROM manifest")]

    def forget_manifest(self, digest: str) -> bool:
        """Forget an image; says whether it was known. Its layers may be others' too."""
        with _opened(self._path, _INDEXES) as connection:
            found = connection.execute("DELETE FROM manifest WHERE digest = ?", (digest,))
            return found.rowcount > 0

    def keep_notification(self, id_: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Keep what a notification tells until it is fetched and deleted."""
        with _opened(self._path, _INDEXES) as connection:
            data = zlib.compress(msgspec.json.encode(items), 1)
            connection.execute("INSERT OR REPLACE INTO notification VALUES (?, ?)", (id_, data))

    def notification(self, id_: str) -> list[dict[str, Any]] | None:
        """What a notification tells, or None."""
        with _opened(self._path, _INDEXES) as connection:
            row = connection.execute(
                "SELECT data FROM notification WHERE id = ?", (id_,)
            ).fetchone()
        found: list[dict[str, Any]] | None = (
            msgspec.json.decode(zlib.decompress(row[0])) if row else None
        )
        return found

    def forget_notification(self, id_: str) -> bool:
        """Delete a notification; says whether it was there."""
        with _opened(self._path, _INDEXES) as connection:
            found = connection.execute("DELETE FROM notification WHERE id = ?", (id_,))
            return found.rowcount > 0


class Advisories:
    """Advisories by source, found by ecosystem and package.

    A source is imported whole, in one transaction: readers see the old or the new one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder = msgspec.msgpack.Decoder(Advisory)

    def replace(self, source: Source, advisories: Iterable[Advisory]) -> tuple[int, list[str]]:
        """Put a source's advisories in the place of those it had.

        Returns:
            How many there are now, and the ids of those that are new or changed.
        """
        with _opened(self._path, _ADVISORIES) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                count, changed = self._write(connection, source, advisories)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        return count, changed

    def _write(
        self, connection: sqlite3.Connection, source: Source, advisories: Iterable[Advisory]
    ) -> tuple[int, list[str]]:
        known = dict(
            connection.execute("SELECT id, data FROM advisory WHERE source = ?", (source.name,))
        )
        seen: set[str] = set()
        changed: list[str] = []
        newest = source.newest
        for advisory in advisories:
            seen.add(advisory.id)
            newest = max(newest, advisory.modified)
            data = msgspec.msgpack.encode(advisory)
            if known.get(advisory.id) == data:
                continue
            changed.append(advisory.id)
            row = (source.name, advisory.id)
            connection.execute("DELETE FROM affected WHERE source = ? AND id = ?", row)
            connection.execute(
                "INSERT OR REPLACE INTO advisory VALUES (?, ?, ?, ?)",
                (*row, advisory.modified, data),
            )
            places = {(each.ecosystem, each.name) for each in advisory.affected}
            connection.executemany(
                "INSERT OR IGNORE INTO affected VALUES (?, ?, ?, ?, ?)",
                [(place.partition(":")[0], name, *row, place) for place, name in places],
            )
        for gone in known.keys() - seen:
            for table in ("affected", "advisory"):
                connection.execute(
                    f"DELETE FROM {table} WHERE source = ? AND id = ?",  # noqa: S608  # of the two
                    (source.name, gone),
                )
        connection.execute(
            "INSERT OR REPLACE INTO source VALUES (?, ?, ?, ?, ?, ?)",
            (
                source.name,
                source.imported_at,
                newest,
                source.fingerprint,
                len(seen),
                source.place,
            ),
        )
        return len(seen), changed

    def about(self, base: str, names: Sequence[str]) -> dict[str, list[Advisory]]:
        """Advisories of one ecosystem (without its release) by package name."""
        found: dict[str, list[Advisory]] = {}
        decoded: dict[tuple[str, str], Advisory] = {}
        with _opened(self._path, _ADVISORIES) as connection:
            for start in range(0, len(names), 500):
                part = list(names[start : start + 500])
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    "SELECT DISTINCT f.name, f.source, f.id, a.data FROM affected f JOIN advisory a"  # noqa: S608
                    f" USING (source, id) WHERE f.base = ? AND f.name IN ({marks})",
                    (base, *part),
                )
                for name, source, id_, data in rows:
                    key = (source, id_)
                    if key not in decoded:
                        decoded[key] = self._decoder.decode(data)
                    found.setdefault(name, []).append(decoded[key])
        return found

    def sources(self) -> list[Source]:
        """What was imported, by name."""
        with _opened(self._path, _ADVISORIES) as connection:
            rows = connection.execute(
                "SELECT name, imported_at, newest, fingerprint, count, place"
                " FROM source ORDER BY name"
            )
            return [Source(*row) for row in rows]

    def ecosystems(self) -> dict[str, set[str]]:
        """The ecosystems, with their releases, that there are advisories for, and their sources."""
        found: dict[str, set[str]] = {}
        with _opened(self._path, _ADVISORIES) as connection:
            rows = connection.execute("SELECT DISTINCT ecosystem, source FROM affected")
            for ecosystem, source in rows:
                found.setdefault(ecosystem, set()).add(source)
        return found
