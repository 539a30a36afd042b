"""Freeing what no manifest needs any more.

Safe beside running registries, and beside clients in the middle of a push: taken away is only what
was not used for a while, in transactions that look once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.rules import times

GRACE_S = 3600.0  # between the use of a blob and the manifest that names it
ABANDONED_S = 24 * 3600  # an upload that received nothing for so long
_AT_ONCE = 500  # rows deleted by one transaction

_LINKS = (
    "FROM blob_links WHERE used_s < ? AND NOT EXISTS (SELECT 1 FROM parts p "
    "WHERE p.repository_id = blob_links.repository_id AND p.digest = blob_links.digest)"
)
_CONTENTS = (
    "FROM contents WHERE used_s < ? "
    "AND NOT EXISTS (SELECT 1 FROM blob_links l WHERE l.digest = contents.digest) "
    "AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.digest = contents.digest)"
)


@dataclass(frozen=True, slots=True)
class Freed:
    """What was, or would be, taken away.

    ``links`` are blobs taken out of repositories that had no use for it; ``manifests`` are those
    without a tag, taken only where that was asked for.
    """

    blobs: int = 0
    size_bytes: int = 0
    links: int = 0
    uploads: int = 0
    manifests: int = 0


def collect(
    storage: Storage,
    now: datetime,
    *,
    grace_s: float = GRACE_S,
    untagged: bool = False,
    dry_run: bool = False,
) -> Freed:
    """Take away what no manifest needs and nobody used within ``grace_s`` seconds. Blocks."""
    before_s = now.timestamp() - grace_s
    manifests = _drop_untagged(storage, now, grace_s, dry_run=dry_run) if untagged else 0
    if dry_run:
        return _estimate(storage, before_s, manifests)
    links = 0
    while found := storage.database.write(lambda cursor: _drop_links(cursor, before_s)):
        links += found
    blobs = size_bytes = 0
    while dropped := storage.database.write(lambda cursor: _drop_contents(cursor, before_s)):
        for place, size in dropped:
            if place:
                storage.contents.remove(place)
            blobs += 1
            size_bytes += size
    for place, time_s, _ in storage.contents.places():
        # A file was written, and its row was not.
        algorithm, _, value = place.replace(".", "/").split("/")[:3]
        if time_s < before_s and not storage.database.one(
            "SELECT 1 AS known FROM contents WHERE digest = ? AND place = ?",
            f"{algorithm}:{value}", place,
        ):  # fmt: skip
            storage.contents.remove(place)
    return Freed(blobs, size_bytes, links, drop_abandoned(storage, now), manifests)


def drop_abandoned(storage: Storage, now: datetime) -> int:
    """Throw away uploads nobody went on with; gives how many. Blocks."""
    return storage.uploads.drop(now.timestamp() - ABANDONED_S)


def _drop_links(cursor: Cursor, before_s: float) -> int:
    rows = cursor.all(f"SELECT repository_id, digest {_LINKS} LIMIT {_AT_ONCE}", before_s)
    for row in rows:
        cursor.run(
            f"DELETE {_LINKS} AND repository_id = ? AND digest = ?",
            before_s, row["repository_id"], row["digest"],
        )  # fmt: skip
    return len(rows)


def _drop_contents(cursor: Cursor, before_s: float) -> list[tuple[str, int]]:
    dropped = []
    for row in cursor.all(f"SELECT digest {_CONTENTS} LIMIT {_AT_ONCE}", before_s):
        gone = cursor.one(
            f"DELETE {_CONTENTS} AND digest = ? RETURNING place, size", before_s, row["digest"]
        )
        if gone is not None:
            dropped.append((gone["place"], gone["size"]))
    return dropped


def _drop_untagged(storage: Storage, now: datetime, grace_s: float, *, dry_run: bool) -> int:
    """Delete manifests without a tag that no index lists and that are about nothing."""
    before = times.text(now - timedelta(seconds=grace_s))
    rows = storage.database.all(
        "SELECT r.name, a.digest FROM artifacts a JOIN repositories r ON r.id = a.repository_id "
        "WHERE a.subject = '' AND a.push_time < ? "
        "AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.artifact_id = a.id) "
        "AND NOT EXISTS (SELECT 1 FROM parts p WHERE p.repository_id = a.repository_id "
        "AND p.digest = a.digest)",
        before,
    )
    if not dry_run:
        for row in rows:
            storage.delete_manifest(row["name"], row["digest"], accessories=True)
    return len(rows)


def _estimate(storage: Storage, before_s: float, manifests: int) -> Freed:
    row = storage.database.one(
        "SELECT count(*) AS blobs, coalesce(sum(size), 0) AS size FROM contents c "
        "WHERE used_s < ? AND NOT EXISTS (SELECT 1 FROM parts p WHERE p.digest = c.digest) "
        "AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.digest = c.digest)",
        before_s,
    )
    assert row is not None
    return Freed(int(row["blobs"]), int(row["size"]), manifests=manifests)
