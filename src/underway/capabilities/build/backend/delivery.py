"""What COPY and ADD bring: files of the context or a stage, here-documents, downloads, archives."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from underway.base.errors import BadRequest, ServiceUnavailable
from underway.capabilities.build.backend.shelf import pieces
from underway.capabilities.build.backend.trees import Source, Tree
from underway.linux import layer_tar
from underway.linux.layers import decompressed
from underway.wire import oci

DOWNLOAD_BYTES_MAX = 8 << 30
DISK_BYTES_MIN = 128 << 20
GLANCE_BYTES = 64 << 20
_TIMEOUT_S = 60.0
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sources of one tree; ``archive`` ones are unpacked where they arrive."""

    tree: Tree
    sources: list[Source]
    archive: bool = False


def is_url(source: str) -> bool:
    """Whether an ADD source is fetched from the network."""
    return source.startswith(("http://", "https://", "ftp://")) or is_git(source)


def is_git(source: str) -> bool:
    """Whether an ADD source or a build context is a git repository."""
    path = source.partition("#")[0]
    if source.startswith(("git@", "git://", "ssh://")):
        return True
    return path.startswith(("http://", "https://")) and path.endswith(".git")


def download(url: str, folder: Path, checksum: str) -> Delivery:
    """Fetch a URL into an empty folder, mode 0600 as ADD has it.

    Raises:
        BadRequest: the URL is of a kind that cannot be fetched, or its checksum differs.
        ServiceUnavailable: the server cannot be reached or answers with an error.
    """
    import ssl

    import httpx  # slow to import, and few builds fetch anything

    parsed = urlsplit(url)
    name = unquote(parsed.path.rsplit("/", 1)[-1])
    if parsed.scheme not in ("http", "https") or parsed.path.endswith(".git"):
        raise BadRequest(f"ADD {url}: only http and https files can be fetched")
    if not name or name in (".", "..") or "/" in name:
        raise BadRequest(f"ADD {url}: the URL names no file")
    path, seen, size = folder / name, hashlib.sha256(), 0
    # The machine's own authorities, which httpx would not look at.
    trust = ssl.create_default_context()
    try:
        with (
            httpx.Client(verify=trust, follow_redirects=True, timeout=_TIMEOUT_S) as client,
            client.stream("GET", url) as response,
            path.open("wb") as stream,
        ):
            if response.status_code >= 400:
                raise ServiceUnavailable(f"ADD {url}: HTTP {response.status_code}")
            for chunk in response.iter_bytes():
                size += len(chunk)
                if size > DOWNLOAD_BYTES_MAX:
                    raise BadRequest(f"ADD {url}: larger than {DOWNLOAD_BYTES_MAX} bytes")
                seen.update(chunk)
                stream.write(chunk)
    except httpx.HTTPError as error:
        raise ServiceUnavailable(f"ADD {url}: {error}") from error
    actual = f"sha256:{seen.hexdigest()}"
    if checksum and actual != checksum:
        raise BadRequest(f"ADD {url}: its checksum is {actual}, not {checksum}")
    path.chmod(0o600)
    tree = Tree(folder, what="download")
    return Delivery(tree, tree.find(name))


def is_archive(path: Path) -> bool:
    """Whether a file is a tar archive, plain or compressed, by its content."""
    if not path.is_file() or path.is_symlink():
        return False
    import lzma

    try:
        return bool(tarfile.is_tarfile(path)) or _is_zstd_tar(path)
    except (OSError, EOFError, lzma.LZMAError):
        return False


def _is_zstd_tar(path: Path) -> bool:
    if _compression(path) != "zstd":
        return False
    first = next(iter(_plain(path)), b"")
    return first[257:262] == b"ustar"


def unpack_archive(path: Path, folder: Path) -> Tree:
    """Unpack a tar archive into an empty folder.

    Raises:
        BadRequest: it is broken, or an entry leads out of it.
    """
    layer_tar.unpack(_Chunks(_bounded(_plain(path), folder)), folder)
    return Tree(folder, what="archive")


def _bounded(chunks: Iterable[bytes], folder: Path) -> Iterator[bytes]:
    """The same chunks, as long as the disk has room: a small archive may unpack to anything."""
    unseen = 0
    for chunk in chunks:
        unseen += len(chunk)
        if unseen > GLANCE_BYTES:
            unseen = 0
            disk = os.statvfs(folder)
            if disk.f_bavail * disk.f_frsize < DISK_BYTES_MIN:
                raise BadRequest(f"the archive leaves less than {DISK_BYTES_MIN >> 20} MiB of disk")
        yield chunk


def _compression(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(6)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def _plain(path: Path) -> Iterator[bytes]:
    kind = _compression(path)
    if kind == "gzip":
        return decompressed(pieces(path), oci.LAYER_GZIP)
    if kind == "zstd":
        return decompressed(pieces(path), oci.LAYER_ZSTD)
    if kind in ("bzip2", "xz"):
        return _filed(path, kind)
    return pieces(path)


def _filed(path: Path, kind: str) -> Iterator[bytes]:
    import bz2
    import lzma

    try:
        with (bz2.open if kind == "bzip2" else lzma.open)(path, "rb") as stream:
            while chunk := stream.read(layer_tar.CHUNK_BYTES):
                yield chunk
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadRequest(f"{path.name} is not valid {kind}: {error}") from error


class _Chunks:
    """Chunks as a file to read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        part, self._rest = self._rest[:size], self._rest[size:]
        return part
