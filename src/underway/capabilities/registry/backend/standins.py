"""Images nobody pushed: made by the port ``base-images`` when they are first asked for."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections import defaultdict
from pathlib import Path

from underway.base.errors import InternalError
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.model import ManifestUnknown, Stored
from underway.capabilities.registry.rules import distribution
from underway.kit.ports import BaseImages
from underway.wire import oci

_log = logging.getLogger(__name__)

_AT_ONCE = 2  # images being made; each holds a thread of the shared pool for up to minutes


class StandIns:
    """Fills ``docker.io/...`` repositories on demand, one job an image however many ask."""

    def __init__(self, storage: Storage, images: BaseImages | None, scratch: Path) -> None:
        self._storage = storage
        self._images = images
        self._scratch = scratch
        self._waiting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # A request that is cancelled lets its thread go on; the next one then waits for that.
        self._making: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def offers(self, repository: str, tag: str) -> bool:
        """Whether an image can be made."""
        if self._images is None or not oci.is_tag(tag):
            return False
        return self._images.offers(f"{repository}:{tag}")

    async def make(self, repository: str, tag: str) -> None:
        """Make the image and put it into the repository, unless somebody just did.

        Raises what the port raises.
        """
        async with self._waiting[f"{repository}:{tag}"], self._slots:
            await run_blocking(self._make, repository, tag)

    def _make(self, repository: str, tag: str) -> None:
        reference = f"{repository}:{tag}"
        with self._making[reference]:
            try:
                self._storage.manifest(repository, tag)
                return
            except ManifestUnknown:
                pass
            assert self._images is not None
            layout = self._scratch / reference.replace("/", "-").replace(":", "-")
            shutil.rmtree(layout, ignore_errors=True)
            self._scratch.mkdir(parents=True, exist_ok=True)
            try:
                made = self._images.provide(reference, layout, lambda line: _log.info("%s", line))
                self._take(repository, tag, layout, made.digest)
            finally:
                shutil.rmtree(layout, ignore_errors=True)

    def _take(self, repository: str, tag: str, layout: Path, digest: str) -> None:
        data = _file(layout, digest).read_bytes()
        if oci.digest_of(data) != digest:
            raise InternalError(f"the image made for {repository}:{tag} has not digest {digest}")
        kind = oci.MANIFEST
        content = distribution.check_manifest(data, kind)
        blobs = [descriptor.digest for descriptor in distribution.blobs_of(content)]
        for blob in blobs:
            self._storage.adopt_blob(repository, blob, _file(layout, blob))
        stored = Stored(digest, kind, data)
        self._storage.put_manifest(repository, stored, tags=[tag])


def _file(layout: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value
