"""From a request to the answer that goes out, whatever the protocol version.

Errors become ``Status`` objects; large JSON is compressed. Source: Kubernetes API conventions
("Response Status Kind"), kubernetes/apiserver ``writers.go`` (compression from 128 KiB on).
"""

from __future__ import annotations

import logging
import re

import msgspec
from isal import igzip

from underway.base.errors import InternalError, UnderwayError
from underway.base.threads import run_blocking
from underway.wire.http import Handler, Request, Response

log = logging.getLogger(__name__)

_GZIP_LEVEL = 1
_INLINE_BYTES = 1024 * 1024  # compressing more than this would hold up the loop for milliseconds
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ACCEPTS_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))(?:;|,|$)")


def error_response(error: UnderwayError) -> Response:
    """``error`` as a ``Status`` in JSON, with ``Retry-After`` where it says when."""
    headers = {"content-type": "application/json"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return Response(error.code, headers, msgspec.json.encode(error.to_status()))


async def answer(handler: Handler, request: Request, gzip_bytes: int) -> Response:
    """The handler's response, its error as a response, and never an ``Exception``.

    JSON longer than ``gzip_bytes`` is compressed if the client accepts that.
    """
    try:
        response = await handler(request)
        _settle_headers(response)
    except UnderwayError as error:
        return error_response(error)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return error_response(InternalError("Internal error: see the server's log"))
    if isinstance(response.body, bytes) and len(response.body) > gzip_bytes:
        return await _compressed(request, response)
    return response


def _settle_headers(response: Response) -> None:
    """Make names lower-case; raises ValueError for what would break the response's head."""
    for name, value in response.headers.items():
        if "\n" in value or "\r" in value or not _TOKEN.fullmatch(name):
            raise ValueError(f"header {name!r} of the response would break its head")
    if any(name != name.lower() for name in response.headers):
        response.headers = {name.lower(): value for name, value in response.headers.items()}


async def _compressed(request: Request, response: Response) -> Response:
    headers = response.headers
    if (
        not headers.get("content-type", "").startswith("application/json")
        or "content-encoding" in headers
        or "content-length" in headers
        or not _ACCEPTS_GZIP.search(request.headers.get("accept-encoding", ""))
    ):
        return response
    body = response.body
    assert isinstance(body, bytes)
    if len(body) > _INLINE_BYTES:
        body = await run_blocking(igzip.compress, body, _GZIP_LEVEL, mtime=0)
    else:
        body = igzip.compress(body, _GZIP_LEVEL, mtime=0)
    headers = {**headers, "content-encoding": "gzip", "vary": "Accept-Encoding"}
    return Response(response.status, headers, body)
