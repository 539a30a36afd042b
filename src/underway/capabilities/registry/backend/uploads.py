"""Blobs that are arriving: one file each, hashed as it grows. All calls block."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections import OrderedDict
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from underway.capabilities.registry.backend.contents import make_directory
from underway.capabilities.registry.model import DigestInvalid, RangeInvalid, UploadUnknown

_REMEMBERED = 512  # uploads whose hash is kept in memory


class Hash(Protocol):
    """What ``hashlib`` makes."""

    @property
    def name(self) -> str:
        """The algorithm."""
        ...

    def update(self, data: bytes | bytearray, /) -> None:
        """Take more bytes in."""

    def hexdigest(self) -> str:
        """The digest of all so far."""
        ...


class Uploads:
    """The uploads below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._hashing: OrderedDict[str, tuple[int, Hash]] = OrderedDict()
        make_directory(directory)

    def start(self, algorithm: str = "sha256") -> str:
        """A new upload's id; ``algorithm`` is that of the digest it will probably end with."""
        upload = secrets.token_hex(16)
        (self.directory / upload).touch()
        self._keep(upload, 0, hashlib.new(algorithm))
        return upload

    def size(self, upload: str) -> int:
        """Bytes that have arrived so far.

        Raises:
            UploadUnknown: there is no such upload.
        """
        try:
            return self.path(upload).stat().st_size
        except FileNotFoundError as error:
            raise UploadUnknown(f"there is no upload {upload}") from error

    def append(self, upload: str, offset: int, piece: bytes | bytearray) -> None:
        """Add bytes to an upload that holds ``offset`` bytes.

        Raises:
            RangeInvalid: it holds another number of bytes.
        """
        with self.path(upload).open("r+b") as stream:
            if stream.seek(0, os.SEEK_END) != offset:
                raise RangeInvalid("the upload has moved on")
            stream.write(piece)
        hashed, state = self._hashing.pop(upload, (-1, None))
        if state is not None and hashed == offset:
            state.update(piece)
            self._keep(upload, offset + len(piece), state)

    def truncate(self, upload: str, size: int) -> None:
        """Forget what an upload received beyond ``size`` bytes."""
        self._hashing.pop(upload, None)
        os.truncate(self.path(upload), size)

    def cancel(self, upload: str) -> None:
        """Throw away what has arrived.

        Raises:
            UploadUnknown: there is no such upload.
        """
        self._hashing.pop(upload, None)
        try:
            self.path(upload).unlink()
        except FileNotFoundError as error:
            raise UploadUnknown(f"there is no upload {upload}") from error

    def finish(self, upload: str, digest: str) -> Path:
        """The file of an upload whose content has the digest.

        Raises:
            DigestInvalid: it has not; the upload is thrown away.
        """
        path = self.path(upload)
        hashed, state = self._hashing.pop(upload, (-1, None))
        with path.open("rb") as stream:
            try:
                # Most uploads were hashed as they came; one begun before a restart is read again.
                if state is not None and hashed == os.fstat(stream.fileno()).st_size:
                    _compare(state, digest, stream)
                else:
                    check_digest(stream, digest)
            except DigestInvalid:
                path.unlink()
                raise
        return path

    def path(self, upload: str) -> Path:
        """An upload's file; raises UploadUnknown."""
        path = self.directory / upload
        if not upload.isalnum() or not path.exists():
            raise UploadUnknown(f"there is no upload {upload}")
        return path

    def drop(self, before_s: float) -> int:
        """Throw away uploads that received nothing since a time; gives how many."""
        dropped = 0
        for path in list(self.directory.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # it was finished, or cancelled
                if path.stat().st_mtime < before_s:
                    path.unlink()
                    dropped += 1
        return dropped

    def _keep(self, upload: str, size: int, state: Hash) -> None:
        self._hashing[upload] = (size, state)
        if len(self._hashing) > _REMEMBERED:
            self._hashing.popitem(last=False)


def check_digest(stream: BufferedReader, digest: str) -> None:
    """Read a stream to its end.

    Raises:
        DigestInvalid: its content has another digest.
    """
    _compare(hashlib.file_digest(stream, digest.partition(":")[0]), digest, stream)


def _compare(state: Hash, digest: str, stream: BufferedReader) -> None:
    algorithm, _, expected = digest.partition(":")
    if state.name != algorithm:
        state = hashlib.file_digest(stream, algorithm)
    if state.hexdigest() != expected:
        actual = f"{algorithm}:{state.hexdigest()}"
        raise DigestInvalid(f"the content has digest {actual}, not {digest}")
