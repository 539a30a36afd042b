"""Taking over what registries before the database kept in small files.

Once, when there is no database yet: ``repositories/<name>/_blobs|_manifests|_tags`` and
``projects/<name>.json`` become rows; blobs stay where they are. The old files are left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import UnderwayError
from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.backend.projects import Projects
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.model import Stored
from underway.wire import oci

log = logging.getLogger(__name__)


def take_over(root: Path, storage: Storage, projects: Projects) -> int:
    """Make rows of the files below ``root``; gives how many manifests that were. Blocks."""
    for file in sorted((root / "projects").glob("[!.]*.json")):
        old: dict[str, Any] = msgspec.json.decode(file.read_bytes())
        if projects.find(old["name"]) is None:
            public, sparse = bool(old.get("public")), bool(old.get("sparse"))
            projects.create(old["name"], public=public, sparse=sparse)
    taken = 0
    for directory in sorted((root / "repositories").rglob("_manifests")):
        name = str(directory.parent.relative_to(root / "repositories"))
        for digest, _ in _links(directory.parent / "_blobs"):
            _take_blob(root, storage, name, digest)
        tags: dict[str, list[str]] = {}
        for file in (directory.parent / "_tags").glob("[!.]*"):
            tags.setdefault(file.read_text(encoding="ascii"), []).append(file.name)
        for digest, link in _links(directory):
            try:
                data = _content(root, digest).read_bytes()
                stored = Stored(digest, link.read_text(encoding="utf-8"), data)
                # Indexes may come before what they list.
                storage.put_manifest(name, stored, tags=tags.get(digest, ()), sparse=True)
                taken += 1
            except (OSError, UnderwayError) as error:
                log.warning("%s@%s was not taken over: %s", name, digest, error)
    return taken


def _take_blob(root: Path, storage: Storage, repository: str, digest: str) -> None:
    file = _content(root, digest)
    if not file.exists():
        return
    place, size = str(file.relative_to(root / "blobs")), file.stat().st_size

    def change(cursor: Cursor) -> None:
        storage.adopt_place(cursor, repository, digest, place, size)

    storage.database.write(change)


def _content(root: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return root / "blobs" / algorithm / value[:2] / value


def _links(directory: Path) -> Iterator[tuple[str, Path]]:
    for link in sorted(directory.glob("*")) if directory.is_dir() else ():
        digest = link.name.replace("-", ":")
        if oci.is_digest(digest):
            yield digest, link
