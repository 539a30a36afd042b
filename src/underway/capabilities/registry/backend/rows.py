"""Rows of artifacts and tags, inside the transactions of ``backend.storage``."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from underway.capabilities.registry.backend import immutable, quotas
from underway.capabilities.registry.backend.database import Cursor, Database, Row
from underway.capabilities.registry.model import Stored
from underway.capabilities.registry.rules import artifacts


def add_artifact(
    cursor: Cursor,
    project_id: int,
    repository_id: int,
    stored: Stored,
    found: artifacts.Described,
    now: str,
) -> int:
    """Make an artifact's row and those of its parts; gives its id."""
    row = cursor.one(
        "INSERT INTO artifacts (project_id, repository_id, digest, media_type, manifest_size, "
        'size, "type", artifact_type, config_digest, subject, annotations, push_time) '
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        project_id, repository_id, stored.digest, stored.media_type, len(stored.data), found.size,
        found.type, found.artifact_type, found.config_digest, found.subject,
        msgspec.json.encode(found.annotations).decode(), now,
    )  # fmt: skip
    assert row is not None
    for part in found.parts:
        cursor.run(
            "INSERT INTO parts (artifact_id, repository_id, digest, kind, size, platform) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            row["id"], repository_id, part.digest, part.kind, part.size,
            msgspec.json.encode(part.platform).decode(),
        )  # fmt: skip
    return int(row["id"])


def forget_artifact(cursor: Cursor, row: Row) -> None:
    """Delete an artifact and all that is about it, and give its room back to the project."""
    id, project_id = row["id"], row["project_id"]
    own = cursor.one("SELECT digest, manifest_size FROM artifacts WHERE id = ?", id)
    assert own is not None
    parts = cursor.all("SELECT digest, size FROM parts WHERE artifact_id = ? AND kind = 'blob'", id)
    sizes = {part["digest"]: part["size"] for part in parts}
    quotas.release(cursor, project_id, {**sizes, own["digest"]: own["manifest_size"]})
    for table in ("tags", "parts", "artifact_labels", "scan_reports", "findings"):
        cursor.run(f"DELETE FROM {table} WHERE artifact_id = ?", id)  # noqa: S608  # constant
    cursor.run("DELETE FROM artifacts WHERE id = ?", id)


def check_tags(
    cursor: Cursor, known: Row, repository: str, tags: Iterable[str], artifact_id: int
) -> None:
    """Raise Immutable where a rule covers a tag that points elsewhere."""
    moved = []
    for tag in tags:
        row = cursor.one(
            "SELECT artifact_id FROM tags WHERE repository_id = ? AND name = ?", known["id"], tag
        )
        if row is not None and row["artifact_id"] != artifact_id:
            moved.append(tag)
    if moved:
        immutable.check(cursor, known["project_id"], repository, moved)


def tag_rows(reader: Database | Cursor, repository_id: int) -> list[Row]:
    """A repository's tags, sorted."""
    return reader.all("SELECT name FROM tags WHERE repository_id = ? ORDER BY name", repository_id)
