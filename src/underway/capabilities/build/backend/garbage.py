"""Making room: steps not used for long, images, and the layers and blobs nothing names any more.

Unpacked layers are shared with pods, so those of every image the node has ever had are kept. What
is younger than ``GRACE_S`` is left alone: an image may be on its way that is not named yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from underway.base.errors import Conflict
from underway.base.home import Home
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.model import Layer
from underway.linux.images import ImageStore, StoredImage
from underway.linux.layers import LayerStore

GRACE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What builds keep: counts, and the bytes of the compressed layers."""

    steps: int
    images: tuple[str, ...]
    blobs: int
    blob_bytes: int
    cache_mount_bytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to remove.

    Attributes:
        unused_s: steps that were not used for so long; 0 takes all, infinity none.
        keep_bytes: the least recently used steps go until their layers are no larger; None: any.
        images: names to forget.
        cache_mounts: also what ``RUN --mount=type=cache`` keeps.
        grace_s: what is younger is never removed.
    """

    unused_s: float = 0.0
    keep_bytes: int | None = None
    images: tuple[str, ...] = ()
    cache_mounts: bool = False
    grace_s: float = GRACE_S


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed; ``freed_bytes`` are those of compressed layers and cache mounts."""

    steps: int
    images: int
    blobs: int
    layers: int
    freed_bytes: int


@contextlib.contextmanager
def in_use(home: Home) -> Iterator[None]:
    """While a build lasts, nothing is removed; it waits for a removal under way."""
    with _lock(home) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def usage(home: Home) -> Usage:
    """What builds keep on this machine."""
    shelf = Shelf(home)
    sizes = [_size(path) for path in _files(shelf.blobs)]
    names = tuple(sorted(image.reference for image in shelf.images.list()))
    steps = sum(1 for _ in shelf.records())
    return Usage(steps, names, len(sizes), sum(sizes), _tree_bytes(shelf.caches))


def prune(home: Home, wanted: Wanted, now_s: float) -> Removed:
    """Remove what is asked for, and all that only it needed.

    Args:
        home: whose builds.
        wanted: what to remove.
        now_s: Unix seconds.

    Raises:
        Conflict: a build is running.
    """
    with _lock(home) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("a build is running", hint="try again when it has ended") from error
        shelf = Shelf(home)
        freed = 0
        forgotten = sum(shelf.images.remove(name) for name in wanted.images)
        steps = _prune_steps(shelf, wanted, now_s)
        if wanted.cache_mounts:
            freed += _tree_bytes(shelf.caches)
            shutil.rmtree(shelf.caches, ignore_errors=True)
        blobs, bytes_ = _prune_blobs(shelf, wanted, now_s)
        layers = _prune_layers(home, shelf, wanted, now_s)
        return Removed(steps, forgotten, blobs, layers, freed + bytes_)


def _prune_steps(shelf: Shelf, wanted: Wanted, now_s: float) -> int:
    """The least recently used first, where only so much room may be taken."""
    found = sorted(
        ((_used_s(file), file, layer) for file, layer in shelf.records()),
        key=lambda each: each[0],
        reverse=True,
    )
    kept, kept_bytes, removed = set[str](), 0, 0
    for used_s, file, layer in found:
        new = layer is not None and layer.digest not in kept
        size = layer.size_bytes if layer is not None and new else 0
        fits = wanted.keep_bytes is not None and kept_bytes + size <= wanted.keep_bytes
        young = now_s - used_s < wanted.unused_s
        if fits or (wanted.keep_bytes is None and young):
            kept_bytes += size
            if layer is not None:
                kept.add(layer.digest)
            continue
        file.unlink(missing_ok=True)
        removed += 1
    return removed


def _prune_blobs(shelf: Shelf, wanted: Wanted, now_s: float) -> tuple[int, int]:
    needed = {layer["digest"] for image in shelf.images.list() for layer in _layers(image)}
    needed |= {layer.digest for layer in _step_layers(shelf)}
    count = freed = 0
    for path in _files(shelf.blobs):
        old = now_s - _used_s(path) >= wanted.grace_s
        if f"sha256:{path.name}" in needed or not old:
            continue
        # A second name of it, in a layout say, keeps its bytes.
        freed += _size(path) if path.stat().st_nlink == 1 else 0
        path.unlink()
        count += 1
    return count, freed


def _prune_layers(home: Home, shelf: Shelf, wanted: Wanted, now_s: float) -> int:
    needed = ImageStore(home.layers / "images", LayerStore(home.layers)).diff_ids()
    needed |= {diff_id for image in shelf.images.list() for diff_id in image.diff_ids}
    needed |= {layer.diff_id for layer in _step_layers(shelf)}
    removed = 0
    for diff_id in set(shelf.layers.ids()) - needed:
        entry = shelf.layers.path(diff_id).parent
        if now_s - entry.stat().st_ctime >= wanted.grace_s:
            shelf.layers.remove(diff_id)
            removed += 1
    return removed


def _step_layers(shelf: Shelf) -> Iterable[Layer]:
    return [layer for _, layer in shelf.records() if layer is not None]


def _layers(image: StoredImage) -> list[dict[str, str]]:
    found: list[dict[str, str]] = image.manifest["layers"]
    return found


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_file()]


def _size(path: Path) -> int:
    return path.stat().st_size


def _used_s(path: Path) -> float:
    return path.stat().st_mtime


def _tree_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))  # noqa: PTH118  # once a file
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


@contextlib.contextmanager
def _lock(home: Home) -> Iterator[int]:
    home.builds.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home.builds / "in-use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
