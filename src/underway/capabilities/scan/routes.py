"""The scanner's HTTP service: Clair's indexer, matcher and notifier, and Harbor's scanner API.

Source: Clair v4 ``httptransport/api/v1/openapi.yaml`` 1.2.0; Harbor "Pluggable Image Vulnerability
Scanning" API 1.1.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from underway.base.clock import Clock, SystemClock, rfc3339
from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.scan.backend import tokens
from underway.capabilities.scan.backend.layers import INDEX_STATE, index_layer
from underway.capabilities.scan.backend.scanner import Scanner
from underway.capabilities.scan.model import Report
from underway.capabilities.scan.rules import clair, reports
from underway.kit.registry import Ports
from underway.wire import oci
from underway.wire.http import Handler, Request, Response, json_response

REPORT_TYPE = "application/vnd.security.vulnerability.report; version=1.1"
_CONSUMES = (oci.MANIFEST, oci.DOCKER_MANIFEST)
_METADATA_TYPE = "application/vnd.scanner.adapter.metadata+json; version=1.1"
_FETCH_TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 18
_PAGE_SIZE = 500
_JOBS_KEPT = 1000
_WORKERS = 2
_RETRY_S = 2


def app(home: Home, ports: Ports) -> Handler:
    """The service of a platform."""
    del ports
    return Service(home, SystemClock()).handle


Answer = Callable[["Service", Request, list[str]], Awaitable[Response]]


class Service:
    """Lets in who has a token, and writes errors as Clair does."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._secret = tokens.key(home)
        self._scanner = Scanner(home, clock)
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="scan")
        self._jobs: OrderedDict[str, Future[Report]] = OrderedDict()

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        try:
            tokens.check(self._secret, request.headers.get("authorization", ""), self._clock.now())
            for method, prefix, answer in _ROUTES:
                parts = request.segments()
                if request.method == method and parts[: len(prefix)] == prefix:
                    return await answer(self, request, parts[len(prefix) :])
            raise NotFound(f"{request.method} {request.path}: there is nothing here")
        except UnderwayError as error:
            code = error.reason.lower() if error.reason else "error"
            body = {"code": code, "message": error.message, "error": {"message": error.message}}
            headers = {"www-authenticate": "Bearer"} if error.code == 401 else {}
            return json_response(body, error.code, headers)

    async def index(self, request: Request, rest: list[str]) -> Response:
        """POST index_report: index what a manifest names."""
        if rest:
            raise NotFound("a manifest is posted to index_report itself")
        digest, layers = clair.parse_manifest(_json(await request.read()))
        try:
            await run_blocking(self._index, digest, layers)
        except UnderwayError as error:
            body = {"code": "precondition-failed", "message": error.message}
            return json_response(body, 412)
        report = await self._index_report(digest)
        headers = {
            "location": f"/indexer/api/v1/index_report/{digest}",
            "link": f'</indexer/api/v1/index_report/{digest}>; rel="self"',
        }
        return json_response(report, 201, headers)

    def _index(self, digest: str, layers: list[dict[str, Any]]) -> None:
        for layer in layers:
            if self._scanner.indexes.get(layer["hash"]) is None:
                index = index_layer(_fetched(layer), layer["hash"])
                self._scanner.indexes.put(layer["hash"], index)
        self._scanner.indexes.keep_manifest(digest, [each["hash"] for each in layers])

    async def _index_report(self, digest: str) -> dict[str, Any]:
        subject = await run_blocking(self._scanner.known, digest)
        if subject is None:
            raise NotFound(f"{digest} has not been indexed")
        return clair.index_report(digest, subject.inventory)

    async def index_report(self, request: Request, rest: list[str]) -> Response:
        """GET index_report/DIGEST."""
        etag = f'"{INDEX_STATE}"'
        report = await self._index_report(_one(rest))
        if request.headers.get("if-none-match") == etag:
            return Response(304, {"etag": etag})
        return json_response(report, 200, {"etag": etag})

    async def forget(self, request: Request, rest: list[str]) -> Response:
        """DELETE index_report/DIGEST, or a list of digests in the body."""
        digests = [_one(rest)] if rest else _json(await request.read())
        if not isinstance(digests, list):
            raise BadRequest("the body is a list of digests")
        forgotten = [
            each for each in digests
            if await run_blocking(self._scanner.indexes.forget_manifest, str(each))
        ]  # fmt: skip
        if rest and not forgotten:
            raise NotFound(f"{rest[0]} has not been indexed")
        return json_response(forgotten) if not rest else Response(204)

    async def index_state(self, request: Request, rest: list[str]) -> Response:
        """GET index_state: changes when everything should be indexed anew."""
        del rest
        state = hashlib.sha256(INDEX_STATE.encode()).hexdigest()[:32]
        etag = f'"{state}"'
        if request.headers.get("if-none-match") == etag:
            return Response(304, {"etag": etag})
        return json_response({"state": state}, 200, {"etag": etag})

    async def vulnerabilities(self, request: Request, rest: list[str]) -> Response:
        """GET vulnerability_report/DIGEST."""
        del request
        subject = await run_blocking(self._scanner.known, _one(rest))
        if subject is None:
            raise NotFound(f"{_one(rest)} has not been indexed")
        report = await run_blocking(self._scanner.match, subject)
        return json_response(clair.vulnerability_report(report), 201)

    async def notification(self, request: Request, rest: list[str]) -> Response:
        """GET notification/ID, page by page."""
        items = await run_blocking(self._scanner.indexes.notification, _one(rest))
        if items is None:
            raise NotFound(f"there is no notification {rest[0]}")
        params = request.params()
        size = params.get("page_size", str(_PAGE_SIZE))
        if not size.isdigit() or not 0 < int(size) <= _PAGE_SIZE:
            raise BadRequest(f"page_size is between 1 and {_PAGE_SIZE}")
        return json_response(clair.page(items, int(size), params.get("next", "")))

    async def forget_notification(self, request: Request, rest: list[str]) -> Response:
        """DELETE notification/ID: it was read to the end."""
        del request
        if not await run_blocking(self._scanner.indexes.forget_notification, _one(rest)):
            raise NotFound(f"there is no notification {rest[0]}")
        return Response(204)

    async def metadata(self, request: Request, rest: list[str]) -> Response:
        """GET metadata: what this scanner takes and gives."""
        del request, rest
        sources = await run_blocking(self._scanner.advisories.sources)
        updated = max((each.imported_at for each in sources), default="")
        body = {
            "scanner": {"name": "underway", "vendor": "Underway", "version": "1"},
            "capabilities": [{
                "type": "vulnerability",
                "consumes_mime_types": list(_CONSUMES),
                "produces_mime_types": [REPORT_TYPE],
            }],
            "properties": {
                "harbor.scanner-adapter/scanner-type": "os-package-vulnerability",
                "harbor.scanner-adapter/vulnerability-database-updated-at": updated,
            },
        }  # fmt: skip
        return Response(200, {"content-type": _METADATA_TYPE}, msgspec.json.encode(body))

    async def scan(self, request: Request, rest: list[str]) -> Response:
        """POST scan: begin; the report is asked for with the id that comes back."""
        if rest:
            raise NotFound("a scan is posted to scan itself")
        value = _json(await request.read())
        try:
            digest = str(value["artifact"]["digest"])
            repository = str(value["artifact"]["repository"])
            host = str(value["registry"]["url"]).split("://", 1)[-1].rstrip("/")
        except (KeyError, TypeError) as error:
            raise BadRequest("a scan request names registry.url and artifact") from error
        if not oci.is_digest(digest) or not oci.is_repository(repository):
            raise BadRequest(f"{repository}@{digest} is no image")
        id_ = str(uuid.uuid4())
        self._jobs[id_] = self._pool.submit(self._scan, f"{host}/{repository}@{digest}")
        while len(self._jobs) > _JOBS_KEPT:
            self._jobs.popitem(last=False)[1].cancel()
        return json_response({"id": id_}, 202)

    def _scan(self, name: str) -> Report:
        return self._scanner.match(self._scanner.index_image(name, lambda _: None))

    async def report(self, request: Request, rest: list[str]) -> Response:
        """GET scan/ID/report: the report, or 302 while it is being made."""
        if len(rest) != 2 or rest[1] != "report" or rest[0] not in self._jobs:
            raise NotFound(f"there is no scan {'/'.join(rest)}")
        job = self._jobs[rest[0]]
        if not job.done():
            headers = {"location": request.path, "refresh-after": str(_RETRY_S)}
            return Response(302, headers)
        body = reports.as_harbor(job.result(), rfc3339(self._clock.now()))
        return Response(200, {"content-type": REPORT_TYPE}, msgspec.json.encode(body))


