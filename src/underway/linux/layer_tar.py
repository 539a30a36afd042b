"""One image layer: between a tar stream (OCI) and a directory (overlayfs).

The two write "deleted below" differently. OCI has files: ``.wh.NAME`` hides NAME,
``.wh..wh..opq`` hides everything its directory had. overlayfs has a character device 0:0 in
NAME's place, and the attribute ``trusted.overlay.opaque`` on the directory.

Sources: OCI image-spec ``layer.md`` (Whiteouts), Linux ``overlayfs.rst``, POSIX pax(1).
"""

# Paths are plain strings here: this runs for every file of every image.
# ruff: noqa: PTH101, PTH102, PTH108, PTH115, PTH123, PTH211

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from underway.base.errors import BadRequest

WHITEOUT = ".wh."
OPAQUE_MARK = ".wh..wh..opq"
OPAQUE_ATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")
"""The second is overlayfs's where it is mounted in a user namespace (``userxattr``)."""
XATTR_PREFIX = "SCHILY.xattr."
KEPT_XATTRS = ("security.capability", "user.")
OVERLAY_XATTRS = "user.overlay."

ENTRIES_MAX = 3_000_000
HEADER_BYTES_MAX = 1 << 20
PATH_BYTES_MAX = 4096
CHUNK_BYTES = 1 << 20
TAR_BUFFER_BYTES = 1 << 15
"""The tar reader cuts its buffer anew at every header: a large one would be copied each time."""


class Readable(Protocol):
    """Where a tar stream comes from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


class _Info(tarfile.TarInfo):
    """A header whose extensions (long names, pax records) cannot ask for unbounded memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0:
            raise BadRequest("the layer's tar has an entry of negative size")
        if info.type not in tarfile.SUPPORTED_TYPES or info.type in (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        ):
            _bounded(info)
        return info


def _bounded(info: tarfile.TarInfo) -> None:
    if info.size > HEADER_BYTES_MAX:
        raise BadRequest(f"the layer's tar has an extended header of {info.size} bytes")


def unpack(stream: Readable, root: Path) -> int:
    """Write a layer's tar stream as an overlayfs lower directory; return its files' bytes.

    ``root`` is an empty directory nobody else writes to.

    Raises:
        BadRequest: the stream is no tar, or an entry leads out of the layer.
    """
    writer = _Writer(root)
    for info, archive in entries(stream):
        writer.add(info, archive)
    writer.finish()
    return writer.size_bytes


def entries(stream: Readable) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """A layer's entries as they come by; ``contents`` reads one before the next is asked for.

    Raises:
        BadRequest: the stream is no tar, or has too many entries.
    """
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", stream),  # this mode only ever reads
            mode="r|",
            tarinfo=_Info,
            bufsize=TAR_BUFFER_BYTES,
            errorlevel=2,
        ) as archive:
            for count, info in enumerate(archive):
                if count > ENTRIES_MAX:
                    raise BadRequest(f"the layer has more than {ENTRIES_MAX} entries")
                yield info, archive
                # The archive would keep every header in memory.
                archive.members = []  # type: ignore[attr-defined]  # typeshed lacks it
    except tarfile.TarError as error:
        raise BadRequest(f"the layer is not a readable tar archive: {error}") from error


