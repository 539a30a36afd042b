"""Building without privileges: the whole builder in a user namespace of its own.

Its root is the calling user. With ranges in ``/etc/subuid`` and ``/etc/subgid`` all 65,536 users of
an image can own files; without, only root can, and a layer that needs another user is refused.

Sources: user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from underway.base.errors import InternalError, ServiceUnavailable

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
_MAP_TIMEOUT_S = 10


def enter_unless_root() -> None:
    """Make this process root in new user and mount namespaces, unless it is root already.

    Must be called while the process has one thread.

    Raises:
        ServiceUnavailable: the kernel or its administrator does not allow user namespaces.
    """
    if os.geteuid() == 0:
        return
    enter(_ranges(Path("/etc/subuid")), _ranges(Path("/etc/subgid")))


def enter(uids: Sequence[tuple[int, int]], gids: Sequence[tuple[int, int]]) -> None:
    """Enter new namespaces; raises as ``enter_unless_root``.

    Args:
        uids: (first, count) of the ranges that become 1, 2, ... inside; none maps the caller only.
        gids: the same of groups.
    """
    uid, gid = os.geteuid(), os.getegid()
    ranged = bool(uids and gids and shutil.which("newuidmap") and shutil.which("newgidmap"))
    # Only a process outside may map ranges: a child stays there, waits for us, and maps.
    ready = os.pipe()
    parent = os.getpid()
    child = os.fork() if ranged else 0
    if ranged and child == 0:
        os.close(ready[1])
        os.read(ready[0], 1)
        os._exit(_map(parent, uid, gid, uids, gids))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise ServiceUnavailable(
                f"cannot make a user namespace: {reason}",
                hint="build as root, or let the administrator allow user namespaces"
                " (user.max_user_namespaces, kernel.unprivileged_userns_clone)",
            )
        if ranged:
            os.write(ready[1], b"1")
        else:
            _map_self(uid, gid)
    finally:
        for each in ready:
            os.close(each)
        mapped = os.waitpid(child, 0)[1] == 0 if ranged else True
    if not mapped:
        raise InternalError("newuidmap and newgidmap refused this user's ranges in /etc/subuid")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if ranged:
        os.setgroups([])


def _map_self(uid: int, gid: int) -> None:
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise ServiceUnavailable(f"cannot map this user into its namespace: {error}") from error


def _map(
    pid: int, uid: int, gid: int, uids: Sequence[tuple[int, int]], gids: Sequence[tuple[int, int]]
) -> int:
    for program, own, ranges in (("newuidmap", uid, uids), ("newgidmap", gid, gids)):
        words, inside = ["0", str(own), "1"], 1
        for first, count in ranges:
            words += [str(inside), str(first), str(count)]
            inside += count
        try:
            done = subprocess.run(
                [program, str(pid), *words],
                capture_output=True,
                timeout=_MAP_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return 1
        if done.returncode:
            return 1
    return 0


def _ranges(file: Path) -> list[tuple[int, int]]:
    """This user's ranges of subordinate ids."""
    uid = os.geteuid()
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        rows = [line.split(":") for line in file.read_text().splitlines()]
    except OSError:
        return []
    return [(int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[0] in names]