_INDEXER = ["indexer", "api", "v1"]
_MATCHER = ["matcher", "api", "v1"]
_NOTIFIER = ["notifier", "api", "v1"]
_ROUTES: tuple[tuple[str, list[str], Answer], ...] = (
    ("POST", [*_INDEXER, "index_report"], Service.index),
    ("GET", [*_INDEXER, "index_report"], Service.index_report),
    ("DELETE", [*_INDEXER, "index_report"], Service.forget),
    ("GET", [*_INDEXER, "index_state"], Service.index_state),
    ("GET", [*_MATCHER, "vulnerability_report"], Service.vulnerabilities),
    ("GET", [*_NOTIFIER, "notification"], Service.notification),
    ("DELETE", [*_NOTIFIER, "notification"], Service.forget_notification),
    ("GET", ["api", "v1", "metadata"], Service.metadata),
    ("POST", ["api", "v1", "scan"], Service.scan),
    ("GET", ["api", "v1", "scan"], Service.report),
)


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from error


def _one(rest: list[str]) -> str:
    if len(rest) != 1:
        raise NotFound("one digest or id is named at the end of the path")
    return rest[0]


def _fetched(layer: dict[str, Any]) -> Iterator[bytes]:
    """A layer's bytes from where its manifest says.

    Raises:
        NotFound: it cannot be fetched.
    """
    import httpx

    headers = [(name, str(value)) for name, each in (layer.get("headers") or {}).items()
               for value in each]  # fmt: skip
    try:
        with httpx.stream(
            "GET", layer["uri"], headers=headers, timeout=_FETCH_TIMEOUT_S, follow_redirects=True
        ) as response:
            response.raise_for_status()
            yield from response.iter_raw(_CHUNK_BYTES)
    except httpx.HTTPError as error:
        raise NotFound(f"layer {layer['hash']} cannot be fetched: {error}") from error
