"""Where blobs' bytes are: files below one directory, or whatever else has these calls.

Each piece of content gets a place of its own, never used again, so that taking one away cannot
meet somebody who stores the same content at that moment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from underway.base.files import fsync_dir

_PIECE = 1024 * 1024


class Contents(Protocol):
    """The port. All calls block."""

    local: bool
    """Whether ``has`` takes microseconds, so that an event loop may call it."""

    def adopt(self, file: Path, digest: str, *, move: bool) -> str:
        """Keep a file's content, durably; gives its place. ``move``: the file may be taken."""
        ...

    def read(self, place: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes from ``first`` to ``last``, in pieces. Raises FileNotFoundError."""
        ...

    def has(self, place: str) -> bool:
        """Whether there is content at a place."""
        ...

    def remove(self, place: str) -> None:
        """Take content away; nothing happens where there is none."""
        ...

    def places(self) -> Iterator[tuple[str, float, int]]:
        """Place, time in seconds since 1970 and size in bytes of all there is."""
        ...


class FileContents:
    """Content as files, ``sha256/ab/<hex>.<eight characters>``."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        make_directory(root)

    def adopt(self, file: Path, digest: str, *, move: bool) -> str:
        """See ``Contents``. What is not moved is linked hard, where that is possible."""
        algorithm, _, value = digest.partition(":")
        place = f"{algorithm}/{value[:2]}/{value}.{secrets.token_hex(4)}"
        target = self.root / place
        make_directory(target.parent)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        if move:
            file.replace(target)
        else:
            _link_or_copy(file, target)
        fsync_dir(target.parent)
        return place

    def read(self, place: str, first: int, last: int) -> Iterator[bytes]:
        """See ``Contents``."""
        with (self.root / place).open("rb") as stream:
            stream.seek(first)
            left = last - first + 1
            while left > 0:
                piece = stream.read(min(_PIECE, left))
                if not piece:
                    raise OSError(f"{place} is shorter than it was")
                left -= len(piece)
                yield piece

    def has(self, place: str) -> bool:
        """See ``Contents``."""
        return (self.root / place).is_file()

    def remove(self, place: str) -> None:
        """See ``Contents``."""
        (self.root / place).unlink(missing_ok=True)

    def places(self) -> Iterator[tuple[str, float, int]]:
        """See ``Contents``."""
        for file in self.root.glob("*/??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                # A hard link keeps the time of the file it was made from.
                yield (
                    str(file.relative_to(self.root)),
                    max(status.st_mtime, status.st_ctime),
                    status.st_size,
                )


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, so that they survive a power cut."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        fsync_dir(directory.parent)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
