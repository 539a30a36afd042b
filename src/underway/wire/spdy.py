"""SPDY/3.1 frames as values, for remote command and port-forward.

``FrameDecoder`` turns received bytes into frames, ``FrameEncoder`` frames into bytes to send; each
keeps the compression context of its direction. Payloads of DATA frames are passed on as they
arrive, so nothing larger than a control frame is ever held.

Source: SPDY Protocol Draft 3.1 (chromium.org), sections 2.2 to 2.6; RFC 1950 for the dictionary.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from underway.base.errors import BadRequest

INITIAL_WINDOW = 64 * 1024  # bytes a stream may send before the first WINDOW_UPDATE
MAX_WINDOW = 2**31 - 1
CONTROL_LIMIT = 64 * 1024  # bytes of one control frame
HEADER_LIMIT = 64 * 1024  # bytes of one header block, decompressed
DATA_CHUNK = 32 * 1024  # bytes of one DATA frame we send

_VERSION = 3
_CONTROL_BIT = 0x8000_0000
_STREAM_MASK = 0x7FFF_FFFF
_LENGTH_MASK = 0x00FF_FFFF
_FLAG_FIN = 0x01
_FLAG_UNIDIRECTIONAL = 0x02

_DICTIONARY_NAMES = """
options head post put delete trace accept accept-charset accept-encoding accept-language
accept-ranges age allow authorization cache-control connection content-base content-encoding
content-language content-length content-location content-md5 content-range content-type date etag
expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since
last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer
retry-after server te trailer transfer-encoding upgrade user-agent vary via warning
www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin
"""
_DICTIONARY_TAIL = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    b"401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    b"503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    b"Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    b"application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
    b"gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
# Section 2.6.10.1: names as header blocks write them, then fragments of common values.
DICTIONARY = (
    b"".join(
        struct.pack("!I", len(name)) + name.replace("_", " ").encode()
        for name in _DICTIONARY_NAMES.split()
    )
    + _DICTIONARY_TAIL
)


class _Type(enum.IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class ResetStatus(enum.IntEnum):
    """Why a stream was ended (section 2.6.3)."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    CANCEL = 5
    INTERNAL_ERROR = 6


class Setting(enum.IntEnum):
    """Ids of settings that matter here (section 2.6.4)."""

    MAX_CONCURRENT_STREAMS = 4
    INITIAL_WINDOW_SIZE = 7


@dataclass(frozen=True, slots=True)
class SynStream:
    """Opens a stream. Header names are lower-case; one with several values has them NUL-joined."""

    stream_id: int
    headers: Mapping[str, str]
    fin: bool = False
    unidirectional: bool = False
    associated_id: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SynReply:
    """Accepts a stream."""

    stream_id: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Headers:
    """Further headers of an open stream."""

    stream_id: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """Ends a stream abnormally."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Values by setting id."""

    values: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for the same id back, or brings it."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """No streams after ``last_stream_id`` are served."""

    last_stream_id: int
    status: int = 0


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    """``delta`` more bytes may be sent; stream 0 is the connection."""

    stream_id: int
    delta: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream: all of a DATA frame, or what of it has come; ``fin`` with the last."""

    stream_id: int
    data: bytes
    fin: bool = False


Frame = SynStream | SynReply | Headers | RstStream | Settings | Ping | GoAway | WindowUpdate | Data


class Window:
    """What one direction of one stream may still send; below zero once it sent too much.

    Some peers (Kubernetes' own) take part in no flow control at all, so that whoever sends must
    decide whether to heed it.
    """

    def __init__(self, initial: int = INITIAL_WINDOW) -> None:
        self.available = initial

    def spend(self, size_bytes: int) -> None:
        """Bytes were sent."""
        self.available -= size_bytes

    def grant(self, delta: int) -> None:
        """The receiver took bytes out; raises BadRequest beyond 2**31 - 1."""
        if self.available + delta > MAX_WINDOW:
            raise BadRequest("SPDY: a flow control window overflows")
        self.available += delta


