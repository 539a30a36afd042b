"""What files contain, by digest, without reading them again while they stay as they were.

A file is known by device, inode, size and both of its times. The change time cannot be set back by
anyone, so a file that looks the same is the same, but for one case: it may have been changed twice
within the grain of the clock. What had changed less than ``GRAIN_NS`` before it was read is
therefore not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path

import msgspec

from underway.base.files import write_atomic

GRAIN_NS = 2_000_000_000
ENTRIES_MAX = 200_000
_FORMAT = 1


class Digests:
    """A memory of digests in a file; a broken or missing file is an empty one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, str] | None = None
        self._used: dict[str, str] = {}
        self._changed = False

    def of(self, path: str, status: os.stat_result) -> str:
        """The sha256 of a regular file, in hex.

        Raises:
            OSError: it cannot be read.
        """
        key = _key(status)
        known = self._load().get(key)
        if known is None:
            with open(path, "rb", buffering=0) as stream:  # noqa: PTH123  # once a file
                before = os.fstat(stream.fileno())
                known = hashlib.file_digest(stream, "sha256").hexdigest()
                after = os.fstat(stream.fileno())
            if _key(before) != key or _key(after) != key:
                return known  # it is being written to
            if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < GRAIN_NS:
                return known
            self._changed = True
        self._used[key] = known
        return known

    def note(self, path: Path, digest: str) -> None:
        """Say what a file just written contains: its hex sha256."""
        self._used[_key(path.stat())] = digest
        self._changed = True

    def save(self) -> None:
        """Keep what was learnt; of what was not used now, as much as there is room for."""
        if not self._changed:
            return
        old = self._load()
        kept = dict(self._used)
        for key, digest in old.items():
            if len(kept) >= ENTRIES_MAX:
                break
            kept.setdefault(key, digest)
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, msgspec.msgpack.encode((_FORMAT, kept)), durable=False)

    def _load(self) -> dict[str, str]:
        with self._lock:
            if self._known is None:
                self._known = {}
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    data = self._file.read_bytes()
                    made, known = msgspec.msgpack.decode(data, type=tuple[int, dict[str, str]])
                    self._known = known if made == _FORMAT else {}
            return self._known


def _key(status: os.stat_result) -> str:
    return (
        f"{status.st_dev:x}.{status.st_ino:x}.{status.st_size:x}"
        f".{status.st_mtime_ns:x}.{status.st_ctime_ns:x}"
    )
