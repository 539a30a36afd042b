"""Repositories, blobs, manifests and tags: what the distribution API is about.

Records are rows, blobs' bytes are ``Contents``; manifests and small blobs are kept in the rows. A
push is acknowledged when its rows are durable. All calls block.

Using content, be it only to tell a client that it need not upload it, renews its time; the garbage
collector takes only what was not used for a while.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from underway.base.clock import Clock, SystemClock
from underway.capabilities.registry.backend import immutable, quotas, rows, schema
from underway.capabilities.registry.backend.contents import Contents, FileContents
from underway.capabilities.registry.backend.database import Cursor, Database, Row, SqliteDatabase
from underway.capabilities.registry.backend.uploads import Uploads, check_digest
from underway.capabilities.registry.model import (
    Blob,
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    Pushed,
    Stored,
)
from underway.capabilities.registry.rules import access, artifacts, times
from underway.wire import oci

_LATELY = 512  # manifests kept in memory
_SMALL_BYTES = 64 * 1024  # of a manifest that is
_INLINE_BYTES = 16 * 1024  # a blob up to this is kept in its row: one wait for the disk, not four
_FRESH_S = 600.0  # content used so lately need not be marked again

_BLOB = (
    "SELECT c.size, c.place, c.data, c.used_s, l.used_s AS link_s, l.repository_id "
    "FROM repositories r JOIN blob_links l ON l.repository_id = r.id "
    "JOIN contents c ON c.digest = l.digest WHERE r.name = ? AND l.digest = ?"
)
_BY_DIGEST = (
    "SELECT a.id, a.digest, a.media_type, c.data FROM repositories r "
    "JOIN artifacts a ON a.repository_id = r.id JOIN contents c ON c.digest = a.digest "
    "WHERE r.name = ? AND a.digest = ?"
)
_BY_TAG = (
    "SELECT a.id, a.digest, a.media_type, c.data FROM repositories r "
    "JOIN tags t ON t.repository_id = r.id JOIN artifacts a ON a.id = t.artifact_id "
    "JOIN contents c ON c.digest = a.digest WHERE r.name = ? AND t.name = ?"
)


class Storage:
    """The registry's content below one directory, or in what is given."""

    def __init__(
        self,
        root: Path,
        database: Database | None = None,
        contents: Contents | None = None,
        clock: Clock | None = None,
    ) -> None:
        if database is None:
            database = SqliteDatabase(root / "registry.db")
            schema.create(database)
        self.database = database
        self.contents = contents or FileContents(root / "blobs")
        self.uploads = Uploads(root / "uploads")
        self._clock = clock or SystemClock()
        self._lately: OrderedDict[tuple[str, str], Stored] = OrderedDict()
        self._lately_version: object = None

    # -- repositories -----------------------------------------------------------------------------

    def repositories(self, project: str = "") -> list[str]:
        """The names of all repositories, or of those of a project, sorted."""
        where, params = "pushed = 1", []
        if project:
            where += " AND project_id = (SELECT id FROM projects WHERE name = ?)"
            params.append(project)
        sql = f"SELECT name FROM repositories WHERE {where} ORDER BY name"  # noqa: S608  # constant
        return [row["name"] for row in self.database.all(sql, *params)]

    def delete_repository(
        self, repository: str, then: Callable[[Cursor], None] | None = None
    ) -> None:
        """Remove a repository with all its manifests, tags and uses of blobs.

        Raises:
            NameUnknown: there is no such repository.
            Immutable: a rule covers one of its tags.
        """

        def change(cursor: Cursor) -> None:
            found = self._known(cursor, repository)
            id = found["id"]
            names = [row["name"] for row in rows.tag_rows(cursor, id)]
            immutable.check(cursor, found["project_id"], repository, names)
            for row in cursor.all(
                "SELECT id, project_id FROM artifacts WHERE repository_id = ?", id
            ):
                rows.forget_artifact(cursor, row)
            for table in ("tags", "blob_links"):
                cursor.run(f"DELETE FROM {table} WHERE repository_id = ?", id)  # noqa: S608  # constant
            cursor.run("DELETE FROM repositories WHERE id = ?", id)
            if then:
                then(cursor)

        self.database.write(change)

    def tags(self, repository: str) -> list[str]:
        """A repository's tags, sorted.

        Raises:
            NameUnknown: there is no such repository.
        """
        found = self._known(self.database, repository)
        return [row["name"] for row in rows.tag_rows(self.database, found["id"])]

    # -- blobs ------------------------------------------------------------------------------------

    def blob(self, repository: str, digest: str) -> Blob:
        """A blob, which counts as used now.

        Raises:
            DigestInvalid: the digest is malformed.
            BlobUnknown: the repository does not have it.
        """
        _check_digest(digest)
        row = self.database.one(_BLOB, repository, digest)
        if row is None or (row["place"] and not self.contents.has(row["place"])):
            raise BlobUnknown(f"blob {digest} is not in {repository}")
        if min(row["used_s"], row["link_s"]) < self._now_s() - _FRESH_S:
            self.database.write(lambda cursor: self._use(cursor, row["repository_id"], digest))
        return Blob(digest, row["size"], row["place"], row["data"])

    def read_blob(self, blob: Blob, first: int, last: int) -> Iterator[bytes]:
        """A blob's bytes from ``first`` to ``last``, in pieces."""
        if blob.data is not None:
            yield bytes(blob.data[first : last + 1])
            return
        try:
            yield from self.contents.read(blob.place, first, last)
        except FileNotFoundError as error:
            raise BlobUnknown(f"blob {blob.digest} is gone") from error

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take a blob over from another repository; False where that one has it not."""

        def change(cursor: Cursor) -> bool:
            row = cursor.one(_BLOB, source, digest)
            if row is None:
                return False
            self._use(cursor, row["repository_id"], digest)
            target = self._repository(cursor, repository)
            quotas.check(cursor, target["project_id"], digest, row["size"])
            self._add_link(cursor, target["id"], digest)
            return True

        return self.database.write(change)

    def mount_from_any(self, repository: str, digest: str, project: str) -> bool:
        """Take a blob over from whichever repository of a project has it; False where none has."""
        found = self.database.one(
            "SELECT r.name FROM blob_links l JOIN repositories r ON r.id = l.repository_id "
            "JOIN projects p ON p.id = r.project_id WHERE l.digest = ? AND p.name = ? LIMIT 1",
            digest, project,
        )  # fmt: skip
        return found is not None and self.mount(repository, digest, found["name"])

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob out of a repository.

        Raises:
            BlobUnknown: it is not there.
        """
        _check_digest(digest)

        def change(cursor: Cursor) -> None:
            if not cursor.run(
                "DELETE FROM blob_links WHERE digest = ? AND repository_id = "
                "(SELECT id FROM repositories WHERE name = ?)",
                digest, repository,
            ):  # fmt: skip
                raise BlobUnknown(f"blob {digest} is not in {repository}")

        self.database.write(change)

    def finish_upload(self, repository: str, upload: str, digest: str) -> None:
        """Make an upload a blob, if its content has the digest.

        Raises:
            DigestInvalid: it has not; the upload is thrown away.
            Denied: the project would hold more than it may.
        """
        _check_digest(digest)
        self._take(repository, self.uploads.finish(upload, digest), digest, move=True)

    def adopt_blob(self, repository: str, digest: str, file: Path) -> None:
        """Store a file's content; a hard link where that is possible.

        Raises:
            DigestInvalid: the content has another digest.
        """
        _check_digest(digest)
        if self.mount_known(repository, digest):
            return
        with file.open("rb") as stream:
            check_digest(stream, digest)
        self._take(repository, file, digest, move=False)

    def adopt_place(
        self, cursor: Cursor, repository: str, digest: str, place: str, size: int
    ) -> None:
        """Take over content that is at a place already, in a transaction under way."""
        known = self._repository(cursor, repository)
        self._add_content(cursor, digest, size, place, None)
        self._add_link(cursor, known["id"], digest)

    def mount_known(self, repository: str, digest: str) -> bool:
        """Use content that any repository has; only for who may have it. False where none has."""

        def change(cursor: Cursor) -> bool:
            if not self._use_content(cursor, digest):
                return False
            self._add_link(cursor, self._repository(cursor, repository)["id"], digest)
            return True

        return self.database.write(change)

    # -- manifests --------------------------------------------------------------------------------

    def manifest(self, repository: str, reference: str) -> Stored:
        """A manifest by tag or digest.

        Raises:
            ManifestUnknown: it is not there.
        """
        version = self.database.version() if self.database.local else None
        sql = _BY_DIGEST if oci.is_digest(reference) else _BY_TAG
        row = self.database.one(sql, repository, reference)
        if row is None:
            raise ManifestUnknown(f"{reference} is not in {repository}")
        stored = Stored(row["digest"], row["media_type"], bytes(row["data"]), row["id"])
        if self.database.local and len(stored.data) <= _SMALL_BYTES:
            self._remember(version, (repository, reference), stored)
        return stored

    def recall(self, repository: str, reference: str) -> Stored | None:
        """A manifest that was read since anything last changed. Cheap enough for an event loop."""
        if not self.database.local or self._lately_version != self.database.version():
            return None
        return self._lately.get((repository, reference))

    def put_manifest(
        self,
        repository: str,
        stored: Stored,
        *,
        tags: Iterable[str] = (),
        sparse: bool = False,
        then: Callable[[Cursor, Pushed], None] | None = None,
    ) -> Pushed:
        """Store a manifest, which was checked.

        Args:
            repository: where.
            stored: the manifest; its digest is known to be right.
            tags: to point at it.
            sparse: whether it may name what is not there.
            then: runs in the same transaction.

        Raises:
            ManifestBlobUnknown: the repository lacks what the manifest names.
            Immutable: a rule covers one of the tags, which points elsewhere.
            Denied: the project would hold more than it may.
        """
        found = artifacts.describe(stored, list(tags))
        now = times.text(self._clock.now())

        def change(cursor: Cursor) -> Pushed:
            known = self._repository(cursor, repository)
            id, project_id = known["id"], known["project_id"]
            self._use_parts(cursor, repository, id, found.parts, sparse=sparse)
            artifact = cursor.one(
                "SELECT id FROM artifacts WHERE repository_id = ? AND digest = ?", id, stored.digest
            )
            artifact_id = artifact["id"] if artifact else 0
            rows.check_tags(cursor, known, repository, tags, artifact_id)
            self._add_content(cursor, stored.digest, len(stored.data), "", stored.data)
            if not artifact:
                artifact_id = rows.add_artifact(cursor, project_id, id, stored, found, now)
                sizes = {part.digest: part.size for part in found.parts if part.kind == "blob"}
                quotas.charge(cursor, project_id, {**sizes, stored.digest: len(stored.data)})
            for tag in tags:
                cursor.run(
                    "INSERT INTO tags (repository_id, artifact_id, name, push_time) "
                    "VALUES (?, ?, ?, ?) ON CONFLICT (repository_id, name) DO UPDATE "
                    "SET artifact_id = excluded.artifact_id, push_time = excluded.push_time",
                    id, artifact_id, tag, now,
                )  # fmt: skip
            if not known["pushed"] or not artifact:
                cursor.run(
                    "UPDATE repositories SET pushed = 1, update_time = ? WHERE id = ?", now, id
                )
            pushed = Pushed(project_id, id, artifact_id, artifact is None)
            if then:
                then(cursor, pushed)
            return pushed

        return self.database.write(change)

    def delete_tag(
        self, repository: str, tag: str, then: Callable[[Cursor], None] | None = None
    ) -> None:
        """Remove a tag.

        Raises:
            ManifestUnknown: it is not there.
            Immutable: a rule covers it.
        """

        def change(cursor: Cursor) -> None:
            row = cursor.one("SELECT id, project_id FROM repositories WHERE name = ?", repository)
            if row:
                immutable.check(cursor, row["project_id"], repository, [tag])
            if not row or not cursor.run(
                "DELETE FROM tags WHERE repository_id = ? AND name = ?", row["id"], tag
            ):
                raise ManifestUnknown(f"{tag} is not in {repository}")
            if then:
                then(cursor)

        self.database.write(change)

    def add_tag(
        self, repository: str, digest: str, tag: str, then: Callable[[Cursor], None] | None = None
    ) -> None:
        """Let a new tag point at a manifest that is there.

        Raises:
            ManifestUnknown: it is not.
            Immutable: a rule covers the tag, which points elsewhere.
        """
        now = times.text(self._clock.now())

        def change(cursor: Cursor) -> None:
            known = self._known(cursor, repository)
            row = cursor.one(_BY_DIGEST, repository, digest)
            if row is None:
                raise ManifestUnknown(f"{digest} is not in {repository}")
            rows.check_tags(cursor, known, repository, [tag], row["id"])
            cursor.run(
                "INSERT INTO tags (repository_id, artifact_id, name, push_time) "
                "VALUES (?, ?, ?, ?) ON CONFLICT (repository_id, name) DO UPDATE "
                "SET artifact_id = excluded.artifact_id, push_time = excluded.push_time",
                known["id"], row["id"], tag, now,
            )  # fmt: skip
            if then:
                then(cursor)

        self.database.write(change)

    def delete_manifest(
        self,
        repository: str,
        digest: str,
        *,
        accessories: bool = False,
        then: Callable[[Cursor], None] | None = None,
    ) -> None:
        """Remove a manifest, the tags that point at it and, if asked, what is about it.

        Raises:
            ManifestUnknown: it is not there.
            Immutable: a rule covers one of its tags.
        """

        def change(cursor: Cursor) -> None:
            row = cursor.one(
                "SELECT a.id, a.project_id, a.repository_id FROM artifacts a "
                "JOIN repositories r ON r.id = a.repository_id WHERE r.name = ? AND a.digest = ?",
                repository, digest,
            )  # fmt: skip
            if row is None:
                raise ManifestUnknown(f"{digest} is not in {repository}")
            names = cursor.all("SELECT name FROM tags WHERE artifact_id = ?", row["id"])
            immutable.check(cursor, row["project_id"], repository, [each["name"] for each in names])
            doomed, subjects = [row], [digest]
            while accessories and subjects:
                found = cursor.all(
                    "SELECT id, project_id, digest FROM artifacts "
                    "WHERE repository_id = ? AND subject = ?",
                    row["repository_id"], subjects.pop(),
                )  # fmt: skip
                fresh = [each for each in found if each["id"] not in {d["id"] for d in doomed}]
                doomed += fresh
                subjects += [each["digest"] for each in fresh]
            for each in doomed:
                rows.forget_artifact(cursor, each)
            if then:
                then(cursor)

        _check_digest(digest)
        self.database.write(change)

    def referrers(self, repository: str, subject: str) -> Iterator[Stored]:
        """The manifests that are about another one."""
        _check_digest(subject)
        for row in self.database.all(
            "SELECT a.id, a.digest, a.media_type, c.data FROM repositories r "
            "JOIN artifacts a ON a.repository_id = r.id JOIN contents c ON c.digest = a.digest "
            "WHERE r.name = ? AND a.subject = ? ORDER BY a.digest",
            repository, subject,
        ):  # fmt: skip
            yield Stored(row["digest"], row["media_type"], bytes(row["data"]), row["id"])

    def manifests(self, repository: str) -> list[str]:
        """The digests of all manifests of a repository."""
        rows = self.database.all(
            "SELECT a.digest FROM artifacts a JOIN repositories r ON r.id = a.repository_id "
            "WHERE r.name = ? ORDER BY a.digest",
            repository,
        )
        return [row["digest"] for row in rows]

    # -- inside -----------------------------------------------------------------------------------

    def _now_s(self) -> float:
        return self._clock.now().timestamp()

    def _known(self, reader: Database | Cursor, repository: str) -> Row:
        row = reader.one(
            "SELECT id, project_id FROM repositories WHERE name = ? AND pushed = 1", repository
        )
        if row is None:
            raise NameUnknown(f"there is no repository {repository}")
        return row

    def _repository(self, cursor: Cursor, name: str) -> Row:
        """A repository's row; it, and its project, are made where they are missing."""
        sql = "SELECT id, project_id, pushed FROM repositories WHERE name = ?"
        row = cursor.one(sql, name)
        if row is not None:
            return row
        now = times.text(self._clock.now())
        project_id = ensure_project(cursor, access.project_of(name), now)
        cursor.run(
            "INSERT INTO repositories (project_id, name, creation_time, update_time) "
            "VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            project_id, name, now, now,
        )  # fmt: skip
        row = cursor.one(sql, name)
        assert row is not None
        return row

    def _take(self, repository: str, file: Path, digest: str, *, move: bool) -> None:
        size = file.stat().st_size
        place, data = "", None
        if size <= _INLINE_BYTES:
            data = file.read_bytes()
        else:
            place = self.contents.adopt(file, digest, move=move)

        def change(cursor: Cursor) -> str:
            known = self._repository(cursor, repository)
            quotas.check(cursor, known["project_id"], digest, size)
            kept = self._add_content(cursor, digest, size, place, data)
            if place and kept != place and not self.contents.has(kept):  # lost from the disk
                cursor.run("UPDATE contents SET place = ? WHERE digest = ?", place, digest)
                kept = place
            self._add_link(cursor, known["id"], digest)
            return kept

        kept = None
        try:
            kept = self.database.write(change)
        finally:
            if place and kept != place:  # refused, or somebody was quicker
                self.contents.remove(place)
            if move:
                file.unlink(missing_ok=True)

    def _add_content(
        self, cursor: Cursor, digest: str, size: int, place: str, data: bytes | None
    ) -> str:
        """Keep content, and give its place: another one where it was there already."""
        row = cursor.one(
            "INSERT INTO contents (digest, size, used_s, place, data) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET used_s = excluded.used_s RETURNING place",
            digest, size, self._now_s(), place, data,
        )  # fmt: skip
        assert row is not None
        return str(row["place"])

    def _add_link(self, cursor: Cursor, repository_id: int, digest: str) -> None:
        cursor.run(
            "INSERT INTO blob_links (repository_id, digest, used_s) VALUES (?, ?, ?) "
            "ON CONFLICT (repository_id, digest) DO UPDATE SET used_s = excluded.used_s",
            repository_id, digest, self._now_s(),
        )  # fmt: skip

    def _use(self, cursor: Cursor, repository_id: int, digest: str) -> None:
        """Mark a blob as used, which also keeps a collector away from it until the end."""
        if not cursor.run(
            "UPDATE blob_links SET used_s = ? WHERE repository_id = ? AND digest = ?",
            self._now_s(), repository_id, digest,
        ) or not self._use_content(cursor, digest):  # fmt: skip
            raise BlobUnknown(f"blob {digest} is gone")

    def _use_content(self, cursor: Cursor, digest: str) -> bool:
        sql = "UPDATE contents SET used_s = ? WHERE digest = ?"
        return cursor.run(sql, self._now_s(), digest) > 0

    def _use_parts(
        self,
        cursor: Cursor,
        repository: str,
        id: int,
        parts: Sequence[artifacts.Part],
        *,
        sparse: bool,
    ) -> None:
        for part in parts:
            if part.kind == "blob":
                with contextlib.suppress(BlobUnknown):
                    self._use(cursor, id, part.digest)
                    continue
            elif cursor.one(
                "SELECT 1 AS known FROM artifacts WHERE repository_id = ? AND digest = ?",
                id, part.digest,
            ):  # fmt: skip
                continue
            if not sparse:
                raise ManifestBlobUnknown(f"{part.kind} {part.digest} is not in {repository}")

    def _remember(self, version: object, key: tuple[str, str], stored: Stored) -> None:
        if version != self._lately_version:
            self._lately.clear()
            self._lately_version = version
        self._lately[key] = stored
        if len(self._lately) > _LATELY:
            self._lately.popitem(last=False)


def ensure_project(cursor: Cursor, name: str, now: str) -> int:
    """The id of a project, which is made where it is missing."""
    row = cursor.one("SELECT id FROM projects WHERE name = ?", name)
    if row is not None:
        return int(row["id"])
    row = cursor.one(
        "INSERT INTO projects (name, owner_id, owner_name, metadata, quota_bytes, creation_time, "
        "update_time, quota_time) VALUES (?, 1, 'admin', '{}', ?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
        name, default_quota(cursor), now, now, now,
    )  # fmt: skip
    assert row is not None
    return int(row["id"])


def default_quota(cursor: Cursor) -> int:
    """Bytes a new project may hold, -1 for any number."""
    row = cursor.one("SELECT value FROM settings WHERE name = 'storage_per_project'")
    return int(msgspec.json.decode(row["value"])) if row else -1


def _check_digest(digest: str) -> None:
    if not oci.is_digest(digest):
        raise DigestInvalid(f"{digest!r} is no digest")
