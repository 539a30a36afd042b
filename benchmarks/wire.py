"""The two protocols the load generator speaks, as cheaply as Python can.

Requests are bytes made beforehand; of a response only its end, its success and its length are
read. HTTP/1.1 for the API server, gRPC over HTTP/2 for etcd.

Source: RFC 9112; RFC 9113 (frames), RFC 7541 (header block), the gRPC protocol over HTTP/2,
etcd's ``rpc.proto`` (field numbers).
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Any

Done = Callable[["Link", float, float], None]
"""(link, when the request went out, when its answer was whole), in ``perf_counter`` seconds."""


class Refused(Exception):
    """The server answered something else than success."""


class Link(asyncio.Protocol):
    """One connection that asks one thing at a time."""

    def __init__(self, done: Done, failed: Callable[[Exception], None]) -> None:
        self._done = done
        self._failed = failed
        self.transport: Any = None
        self.sent_s = 0.0
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self._failed(exc or ConnectionResetError("the server closed the connection"))

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self.sent_s = time.perf_counter()
        self.transport.write(request)

    def finish(self) -> None:
        """The answer is whole."""
        self._done(self, self.sent_s, time.perf_counter())

    def close(self) -> None:
        self.closing = True
        self.transport.close()


class Http1(Link):
    """HTTP/1.1 with answers that tell their length."""

    def __init__(self, done: Done, failed: Callable[[Exception], None]) -> None:
        super().__init__(done, failed)
        self._head = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            if not self._left:
                self.finish()
            return
        head = self._head = self._head + data if self._head else data
        end = head.find(b"\r\n\r\n")
        if end < 0:
            return
        if head[9:11] != b"20":
            self._failed(Refused(head[:2000].decode("latin-1")))
            return
        at = head.find(b"content-length: ") + 16
        length = int(head[at : head.index(b"\r", at)])
        self._left = length - (len(head) - end - 4)
        self._head = b""
        if not self._left:
            self.finish()


class Stream(Link):
    """HTTP/1.1 with an endless chunked answer of JSON lines; calls back for each line."""

    def data_received(self, data: bytes) -> None:
        if b'{"type":' in data:
            self.finish()


def http_request(method: str, path: str, body: bytes = b"", media: str = "") -> bytes:
    """One request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: api", "accept: application/json"]
    if body:
        lines += [f"content-type: {media or 'application/json'}", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


# -- gRPC ----------------------------------------------------------------------------------

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WIDE = 2**31 - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Grpc(Link):
    """Unary gRPC calls, one stream after the other; an answer without a message is a failure."""

    def __init__(self, done: Done, failed: Callable[[Exception], None]) -> None:
        super().__init__(done, failed)
        self._buffer = bytearray()
        self._stream = -1
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _WIDE))
            + _frame(8, 0, 0, struct.pack(">I", _WIDE - 65535))
        )

    def ask(self, request: bytes) -> None:
        """``request`` is a path's header block behind its length, and then the message."""
        self._stream += 2
        length = request[0]
        headers, message = request[1 : 1 + length], request[1 + length :]
        prefixed = b"\0" + struct.pack(">I", len(message)) + message
        parts = [_frame(_HEADERS, _END_HEADERS, self._stream, headers)]
        for at in range(0, len(prefixed), 16384):
            last = at + 16384 >= len(prefixed)
            flags = _END_STREAM if last and self.ends else 0
            parts.append(_frame(_DATA, flags, self._stream, prefixed[at : at + 16384]))
        super().ask(b"".join(parts))

    ends = True

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + size:
                break
            self._take(buffer[at + 3], buffer[at + 4], bytes(buffer[at + 9 : at + 9 + size])
                       if buffer[at + 3] in (_PING,) else b"", size)  # fmt: skip
            at += 9 + size
        if at:
            del buffer[:at]

    def _take(self, kind: int, flags: int, payload: bytes, size: int) -> None:
        if kind == _DATA:
            self._answered = self._answered or size > 0
            self.message()
        elif kind == _HEADERS and flags & _END_STREAM:
            if not self._answered:
                self._failed(Refused("etcd answered without a message"))
                return
            self._answered = False
            self.finish()
        elif kind == _SETTINGS and not flags & _ACK:
            self.transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.transport.write(_frame(_PING, _ACK, 0, payload))

    def message(self) -> None:
        """A piece of the answer came."""


class GrpcStream(Grpc):
    """A gRPC stream; calls back for each piece that comes."""

    ends = False

    def message(self) -> None:
        self.finish()


def grpc_request(path: str, message: bytes) -> bytes:
    """One call in the form ``Grpc.ask`` takes."""
    text = path.encode()
    block = (
        b"\x83\x87"  # :method POST, :scheme https
         b"\x04" + bytes([len(text)]) + text
        + b"\x01\x09127.0.0.1"
        + b"\x0f\x10\x10application/grpc"
        + b"\x00\x02te\x08trailers"
    )  # fmt: skip
    return bytes([len(block)]) + block + message


def field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, out = len(value), bytearray([number << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + value


def etcd_put(key: bytes, value: bytes) -> bytes:
    """A durable write."""
    return grpc_request("/etcdserverpb.KV/Put", field(1, key) + field(2, value))


def etcd_range(key: bytes, end: bytes = b"") -> bytes:
    """A linearizable read of one key, or of all from ``key`` to ``end``."""
    return grpc_request("/etcdserverpb.KV/Range", field(1, key) + (field(2, end) if end else b""))


def etcd_watch(key: bytes, end: bytes) -> bytes:
    """A watch of all keys from ``key`` to ``end``."""
    return grpc_request("/etcdserverpb.Watch/Watch", field(1, field(1, key) + field(2, end)))
