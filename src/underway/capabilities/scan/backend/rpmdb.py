"""RPM's package database in its three forms.

Source: rpm ``lib/backend`` (sqlite.c, ndb/rpmpkg.c, bdb_ro.cc); Berkeley DB hash access method
(``dbinc/db_page.h``).
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator

from underway.capabilities.scan.model import Package
from underway.capabilities.scan.rules import rpmheader
from underway.capabilities.scan.rules.files import PACKAGES_LIMIT

_PATH = re.compile(
    r"(?:var/lib/rpm|usr/lib/sysimage/rpm|usr/share/rpm)/(?:rpmdb\.sqlite|Packages\.db|Packages)"
)
_BLOB_LIMIT_BYTES = 64 * 1024 * 1024


def reads(path: str) -> bool:
    """Whether a path is one of the database's."""
    return _PATH.fullmatch(path) is not None


def read(path: str, data: bytes) -> list[Package]:
    """The packages in a database.

    Raises:
        ValueError: it is malformed, or holds more than ``PACKAGES_LIMIT`` packages.
    """
    if path.endswith(".sqlite"):
        blobs = _sqlite(data)
    elif path.endswith(".db"):
        blobs = _ndb(data)
    else:
        blobs = _berkeley(data)
    found = []
    for blob in blobs:
        package = rpmheader.package(blob, path)
        # Keys that came with repositories stand among the packages.
        if package.name != "gpg-pubkey":
            found.append(package)
        if len(found) > PACKAGES_LIMIT:
            raise ValueError(f"more than {PACKAGES_LIMIT} packages")
    return found


def _sqlite(data: bytes) -> Iterator[bytes]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(data)
        connection.execute("PRAGMA query_only = 1")
        for (blob,) in connection.execute("SELECT blob FROM Packages"):
            if isinstance(blob, bytes):
                yield blob
    except (sqlite3.Error, OverflowError) as error:
        raise ValueError(f"no RPM database: {error}") from error
    finally:
        connection.close()


_NDB_MAGIC, _SLOT_MAGIC, _BLOB_MAGIC = b"RpmP", b"Slot", b"BlbS"
_NDB_HEADER_BYTES, _SLOT_BYTES, _BLOCK_BYTES, _PAGE_BYTES = 32, 16, 16, 4096


def _ndb(data: bytes) -> Iterator[bytes]:
    """Slots of 16 bytes say at which block a package's header stands."""
    if data[:4] != _NDB_MAGIC or len(data) < _NDB_HEADER_BYTES:
        raise ValueError("no RPM database in the ndb form")
    pages = struct.unpack_from("<I", data, 12)[0]
    end = min(pages * _PAGE_BYTES, len(data))
    for at in range(_NDB_HEADER_BYTES, end - _SLOT_BYTES + 1, _SLOT_BYTES):
        magic, index, block, _ = struct.unpack_from("<4sIII", data, at)
        if magic != _SLOT_MAGIC:
            raise ValueError("a slot of the RPM database is malformed")
        if index == 0:
            continue
        start = block * _BLOCK_BYTES
        head = data[start : start + 16]
        if len(head) < 16 or head[:4] != _BLOB_MAGIC:
            raise ValueError("a record of the RPM database is malformed")
        size = struct.unpack_from("<I", head, 12)[0]
        blob = data[start + 16 : start + 16 + size]
        if len(blob) != size:
            raise ValueError("the RPM database is cut off")
        yield blob


_HASH_MAGIC = 0x061561
_META_TYPE, _HASH_PAGES, _OVERFLOW_TYPE = 8, (2, 13), 7
_PAGE_HEADER_BYTES = 26
_OFF_PAGE = 3


def _berkeley(data: bytes) -> Iterator[bytes]:
    """Hash pages hold pairs of key and value; a header too large for its page is on others."""
    if len(data) < 512:
        raise ValueError("no Berkeley database")
    order = next(
        (each for each in "<>" if struct.unpack_from(f"{each}I", data, 12)[0] == _HASH_MAGIC), ""
    )
    if not order:
        raise ValueError("no Berkeley database of the hash form")
    page_size, last = (
        struct.unpack_from(f"{order}I", data, 20)[0],
        struct.unpack_from(f"{order}I", data, 32)[0],
    )
    if page_size < 512 or page_size > 65_536 or page_size & (page_size - 1):
        raise ValueError(f"a Berkeley database with pages of {page_size} bytes")
    for number in range(min(last + 1, len(data) // page_size)):
        page = data[number * page_size : (number + 1) * page_size]
        if page[25] in _HASH_PAGES:
            yield from _hash_values(data, page, page_size, order)


def _hash_values(data: bytes, page: bytes, page_size: int, order: str) -> Iterator[bytes]:
    count = struct.unpack_from(f"{order}H", page, 20)[0]
    if _PAGE_HEADER_BYTES + 2 * count > page_size or count % 2:
        raise ValueError("a page of the Berkeley database is malformed")
    offsets = struct.unpack_from(f"{order}{count}H", page, _PAGE_HEADER_BYTES)
    # Items are laid from the page's end downwards, keys and values by turns.
    for index in range(1, count, 2):
        start = offsets[index]
        end = offsets[index - 1]
        if not _PAGE_HEADER_BYTES <= start < end <= page_size:
            raise ValueError("an item of the Berkeley database is malformed")
        if page[start] == _OFF_PAGE and start + 12 <= page_size:
            first, size = struct.unpack_from(f"{order}II", page, start + 4)
            yield _overflow(data, first, size, page_size, order)


def _overflow(data: bytes, number: int, size: int, page_size: int, order: str) -> bytes:
    if size > _BLOB_LIMIT_BYTES:
        raise ValueError(f"an RPM header of {size} bytes")
    found = bytearray()
    seen = 0
    while number:
        page = data[number * page_size : (number + 1) * page_size]
        seen += 1
        if len(page) < page_size or page[25] != _OVERFLOW_TYPE or seen > size // 256 + 2:
            raise ValueError("the Berkeley database's overflow pages are malformed")
        used = struct.unpack_from(f"{order}H", page, 22)[0]
        found += page[_PAGE_HEADER_BYTES : _PAGE_HEADER_BYTES + used]
        number = struct.unpack_from(f"{order}I", page, 16)[0]
    if len(found) < size:
        raise ValueError("the Berkeley database is cut off")
    return bytes(found[:size])
