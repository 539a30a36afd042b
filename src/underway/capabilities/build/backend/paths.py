"""Paths inside a root directory, symbolic links followed as a process in that root would."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from underway.base.errors import BadRequest

LINKS_MAX = 40


def inside(root: Path, path: str, *, follow_last: bool = True) -> Path:
    """Where ``path`` of the tree at ``root`` lies; parts that do not exist are taken as they are.

    Raises:
        BadRequest: symbolic links go round in a circle.
    """
    todo = [part for part in path.split("/") if part not in ("", ".")][::-1]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if (todo or follow_last) and here.is_symlink():
            links += 1
            if links > LINKS_MAX:
                raise BadRequest(f"too many symbolic links in {path}")
            target = os.readlink(here)  # noqa: PTH115  # Path would drop a trailing slash
            if target.startswith("/"):
                done = []
            todo += [each for each in target.split("/") if each not in ("", ".")][::-1]
            continue
        done.append(part)
    return root.joinpath(*done)


def make_directories(root: Path, path: Path, owner: tuple[int, int] = (0, 0)) -> list[Path]:
    """Create a directory below ``root`` with its parents, mode 0755; those made, outermost first.

    ``path`` comes from ``inside``.
    """
    missing = []
    while path != root and not path.exists():
        missing.append(path)
        path = path.parent
    if not path.is_dir():
        raise BadRequest(f"/{path.relative_to(root)} is not a directory")
    for each in reversed(missing):
        each.mkdir()
        each.chmod(0o755)
        os.chown(each, *owner)
    return missing[::-1]


def read_text(root: Path, path: str) -> str:
    """A small file of a tree, or empty where there is none."""
    found = inside(root, path)
    try:
        if not stat.S_ISREG(found.stat().st_mode):
            return ""
        with found.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return ""
