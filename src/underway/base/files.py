"""Files that are whole or absent, never half-written."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` in one step (write aside, fsync, rename, fsync the directory).

    Args:
        path: the file; its directory must exist.
        data: the whole content; text is written as UTF-8.
        mode: permission bits of the file.
        durable: whether the content must survive a power cut.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    payload = data.encode() if isinstance(data, str) else data
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(payload)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if durable:
        fsync_dir(path.parent)


def fsync_dir(path: Path) -> None:
    """Make renames and creations in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
