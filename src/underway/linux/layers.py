"""Unpacked image layers, each once, shared by every build and pod of the platform.

A layer is known by its diff id: the sha256 of its uncompressed tar stream. It lies as an overlayfs
lower directory at ``sha256/HEX/tree`` below the store. It is made in ``scratch/`` and renamed into
place, so a reader sees a whole layer or none.

Power cuts: a renamed directory may have lost its contents when the machine starts again. Nothing
waits for the disk because of that. Instead a layer is marked with the boot it was made in, and
counts as missing in any other, until ``settle`` has made sure that it was written out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from isal import isal_zlib

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, InternalError
from underway.linux import layer_tar
from underway.linux.layer_tar import CHUNK_BYTES, Mtimes
from underway.linux.mounts import mount_overlay, sync_filesystem, unmount

__all__ = ["CommittedLayer", "LayerStore", "Mtimes", "Scratch", "mount_overlay", "unmount"]

LAYER_BYTES_MAX = 32 << 30
AHEAD = 4  # chunks inflated before they are asked for
GZIP_LEVEL = 1  # isal's levels trade little size for much time
ZSTD_LEVEL = 3
LAYER_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"

# The machine's fault; any other refusal by the system is for a name, link or device it cannot have.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class CommittedLayer:
    """A layer made here; ``digest`` and ``size_bytes`` are those of the gzip file ``blob``."""

    diff_id: str
    digest: str
    size_bytes: int
    blob: Path
    media_type: str = LAYER_MEDIA_TYPE


@dataclass(frozen=True, slots=True)
class Scratch:
    """Room to work in on the store's file system: overlay ``upper`` and ``work``, and ``root``."""

    root: Path
    upper: Path
    work: Path


