"""How much a project holds: each piece of content counts once, however many artifacts share it.

Both calls run in the transaction that stores or deletes an artifact, so that whatever comes at the
same time, no project ever holds more than it may.
"""

from __future__ import annotations

from collections.abc import Mapping

from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.model import Denied


def charge(cursor: Cursor, project_id: int, parts: Mapping[str, int]) -> None:
    """Count an artifact's content, by digest and size in bytes.

    Raises:
        Denied: the project would hold more than it may.
    """
    added = 0
    for digest, size in parts.items():
        found = cursor.one(
            "INSERT INTO project_parts (project_id, digest, size, refs) VALUES (?, ?, ?, 1) "
            "ON CONFLICT (project_id, digest) DO UPDATE SET refs = project_parts.refs + 1 "
            "RETURNING refs",
            project_id, digest, size,
        )  # fmt: skip
        assert found is not None
        added += size if found["refs"] == 1 else 0
    _add(cursor, project_id, added)


def release(cursor: Cursor, project_id: int, parts: Mapping[str, int]) -> None:
    """Count an artifact's content no longer."""
    freed = 0
    for digest in parts:
        found = cursor.one(
            "UPDATE project_parts SET refs = refs - 1 WHERE project_id = ? AND digest = ? "
            "RETURNING refs, size",
            project_id, digest,
        )  # fmt: skip
        if found is not None and found["refs"] <= 0:
            freed += found["size"]
            cursor.run(
                "DELETE FROM project_parts WHERE project_id = ? AND digest = ?", project_id, digest
            )
    cursor.run("UPDATE projects SET used_bytes = used_bytes - ? WHERE id = ?", freed, project_id)


def check(cursor: Cursor, project_id: int, digest: str, size: int) -> None:
    """Refuse a blob that no artifact of the project could hold; raises Denied."""
    known = cursor.one(
        "SELECT 1 AS known FROM project_parts WHERE project_id = ? AND digest = ?",
        project_id, digest,
    )  # fmt: skip
    if known is None:
        _refuse(cursor, project_id, size)


def _add(cursor: Cursor, project_id: int, added: int) -> None:
    if added and not cursor.run(
        "UPDATE projects SET used_bytes = used_bytes + ? "
        "WHERE id = ? AND (quota_bytes < 0 OR used_bytes + ? <= quota_bytes)",
        added, project_id, added,
    ):  # fmt: skip
        _refuse(cursor, project_id, added)


def _refuse(cursor: Cursor, project_id: int, added: int) -> None:
    found = cursor.one("SELECT used_bytes, quota_bytes FROM projects WHERE id = ?", project_id)
    if found is None or found["quota_bytes"] < 0:
        return
    used, limit = found["used_bytes"], found["quota_bytes"]
    if used + added > limit:
        raise Denied(
            f"quota exceeded: {added} bytes more than the {used} in use are over the limit of "
            f"{limit} bytes of this project",
            details={"reason": "quota"},
        )
