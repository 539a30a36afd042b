"""Indexing one layer, or one directory: which packages its files tell of."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from underway.base.errors import BadRequest
from underway.capabilities.scan.backend import rpmdb
from underway.capabilities.scan.model import LayerIndex, Package
from underway.capabilities.scan.rules import files
from underway.linux.layer_tar import OPAQUE_MARK, WHITEOUT, clean_path, contents, entries
from underway.linux.layers import TarStream, decompressed
from underway.wire import oci

INDEX_STATE = "1"
"""Changes whenever a layer indexed anew could tell something else."""

FILE_LIMIT_BYTES = 512 * 1024 * 1024
PROBLEMS_LIMIT = 100
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_SNIFFED_BYTES = 4
_SKIPPED = ("proc", "sys", "dev")


def index_layer(chunks: Iterable[bytes], digest: str) -> LayerIndex:
    """Index a layer's blob, whose form its first bytes tell.

    Raises:
        BadRequest: the blob is no layer, unpacks into more than a layer may, or has another digest.
    """
    index = _Indexer()
    blob = _verified(chunks, digest)
    first = next(blob, b"")
    stream = itertools.chain([first], blob)
    for info, archive in entries(TarStream(decompressed(stream, _media_type(first)))):
        path = clean_path(info.name)
        parent, _, name = path.rpartition("/")
        if name == OPAQUE_MARK:
            index.opaque.add(parent)
        elif name.startswith(WHITEOUT):
            index.removed.add(f"{parent}/{name[len(WHITEOUT) :]}".lstrip("/"))
        elif info.isdir():
            continue
        elif info.isreg():
            index.file(path, info.size, info.mode, _reader(info, archive))
        else:
            # A link in a file's place hides what was there below.
            index.paths.add(path)
    for _ in blob:
        pass  # what follows the archive belongs to the digest too
    return index.done()


def _verified(chunks: Iterable[bytes], digest: str) -> Iterator[bytes]:
    algorithm, _, wanted = digest.partition(":")
    found = hashlib.new(algorithm)
    for chunk in chunks:
        found.update(chunk)
        yield chunk
    if found.hexdigest() != wanted:
        raise BadRequest(f"layer {digest} has the digest {algorithm}:{found.hexdigest()}")


def _media_type(first: bytes) -> str:
    if first.startswith(b"\x1f\x8b"):
        return oci.LAYER_GZIP
    return oci.LAYER_ZSTD if first.startswith(b"\x28\xb5\x2f\xfd") else oci.LAYER


def index_directory(root: Path) -> LayerIndex:
    """Index a directory as if it were a root file system; other file systems in it are left out.

    Raises:
        BadRequest: there is no such directory.
    """
    if not root.is_dir():
        raise BadRequest(f"{root} is not a directory")
    index = _Indexer()
    device = root.stat().st_dev
    for folder, names, found in os.walk(root):
        here = Path(folder)
        names[:] = sorted(
            name
            for name in names
            if not (here / name).is_symlink()
            and (here / name).stat().st_dev == device
            and not (here == root and name in _SKIPPED)
        )
        for name in sorted(found):
            path = here / name
            info = path.lstat()
            relative = path.relative_to(root).as_posix()
            if stat.S_ISREG(info.st_mode):
                index.file(relative, info.st_size, info.st_mode, _opener(path))
            elif stat.S_ISLNK(info.st_mode) and relative in _OS_RELEASE:
                index.linked_release(root, path)
    return index.done()


def _reader(info: tarfile.TarInfo, archive: tarfile.TarFile) -> Callable[[int], bytes]:
    pieces = contents(info, archive)

    def read(size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (piece := next(pieces, b"")):
            data += piece
        return bytes(data)

    return read


def _opener(path: Path) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        try:
            with path.open("rb") as stream:
                return stream.read(size)
        except OSError as error:
            raise ValueError(error.strerror) from error

    return read


class _Indexer:
    """Gathers what the files of one layer tell."""

    def __init__(self) -> None:
        self.packages: dict[str, list[Package]] = {}
        self.paths: set[str] = set()
        self.removed: set[str] = set()
        self.opaque: set[str] = set()
        self.problems: list[str] = []
        self.release = ""
        self._release_path = ""

    def file(self, path: str, size: int, mode: int, read: Callable[[int], bytes]) -> None:
        """One regular file; ``read`` gives its first bytes, and is called once."""
        self.paths.add(path)
        if path in _OS_RELEASE:
            self._take_release(path, read(64 * 1024))
            return
        listed = files.reads(path) or rpmdb.reads(path)
        if not listed and not (mode & 0o111 and size > _SNIFFED_BYTES):
            return
        if size > FILE_LIMIT_BYTES:
            if listed:
                self._problem(path, f"larger than {FILE_LIMIT_BYTES >> 20} MiB, not read")
            return
        try:
            data = read(size)
            found = rpmdb.read(path, data) if rpmdb.reads(path) else files.read(path, data)
        except ValueError as error:
            self._problem(path, str(error))
            return
        if found:
            self.packages[path] = found

    def linked_release(self, root: Path, path: Path) -> None:
        """``/etc/os-release`` is a link in most distributions; it may not lead out of the root."""
        target = path.resolve()
        if target.is_relative_to(root.resolve()) and target.is_file():
            self._take_release(path.relative_to(root).as_posix(), target.read_bytes()[: 64 * 1024])

    def _take_release(self, path: str, data: bytes) -> None:
        if not self.release or path == _OS_RELEASE[0]:
            self.release = data.decode("utf-8", "replace")
            self._release_path = path

    def _problem(self, path: str, message: str) -> None:
        if len(self.problems) < PROBLEMS_LIMIT:
            self.problems.append(f"{path}: {message}")

    def done(self) -> LayerIndex:
        return LayerIndex(
            {path: tuple(found) for path, found in self.packages.items()},
            frozenset(self.paths),
            frozenset(self.removed),
            frozenset(self.opaque),
            self.release,
            tuple(self.problems),
        )