class FrameEncoder:
    """Frames as bytes, in the order they are sent in."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def encode(self, frame: Frame) -> bytes:
        """The frame's bytes. A DATA frame holds at most 2**24 - 1."""
        match frame:
            case Data(stream_id, data, fin):
                flags = _FLAG_FIN if fin else 0
                return struct.pack("!II", stream_id, (flags << 24) | len(data)) + data
            case SynStream():
                flags = _FLAG_UNIDIRECTIONAL if frame.unidirectional else 0
                fixed = struct.pack(
                    "!IIBB", frame.stream_id, frame.associated_id, frame.priority << 5, 0
                )
                payload = fixed + self._block(frame.headers)
                return _control(_Type.SYN_STREAM, payload, fin=frame.fin, flags=flags)
            case SynReply(stream_id, headers, fin):
                payload = struct.pack("!I", stream_id) + self._block(headers)
                return _control(_Type.SYN_REPLY, payload, fin=fin)
            case Headers(stream_id, headers, fin):
                payload = struct.pack("!I", stream_id) + self._block(headers)
                return _control(_Type.HEADERS, payload, fin=fin)
            case RstStream(stream_id, status):
                return _control(_Type.RST_STREAM, struct.pack("!II", stream_id, status))
            case Settings(values):
                pairs = b"".join(struct.pack("!II", k, v) for k, v in values.items())
                return _control(_Type.SETTINGS, struct.pack("!I", len(values)) + pairs)
            case Ping(ping_id):
                return _control(_Type.PING, struct.pack("!I", ping_id))
            case GoAway(last_stream_id, status):
                return _control(_Type.GOAWAY, struct.pack("!II", last_stream_id, status))
            case WindowUpdate(stream_id, delta):
                return _control(_Type.WINDOW_UPDATE, struct.pack("!II", stream_id, delta))

    def _block(self, headers: Mapping[str, str]) -> bytes:
        parts = [struct.pack("!I", len(headers))]
        for name, value in headers.items():
            for text in (name.lower(), value):
                encoded = text.encode("utf-8", "surrogateescape")
                parts.append(struct.pack("!I", len(encoded)) + encoded)
        block = self._deflate.compress(b"".join(parts))
        return block + self._deflate.flush(zlib.Z_SYNC_FLUSH)


