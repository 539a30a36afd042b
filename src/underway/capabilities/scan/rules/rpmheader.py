"""RPM headers, as the package database keeps them.

Source: rpm ``docs/manual/format_header.md``: index entries of tag, type, offset and count, then the
data store; all numbers big-endian.
"""

from __future__ import annotations

import struct

from underway.capabilities.scan.model import Package

_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE = 1000, 1001, 1002, 1003, 1022, 1044
_INT32, _STRING, _STRING_ARRAY, _I18N = 4, 6, 8, 9
_ENTRY_BYTES = 16
_ENTRIES_LIMIT = 65_536


def package(blob: bytes, location: str) -> Package:
    """The package a header describes.

    Raises:
        ValueError: the header is malformed or names no package.
    """
    tags = _tags(blob)
    name, version, release = (tags.get(each, "") for each in (_NAME, _VERSION, _RELEASE))
    if not name or not version:
        raise ValueError("an RPM header without name and version")
    epoch = tags.get(_EPOCH, "")
    full = f"{epoch}:{version}-{release}" if epoch and epoch != "0" else f"{version}-{release}"
    source, source_version = _source(tags.get(_SOURCE, ""), epoch)
    return Package("rpm", name, full, tags.get(_ARCH, ""), source, source_version, location)


def _tags(blob: bytes) -> dict[int, str]:
    try:
        count, size = struct.unpack_from(">II", blob)
    except struct.error as error:
        raise ValueError("an RPM header is cut off") from error
    store = 8 + count * _ENTRY_BYTES
    if count > _ENTRIES_LIMIT or store + size > len(blob):
        raise ValueError("an RPM header is longer than its record")
    found: dict[int, str] = {}
    for index in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIII", blob, 8 + index * _ENTRY_BYTES)
        at = store + offset
        if tag not in (_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE) or offset >= size:
            continue
        if kind == _INT32 and offset + 4 <= size:
            found[tag] = str(struct.unpack_from(">I", blob, at)[0])
        elif kind in (_STRING, _STRING_ARRAY, _I18N):
            end = blob.find(b"\0", at, store + size)
            found[tag] = blob[at : end if end >= 0 else store + size].decode("utf-8", "replace")
    return found


def _source(file: str, epoch: str) -> tuple[str, str]:
    """Name and version of ``NAME-VERSION-RELEASE.src.rpm``."""
    stem = file.removesuffix(".rpm").removesuffix(".src").removesuffix(".nosrc")
    parts = stem.rsplit("-", 2)
    if len(parts) != 3:
        return "", ""
    version = f"{parts[1]}-{parts[2]}"
    return parts[0], f"{epoch}:{version}" if epoch and epoch != "0" else version