class LayerStore:
    """The layers below one directory. Safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._layers = root / "sha256"
        self._scratch = root / "scratch"
        self._locks = root / "locks"

    def has(self, diff_id: str) -> bool:
        """Whether the layer is here, whole."""
        entry = self._entry(diff_id)
        if not (entry / "tree").is_dir():
            return False
        try:
            return (entry / "boot").read_text() == _BOOT_ID.read_text()
        except FileNotFoundError:
            return True

    def path(self, diff_id: str) -> Path:
        """The layer's directory, to be mounted as a lower one; never to be written to."""
        return self._entry(diff_id) / "tree"

    def ids(self) -> list[str]:
        """The diff ids of all layers here."""
        if not self._layers.is_dir():
            return []
        return [i for i in (f"sha256:{p.name}" for p in self._layers.iterdir()) if self.has(i)]

    def unpack(self, diff_id: str, chunks: Iterable[bytes], media_type: str) -> Path:
        """Unpack a layer unless it is here, and return its directory.

        Args:
            diff_id: ``sha256:HEX`` of the uncompressed stream.
            chunks: the blob, compressed as ``media_type`` says (gzip, zstd or not at all).
            media_type: OCI or Docker layer media type.

        Raises:
            BadRequest: the stream is broken, unsafe, too large or not the one promised.
        """
        with self._locked(self._entry(diff_id).name):
            if self.has(diff_id):
                return self.path(diff_id)
            with self.scratch() as scratch:
                tree = scratch.upper
                stream = TarStream(_ahead(decompressed(chunks, media_type)))
                try:
                    layer_tar.unpack(stream, tree)
                except OSError as error:
                    kind = InternalError if error.errno in _DISK_ERRORS else BadRequest
                    raise kind(f"cannot unpack layer {diff_id}: {error}") from error
                actual = stream.drain()
                if actual != diff_id:
                    raise BadRequest(f"layer {diff_id} is in truth {actual}")
                return self._adopt(diff_id, tree)

    def commit(
        self, upper: Path, blobs: Path, mtimes: Mtimes, compression: str = "gzip", level: int = 0
    ) -> CommittedLayer:
        """Make a layer of an unmounted overlay upper directory, which the store takes over.

        ``upper`` must come from this store's ``scratch``. The same files give the same digests
        at any time (see ``Mtimes``). The blob is written to ``blobs/HEX``, compressed by ``gzip``
        or ``zstd`` at a level as zlib and zstd count them; 0 is the quickest sensible one.
        """
        blobs.mkdir(parents=True, exist_ok=True)
        aside = blobs / f".{secrets.token_hex(6)}"
        plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
        packer, media_type = _packer(compression, level)
        try:
            with aside.open("wb", buffering=1 << 20) as blob:

                def emit(data: bytes) -> None:
                    nonlocal size
                    packed.update(data)
                    size += blob.write(data)

                def feed(data: bytes) -> None:
                    plain.update(data)
                    emit(packer.compress(data))

                layer_tar.pack(upper, mtimes, feed)
                emit(packer.flush())
            diff_id, digest = f"sha256:{plain.hexdigest()}", f"sha256:{packed.hexdigest()}"
            final = blobs / packed.hexdigest()
            aside.replace(final)
        except OSError as error:
            raise InternalError(f"cannot pack a layer: {error}") from error
        finally:
            aside.unlink(missing_ok=True)
        with self._locked(self._entry(diff_id).name):
            if not self.has(diff_id):
                self._adopt(diff_id, upper)
        return CommittedLayer(diff_id, digest, size, final, media_type)

    def mount(
        self,
        diff_ids: Iterable[str],
        target: Path,
        upper: Path | None = None,
        work: Path | None = None,
        *,
        volatile: bool = False,
    ) -> None:
        """Mount layers, given bottom first as an image's config lists them, at ``target``."""
        lowers = [self.path(diff_id) for diff_id in diff_ids][::-1]
        mount_overlay(lowers, upper, work, target, volatile=volatile)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """A working directory, gone afterwards; one left by a killed process goes before."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        room = self._scratch / secrets.token_hex(6)
        with self._locked("scratch"):  # a new directory is not swept before its owner holds it
            self._sweep()
            room.mkdir(mode=0o700)
            held = os.open(room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            made = Scratch(room, room / "upper", room / "work")
            for each in (made.upper, made.work):
                each.mkdir()
                each.chmod(0o755)
            yield made
        finally:
            _remove(room)
            os.close(held)

    def settle(self, age_s: float = 0.0) -> None:
        """Make layers outlive a power cut, if one of them has waited ``age_s`` seconds for it.

        By default this takes as long as the disk needs for everything pending. With an age beyond
        the half minute after which the kernel writes by itself, there is little left to do.
        """
        marks = [mark for mark in self._layers.glob("*/boot") if self.has(_id_of(mark.parent))]
        now_s = SystemClock().now().timestamp()
        if any(_age_of(mark, now_s) >= age_s for mark in marks):
            sync_filesystem(self._layers)
            for mark in marks:
                mark.unlink(missing_ok=True)

    def remove(self, diff_id: str) -> None:
        """Forget a layer that nothing uses any more."""
        with self._locked(self._entry(diff_id).name):
            self._discard(self._entry(diff_id))

    def _entry(self, diff_id: str) -> Path:
        match = _DIGEST.fullmatch(diff_id)
        if not match:
            raise BadRequest(f"not a sha256 digest: {diff_id[:80]!r}")
        return self._layers / match[1]

    def _adopt(self, diff_id: str, tree: Path) -> Path:
        entry = self._entry(diff_id)
        self._layers.mkdir(parents=True, exist_ok=True)
        self._discard(entry)
        staged = tree.with_name(f"{tree.name}.layer")
        staged.mkdir()
        (staged / "boot").write_text(_BOOT_ID.read_text())
        tree.rename(staged / "tree")
        staged.rename(entry)
        return entry / "tree"

    def _discard(self, entry: Path) -> None:
        if entry.exists():
            self._scratch.mkdir(parents=True, exist_ok=True)
            dead = self._scratch / secrets.token_hex(6)
            entry.rename(dead)
            _remove(dead)

    def _sweep(self) -> None:
        for room in self._scratch.iterdir():
            try:
                descriptor = os.open(room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue  # its owner has just removed it
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(room)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self._locks.mkdir(parents=True, exist_ok=True)
        with (self._locks / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _packer(compression: str, level: int) -> tuple[_Packer, str]:
    """What compresses a layer, and the media type that comes of it."""
    if compression == "zstd":
        import zstandard  # slow to import, and most layers are gzip

        packer = zstandard.ZstdCompressor(level=level or ZSTD_LEVEL).compressobj()
        return cast("_Packer", packer), ZSTD_MEDIA_TYPE
    if compression != "gzip":
        raise BadRequest(f"layers are compressed by gzip or zstd, not {compression}")
    if level > 3:  # isal has quick levels only
        return zlib.compressobj(min(level, 9), wbits=31), LAYER_MEDIA_TYPE
    return isal_zlib.compressobj(level or GZIP_LEVEL, wbits=31), LAYER_MEDIA_TYPE


def decompressed(chunks: Iterable[bytes], media_type: str) -> Iterator[bytes]:
    """A layer blob's tar stream.

    Raises:
        BadRequest: the media type is not a layer's, or the data are not compressed as it says.
    """
    if media_type.endswith(("+gzip", ".gzip")):
        return _inflate(chunks)
    if media_type.endswith("+zstd"):
        return _unzstd(chunks)
    if media_type.endswith((".tar", ".layer.v1.tar")):
        return iter(chunks)
    raise BadRequest(f"layers of type {media_type} cannot be unpacked")


def _inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    inflate = isal_zlib.decompressobj(wbits=31)
    started = False
    try:
        for chunk in chunks:
            data = chunk
            while data:
                if inflate.eof:  # gzip files may be several, one after another
                    inflate, started = isal_zlib.decompressobj(wbits=31), False
                started = True
                yield inflate.decompress(data, CHUNK_BYTES)
                while inflate.unconsumed_tail and not inflate.eof:
                    tail = inflate.unconsumed_tail
                    yield inflate.decompress(tail, CHUNK_BYTES)
                data = inflate.unused_data if inflate.eof else b""
                if data and not data.strip(b"\0"):
                    data = b""  # padding
        while started and not inflate.eof and (rest := inflate.decompress(b"", CHUNK_BYTES)):
            yield rest
    except isal_zlib.IsalError as error:
        raise BadRequest(f"the layer is not valid gzip: {error}") from error
    if not started or not inflate.eof:
        raise BadRequest("the layer's gzip data end too early")


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
        cast("IO[bytes]", TarStream(iter(chunks))), read_across_frames=True
    )
    try:
        while chunk := reader.read(CHUNK_BYTES):
            yield chunk
    except zstandard.ZstdError as error:
        raise BadRequest(f"the layer is not valid zstd: {error}") from error


def _ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, made in a thread of its own: inflating and writing take turns no more."""
    from concurrent.futures import ThreadPoolExecutor  # what unpacks nothing starts without it

    with ThreadPoolExecutor(1, thread_name_prefix="layer") as pool:
        waiting = deque([pool.submit(next, chunks, None)])
        while (chunk := waiting.popleft().result()) is not None:
            waiting.extend(pool.submit(next, chunks, None) for _ in range(AHEAD - len(waiting)))
            yield chunk


