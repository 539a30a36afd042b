"""What the Go linker notes in a program: toolchain and modules.

Source: Go ``debug/buildinfo`` (the blob's header and its two forms of strings) and
``runtime/debug`` ``BuildInfo`` (its text form).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAGIC = b"\xff Go buildinf:"
_ALIGNMENT = 16
_HEADER_BYTES = 32
_INLINE = 2
_BIG_ENDIAN = 1
_TEXT_LIMIT_BYTES = 4 * 1024 * 1024
_SENTINEL_BYTES = 16


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """``go_version`` as in ``go1.22.1``; modules as (path, version), the main one first."""

    go_version: str
    modules: tuple[tuple[str, str], ...]


def build_info(data: bytes) -> BuildInfo | None:
    """What is noted in a program; None for a file that is none of Go's.

    Raises:
        ValueError: the note is there and malformed.
    """
    start = _find(data)
    if start < 0:
        return None
    header = data[start : start + _HEADER_BYTES]
    if len(header) < _HEADER_BYTES:
        raise ValueError("the Go build information is cut off")
    pointer_bytes, flags = header[14], header[15]
    if flags & _INLINE:
        version, at = _inline(data, start + _HEADER_BYTES)
        text, _ = _inline(data, at)
    else:
        version, text = _pointed(data, header, pointer_bytes, bool(flags & _BIG_ENDIAN))
    if not version.startswith(b"go") and not version.startswith(b"devel"):
        return None
    if len(text) > 2 * _SENTINEL_BYTES:
        # The module text stands between two marks of the linker's.
        text = text[_SENTINEL_BYTES:-_SENTINEL_BYTES]
    words = version.decode("utf-8", "replace").split()
    return BuildInfo(words[0], tuple(_modules(text.decode("utf-8", "replace"))))


def _find(data: bytes) -> int:
    at = data.find(_MAGIC)
    while at >= 0 and at % _ALIGNMENT:
        at = data.find(_MAGIC, at + 1)
    return at


def _inline(data: bytes, at: int) -> tuple[bytes, int]:
    length = shift = 0
    for index in range(10):
        if at >= len(data):
            raise ValueError("the Go build information is cut off")
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if index == 9:
            raise ValueError("a length in the Go build information is malformed")
    if length > _TEXT_LIMIT_BYTES or at + length > len(data):
        raise ValueError("a length in the Go build information leads outside of the file")
    return data[at : at + length], at + length


def _pointed(data: bytes, header: bytes, size: int, big: bool) -> tuple[bytes, bytes]:
    """Go before 1.18: the header has addresses of two string headers."""
    if size not in (4, 8):
        raise ValueError(f"pointers of {size} bytes")
    order = ">" if big else "<"
    word = f"{order}{'Q' if size == 8 else 'I'}"
    segments = _segments(data, order)

    def string(address: int) -> bytes:
        head = _at(data, segments, address, 2 * size)
        pointer, length = (
            struct.unpack(word, head[:size])[0],
            struct.unpack(word, head[size:])[0],
        )
        if length > _TEXT_LIMIT_BYTES:
            raise ValueError("a length in the Go build information leads outside of the file")
        return _at(data, segments, pointer, length)

    first = struct.unpack(word, header[16 : 16 + size])[0]
    second = struct.unpack(word, header[16 + size : 16 + 2 * size])[0]
    return string(first), string(second) if second else b""


def _segments(data: bytes, order: str) -> list[tuple[int, int, int]]:
    """(address, offset, size) of what an ELF file loads. Source: elf(5)."""
    if data[:4] != b"\x7fELF":
        raise ValueError("a Go program that is no ELF file")
    wide = data[4] == 2
    try:
        if wide:
            table, entry_size, count = (
                struct.unpack_from(f"{order}Q", data, 32)[0],
                *struct.unpack_from(f"{order}HH", data, 54),
            )
        else:
            table, entry_size, count = (
                struct.unpack_from(f"{order}I", data, 28)[0],
                *struct.unpack_from(f"{order}HH", data, 42),
            )
        found = []
        for index in range(count):
            at = table + index * entry_size
            if struct.unpack_from(f"{order}I", data, at)[0] != 1:
                continue
            if wide:
                offset, address, _, size = struct.unpack_from(f"{order}QQQQ", data, at + 8)
            else:
                offset, address, _, size = struct.unpack_from(f"{order}IIII", data, at + 4)
            found.append((address, offset, size))
    except struct.error as error:
        raise ValueError(f"the ELF header is cut off: {error}") from error
    return found


def _at(data: bytes, segments: list[tuple[int, int, int]], address: int, size: int) -> bytes:
    for start, offset, length in segments:
        if start <= address and address + size <= start + length:
            found = data[offset + address - start : offset + address - start + size]
            if len(found) == size:
                return found
    raise ValueError(f"address {address:#x} is not in the file")


def _modules(text: str) -> list[tuple[str, str]]:
    """``mod`` and ``dep`` lines; a ``=>`` line replaces the one before it."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        kind, *fields = line.split("\t")
        if kind in ("mod", "dep") and len(fields) >= 2:
            found.append((fields[0], fields[1]))
        elif kind == "=>" and len(fields) >= 2 and found:
            found[-1] = (fields[0], fields[1])
    return [(path, version) for path, version in found if version and version != "(devel)"]
