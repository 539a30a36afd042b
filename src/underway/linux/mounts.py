"""Mounts: overlays, binds, and threads that have a mount namespace of their own.

Sources: mount(2), umount2(2), unshare(2), Linux ``Documentation/filesystems/overlayfs.rst``.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from underway.base.errors import BadRequest, InternalError

T = TypeVar("T")

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
CLONE_FS = 0x200
CLONE_NEWNS = 0x20000

LAYERS_MAX = 180
"""Lower directories of one overlay: what fits the page that mount(2) takes its options in."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, doing: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise InternalError(f"{doing}: {os.strerror(code)}") from OSError(code, os.strerror(code))


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2).

    Raises:
        InternalError: naming source, target and the system's reason.
    """
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(kind) or None,
        ctypes.c_ulong(flags),
        os.fsencode(options) or None,
    )
    _check(result, f"mount {kind or source} on {target}")


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Make ``source`` visible at ``target``, which must exist and be of the same type."""
    mount(str(source), target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def unmount(target: Path) -> None:
    """Take away what is mounted on ``target``; nothing mounted there is no error."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):
            raise InternalError(f"unmount {target}: {os.strerror(code)}")


def mount_overlay(
    lowers: Sequence[Path],
    upper: Path | None,
    work: Path | None,
    target: Path,
    *,
    volatile: bool = False,
) -> None:
    """Mount directories over one another.

    Args:
        lowers: read-only directories, topmost first; 1 to ``LAYERS_MAX``.
        upper: where writes go, or None for a read-only mount.
        work: an empty directory on the file system of ``upper``.
        target: the mount point.
        volatile: skip syncing; for a tree that is thrown away when the machine stops.

    Raises:
        BadRequest: there are no, or too many, lower directories.
        InternalError: the kernel refused.
    """
    if not 1 <= len(lowers) <= LAYERS_MAX:
        raise BadRequest(f"an image must have 1 to {LAYERS_MAX} layers, not {len(lowers)}")
    if upper is None and len(lowers) == 1:
        bind(lowers[0], target, read_only=True)  # overlayfs wants two directories at least
        return
    # Lower directories are named by descriptors: that keeps the options below one page however
    # long the paths are, and no character of a path needs escaping.
    opened: list[int] = []
    try:
        for path in [*lowers, *(p for p in (upper, work) if p)]:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.append(descriptor)
        names = [f"/proc/self/fd/{descriptor}" for descriptor in opened]
        options = [f"lowerdir={':'.join(names[: len(lowers)])}"]
        if upper and work:
            options += [f"upperdir={names[-2]}", f"workdir={names[-1]}"]
            # Layers must mean the same wherever they are stacked: nothing in them may refer to
            # another directory by handle, as redirects, indexes and metadata-only copies do.
            # With attributes of the user's, overlayfs knows no "off": it never makes redirects.
            redirects = "nofollow" if in_user_namespace() else "off"
            options += [f"redirect_dir={redirects}", "index=off", "metacopy=off"]
            if volatile:
                options.append("volatile")
        if in_user_namespace():
            options.append("userxattr")
        flags = 0 if upper else MS_RDONLY
        mount("overlay", target, "overlay", flags, ",".join(options))
    except FileNotFoundError as error:
        raise InternalError(f"cannot mount {target}: {error.filename} is gone") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


@functools.cache
def in_user_namespace() -> bool:
    """Whether this process's root is not the machine's."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def mapped_groups() -> int:
    """How many group ids this user namespace has."""
    lines = Path("/proc/self/gid_map").read_text().splitlines()
    return sum(int(line.split()[2]) for line in lines)


def mounts_below(root: Path) -> list[Path]:
    """Mount points at or below ``root`` in this thread's mount namespace, innermost first."""
    prefix = str(root).rstrip("/")
    found = []
    for line in Path("/proc/thread-self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point == prefix or point.startswith(prefix + "/"):
            found.append(Path(point))
    return found[::-1]


def sync_filesystem(path: Path) -> None:
    """Write out everything pending on the file system that holds ``path``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _check(_libc.syncfs(descriptor), f"sync {path}")
    finally:
        os.close(descriptor)


def with_own_mounts(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that has a mount namespace of its own, and return its result.

    Whatever it and the programs it starts mount is seen by them alone, and is gone when they are,
    however they end.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def main() -> None:
        try:
            _check(_libc.unshare(CLONE_FS | CLONE_NEWNS), "unshare the mount namespace")
            mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
            result.append(work())
        except BaseException as error:  # noqa: BLE001  # handed on to the caller below
            failure.append(error)

    thread = threading.Thread(target=main, name="own-mounts", daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        thread.join(timeout=10)
        raise
    if failure:
        raise failure[0]
    return result[0]
