"""A .deb as bytes: its control files, and the stream of its files.

Source: deb(5), ar(5).
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zstandard

from underway.base.errors import BadRequest
from underway.capabilities.build.rules.debian import fields
from underway.linux import layer_tar

CONTROL_BYTES_MAX = 64 << 20
DATA_BYTES_MAX = 8 << 30
_CHUNK_BYTES = 1 << 20
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60


@dataclass(frozen=True)
class Package:
    """An opened package. ``control`` maps the names of its control files to their content."""

    control: dict[str, bytes]
    fields: dict[str, str]
    title: str
    _data: memoryview
    _compression: str

    @property
    def name(self) -> str:
        """Its name."""
        return self.fields["Package"]

    @property
    def info_name(self) -> str:
        """What its files in dpkg's ``info`` begin with."""
        same = self.fields.get("Multi-Arch") == "same"
        return f"{self.name}:{self.fields['Architecture']}" if same else self.name

    def lines(self, member: str) -> list[str]:
        """A control file's lines, without empty ones; none where it is missing."""
        text = self.control.get(member, b"").decode("utf-8", "replace")
        return [line for line in text.splitlines() if line.strip()]

    def script(self, member: str) -> str:
        """A maintainer script's text, to be read and never run."""
        return self.control.get(member, b"").decode("utf-8", "replace")

    def data(self) -> Iterator[bytes]:
        """The tar stream of its files.

        Raises:
            BadRequest: it is broken, or larger than a package can be.
        """
        return _decompressed(self._data, self._compression, DATA_BYTES_MAX, self.title)


def read(data: bytes, title: str) -> Package:
    """Open a package.

    Raises:
        BadRequest: it is none; ``title`` says which.
    """
    members = dict(_members(data, title))
    if not bytes(members.get("debian-binary", b"")).startswith(b"2."):
        raise BadRequest(f"{title} is no Debian package of format 2")
    control_name = next((name for name in members if name.startswith("control.tar")), "")
    data_name = next((name for name in members if name.startswith("data.tar")), "")
    if not control_name or not data_name:
        raise BadRequest(f"{title} has no control or no data archive")
    stream = _decompressed(
        members[control_name], control_name.removeprefix("control.tar"), CONTROL_BYTES_MAX, title
    )
    control = _control(b"".join(stream), title)
    found = fields(control.get("control", b"").decode("utf-8", "replace"))
    if not {"Package", "Version", "Architecture"} <= found.keys():
        raise BadRequest(f"{title} has no control paragraph")
    return Package(control, found, title, members[data_name], data_name.removeprefix("data.tar"))


def _control(data: bytes, title: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        for info, archive in layer_tar.entries(io.BytesIO(data)):
            name = layer_tar.clean_path(info.name)
            if info.isreg() and name and "/" not in name:
                found[name] = b"".join(layer_tar.contents(info, archive))
    except BadRequest as error:
        raise BadRequest(f"{title}: its control archive: {error.message}") from error
    return found


def _members(data: bytes, title: str) -> Iterator[tuple[str, memoryview]]:
    if not data.startswith(_AR_MAGIC):
        raise BadRequest(f"{title} is no Debian package")
    view, at = memoryview(data), len(_AR_MAGIC)
    while at + _AR_HEADER_BYTES <= len(data):
        header = data[at : at + _AR_HEADER_BYTES]
        try:
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        except ValueError as error:
            raise BadRequest(f"{title}: a member's header is malformed") from error
        at += _AR_HEADER_BYTES
        if header[58:] != b"`\n" or size < 0 or at + size > len(data):
            raise BadRequest(f"{title}: it ends within {name or 'a member'}")
        yield name, view[at : at + size]
        at += size + size % 2


def _decompressed(view: memoryview, kind: str, limit: int, title: str) -> Iterator[bytes]:
    """A member's content; ``limit`` bytes at most."""
    makers: dict[str, Callable[[], Iterator[bytes]]] = {
        "": lambda: iter([bytes(view)]),
        ".gz": lambda: _gunzip(view),
        ".xz": lambda: _unxz(view),
        ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 27).read_to_iter(
            bytes(view), write_size=_CHUNK_BYTES
        ),
    }
    if kind not in makers:
        raise BadRequest(f"{title}: it is compressed as {kind}, which is unknown")
    seen = 0
    try:
        for chunk in makers[kind]():
            seen += len(chunk)
            if seen > limit:
                raise BadRequest(f"{title}: it unpacks to more than {limit} bytes")
            yield chunk
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise BadRequest(f"{title}: {error}") from error


def _unxz(view: memoryview) -> Iterator[bytes]:
    xz, data = lzma.LZMADecompressor(), bytes(view)
    while not xz.eof:
        yield xz.decompress(data, _CHUNK_BYTES)
        if not data and xz.needs_input:
            raise EOFError("its compressed data end too early")
        data = b""


def _gunzip(view: memoryview) -> Iterator[bytes]:
    inflate, rest = zlib.decompressobj(31), bytes(view)
    while rest and not inflate.eof:
        yield inflate.decompress(rest, _CHUNK_BYTES)
        rest = inflate.unconsumed_tail
    if not inflate.eof:
        raise EOFError("its compressed data end too early")
