"""Notes and occurrences in SQLite."""

from __future__ import annotations

import base64
import binascii
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from underway.base.clock import Clock, SystemClock, rfc3339
from underway.base.errors import AlreadyExists, BadRequest, Conflict, NotFound, ServiceUnavailable
from underway.capabilities.provenance.rules import filters, notes
from underway.capabilities.provenance.rules.notes import Json

PAGE_DEFAULT = 20
PAGE_LIMIT = 1000
BATCH_LIMIT = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS projects (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, id TEXT NOT NULL,
  kind TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (project, id));
CREATE TABLE IF NOT EXISTS occurrences (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, id TEXT NOT NULL,
  kind TEXT NOT NULL, resource TEXT NOT NULL, note TEXT NOT NULL, value BLOB NOT NULL,
  UNIQUE (project, id));
CREATE INDEX IF NOT EXISTS by_resource ON occurrences (project, resource, kind);
CREATE INDEX IF NOT EXISTS by_note ON occurrences (note);
"""
_COLUMNS = {"kind": "kind", "resourceUri": "resource", "noteName": "note"}


class GrafeasStore:
    """Notes and occurrences by project. Blocking; safe to share among threads.

    Objects are proto3 JSON as ``rules.notes`` has it. Projects come to be with their first note
    or occurrence.
    """

    def __init__(self, file: Path, clock: Clock | None = None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        with _mapped():
            self._db = sqlite3.connect(
                file, check_same_thread=False, isolation_level=None, timeout=30.0
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _mapped():
            yield self._db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _mapped():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # -- projects --------------------------------------------------------------------------

    def create_project(self, project: str) -> Json:
        """Create an empty project.

        Raises:
            AlreadyExists: there is one.
        """
        notes.check_id(project, "project")
        with self._write() as db:
            try:
                db.execute("INSERT INTO projects VALUES (?)", (project,))
            except sqlite3.IntegrityError as error:
                raise AlreadyExists(f"projects/{project} exists") from error
        return {"name": f"projects/{project}"}

    def get_project(self, project: str) -> Json:
        """A project.

        Raises:
            NotFound: there is none.
        """
        with self._read() as db:
            row = db.execute("SELECT 1 FROM projects WHERE id = ?", (project,)).fetchone()
        if row is None:
            raise NotFound(f"projects/{project} does not exist")
        return {"name": f"projects/{project}"}

    def list_projects(self, page_size: int = 0, page_token: str = "") -> tuple[list[Json], str]:
        """Projects by name, and the token of the next page."""
        size = _page_size(page_size)
        with self._read() as db:
            rows = db.execute(
                "SELECT id FROM projects WHERE id > ? ORDER BY id LIMIT ?",
                (_untoken(page_token), size + 1),
            ).fetchall()
        found = [{"name": f"projects/{row[0]}"} for row in rows[:size]]
        return found, _token(rows[size - 1][0]) if len(rows) > size else ""

    def delete_project(self, project: str) -> None:
        """Delete a project with all its notes and occurrences."""
        self.get_project(project)
        with self._write() as db:
            for table in ("occurrences", "notes"):
                db.execute(f"DELETE FROM {table} WHERE project = ?", (project,))  # noqa: S608  # ours
            db.execute("DELETE FROM projects WHERE id = ?", (project,))

    # -- notes -----------------------------------------------------------------------------

    def create_notes(self, project: str, values: Mapping[str, Any]) -> list[Json]:
        """Create notes by id, all or none.

        Raises:
            AlreadyExists: there is one of that id.
            BadRequest: one is malformed, or there are more than 1000.
        """
        _bounded(values)
        rows = []
        for name, value in values.items():
            notes.check_id(name, "note")
            rows.append((name, self._stamped(notes.checked_note(value), project, "notes", name)))
        with self._write() as db:
            self._touch(db, project)
            for name, value in rows:
                try:
                    db.execute(
                        "INSERT INTO notes (project, id, kind, value) VALUES (?, ?, ?, ?)",
                        (project, name, value["kind"], msgspec.json.encode(value)),
                    )
                except sqlite3.IntegrityError as error:
                    raise AlreadyExists(f"projects/{project}/notes/{name} exists") from error
        return [value for _, value in rows]

    def ensure_note(self, project: str, name: str, value: Json) -> str:
        """Create a note unless it is there; gives its full name."""
        with suppress(AlreadyExists):
            self.create_notes(project, {name: value})
        return f"projects/{project}/notes/{name}"

    def get_note(self, project: str, name: str) -> Json:
        """A note.

        Raises:
            NotFound: there is none.
        """
        return self._get("notes", project, name)

    def update_note(self, project: str, name: str, value: Any, mask: Iterable[str]) -> Json:
        """Change the members of a note that a field mask names."""
        return self._update("notes", project, name, value, mask, notes.checked_note)

    def delete_note(self, project: str, name: str) -> None:
        """Delete a note.

        Raises:
            Conflict: occurrences refer to it.
        """
        full = f"projects/{project}/notes/{name}"
        with self._write() as db:
            if db.execute("SELECT 1 FROM occurrences WHERE note = ?", (full,)).fetchone():
                raise Conflict(f"{full} has occurrences", hint="delete its occurrences first")
            if not db.execute(
                "DELETE FROM notes WHERE project = ? AND id = ?", (project, name)
            ).rowcount:
                raise NotFound(f"{full} does not exist")

    # -- occurrences -----------------------------------------------------------------------

    def create_occurrences(self, project: str, values: Iterable[Any]) -> list[Json]:
        """Create occurrences under new ids, all or none.

        Raises:
            BadRequest: one is malformed, of another kind than its note, or there are over 1000.
            NotFound: a note does not exist.
        """
        return self._put(project, [(str(uuid.uuid4()), value) for value in values])

    def put_occurrences(self, project: str, values: Mapping[str, Json]) -> list[Json]:
        """Create occurrences under ids of the caller's, or replace those that are there."""
        return self._put(project, list(values.items()))

    def _put(self, project: str, values: list[tuple[str, Any]]) -> list[Json]:
        _bounded(values)
        rows = [
            (name, self._stamped(notes.checked_occurrence(value), project, "occurrences", name))
            for name, value in values
        ]
        with self._write() as db:
            self._touch(db, project)
            for name, value in rows:
                self._require_kind(db, value)
                db.execute(
                    "INSERT INTO occurrences (project, id, kind, resource, note, value)"
                    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (project, id) DO UPDATE SET"
                    " kind = excluded.kind, resource = excluded.resource,"
                    " note = excluded.note, value = excluded.value",
                    (project, name, *_indexed(value), msgspec.json.encode(value)),
                )
        return [value for _, value in rows]

    def get_occurrence(self, project: str, name: str) -> Json:
        """An occurrence.

        Raises:
            NotFound: there is none.
        """
        return self._get("occurrences", project, name)

    def update_occurrence(self, project: str, name: str, value: Any, mask: Iterable[str]) -> Json:
        """Change the members of an occurrence that a field mask names."""
        return self._update("occurrences", project, name, value, mask, notes.checked_occurrence)

    def delete_occurrence(self, project: str, name: str) -> None:
        """Delete an occurrence.

        Raises:
            NotFound: there is none.
        """
        with self._write() as db:
            if not db.execute(
                "DELETE FROM occurrences WHERE project = ? AND id = ?", (project, name)
            ).rowcount:
                raise NotFound(f"projects/{project}/occurrences/{name} does not exist")

    # -- lists -----------------------------------------------------------------------------

    def list(
        self,
        table: str,
        project: str,
        text: str = "",
        page_size: int = 0,
        page_token: str = "",
        *,
        note: str = "",
    ) -> tuple[list[Json], str]:
        """A page of ``notes`` or ``occurrences`` that a filter matches, and the next one's token.

        With ``note``, occurrences of that note in whatever project.

        Raises:
            BadRequest: filter or token are malformed.
        """
        chosen, size = filters.parse(text), _page_size(page_size)
        clauses, values = ["seq > ?"], [_number(page_token)]
        if note:
            clauses.append("note = ?")
            values.append(note)
        else:
            clauses.append("project = ?")
            values.append(project)
        for field, value in chosen.equal.items():
            column = _COLUMNS.get(field)
            if column and (table == "occurrences" or column == "kind"):
                clauses.append(f"{column} = ?")
                values.append(value)
        query = f"SELECT seq, value FROM {table} WHERE {' AND '.join(clauses)} ORDER BY seq"  # noqa: S608  # names of ours
        found: list[Json] = []
        last = 0
        with self._read() as db:
            for seq, data in db.execute(query, values):
                value = msgspec.json.decode(data)
                if not chosen.matches(value):
                    continue
                if len(found) == size:
                    return found, _token(str(last))
                found.append(value)
                last = seq
        return found, ""

    def each(self, table: str, project: str, text: str = "") -> Iterator[Json]:
        """Everything a filter matches, page by page."""
        token = ""
        while True:
            found, token = self.list(table, project, text, PAGE_LIMIT, token)
            yield from found
            if not token:
                return

    # -- within ----------------------------------------------------------------------------

    def _stamped(self, value: Json, project: str, table: str, name: str) -> Json:
        notes.check_id(project, "project")
        now = rfc3339(self._clock.now(), micro=True)
        return {"name": f"projects/{project}/{table}/{name}", **value,
                "createTime": now, "updateTime": now}  # fmt: skip

    def _touch(self, db: sqlite3.Connection, project: str) -> None:
        db.execute("INSERT OR IGNORE INTO projects VALUES (?)", (project,))

    def _require_kind(self, db: sqlite3.Connection, value: Json) -> None:
        project, name = notes.note_key(value["noteName"])
        row = db.execute(
            "SELECT kind FROM notes WHERE project = ? AND id = ?", (project, name)
        ).fetchone()
        if row is None:
            raise NotFound(f"{value['noteName']} does not exist")
        if row[0] != value["kind"]:
            raise BadRequest(f"{value['noteName']} is of kind {row[0]}, not {value['kind']}")

    def _get(self, table: str, project: str, name: str) -> Json:
        with self._read() as db:
            row = db.execute(
                f"SELECT value FROM {table} WHERE project = ? AND id = ?",  # noqa: S608  # ours
                (project, name),
            ).fetchone()
        if row is None:
            raise NotFound(f"projects/{project}/{table}/{name} does not exist")
        found: Json = msgspec.json.decode(row[0])
        return found

    def _update(
        self,
        table: str,
        project: str,
        name: str,
        value: Any,
        mask: Iterable[str],
        check: Callable[[Any], Json],
    ) -> Json:
        with self._write() as db:
            row = db.execute(
                f"SELECT value FROM {table} WHERE project = ? AND id = ?",  # noqa: S608  # ours
                (project, name),
            ).fetchone()
            if row is None:
                raise NotFound(f"projects/{project}/{table}/{name} does not exist")
            old = msgspec.json.decode(row[0])
            new = check(notes.changed(old, value, mask))
            if new["kind"] != old["kind"]:
                raise BadRequest("an object's kind cannot be changed")
            new = {
                "name": old["name"],
                **new,
                "createTime": old["createTime"],
                "updateTime": rfc3339(self._clock.now(), micro=True),
            }
            if table == "occurrences":
                self._require_kind(db, new)
                db.execute(
                    "UPDATE occurrences SET kind = ?, resource = ?, note = ?"
                    " WHERE project = ? AND id = ?",
                    (*_indexed(new), project, name),
                )
            db.execute(
                f"UPDATE {table} SET value = ? WHERE project = ? AND id = ?",  # noqa: S608  # ours
                (msgspec.json.encode(new), project, name),
            )
        return new


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ServiceUnavailable(f"the notes cannot be read or written: {error}") from error


def _indexed(value: Json) -> tuple[str, str, str]:
    return value["kind"], value["resourceUri"], value["noteName"]


def _bounded(values: Any) -> None:
    if len(values) > BATCH_LIMIT:
        raise BadRequest(f"a batch of {len(values)}; at most {BATCH_LIMIT}")


def _page_size(asked: int) -> int:
    if asked < 0:
        raise BadRequest("a page's size cannot be negative")
    return min(asked or PAGE_DEFAULT, PAGE_LIMIT)


def _token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _untoken(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, ValueError) as error:
        raise BadRequest("the page token is not one of this service") from error


def _number(token: str) -> int:
    text = _untoken(token) or "0"
    if not text.isdigit() or len(text) > 18:
        raise BadRequest("the page token is not one of this service")
    return int(text)
