"""Building in the container's own root directory, as kaniko does: no mounts, no namespaces.

The base image is laid into ``/``; each step works there, and what it changed is found by comparing
every file's status before and after. Nothing is ever removed or overwritten but what was laid
there or what steps made. What the container brought itself, everything mounted into it, the home
and the program are left out of images, and are an error where an image wants their place.
"""

# Paths are plain strings here: this runs for every file of every image.
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH115

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from underway.base.errors import BadRequest, Forbidden
from underway.base.home import Home
from underway.capabilities.build.backend import running
from underway.capabilities.build.backend.paths import inside, read_text
from underway.capabilities.build.backend.rooms import Room
from underway.capabilities.build.backend.stopping import Stop
from underway.capabilities.build.rules.identity import identity
from underway.capabilities.build.rules.keys import framed
from underway.linux.layer_tar import KEPT_XATTRS, OVERLAY_XATTRS, is_opaque, set_opaque
from underway.linux.layers import LayerStore, Scratch

_MARKS = ("/.dockerenv", "/run/.containerenv", "/kaniko")
_OWN = ("proc", "sys", "dev", "kaniko")

Signature = tuple[int, ...]


class InPlace:
    """``Grounds`` on one directory tree that one step at a time works in."""

    stages_at_once = 1

    def __init__(self, layers: LayerStore, root: Path, kept: Collection[str]) -> None:
        """``kept`` are paths below the root, without a leading slash, that are not the image's."""
        self._layers, self._root = layers, str(root).rstrip("/")
        self._kept = {path.strip("/") for path in (*kept, *_OWN)}
        self._kept |= {path for path, mode in self._walk() if not stat.S_ISDIR(mode.st_mode)}
        self._brought = {path for path, _ in self._walk()}  # directories that were here before
        self._holds: tuple[str, ...] = ()
        self._by = ""  # the stage that has made a step on top of what is held, or empty
        self._whole = True

    @classmethod
    @contextlib.contextmanager
    def here(cls, home: Home, *, forced: bool, ignored: Collection[str]) -> Iterator[InPlace]:
        """On this container's root directory; what was laid there is removed afterwards.

        Raises:
            Forbidden: this does not look like a container, and nobody forced it.
        """
        if not forced and not _in_container():
            raise Forbidden(
                "building in place writes into /, and this does not look like a container",
                hint="without --in-place nothing of the machine is touched; --force does it anyway",
            )
        program = {sys.prefix, sys.base_prefix, str(Path(__file__).parents[4])}
        kept = {str(home.root), *ignored, *_mount_points(), *(p for p in program if p != "/usr")}
        grounds = cls(LayerStore(home.layers), Path("/"), kept)
        try:
            yield grounds
        finally:
            grounds.clear()

    def clear(self) -> None:
        """Remove what was laid here and what steps made."""
        for path, status in sorted(self._walk(), reverse=True):
            full = f"{self._root}/{path}"
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(full)
            elif path not in self._brought:
                with contextlib.suppress(OSError):  # something kept lies in it
                    os.rmdir(full)
        self._holds, self._by, self._whole = (), "", True

    @contextlib.contextmanager
    def changing(
        self, diff_ids: Sequence[str], scratch: Scratch, room: Room, *, runs: bool
    ) -> Iterator[Path]:
        """As ``Grounds``."""
        del runs
        self._hold(tuple(diff_ids), room)
        before = self._snapshot()
        self._whole = False
        yield Path(self._root or "/")
        self._collect(before, self._snapshot(), str(scratch.upper))
        self._whole, self._by = True, room.id

    def reading(self, diff_ids: Sequence[str], room: Room) -> Path:
        """As ``Grounds``."""
        point = room.path / "from" / framed(list(diff_ids))[:16]
        if not point.exists():
            point.mkdir(parents=True)
            for diff_id in diff_ids:
                _lay(self._layers.path(diff_id), str(point), set())
        return point

    def run(
        self, room: Room, root: Path, command: running.Command, tell: running.Tell, stop: Stop
    ) -> running.Ended:
        """As ``Grounds``; network and process ids are the container's own."""
        if command.network == "none":
            raise BadRequest("RUN --network=none needs a network namespace: not in place")
        who = identity(command.user, read_text(root, "etc/passwd"), read_text(root, "etc/group"))
        chroot = self._root
        pids: list[int] = []

        def born() -> None:
            if chroot:
                os.chroot(chroot)
            os.chdir(command.cwd)
            os.setgroups(list(who.groups))
            os.setgid(who.gid)
            os.setuid(who.uid)

        def end() -> None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

        with self._placed(room, command):
            try:
                return running.watch(
                    list(command.argv),
                    room,
                    command,
                    tell,
                    stop,
                    end,
                    env={"HOME": who.home, **command.environment},
                    preexec_fn=born,
                    start_new_session=True,
                    started=pids.append,
                )
            finally:
                end()

    # What the root holds

    def _hold(self, diff_ids: tuple[str, ...], room: Room) -> None:
        """Make the root hold just these layers."""
        if not self._whole:
            self.clear()
        held, own = self._holds, self._by == room.id
        if self._by:
            if own and diff_ids[: len(held)] == held and len(diff_ids) <= len(held) + 1:
                for diff_id in diff_ids[len(held) :]:  # what the last step here made
                    self._restamp(self._layers.path(diff_id))
                held = diff_ids
            else:
                self.clear()
                held = ()
        if diff_ids[: len(held)] != held:
            self.clear()
            held = ()
        for diff_id in diff_ids[len(held) :]:
            _lay(self._layers.path(diff_id), self._root, self._kept)
        self._holds, self._by = diff_ids, ""

    def _restamp(self, tree: Path) -> None:
        """Give files the times their layer says: later steps see them as in any other build."""
        for path, status in sorted(_entries(str(tree)), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                if not _is_whiteout(status) and path not in self._kept:
                    moment = (status.st_mtime_ns, status.st_mtime_ns)
                    os.utime(f"{self._root}/{path}", ns=moment, follow_symlinks=False)

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        return _entries(self._root or "/", self._kept)

    def _snapshot(self) -> dict[str, Signature]:
        return {path: _signature(status) for path, status in self._walk()}

    def _collect(
        self, before: dict[str, Signature], after: dict[str, Signature], upper: str
    ) -> None:
        """Write what differs as an overlay's upper directory."""
        changed = {path for path, found in after.items() if before.get(path) != found}
        gone = [path for path in sorted(before) if path not in after]
        # A directory that was removed and made again hides what the first one held.
        again = {
            path
            for path in changed & before.keys()
            if stat.S_ISDIR(after[path][1]) and before[path][0] != after[path][0]
        }
        hidden = [path for path in gone if _parents(path).isdisjoint({*gone, *again})]
        wanted = changed | {parent for path in (*changed, *hidden) for parent in _parents(path)}
        links: dict[tuple[int, int], str] = {}
        for path in sorted(wanted):
            _copy(f"{self._root}/{path}", f"{upper}/{path}", links)
            if path in again:
                set_opaque(f"{upper}/{path}")
        for path in hidden:
            os.mknod(f"{upper}/{path}", stat.S_IFCHR, os.makedev(0, 0))
        for path in sorted(wanted, reverse=True):
            status = os.lstat(f"{self._root}/{path}")
            moment = (status.st_mtime_ns, status.st_mtime_ns)
            os.utime(f"{upper}/{path}", ns=moment, follow_symlinks=False)

    @contextlib.contextmanager
    def _placed(self, room: Room, command: running.Command) -> Iterator[None]:
        """Lend what other grounds mount: as links; files of the image step aside meanwhile."""
        root = Path(self._root or "/")
        lent = [(bind.source, bind.target) for bind in command.binds]
        for number, target in enumerate(command.tmpfs):
            folder = room.path / f"tmpfs-{number}"
            folder.mkdir(exist_ok=True)
            lent.append((str(folder), target))
        with contextlib.ExitStack() as undone:
            for source, target in lent:
                undone.enter_context(_lending(root, source, target, copies=bool(self._root)))
            yield


@contextlib.contextmanager
def _lending(root: Path, source: str, target: str, *, copies: bool) -> Iterator[None]:
    place = inside(root, target)
    made = []
    for parent in reversed(place.parents):
        if not parent.exists():
            parent.mkdir(mode=0o755)
            made.append(parent)
    above = (made[0] if made else place).parent
    times = above.stat()
    aside = place.with_name(f".underway-aside-{place.name}")
    had = os.path.lexists(place)
    if had:
        place.rename(aside)
    try:
        if not copies:
            place.symlink_to(source)
        elif Path(source).is_dir():
            shutil.copytree(source, place, symlinks=True)
        else:
            shutil.copy2(source, place)
        yield
    finally:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        if had:
            aside.rename(place)
        for parent in reversed(made):
            with contextlib.suppress(OSError):
                parent.rmdir()
        os.utime(above, ns=(times.st_atime_ns, times.st_mtime_ns))


def _in_container() -> bool:
    if any(map(os.path.exists, _MARKS)):
        return True
    named = os.environ.get("container")  # noqa: SIM112  # systemd and podman spell it so
    return bool(named or os.environ.get("KUBERNETES_SERVICE_HOST"))


def _mount_points() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {line.split(" ")[4].encode().decode("unicode_escape") for line in lines}
    return points - {"/"}


def _entries(
    root: str, kept: Collection[str] = (), below: str = ""
) -> Iterator[tuple[str, os.stat_result]]:
    """(path, status) of all below a directory but what is kept, each directory first."""
    with os.scandir(f"{root}/{below}") as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        path = f"{below}/{name}" if below else name
        if path in kept:
            continue
        status = os.lstat(f"{root}/{path}")
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _entries(root, kept, path)


def _signature(status: os.stat_result) -> Signature:
    """What changes when a file does; a directory's change time also tells of links to it."""
    own = (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return own
    return (*own, status.st_size, status.st_ctime_ns, status.st_rdev)


def _parents(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:end]) for end in range(1, len(parts))}


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _lay(tree: Path, root: str, kept: Collection[str]) -> None:
    """Put a layer on what a directory holds."""
    links: dict[tuple[int, int], str] = {}
    folders: list[tuple[str, os.stat_result]] = []
    for path, status in _entries(str(tree), kept):
        full, target = f"{tree}/{path}", f"{root}/{path}"
        there = _mode_of(target)
        directory = stat.S_ISDIR(status.st_mode)
        if directory:
            folders.append((target, status))
        if there and not (directory and stat.S_ISDIR(there)):
            _remove(target, path, kept)
        elif directory and there and is_opaque(full):
            for name in os.listdir(target):  # noqa: PTH208
                _remove(f"{target}/{name}", f"{path}/{name}", kept)
        if not _is_whiteout(status):
            _copy(full, target, links)
    for target, status in reversed(folders):
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _mode_of(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def _remove(full: str, path: str, kept: Collection[str]) -> None:
    if path in kept:
        return
    if not stat.S_ISDIR(os.lstat(full).st_mode):
        os.unlink(full)
        return
    for name in os.listdir(full):  # noqa: PTH208
        _remove(f"{full}/{name}", f"{path}/{name}", kept)
    with contextlib.suppress(OSError):  # something kept lies in it
        os.rmdir(full)


def _copy(source: str, target: str, links: dict[tuple[int, int], str]) -> None:
    """Copy one file or directory with its owner, mode, attributes and time, not what is in it."""
    status = os.lstat(source)
    kind, identity_ = stat.S_IFMT(status.st_mode), (status.st_dev, status.st_ino)
    if kind == stat.S_IFDIR:
        with contextlib.suppress(FileExistsError):
            os.mkdir(target)
    elif identity_ in links:
        os.link(links[identity_], target, follow_symlinks=False)
        return
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), target)  # noqa: PTH211  # a text, not a path to follow
    elif kind == stat.S_IFREG:
        shutil.copyfile(source, target, follow_symlinks=False)
    elif kind != stat.S_IFSOCK:
        os.mknod(target, status.st_mode, status.st_rdev)
    else:
        return
    if status.st_nlink > 1 and kind != stat.S_IFDIR:
        links[identity_] = target
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if kind == stat.S_IFLNK:
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
        return
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if name.startswith(KEPT_XATTRS) and not name.startswith(OVERLAY_XATTRS):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
