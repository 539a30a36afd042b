"""What one connection, and all of them together, may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the HTTP front.

    Attributes:
        header_bytes: a request's head: request line and headers.
        header_count: header fields in a request.
        header_timeout_s: from a request's first byte until its head, and a small body, are there.
        idle_timeout_s: between two requests of one connection.
        body_timeout_s: without a byte of a body the handler waits for.
        whole_body_bytes: announced bodies up to this size are handed over as bytes.
        buffer_bytes: received and not yet read, before the socket is left alone.
        discard_bytes: of a body nobody read, to keep the connection usable.
        connections: at the same time; more are answered 503.
        gzip_bytes: JSON answers longer than this are compressed for clients that accept it.
    """

    header_bytes: int = 64 * 1024
    header_count: int = 128
    header_timeout_s: float = 15.0
    idle_timeout_s: float = 120.0
    body_timeout_s: float = 120.0
    whole_body_bytes: int = 64 * 1024
    buffer_bytes: int = 256 * 1024
    discard_bytes: int = 256 * 1024
    connections: int = 4096
    gzip_bytes: int = 128 * 1024
