"""Users and groups by an image's own /etc/passwd and /etc/group, and file modes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def identity(user: str, passwd: str, group: str) -> Identity:
    """The identity that ``USER`` names: ``name``, ``uid``, ``name:group``, ``uid:gid``; or root.

    Raises:
        ValueError: the image has no user or group of that name.
    """
    name, _, group_name = (user or "0").partition(":")
    row = _find(passwd, name, 7)
    if row is None and not name.isdigit():
        raise ValueError(f"the image has no user {name}")
    uid = int(row[2]) if row else int(name)
    gid = int(row[3]) if row else 0
    home = row[5] if row else "/"
    if group_name:
        chosen = group_id(group_name, group)
        return Identity(uid, chosen, (chosen,), home or "/")
    login = row[0] if row else ""
    rows = (line.split(":") for line in group.splitlines())
    groups = [int(r[2]) for r in rows if len(r) == 4 and login and login in r[3].split(",")]
    return Identity(uid, gid, tuple(sorted({*groups, gid})), home or "/")


def group_id(name: str, group: str) -> int:
    """A group's number.

    Raises:
        ValueError: the image has no such group.
    """
    row = _find(group, name, 4)
    if row is None and not name.isdigit():
        raise ValueError(f"the image has no group {name}")
    return int(row[2]) if row else int(name)


def owner(chown: str, passwd: str, group: str) -> tuple[int, int]:
    """(uid, gid) of ``--chown``. A name alone brings its group, a number the group of that number.

    Raises:
        ValueError: the image has no such user or group.
    """
    name, _, group_name = chown.partition(":")
    row = _find(passwd, name, 7)
    if row is None and not name.isdigit():
        raise ValueError(f"the image has no user {name}")
    uid = int(row[2]) if row else int(name)
    if group_name:
        return uid, group_id(group_name, group)
    return uid, uid if name.isdigit() or row is None else int(row[3])


def _find(table: str, name: str, width: int) -> list[str] | None:
    """The row of a name, or else of a number."""
    rows = [row for row in (line.split(":") for line in table.splitlines()) if len(row) == width]
    rows = [row for row in rows if row[2].isdigit() and (width != 7 or row[3].isdigit())]
    named = (row for row in rows if row[0] == name)
    numbered = (row for row in rows if row[2] == name)
    return next(named, None) or next(numbered, None)


def chmod(mode: int, change: str, *, directory: bool) -> int:
    """A file's mode after ``--chmod``, octal or symbolic (``u=rwX,go=rX``).

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch(r"[0-7]{1,5}", change):
        return int(change, 8) & 0o7777
    for clause in change.split(","):
        match = re.fullmatch(r"([ugoa]*)([+=-])([rwxXst]*)", clause)
        if not match:
            raise ValueError(f"--chmod={change}: {clause!r} is no mode")
        mode = _clause(mode, match[1] or "a", match[2], match[3], directory=directory)
    return mode


def _clause(mode: int, who: str, sign: str, letters: str, *, directory: bool) -> int:
    classes = {c for each in who for c in ("ugo" if each == "a" else each)}
    bits = mask = 0
    for each in classes:
        shift = {"u": 6, "g": 3, "o": 0}[each]
        mask |= 7 << shift
        for letter in letters:
            if letter in "rwx":
                bits |= {"r": 4, "w": 2, "x": 1}[letter] << shift
            elif letter == "X" and (directory or mode & 0o111):
                bits |= 1 << shift
        if "s" in letters:
            bits |= {"u": 0o4000, "g": 0o2000, "o": 0}[each]
    if "t" in letters:
        bits |= 0o1000
    if sign == "+":
        return mode | bits
    return mode & ~bits if sign == "-" else (mode & ~mask) | bits
