"""Projects that are a cache of another registry.

A tag is asked for there each time, so that it is never old; where the other registry does not
answer, what is here is given. Blobs are fetched when they are first asked for. A full cache makes
room by the artifacts that were not pulled for longest.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import defaultdict
from pathlib import Path

from underway.base.errors import NotFound, UnderwayError
from underway.capabilities.registry.backend.database import Database
from underway.capabilities.registry.backend.remote import REGISTRIES, Remote
from underway.capabilities.registry.backend.replication import fetch_blob
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.model import (
    Blob,
    BlobUnknown,
    Denied,
    ManifestUnknown,
    Project,
    Stored,
)
from underway.capabilities.registry.rules import distribution
from underway.wire import oci

log = logging.getLogger(__name__)


class Proxy:
    """Answers for the registries behind projects. All calls block."""

    def __init__(self, database: Database, storage: Storage, scratch: Path) -> None:
        self._database = database
        self._storage = storage
        self._scratch = scratch
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def manifest(self, project: Project, repository: str, reference: str) -> Stored:
        """A manifest, from here where it is still the same there; raises ManifestUnknown."""
        known = None
        with contextlib.suppress(ManifestUnknown):
            known = self._storage.manifest(repository, reference)
        if known is not None and oci.is_digest(reference):
            return known
        try:
            with self._remote(project) as remote:
                source = _source(remote, repository)
                if known is not None and remote.digest(source, reference) == known.digest:
                    return known
                found = remote.manifest(source, reference)
        except UnderwayError as error:
            gone = isinstance(error, NotFound)
            if known is not None and not gone:
                log.warning("%s answers from its cache: %s", repository, error)
                return known
            if gone:
                raise ManifestUnknown(f"{reference} is not in {repository}") from error
            raise
        stored = Stored(found.digest, found.media_type.partition(";")[0], found.data)
        distribution.check_manifest(stored.data, stored.media_type)
        self._keep(project, repository, stored, [] if oci.is_digest(reference) else [reference])
        return self._storage.manifest(repository, stored.digest)

    def blob(self, project: Project, repository: str, digest: str) -> Blob:
        """A blob, fetched now if it is not here; raises BlobUnknown."""
        with self._fetching[digest]:
            with contextlib.suppress(BlobUnknown):
                return self._storage.blob(repository, digest)
            try:
                with self._remote(project) as remote:
                    source = _source(remote, repository)
                    fetch_blob(self._storage, remote, source, repository, digest, self._scratch)
            except NotFound as error:
                raise BlobUnknown(f"blob {digest} is not in {repository}") from error
            finally:
                self._fetching.pop(digest, None)
        return self._storage.blob(repository, digest)

    def _keep(self, project: Project, repository: str, stored: Stored, tags: list[str]) -> None:
        while True:
            try:
                self._storage.put_manifest(repository, stored, tags=tags, sparse=True)
                return
            except Denied:
                if not self._evict(project):
                    raise

    def _evict(self, project: Project) -> bool:
        """Delete the artifact that was not used for longest; whether there was one."""
        row = self._database.one(
            "SELECT r.name, a.digest FROM artifacts a "
            "JOIN repositories r ON r.id = a.repository_id WHERE a.project_id = ? "
            "ORDER BY CASE WHEN a.pull_time > a.push_time THEN a.pull_time ELSE a.push_time END, "
            "a.id LIMIT 1",
            project.id,
        )
        if row is None:
            return False
        self._storage.delete_manifest(row["name"], row["digest"])
        log.info(
            "the cache %s is full: %s@%s was deleted", project.name, row["name"], row["digest"]
        )
        return True

    def _remote(self, project: Project) -> Remote:
        return Remote(REGISTRIES.get(self._database, project.registry_id), self._scratch)


def _source(remote: Remote, repository: str) -> str:
    """What a repository is called there: without the project, which is ours."""
    name = repository.partition("/")[2]
    if remote.type == "docker-hub" and "/" not in name:
        return f"library/{name}"
    return name
