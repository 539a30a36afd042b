"""Copying files into an image's root, as COPY does.

Source: BuildKit ``docs/reference.md`` (COPY); its treatment of directories that exist.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from underway.base.errors import BadRequest
from underway.capabilities.build.backend.paths import inside, make_directories
from underway.capabilities.build.backend.trees import Entry, Source, Tree
from underway.capabilities.build.rules.identity import chmod
from underway.wire.dockerignore import IgnoreRules

COPY_BYTES = 1 << 30  # of one call


@dataclass(frozen=True, slots=True)
class Manner:
    """How files arrive: None keeps the owner or time the source has; so does an empty chmod."""

    owner: tuple[int, int] | None = (0, 0)
    chmod: str = ""
    mtime_s: int | None = None


def copy_into(
    root: Path,
    tree: Tree,
    sources: Sequence[Source],
    destination: str,
    manner: Manner,
    excludes: IgnoreRules | None = None,
) -> None:
    """Copy sources to an absolute path of the image mounted at ``root``.

    Raises:
        BadRequest: a directory would replace a file or a file a directory.
    """
    target = inside(root, destination)
    into = destination.endswith(("/", "/.")) or len(sources) > 1 or target.is_dir()
    for source in sources:
        entries = list(tree.walk(source.relative, excludes))
        copier = _Copier(root, manner)
        if stat.S_ISDIR(entries[0].status.st_mode):
            copier.contents(entries, target)
        else:
            final = inside(root, f"{target.relative_to(root)}/{source.name}") if into else target
            copier.parents(final.parent)
            copier.one(entries[0], final)
        copier.finish()


class _Copier:
    def __init__(self, root: Path, manner: Manner) -> None:
        self._root = root
        self._manner = manner
        self._links: dict[tuple[int, int], Path] = {}
        self._directories: list[tuple[Path, os.stat_result]] = []

    def parents(self, directory: Path) -> None:
        """Create what is missing on the way to a target."""
        make_directories(self._root, directory, self._manner.owner or (0, 0))

    def contents(self, entries: list[Entry], target: Path) -> None:
        """What a directory holds; a target that exists keeps its own owner and mode."""
        made = make_directories(self._root, target, self._manner.owner or (0, 0))
        if made and made[-1] == target:
            self._stamp(entries[0], target)
        places = {"": target}
        for entry in entries[1:]:
            parent, _, name = entry.path.rpartition("/")
            place = places[parent] / name
            if stat.S_ISDIR(entry.status.st_mode):
                place = inside(self._root, str(place.relative_to(self._root)))
                if not place.exists():
                    place.mkdir()
                elif not place.is_dir():
                    raise self._clash(place, "a directory", "a file")
                places[entry.path] = place
                self._stamp(entry, place)
            else:
                self.one(entry, place)

    def one(self, entry: Entry, target: Path) -> None:
        """A file, link or device."""
        status = entry.status
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(target).st_mode):
                raise self._clash(target, "a file", "a directory")
            target.unlink()
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._links:
            os.link(self._links[identity], target, follow_symlinks=False)
            return
        self._links[identity] = target
        self._create(entry, target)
        self._stamp(entry, target)

    def finish(self) -> None:
        """Give directories their times, which filling them has changed."""
        for path, status in self._directories:
            self._set_time(path, status)

    def _create(self, entry: Entry, target: Path) -> None:
        kind = stat.S_IFMT(entry.status.st_mode)
        if kind == stat.S_IFREG:
            _copy_file(entry.full, target)
        elif kind == stat.S_IFLNK:
            target.symlink_to(os.readlink(entry.full))  # noqa: PTH115  # text as it stands
        elif kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):
            os.mknod(target, entry.status.st_mode, entry.status.st_rdev)
        else:
            raise BadRequest(f"{entry.full} is a socket and cannot be copied")

    def _stamp(self, entry: Entry, target: Path) -> None:
        status, link = entry.status, stat.S_ISLNK(entry.status.st_mode)
        directory = stat.S_ISDIR(status.st_mode)
        uid, gid = self._manner.owner or (status.st_uid, status.st_gid)
        os.chown(target, uid, gid, follow_symlinks=False)
        if not link:
            mode = stat.S_IMODE(status.st_mode)
            if self._manner.chmod:
                mode = chmod(mode, self._manner.chmod, directory=directory)
            target.chmod(mode)
            self._attributes(entry, target)
        if directory:
            self._directories.append((target, status))
        else:
            self._set_time(target, status)

    def _attributes(self, entry: Entry, target: Path) -> None:
        if self._manner.owner is not None:
            return
        for name in os.listxattr(entry.full):
            if name == "security.capability" or name.startswith("user."):
                os.setxattr(target, name, os.getxattr(entry.full, name))

    def _set_time(self, target: Path, status: os.stat_result) -> None:
        moment = self._manner.mtime_s
        moment_ns = status.st_mtime_ns if moment is None else moment * 1_000_000_000
        os.utime(target, ns=(moment_ns, moment_ns), follow_symlinks=False)

    def _clash(self, path: Path, new: str, old: str) -> BadRequest:
        return BadRequest(f"/{path.relative_to(self._root)} is {old} and cannot become {new}")


def _copy_file(source: str, target: Path) -> None:
    """Copy bytes without handling them here. ``target`` must not exist."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        reading = os.open(source, flags)
    except OSError as error:
        raise BadRequest(f"cannot read {source}: {error.strerror}") from error
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while os.sendfile(writing, reading, None, COPY_BYTES):
                pass
        finally:
            os.close(writing)
    finally:
        os.close(reading)
