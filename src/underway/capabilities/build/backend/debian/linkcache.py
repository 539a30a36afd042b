"""``/etc/ld.so.cache``: where the dynamic linker finds libraries.

Source: glibc ``sysdeps/generic/dl-cache.h`` (format 1.1) and ``elf/dl-cache.c``; ELF-64.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import cmp_to_key
from itertools import zip_longest
from pathlib import Path

from underway.capabilities.build.backend.debian.unpacking import Tree

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIBxxxI12x")
_ENTRY = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN = 2
_FLAGS = {62: 0x0303, 183: 0x0A03}  # ELF machine -> library kind: x86-64, AArch64
_STANDARD = ("/lib", "/usr/lib")
_LIBRARY = re.compile(r"(lib|ld-).*\.so(\.|$)|ld-.*\.so")
_DYNAMIC, _LOAD, _SHARED = 2, 1, 3
_STRTAB, _SONAME = 5, 14
_FILE_BYTES_MAX = 1 << 30


def write_cache(tree: Tree) -> None:
    """Write the cache of a tree, from the directories its ``ld.so.conf`` names."""
    found: dict[str, tuple[str, int]] = {}
    for directory in _directories(tree):
        for soname, path, flags in _libraries(tree, directory):
            found.setdefault(soname, (path, flags))  # the first directory wins
    strings, offsets = b"", {}
    base = _HEADER.size + _ENTRY.size * len(found)
    names = sorted(found, key=cmp_to_key(compare), reverse=True)
    for text in [part for name in names for part in (name, found[name][0])]:
        if text not in offsets:
            offsets[text] = base + len(strings)
            strings += text.encode() + b"\0"
    body = b"".join(
        _ENTRY.pack(found[name][1], offsets[name], offsets[found[name][0]], 0, 0) for name in names
    )
    header = _HEADER.pack(_MAGIC, len(names), len(strings), _LITTLE_ENDIAN, 0)
    tree.write("etc/ld.so.cache", header + body + strings)


def compare(one: str, other: str) -> int:
    """The linker's order of names: runs of digits count as numbers, and come after all else."""
    pieces = re.compile(r"\d+|\D")
    for left, right in zip_longest(pieces.findall(one), pieces.findall(other), fillvalue=""):
        if left.isdigit() and right.isdigit():
            if int(left) != int(right):
                return int(left) - int(right)
        elif left.isdigit() or right.isdigit():
            return 1 if left.isdigit() else -1
        elif left != right:
            return -1 if left < right else 1
    return 0


def _directories(tree: Tree) -> Iterator[str]:
    seen: set[Path] = set()
    for name in [*_configured(tree, "etc/ld.so.conf", 0), *_STANDARD]:
        real = tree.resolved(name)
        if real is not None and real.is_dir() and real not in seen:
            seen.add(real)
            yield name.rstrip("/")


def _configured(tree: Tree, file: str, depth: int) -> Iterator[str]:
    for line in tree.read(file).splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("include ") and depth == 0:
            folder, _, pattern = text.removeprefix("include").strip().rpartition("/")
            real = tree.resolved(folder)
            for each in sorted(real.glob(pattern)) if real else ():
                yield from _configured(tree, f"{folder}/{each.name}", 1)
        elif text.startswith("/"):
            yield text


def _libraries(tree: Tree, directory: str) -> Iterator[tuple[str, str, int]]:
    folder = tree.resolved(directory)
    for each in sorted(folder.iterdir()) if folder else ():
        if not _LIBRARY.match(each.name):
            continue
        real = tree.resolved(f"{directory}/{each.name}")
        if real is None or not real.is_file():
            continue
        read = soname_of(real)
        if read is None:
            continue
        soname, flags = read[0] or each.name, read[1]
        if each.is_symlink() and soname != each.name:
            continue  # what compilers look for
        path = soname if tree.exists(f"{directory}/{soname}") else each.name
        yield soname, f"{directory}/{path}", flags


def soname_of(file: Path) -> tuple[str, int] | None:
    """A shared library's own name (empty without one) and kind; nothing for any other file."""
    try:
        return _soname_of(file)
    except (struct.error, ValueError, OverflowError, OSError):
        return None  # its header points anywhere: no library that could be loaded


def _soname_of(file: Path) -> tuple[str, int] | None:
    if not 64 <= file.stat().st_size <= _FILE_BYTES_MAX:
        return None
    with file.open("rb") as stream:
        head = stream.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            return None
        kind, machine = struct.unpack_from("<HH", head, 16)
        if kind != _SHARED or machine not in _FLAGS:
            return None
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        stream.seek(offset)
        table = stream.read(size * count)
        if size < 56 or len(table) < size * count:
            return None
        parts = [struct.unpack_from("<IIQQQQQQ", table, at * size) for at in range(count)]
        dynamic = next((part for part in parts if part[0] == _DYNAMIC), None)
        if dynamic is None:
            return None
        stream.seek(dynamic[2])
        data = stream.read(min(dynamic[5], 1 << 20))
        values = dict(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))
        if _SONAME not in values or _STRTAB not in values:
            return "", _FLAGS[machine]
        for part in parts:
            if part[0] == _LOAD and part[3] <= values[_STRTAB] < part[3] + part[5]:
                stream.seek(values[_STRTAB] - part[3] + part[2] + values[_SONAME])
                name = stream.read(256).partition(b"\0")[0].decode("ascii", "replace")
                return name.rpartition("/")[2], _FLAGS[machine]
    return "", _FLAGS[machine]