class FrameDecoder:
    """Received bytes as frames. After an error it is of no further use."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._buffer = bytearray()
        self._data_id = 0  # the stream of a DATA frame whose payload is still coming
        self._data_left = 0
        self._data_fin = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes; of DATA frames the part that is here.

        Raises:
            BadRequest: the bytes are no SPDY/3.1, or a control frame breaks a limit.
        """
        self._buffer += data
        frames: list[Frame] = []
        while self._step(frames):
            pass
        return frames

    def _step(self, frames: list[Frame]) -> bool:
        """Take one piece off the buffer; False when more bytes are needed."""
        buffer = self._buffer
        if self._data_left:
            if not buffer:
                return False
            piece = bytes(buffer[: self._data_left])
            del buffer[: len(piece)]
            self._data_left -= len(piece)
            frames.append(Data(self._data_id, piece, self._data_fin and not self._data_left))
            return True
        if len(buffer) < 8:  # every frame's head
            return False
        first, second = struct.unpack_from("!II", buffer)
        flags, length = second >> 24, second & _LENGTH_MASK
        if not first & _CONTROL_BIT:
            del buffer[:8]
            self._data_id, self._data_left = first, length
            self._data_fin = bool(flags & _FLAG_FIN)
            if first == 0:
                raise BadRequest("SPDY: DATA on stream 0")
            if not length:
                frames.append(Data(first, b"", self._data_fin))
            return True
        if length > CONTROL_LIMIT:
            raise BadRequest(f"SPDY: a control frame of {length} bytes")
        if len(buffer) < 8 + length:
            return False
        payload = bytes(buffer[8 : 8 + length])
        del buffer[: 8 + length]
        version = (first >> 16) & 0x7FFF
        if version != _VERSION:
            raise BadRequest(f"SPDY: version {version} is not spoken here, only {_VERSION}")
        try:
            frame = self._control(first & 0xFFFF, flags, payload)
        except struct.error as error:
            raise BadRequest("SPDY: a control frame is too short") from error
        if frame is not None:
            frames.append(frame)
        return True

    def _control(self, kind: int, flags: int, payload: bytes) -> Frame | None:
        fin = bool(flags & _FLAG_FIN)
        match kind:
            case _Type.SYN_STREAM:
                stream_id, associated, priority, _ = struct.unpack_from("!IIBB", payload)
                return SynStream(
                    _positive(stream_id),
                    self._headers(payload[10:]),
                    fin,
                    bool(flags & _FLAG_UNIDIRECTIONAL),
                    associated & _STREAM_MASK,
                    priority >> 5,
                )
            case _Type.SYN_REPLY:
                (stream_id,) = struct.unpack_from("!I", payload)
                return SynReply(_positive(stream_id), self._headers(payload[4:]), fin)
            case _Type.HEADERS:
                (stream_id,) = struct.unpack_from("!I", payload)
                return Headers(_positive(stream_id), self._headers(payload[4:]), fin)
            case _Type.RST_STREAM:
                stream_id, status = struct.unpack("!II", payload)
                return RstStream(_positive(stream_id), status)
            case _Type.SETTINGS:
                return _settings(payload)
            case _Type.PING:
                return Ping(*struct.unpack("!I", payload))
            case _Type.GOAWAY:
                last, status = struct.unpack("!II", payload)
                return GoAway(last & _STREAM_MASK, status)
            case _Type.WINDOW_UPDATE:
                stream_id, delta = struct.unpack("!II", payload)
                return WindowUpdate(stream_id & _STREAM_MASK, _positive(delta))
            case _:
                return None  # section 2.2.1: unknown control frames are ignored

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, HEADER_LIMIT + 1)
        except zlib.error as error:
            raise BadRequest("SPDY: a header block does not decompress") from error
        if len(plain) > HEADER_LIMIT or self._inflate.unconsumed_tail:
            raise BadRequest(f"SPDY: a header block beyond {HEADER_LIMIT} bytes")
        (count,) = struct.unpack_from("!I", plain)
        texts, position = [], 4
        if count > (len(plain) - position) // 8:
            raise BadRequest("SPDY: a header block announces more headers than it holds")
        for _ in range(2 * count):
            (size,) = struct.unpack_from("!I", plain, position)
            position += 4
            if size > len(plain) - position:
                raise BadRequest("SPDY: a header runs past the end of its block")
            raw = plain[position : position + size]
            texts.append(raw.decode("utf-8", "surrogateescape"))
            position += size
        if position != len(plain):
            raise BadRequest("SPDY: bytes follow a header block")
        names = [name.lower() for name in texts[::2]]
        if len(set(names)) != len(names) or "" in names:
            raise BadRequest("SPDY: a header block with a repeated or empty name")
        return dict(zip(names, texts[1::2], strict=True))


def _control(kind: _Type, payload: bytes, *, fin: bool = False, flags: int = 0) -> bytes:
    if fin:
        flags |= _FLAG_FIN
    head = _CONTROL_BIT | (_VERSION << 16) | kind
    return struct.pack("!II", head, (flags << 24) | len(payload)) + payload


def _settings(payload: bytes) -> Settings:
    (count,) = struct.unpack_from("!I", payload)
    if len(payload) != 4 + 8 * count:
        raise BadRequest("SPDY: a SETTINGS frame of the wrong length")
    pairs = struct.iter_unpack("!II", payload[4:])
    return Settings({key & _LENGTH_MASK: value for key, value in pairs})


def _positive(number: int) -> int:
    number &= _STREAM_MASK
    if not number:
        raise BadRequest("SPDY: a zero where a stream or an amount belongs")
    return number