class TarStream:
    """Chunks as a file to read, hashed and bounded on the way."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._hash = hashlib.sha256()
        self._left = LAYER_BYTES_MAX

    def read(self, size: int = -1) -> bytes:
        wanted = size if size >= 0 else LAYER_BYTES_MAX
        parts: list[bytes | memoryview] = []
        while wanted:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._left -= len(chunk)
                if self._left < 0:
                    raise BadRequest(f"the layer is larger than {LAYER_BYTES_MAX} bytes")
                self._hash.update(chunk)
                self._rest = memoryview(chunk)
                continue
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def drain(self) -> str:
        """Read to the end; the whole stream's digest."""
        while self.read(CHUNK_BYTES):
            pass
        return f"sha256:{self._hash.hexdigest()}"


def _id_of(entry: Path) -> str:
    return f"sha256:{entry.name}"


def _age_of(mark: Path, now_s: float) -> float:
    try:
        return now_s - mark.stat().st_mtime
    except FileNotFoundError:
        return -1.0  # settled by another process


def _remove(tree: Path) -> None:
    """Delete a directory tree; part of it may have been moved away."""

    def gone(
        _call: object, _path: str, info: tuple[type[BaseException], BaseException, object]
    ) -> None:
        if not isinstance(info[1], FileNotFoundError):
            raise info[1]

    shutil.rmtree(tree, onerror=gone)
