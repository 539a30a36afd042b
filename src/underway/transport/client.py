"""Requests over the network, as a handler.

``HttpTransport`` turns a ``Request`` into one sent to a server and its answer into a ``Response``,
so that whoever speaks through a handler need not know whether the other side is in this process.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs

from underway.base.errors import (
    BadRequest,
    RequestTimeout,
    ServiceUnavailable,
    TooLarge,
    UnderwayError,
)
from underway.wire.http import Request, Response

if TYPE_CHECKING:  # 0.2 s and 8 MB, which an API server that calls nobody does without
    import httpx

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 120.0
_POOL_TIMEOUT_S = 30.0
_CONNECTIONS = 512  # each watch holds one
_IDLE_CONNECTIONS = 16
_IDLE_S = 60.0  # less than the front's idle timeout, so that we never use a closing connection
_STREAM_BYTES = 1024 * 1024
_WHOLE_LIMIT = 256 * 1024 * 1024  # bytes; a list of 30,000 pods is about a third of that
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
)


class HttpTransport:
    """A handler that sends requests to one server.

    Args:
        base_url: ``https://host:port``, with a path prefix if the server has one.
        tls: how to verify the server and what to show it; None for ``http``.
        token: sent as a bearer token.
        headers: sent with every request.
        server_name: whom the server's certificate must name; its host in ``base_url`` if empty.

    Calls raise ServiceUnavailable when the server cannot be reached or breaks off, RequestTimeout
    when it does not answer, BadRequest when it does not speak HTTP.
    """

    def __init__(
        self,
        base_url: str,
        *,
        tls: ssl.SSLContext | None = None,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        server_name: str = "",
    ) -> None:
        import httpx

        own = dict(headers or {})
        if token:
            own["authorization"] = f"Bearer {token}"
        self._base_url = base_url.rstrip("/")
        self._extensions = {"sni_hostname": server_name} if server_name else {}
        self._client = httpx.AsyncClient(
            base_url=self._base_url,
            headers=own,
            verify=tls if tls is not None else False,
            timeout=_timeout(_READ_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=_CONNECTIONS,
                max_keepalive_connections=_IDLE_CONNECTIONS,
                keepalive_expiry=_IDLE_S,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def __call__(self, request: Request) -> Response:
        """Send ``request``; the response's body is bytes, or a stream where it has no end yet."""
        import httpx

        endless = _endless(request)
        try:
            outgoing = self._client.build_request(
                request.method,
                request.path + (f"?{request.query}" if request.query else ""),
                headers={k: v for k, v in request.headers.items() if k not in _HOP_BY_HOP},
                content=request.body or None,
                # A watch or a followed log may be silent for hours.
                timeout=_timeout(None if endless else _READ_TIMEOUT_S),
                extensions=self._extensions,
            )
            answer = await self._client.send(outgoing, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _mapped(error, self._what(request)) from error
        headers = {k.lower(): v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
        body = _Body(answer, self._what(request))
        if headers.pop("content-encoding", ""):  # httpx decodes
            headers.pop("content-length", None)
        if request.method != "HEAD" and (endless or _long(headers)):
            return Response(answer.status_code, headers, body)
        return Response(answer.status_code, headers, await body.whole())

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _what(self, request: Request) -> str:
        return f"{request.method} {self._base_url}{request.path}"


class _Body:
    """An answer's body as an async iterator that gives its connection back when it is closed."""

    def __init__(self, answer: httpx.Response, what: str) -> None:
        self._answer = answer
        self._what = what
        self._chunks = answer.aiter_bytes()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        import httpx

        try:
            return await anext(self._chunks)
        except (httpx.HTTPError, OSError) as error:
            raise _mapped(error, self._what) from error

    async def aclose(self) -> None:
        """Read no further."""
        await self._answer.aclose()

    async def whole(self) -> bytes:
        """All of it; raises TooLarge."""
        chunks, size = [], 0
        try:
            async for chunk in self:
                chunks.append(chunk)
                size += len(chunk)
                if size > _WHOLE_LIMIT:
                    raise TooLarge(f"{self._what}: the answer exceeds {_WHOLE_LIMIT} bytes")
        finally:
            await self.aclose()
        return b"".join(chunks)


def _timeout(read_s: float | None) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(read_s, connect=_CONNECT_TIMEOUT_S, pool=_POOL_TIMEOUT_S)


def _endless(request: Request) -> bool:
    """Whether the request asks for an answer that goes on: a watch, or a log that is followed."""
    params = parse_qs(request.query, keep_blank_values=True)
    return any(
        params.get(name, ["false"])[-1] not in {"false", "0"} for name in ("watch", "follow")
    )


def _long(headers: Mapping[str, str]) -> bool:
    """Whether a body is better streamed: of unknown or great length, and no JSON."""
    if headers.get("content-type", "").startswith("application/json"):
        return False
    return int(headers.get("content-length", _STREAM_BYTES + 1)) > _STREAM_BYTES


def _mapped(error: Exception, what: str) -> UnderwayError:
    import httpx

    cause = str(error) or type(error).__name__
    match error:
        case httpx.PoolTimeout():
            return ServiceUnavailable(f"{what}: all {_CONNECTIONS} connections are busy")
        case httpx.ConnectTimeout():
            return ServiceUnavailable(f"{what}: no connection within {_CONNECT_TIMEOUT_S:.0f} s")
        case httpx.TimeoutException():
            return RequestTimeout(f"{what}: no answer within {_READ_TIMEOUT_S:.0f} s")
        case httpx.LocalProtocolError() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return BadRequest(f"{what}: cannot be sent: {cause}")
        case httpx.ConnectError() if "CERTIFICATE_VERIFY_FAILED" in cause:
            return ServiceUnavailable(
                f"{what}: the server's certificate is not trusted: {cause}",
                hint="does the certificate authority given belong to this server?",
            )
        case httpx.ConnectError():
            return ServiceUnavailable(f"{what}: cannot connect: {cause}")
        case _:
            return ServiceUnavailable(f"{what}: the connection broke: {cause}")
