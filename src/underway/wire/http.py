"""HTTP messages as values: what a handler gets and what it answers.

A handler is any ``async (Request) -> Response``. The API server, the registry, the node agent
and the in-process client all meet at this shape; ``transport.front`` carries it over sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from underway.base.errors import BadRequest, TooLarge

BODY_LIMIT = 3 * 1024 * 1024  # bytes; Kubernetes' own limit for a request body


class ByteStream(Protocol):
    """Both directions of a connection after an upgrade."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the peer is slow.

        Raises:
            ConnectionError: the peer has gone.
        """
        ...

    def write_eof(self) -> None:
        """End our direction; what the peer still sends can be read."""
        ...

    def close(self) -> None:
        """End both directions."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other end: the address, and the subject of a verified client certificate.

    ``common_name`` and ``organizations`` are empty without a client certificate.
    """

    address: str = ""
    common_name: str = ""
    organizations: tuple[str, ...] = ()


@dataclass(slots=True)
class Request:
    """One request.

    ``path`` is still percent-encoded, ``query`` is the raw text behind ``?``, header names are
    lower-case. ``body`` is the whole body or a stream of it. ``context`` carries what the layers
    in front found out (``user``), by name.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""
    peer: Peer = Peer()
    context: dict[str, Any] = field(default_factory=dict)

    def params(self) -> dict[str, str]:
        """The query's parameters; of a repeated one, the last."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    def param_lists(self) -> dict[str, list[str]]:
        """The query's parameters with every value, in order."""
        found: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.query, keep_blank_values=True):
            found.setdefault(name, []).append(value)
        return found

    def segments(self) -> list[str]:
        """The path's non-empty segments, percent-decoded."""
        return [unquote(part) for part in self.path.split("/") if part]

    async def read(self, limit_bytes: int = BODY_LIMIT) -> bytes:
        """The whole body.

        Raises:
            TooLarge: it is longer than ``limit_bytes``.
        """
        if isinstance(self.body, bytes):
            if len(self.body) > limit_bytes:
                raise TooLarge(f"Request entity too large: limit is {limit_bytes}")
            return self.body
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.body:
            size += len(chunk)
            if size > limit_bytes:
                raise TooLarge(f"Request entity too large: limit is {limit_bytes}")
            chunks.append(chunk)
        self.body = b"".join(chunks)
        return self.body

    async def stream(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, however long."""
        if isinstance(self.body, bytes):
            if self.body:
                yield self.body
            return
        async for chunk in self.body:
            yield chunk


Upgrade = Callable[[ByteStream], Awaitable[None]]


@dataclass(slots=True)
class Response:
    """One answer.

    ``body`` is the whole body or a stream, sent as it comes. With ``upgrade`` the front sends
    status 101 with ``headers`` and hands the connection to the callable.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""
    upgrade: Upgrade | None = None

    async def read(self) -> bytes:
        """The whole body."""
        if isinstance(self.body, bytes):
            return self.body
        return b"".join([chunk async for chunk in self.body])

    def json(self) -> Any:
        """The body, already read whole, decoded.

        Raises:
            BadRequest: it is no JSON.
        """
        assert isinstance(self.body, bytes)
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise BadRequest(f"the body is no JSON: {error}") from error


Handler = Callable[[Request], Awaitable[Response]]


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``value`` as a JSON body."""
    return Response(
        status, {"content-type": "application/json", **(headers or {})}, msgspec.json.encode(value)
    )