class _Writer:
    """Places entries below a root. Knows every directory it made, so it never follows a link."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._dirs: dict[str, int] = {"": 0}  # path -> mtime_ns to set at the end
        self._whiteouts: set[str] = set()
        self._others: set[str] = set()
        self.size_bytes = 0

    def add(self, info: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        """Place one entry."""
        path = clean_path(info.name)
        if not path:
            if not info.isdir():
                raise BadRequest("the layer's root is not a directory")
            self._stamp(path, info)
            return
        parent, _, name = path.rpartition("/")
        self._need_directory(parent)
        if name.startswith(WHITEOUT):
            self._hide(parent, name)
            return
        full = f"{self._root}/{path}"
        if info.isdir():
            self._directory(path, full)
        else:
            self._make_room(path, full)
            self._others.add(path)
            if info.islnk():
                self._hard_link(info, full)
                return
            self._file(info, archive, full)
        self._stamp(path, info)

    def finish(self) -> None:
        """Set the directories' times, which filling them has changed."""
        for path, mtime_ns in self._dirs.items():
            os.utime(f"{self._root}/{path}", ns=(mtime_ns, mtime_ns))

    def _need_directory(self, path: str) -> None:
        if path in self._dirs:
            return
        if path in self._others:
            raise BadRequest(f"the layer writes below /{path}, which is no directory")
        parent = path.rpartition("/")[0]
        self._need_directory(parent)
        self._directory(path, f"{self._root}/{path}")

    def _directory(self, path: str, full: str) -> None:
        if path in self._dirs:
            return
        hidden = path in self._whiteouts
        self._make_room(path, full)
        os.mkdir(full, 0o755)
        self._dirs[path] = 0
        if hidden:
            set_opaque(full)

    def _make_room(self, path: str, full: str) -> None:
        if path in self._dirs:
            raise BadRequest(f"the layer has /{path} both as a directory and as a file")
        if path in self._others or path in self._whiteouts:
            os.unlink(full)
            self._others.discard(path)
            self._whiteouts.discard(path)

    def _hide(self, parent: str, name: str) -> None:
        if name == OPAQUE_MARK:
            set_opaque(f"{self._root}/{parent}")
            return
        if name.startswith(".wh..wh."):
            return  # aufs bookkeeping, which old layers carry
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise BadRequest(f"the layer has a whiteout without a name in /{parent}")
        path = f"{parent}/{hidden}" if parent else hidden
        if path in self._dirs:
            set_opaque(f"{self._root}/{path}")
        elif path not in self._others and path not in self._whiteouts:
            os.mknod(f"{self._root}/{path}", stat.S_IFCHR | 0o000, os.makedev(0, 0))
            self._whiteouts.add(path)

    def _hard_link(self, info: tarfile.TarInfo, full: str) -> None:
        target = clean_path(info.linkname)
        if target not in self._others:
            raise BadRequest(f"the layer links {info.name} to {info.linkname}, which it lacks")
        os.link(f"{self._root}/{target}", full, follow_symlinks=False)

    def _file(self, info: tarfile.TarInfo, archive: tarfile.TarFile, full: str) -> None:
        if info.issym():
            os.symlink(info.linkname, full)
        elif info.isreg():
            self._regular(info, archive, full)
        elif info.isfifo():
            os.mkfifo(full)
        elif info.ischr() or info.isblk():
            kind = stat.S_IFCHR if info.ischr() else stat.S_IFBLK
            if kind == stat.S_IFCHR and (info.devmajor, info.devminor) == (0, 0):
                raise BadRequest(f"the layer has the device 0:0 at {info.name}")
            os.mknod(full, kind | 0o600, os.makedev(info.devmajor, info.devminor))
        else:
            raise BadRequest(f"the layer has an entry of unknown type at {info.name}")

    def _regular(self, info: tarfile.TarInfo, archive: tarfile.TarFile, full: str) -> None:
        descriptor = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for chunk in contents(info, archive):
                os.write(descriptor, chunk)
                self.size_bytes += len(chunk)
        finally:
            os.close(descriptor)

    def _stamp(self, path: str, info: tarfile.TarInfo) -> None:
        full = f"{self._root}/{path}"
        os.chown(full, info.uid, info.gid, follow_symlinks=False)
        if not info.issym():
            os.chmod(full, info.mode & 0o7777)
        for key, value in info.pax_headers.items():
            if key.startswith(XATTR_PREFIX):
                name = key.removeprefix(XATTR_PREFIX)
                if name.startswith(KEPT_XATTRS) and not name.startswith(OVERLAY_XATTRS):
                    data = value.encode("utf-8", "surrogateescape")
                    os.setxattr(full, name, data, follow_symlinks=False)
        mtime_ns = int(info.mtime * 1_000_000_000)
        if path in self._dirs:
            self._dirs[path] = mtime_ns
        else:
            os.utime(full, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def contents(info: tarfile.TarInfo, archive: tarfile.TarFile) -> Iterator[bytes]:
    """A file's bytes; straight from the stream, which stands there, unless it has holes.

    Raises:
        BadRequest: the stream ends within the file.
    """
    if info.issparse():
        source = archive.extractfile(info)
        while source is not None and (chunk := source.read(CHUNK_BYTES)):
            yield chunk
        return
    left = info.size
    stream = cast("IO[bytes]", archive.fileobj)
    while left:
        chunk = stream.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise BadRequest("the layer is not a readable tar archive: it ends within a file")
        left -= len(chunk)
        yield chunk


def clean_path(name: str) -> str:
    """An entry's path without leading ``./`` and ``/``; empty for the root itself."""
    if len(name) > PATH_BYTES_MAX or "\0" in name:
        raise BadRequest("the layer has an entry whose name is too long or holds a zero byte")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadRequest(f"the layer has an entry outside itself: {name}")
    return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Mtimes:
    """Which times a layer's files carry, so that building again gives the same bytes.

    A file changed at ``since_s`` or later (Unix seconds) carries ``epoch_s`` instead; an older one
    came with its time from an archive or the base, and keeps it, in whole seconds.
    """

    epoch_s: int
    since_s: float = 0.0

    def of(self, changed_s: float) -> int:
        """The time a file changed at ``changed_s`` carries."""
        return self.epoch_s if changed_s >= self.since_s else int(changed_s)


def pack(root: Path, mtimes: Mtimes | None, write: Callable[[bytes], object]) -> None:
    """Write an overlayfs upper directory as an OCI layer's tar stream.

    Entries are sorted, owners are numbers, and ``mtimes`` decides about time; the directory's own
    times are set to match, so that directory and stream stay one and the same layer. Without it
    the directory is only read: any tree can be written so, with the times it has.
    """
    links: dict[tuple[int, int], str] = {}
    for path, full, status in _walk(str(root), ""):
        mtime = mtimes.of(status.st_mtime) if mtimes else int(status.st_mtime)
        if mtimes and status.st_mtime_ns != mtime * 1_000_000_000:
            os.utime(full, (mtime, mtime), follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR and status.st_rdev == 0:
            parent, _, name = path.rpartition("/")
            write(_header(f"{parent}/{WHITEOUT}{name}" if parent else WHITEOUT + name, b"0", mtime))
            continue
        if kind == stat.S_IFSOCK:
            continue  # a socket is nothing without the process that listens on it
        identity = (status.st_dev, status.st_ino)
        if kind != stat.S_IFDIR and identity in links:
            write(_header(path, b"1", mtime, status, link=links[identity]))
            continue
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            links[identity] = path
        _entry(path, full, status, mtime, write)
    write(bytes(tarfile.BLOCKSIZE * 2))


def _entry(
    path: str, full: str, status: os.stat_result, mtime: int, write: Callable[[bytes], object]
) -> None:
    kind = stat.S_IFMT(status.st_mode)
    xattrs = _xattrs(full)
    if kind == stat.S_IFDIR:
        write(_header(path + "/", b"5", mtime, status, xattrs=xattrs))
        if is_opaque(full):
            write(_header(f"{path}/{OPAQUE_MARK}", b"0", mtime))
    elif kind == stat.S_IFLNK:
        write(_header(path, b"2", mtime, status, link=os.readlink(full), xattrs=xattrs))
    elif kind == stat.S_IFREG:
        write(_header(path, b"0", mtime, status, size=status.st_size, xattrs=xattrs))
        _content(full, status.st_size, write)
    else:
        letter = {stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFIFO: b"6"}[kind]
        write(_header(path, letter, mtime, status, xattrs=xattrs))


def _walk(root: str, below: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """(path in the layer, full path, status) of all below a directory, each directory first."""
    with os.scandir(f"{root}/{below}" if below else root) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        path = f"{below}/{name}" if below else name
        full = f"{root}/{path}"
        status = os.lstat(full)
        if stat.S_ISDIR(status.st_mode):
            yield path, full, status
            yield from _walk(root, path)
            # Reading leaves the time alone, so what was set before descending still stands.
        else:
            yield path, full, status


def _content(full: str, size: int, write: Callable[[bytes], object]) -> None:
    left = size
    with open(full, "rb", buffering=0) as source:
        while left and (chunk := source.read(min(CHUNK_BYTES, left))):
            write(chunk)
            left -= len(chunk)
    if left:
        raise BadRequest(f"{full} shrank while it was read")
    if size % tarfile.BLOCKSIZE:
        write(bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE))


def set_opaque(full: str) -> None:
    """Mark a directory of a layer as one that hides what lies below it."""
    try:
        os.setxattr(full, OPAQUE_ATTRS[0], b"y")
    except PermissionError:  # only root of the machine may set trusted attributes
        os.setxattr(full, OPAQUE_ATTRS[1], b"y")


def is_opaque(full: str) -> bool:
    """Whether a layer's directory hides what lies below it."""
    for name in OPAQUE_ATTRS:
        try:
            return os.getxattr(full, name) == b"y"
        except OSError:
            continue
    return False


def _xattrs(full: str) -> dict[str, bytes]:
    try:
        names = os.listxattr(full, follow_symlinks=False)
    except OSError:
        return {}
    return {
        name: os.getxattr(full, name, follow_symlinks=False)
        for name in sorted(names)
        if name.startswith(KEPT_XATTRS) and not name.startswith(OVERLAY_XATTRS)
    }


def _header(
    path: str,
    kind: bytes,
    mtime: int,
    status: os.stat_result | None = None,
    *,
    size: int = 0,
    link: str = "",
    xattrs: dict[str, bytes] | None = None,
) -> bytes:
    """A ustar header, preceded by a pax header for what ustar cannot say."""
    name, target = os.fsencode(path), os.fsencode(link)
    uid, gid = (status.st_uid, status.st_gid) if status else (0, 0)
    device = status.st_rdev if status and kind in (b"3", b"4") else 0
    records = {XATTR_PREFIX + key: value for key, value in (xattrs or {}).items()}
    if len(name) > 100 or not name.isascii():
        records["path"] = name
    if len(target) > 100 or not target.isascii():
        records["linkpath"] = target
    for key, number, limit in (("uid", uid, 8), ("gid", gid, 8), ("size", size, 12)):
        if number >= 8 ** (limit - 1):
            records[key] = str(number).encode()
    mode = stat.S_IMODE(status.st_mode) if status else 0
    prefix = b""
    if records:
        body = b"".join(_record(key.encode(), records[key]) for key in sorted(records))
        padding = bytes(-len(body) % tarfile.BLOCKSIZE)
        fields = _ustar(b"PaxHeaders/" + name[:80], b"x", 0o644, 0, 0, len(body), mtime)
        prefix = fields + body + padding
    return prefix + _ustar(name, kind, mode, uid, gid, size, mtime, target, device)


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where LENGTH counts itself."""
    rest = len(key) + len(value) + 3
    total = rest + len(str(rest))
    total = rest + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _ustar(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes = b"",
    device: int = 0,
) -> bytes:
    def octal(number: int, width: int) -> bytes:
        number = number if 0 <= number < 8 ** (width - 1) else 0  # a pax record has it then
        return b"%0*o\0" % (width - 1, number)

    block = bytearray(
        name[:100].ljust(100, b"\0")
        + octal(mode, 8)
        + octal(uid, 8)
        + octal(gid, 8)
        + octal(size, 12)
        + octal(mtime, 12)
        + b" " * 8
        + kind
        + link[:100].ljust(100, b"\0")
        + b"ustar\x0000"
        + bytes(64)
        + octal(os.major(device), 8)
        + octal(os.minor(device), 8)
        + bytes(167)
    )
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
