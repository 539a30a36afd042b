"""Images nobody pushed: made by the port ``base-images`` when they are first asked for."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import msgspec

from underway.base.threads import run_blocking
from underway.capabilities.registry import rules
from underway.capabilities.registry.backend import Storage
from underway.kit.ports import BaseImages
from underway.wire import oci

_log = logging.getLogger(__name__)


class StandIns:
    """Fills ``docker.io/...`` repositories on demand, one job an image however many ask."""

    def __init__(self, storage: Storage, images: BaseImages, scratch: Path) -> None:
        self._storage = storage
        self._images = images
        self._scratch = scratch
        self._locks: dict[str, asyncio.Lock] = {}

    def offers(self, repository: str, tag: str) -> bool:
        """Whether an image can be made."""
        return not oci.is_digest(tag) and self._images.offers(f"{repository}:{tag}")

    async def make(self, repository: str, tag: str) -> None:
        """Make the image and put it into the repository, unless somebody just did.

        Raises what the port raises.
        """
        lock = self._locks.setdefault(f"{repository}:{tag}", asyncio.Lock())
        async with lock:
            if tag not in await run_blocking(self._known_tags, repository):
                await run_blocking(self._make, repository, tag)

    def _known_tags(self, repository: str) -> list[str]:
        return self._storage.tags(repository) if repository in self._storage.repositories() else []

    def _make(self, repository: str, tag: str) -> None:
        layout = self._scratch / f"{repository}-{tag}".replace("/", "-")
        try:
            reference = f"{repository}:{tag}"
            made = self._images.provide(reference, layout, lambda line: _log.info("%s", line))
            self._take(repository, tag, layout, made.digest)
        finally:
            shutil.rmtree(layout, ignore_errors=True)

    def _take(self, repository: str, tag: str, layout: Path, digest: str) -> None:
        def blob(name: str) -> Path:
            algorithm, _, value = name.partition(":")
            return layout / "blobs" / algorithm / value

        data = blob(digest).read_bytes()
        content = msgspec.json.decode(data)
        for descriptor in rules.blobs_of(content):
            self._storage.adopt_blob(repository, descriptor.digest, blob(descriptor.digest))
        media_type = content.get("mediaType") or oci.MANIFEST
        self._storage.put_manifest(repository, digest, media_type, data)
        self._storage.tag(repository, tag, digest)
