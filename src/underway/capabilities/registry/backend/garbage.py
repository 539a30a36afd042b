"""Freeing what no manifest needs any more.

Safe beside a running registry, and beside clients in the middle of a push: taken away is only what
was not used for a while, each piece looked at once more while nobody else can use it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from underway.base.errors import UnderwayError
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.rules import distribution

log = logging.getLogger(__name__)

GRACE_S = 3600  # between the use of a blob and the manifest that names it
_CLOCK_STEP_S = 0.1  # files' times lag behind the clock by up to a tick of the kernel
ABANDONED_S = 24 * 3600  # an upload that received nothing for so long


@dataclass(frozen=True, slots=True)
class Freed:
    """What was taken away; ``links`` are blobs taken out of repositories that had no use for it."""

    blobs: int = 0
    size_bytes: int = 0
    links: int = 0
    uploads: int = 0


def collect(storage: Storage, now: datetime, *, grace_s: float = GRACE_S) -> Freed:
    """Take away what no manifest needs and nobody used within ``grace_s`` seconds. Blocks."""
    before_s = now.timestamp() - grace_s - _CLOCK_STEP_S
    # Who is storing a manifest right now finishes first: its use of content may be older than
    # ``before_s``. Who begins later uses content later.
    with storage.locked(alone=True):
        pass
    live: set[str] = set()
    links = 0
    for repository in storage.repositories():
        needed = set()
        for digest, link in storage.manifest_links(repository):
            live.add(digest)
            try:
                needed |= _named_by(storage, repository, digest)
            except UnderwayError:
                if link.exists():
                    raise  # and was not deleted meanwhile
        for digest, link in storage.blob_links(repository):
            if digest not in needed and _remove_unused(storage, link, before_s) is not None:
                links += 1
            else:
                live.add(digest)
    blobs = size_bytes = 0
    for digest, file in storage.contents():
        if digest in live:
            continue
        freed = _remove_unused(storage, file, before_s)
        if freed is not None:
            blobs += 1
            size_bytes += freed
    for file in _left_aside(storage):
        _remove_unused(storage, file, before_s)
    return Freed(blobs, size_bytes, links, drop_abandoned(storage, now))


def drop_abandoned(storage: Storage, now: datetime) -> int:
    """Throw away uploads nobody went on with; gives how many. Blocks."""
    before_s = now.timestamp() - ABANDONED_S
    files: Iterable[Path] = list(storage.uploads.iterdir())
    return sum(_remove_unused(storage, file, before_s) is not None for file in files)


def _named_by(storage: Storage, repository: str, digest: str) -> set[str]:
    """The blobs a manifest needs.

    Raises:
        UnderwayError: it cannot be read. Nothing is freed then: what it needs is not known.
    """
    try:
        stored = storage.manifest(repository, digest)
        content = distribution.check_manifest(stored.data, stored.media_type)
    except UnderwayError as error:
        raise UnderwayError(
            f"manifest {digest} of {repository} cannot be read: {error}",
            hint="delete it, then collect garbage again",
        ) from error
    return {descriptor.digest for descriptor in distribution.blobs_of(content)}


def _remove_unused(storage: Storage, file: Path, before_s: float) -> int | None:
    """Remove a file not used since ``before_s``; gives its size, or None where it stays."""
    with contextlib.suppress(FileNotFoundError):
        if file.stat().st_mtime >= before_s:
            return None
        with storage.locked(alone=True):
            found = file.stat()
            if found.st_mtime < before_s:
                file.unlink()
                return found.st_size
    return None


def _left_aside(storage: Storage) -> Iterator[Path]:
    """Files that were being written when the machine or the process stopped."""
    yield from storage.blobs.glob("*/??/.*")
