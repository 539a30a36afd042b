"""Packages' files in a tree, as dpkg would place them, and dpkg's own records of them.

Nothing of a package is run. Source: dpkg(1), deb-conffiles(5), deb-triggers(5), dpkg's
``/var/lib/dpkg`` (status, info, diversions, triggers); Debian's merged /usr.
"""

# Paths are plain strings here: this runs for every file of every package.
# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH123, PTH211

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import translate
from pathlib import Path

from underway.base.errors import BadRequest
from underway.capabilities.build.backend.debian.package import Package
from underway.capabilities.build.rules.debian import installed, status_entry
from underway.linux import layer_tar
from underway.linux.layers import TarStream

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
DPKG = "var/lib/dpkg"
STATUS_PARTS = "var/lib/dpkg/status.d"
_LINKS_MAX = 40
_AHEAD_BYTES_MAX = 96 << 20
_AHEAD = 3  # packages decompressed before they are asked for


class Tree:
    """A file system being made below ``root``, which is empty or holds what stands already."""

    def __init__(self, root: Path, exclude: Iterable[str] = (), keep: Iterable[str] = ()) -> None:
        self.root = str(root)
        self._exclude = _either(exclude)
        kept = list(keep)
        self._keep = _either(kept)
        self._keep_below = _either(each.rpartition("/")[0] for each in kept)
        self._owners: dict[str, Package] = {}
        self._times: dict[str, int] = {}
        self._parents: dict[str, str] = {}
        self.packages: list[Package] = []

    def full(self, path: str) -> str:
        """Where a path of the image lies here; links in it are followed within the tree.

        Raises:
            BadRequest: links lead in a circle.
        """
        parent, _, name = path.strip("/").rpartition("/")
        below = self._real(parent)
        return f"{self.root}/{below}/{name}" if below else f"{self.root}/{name}"

    def unpack(self, packages: Iterable[Package]) -> None:
        """Place packages' files.

        Raises:
            BadRequest: a package is broken, leads out of the tree, or two have the same file.
        """
        for name in ("usr", *(f"usr/{each}" for each in MERGED[:3])):
            self.directory(name, 0o755)
        for package, chunks in _ahead(packages):
            self._unpack(package, chunks)
        for full, mtime in reversed(self._times.items()):
            os.utime(full, (mtime, mtime))

    def directory(self, path: str, mode: int) -> str:
        """Make a directory, where links in its path lead within the tree, unless it is there."""
        real = self._real(path.strip("/"))
        full = f"{self.root}/{real}"
        if not os.path.isdir(full):
            if above := real.rpartition("/")[0]:
                self.directory(above, 0o755)
            os.mkdir(full)
            os.chmod(full, mode)
        return full

    def write(
        self, path: str, content: str | bytes, mode: int = 0o644, uid: int = 0, gid: int = 0
    ) -> None:
        """Write a file in place of what is there."""
        self._need_parent(path)
        full = self.full(path)
        _clear(full)
        with open(full, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chown(full, uid, gid)
        os.chmod(full, mode)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link in place of what is there."""
        self._need_parent(path)
        full = self.full(path)
        _clear(full)
        os.symlink(target, full)

    def forget(self, path: str) -> None:
        """Take note that a directory, and all below it, is no more."""
        gone = path.strip("/")
        kept = {
            k: v for k, v in self._parents.items() if k != gone and not k.startswith(f"{gone}/")
        }
        self._parents = kept
        full = f"{self.root}/{gone}"
        self._times = {
            k: v for k, v in self._times.items() if k != full and not k.startswith(f"{full}/")
        }

    def exists(self, path: str) -> bool:
        """Whether something is there; a link counts wherever it leads."""
        return os.path.lexists(self.full(path))

    def resolved(self, path: str) -> Path | None:
        """The file or directory a path leads to within the tree, or nothing."""
        full = f"{self.root}/{self._real(path.strip('/'))}"
        return Path(full) if os.path.lexists(full) else None

    def read(self, path: str) -> str:
        """A file's text; empty where there is none."""
        found = self.resolved(path)
        return found.read_text("utf-8", "surrogateescape") if found and found.is_file() else ""

    def _real(self, path: str, depth: int = 0) -> str:
        """A directory's path with every link in it followed, within the root."""
        known = self._parents.get(path)
        if known is not None or not path:
            return known or ""
        if depth > _LINKS_MAX:
            raise BadRequest(f"/{path}: its links lead in a circle")
        parent, _, name = path.rpartition("/")
        above = self._real(parent, depth)
        here = f"{above}/{name}" if above else name
        full = f"{self.root}/{here}"
        if os.path.islink(full):
            target = os.readlink(full)
            parts = [] if target.startswith("/") else above.split("/") if above else []
            for part in target.split("/"):
                if part == "..":
                    parts = parts[:-1]
                elif part not in ("", "."):
                    parts = [*parts, part]
            return self._real("/".join(parts), depth + 1)
        if os.path.isdir(full):
            self._parents[path] = here
        return here

    def _need_parent(self, path: str) -> None:
        parent = path.strip("/").rpartition("/")[0]
        if parent and not os.path.isdir(f"{self.root}/{self._real(parent)}"):
            self.directory(parent, 0o755)

    def _unpack(self, package: Package, chunks: Iterator[bytes]) -> None:
        listed = ["/."]
        try:
            for info, archive in layer_tar.entries(TarStream(chunks)):
                path = layer_tar.clean_path(info.name)
                if not path:
                    continue
                listed.append(f"/{path}")
                if not self._left_out(path, info):
                    self._place(path, info, archive, package)
        except BadRequest as error:
            raise BadRequest(f"{package.title}: {error.message}", hint=error.hint) from error
        except (OSError, ValueError) as error:  # a name the system cannot have
            raise BadRequest(f"{package.title}: {error}") from error
        package.control["list"] = "".join(f"{line}\n" for line in listed).encode(
            "utf-8", "surrogateescape"
        )
        self.packages.append(package)

    def _left_out(self, path: str, info: tarfile.TarInfo) -> bool:
        if self._exclude is None or not self._exclude.match(f"/{path}"):
            return False
        if info.isdir():  # it may hold what is kept; made when that is placed
            return True
        if info.issym() and self._keep_below is not None and self._keep_below.match(f"/{path}"):
            return False  # it may stand for a directory that holds what is kept
        return self._keep is None or not self._keep.match(f"/{path}")

    def _place(
        self, path: str, info: tarfile.TarInfo, archive: tarfile.TarFile, package: Package
    ) -> None:
        top, _, rest = path.partition("/")
        if top in MERGED:
            self._merge(top)
            if not rest:
                return
        self._need_parent(path)
        full = self.full(path)
        if info.isdir():
            if os.path.islink(full):  # a link to a directory stays, as with dpkg
                if os.path.isdir(f"{self.root}/{self._real(path)}"):
                    return
                self.forget(path)
            if not os.path.isdir(full) or os.path.islink(full):
                _clear(full)
                os.mkdir(full)
            self._stamp(full, info)
            self._times[full] = int(info.mtime)
            return
        if not self._gives_way(path, full, package):
            return
        if os.path.isdir(full) and not os.path.islink(full):
            raise BadRequest(f"/{path} is a directory already")
        _clear(full)
        if info.islnk():
            target = self.full(layer_tar.clean_path(info.linkname))
            os.link(target, full, follow_symlinks=False)
            return
        if info.issym():
            os.symlink(info.linkname, full)
        elif info.isreg():
            with open(full, "xb", buffering=0) as file:
                for chunk in layer_tar.contents(info, archive):
                    file.write(chunk)
        else:
            raise BadRequest(f"/{path} is neither file, directory nor link")
        self._stamp(full, info)
        os.utime(full, (int(info.mtime), int(info.mtime)), follow_symlinks=False)

    def _merge(self, top: str) -> None:
        """/bin and its like are links into /usr, made when the first file needs one."""
        full = f"{self.root}/{top}"
        if not os.path.islink(full):
            if os.path.isdir(full):
                raise BadRequest(f"/{top} is a directory, not a link into /usr")
            self.directory(f"usr/{top}", 0o755)
            os.symlink(f"usr/{top}", full)

    def _gives_way(self, path: str, full: str, package: Package) -> bool:
        """Whether a package's file is placed, though another package may have it too."""
        other = self._owners.get(full)
        if other is not None and other is not package:
            if _replaces(other, package):
                return False
            if not _replaces(package, other) and other.fields.get("Multi-Arch") != "same":
                raise BadRequest(f"/{path} is in {other.title} too")
        self._owners[full] = package
        return True

    @staticmethod
    def _stamp(full: str, info: tarfile.TarInfo) -> None:
        os.chown(full, info.uid, info.gid, follow_symlinks=False)
        if not info.issym():
            os.chmod(full, info.mode & 0o7777)


def record(tree: Tree, *, full: bool) -> None:
    """Write what dpkg knows of the packages unpacked: its database, or ``full`` not, status.d.

    The short form is that of images without dpkg; scanners read both.
    """
    if not full:
        for package in tree.packages:
            entry = status_entry(package.script("control"), ())
            tree.write(f"{STATUS_PARTS}/{package.name}", entry)
            if sums := package.control.get("md5sums"):
                tree.write(f"{STATUS_PARTS}/{package.name}.md5sums", sums)
        return
    _fill_database(tree)


def _fill_database(tree: Tree) -> None:
    entries = {
        one["Package"]: "\n".join(f"{key}: {value}" for key, value in one.items()) + "\n"
        for one in installed(tree.read(f"{DPKG}/status"))
    }
    triggers: dict[str, list[str]] = {}
    for package in tree.packages:
        entries[package.name] = status_entry(package.script("control"), _conffiles(tree, package))
        for member, content in package.control.items():
            if member != "control":
                executable = member in ("preinst", "postinst", "prerm", "postrm", "config")
                target = f"{DPKG}/info/{package.info_name}.{member}"
                tree.write(target, content, 0o755 if executable else 0o644)
        _interests(package, triggers)
    for name in ("updates", "parts", "triggers", "alternatives"):
        tree.directory(f"{DPKG}/{name}", 0o755)
    tree.write(f"{DPKG}/info/format", "1\n")
    tree.write(f"{DPKG}/status", "\n".join(entries[name] for name in sorted(entries)))
    for name, lines in triggers.items():
        was = tree.read(f"{DPKG}/triggers/{name}")
        tree.write(f"{DPKG}/triggers/{name}", was + "".join(f"{line}\n" for line in lines))
    if not tree.exists(f"{DPKG}/diversions"):
        tree.write(f"{DPKG}/diversions", "")
    for name in ("lock", "lock-frontend"):
        tree.write(f"{DPKG}/{name}", "", 0o640)
    tree.write(f"{DPKG}/triggers/Unincorp", "")


def _conffiles(tree: Tree, package: Package) -> list[tuple[str, str]]:
    found = []
    for line in package.lines("conffiles"):
        path = line.split()[-1]
        file = tree.resolved(path)
        if file and file.is_file():
            found.append((path, hashlib.md5(file.read_bytes()).hexdigest()))  # noqa: S324  # dpkg's
    return found


def _interests(package: Package, triggers: dict[str, list[str]]) -> None:
    for line in package.lines("triggers"):
        word, _, name = line.split("#")[0].strip().partition(" ")
        if not word.startswith("interest"):
            continue
        who = f"{package.info_name}{'/noawait' if word.endswith('noawait') else ''}"
        if name.startswith("/"):
            triggers.setdefault("File", []).append(f"{name} {who}")
        elif re.fullmatch(r"[\w.+-]+", name):
            triggers.setdefault(name, []).append(who)


def _replaces(one: Package, other: Package) -> bool:
    names = re.findall(
        r"[a-z0-9][a-z0-9+.-]+", re.sub(r"\([^)]*\)", "", one.fields.get("Replaces", ""))
    )
    provided = re.findall(r"[a-z0-9][a-z0-9+.-]+", other.fields.get("Provides", ""))
    return other.name in names or any(name in names for name in provided)


def _either(globs: Iterable[str]) -> re.Pattern[str] | None:
    """One pattern for all globs; as in dpkg, a star also matches slashes."""
    found = [translate(each) for each in globs]
    return re.compile("|".join(found)) if found else None


def _clear(full: str) -> None:
    try:
        if not stat.S_ISDIR(os.lstat(full).st_mode):
            os.unlink(full)
    except FileNotFoundError:
        pass


def _ahead(packages: Iterable[Package]) -> Iterator[tuple[Package, Iterator[bytes]]]:
    """Packages with their data; the next ones are decompressed while one is written."""

    def inflated(package: Package) -> Iterator[bytes]:
        size_kib = package.fields.get("Installed-Size", "")
        declared_bytes = int(size_kib) << 10 if size_kib.isdecimal() else _AHEAD_BYTES_MAX + 1
        if declared_bytes > _AHEAD_BYTES_MAX:
            return package.data()
        return iter(list(package.data()))

    waiting: deque[tuple[Package, Future[Iterator[bytes]]]] = deque()
    with ThreadPoolExecutor(2, thread_name_prefix="deb") as pool:
        for package in packages:
            waiting.append((package, pool.submit(inflated, package)))
            if len(waiting) > _AHEAD:
                ready, future = waiting.popleft()
                yield ready, future.result()
        while waiting:
            ready, future = waiting.popleft()
            yield ready, future.result()
