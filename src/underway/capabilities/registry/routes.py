"""The distribution API.

Source: opencontainers/distribution-spec 1.1, end-1 to end-14.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec

from underway.base.clock import SystemClock
from underway.base.errors import NotFound, TooLarge, UnderwayError
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.registry import rules
from underway.capabilities.registry.backend import garbage
from underway.capabilities.registry.backend.credentials import ensure_credentials
from underway.capabilities.registry.backend.standins import StandIns
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.model import (
    BlobUnknown,
    DigestInvalid,
    LoginRequired,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    RangeInvalid,
    RegistryError,
    Route,
    SizeInvalid,
    Stored,
    Unsupported,
)
from underway.kit.ports import BaseImages
from underway.kit.registry import Ports
from underway.wire import oci
from underway.wire.http import Handler, Request, Response, json_response

_PIECE = 1024 * 1024


def app(home: Home, ports: Ports) -> Handler:
    """The registry of a home, with its credentials and, where something makes them, stand-ins."""
    username, password = ensure_credentials(home, home.load_settings())
    storage = Storage(home.registry)
    garbage.drop_abandoned(storage, SystemClock().now())
    try:
        images: BaseImages | None = ports.get("base-images")
    except NotFound:
        images = None
    stand_ins = StandIns(storage, images, home.registry / "making")
    return Registry(storage, stand_ins, username, password).handle


class Registry:
    """Answers the distribution API for one user."""

    def __init__(self, storage: Storage, stand_ins: StandIns, username: str, password: str) -> None:
        self._storage = storage
        self._stand_ins = stand_ins
        self._receiving: set[str] = set()
        self._login = (username, password)
        self._handlers: dict[str, Callable[[Request, Route], Awaitable[Response]]] = {
            "base": self._base,
            "catalog": self._catalog,
            "blob": self._blob,
            "uploads": self._uploads,
            "upload": self._upload,
            "manifest": self._manifest,
            "tags": self._tags,
            "referrers": self._referrers,
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request; errors are written as the specification wants them."""
        try:
            rules.check_login(request.headers.get("authorization", ""), *self._login)
            route = rules.parse_path(request.segments())
            response = await self._handlers[route.kind](request, route)
        except RegistryError as error:
            response = json_response(error.body(), error.code)
            if isinstance(error, LoginRequired):
                response.headers["www-authenticate"] = 'Basic realm="underway"'
        except UnderwayError as error:  # a stand-in that could not be made, a full disk
            wrapped = RegistryError(error.message, hint=error.hint)
            response = json_response(wrapped.body(), error.code)
        response.headers["docker-distribution-api-version"] = "registry/2.0"
        return response

    async def _base(self, request: Request, route: Route) -> Response:
        _allow(request, "GET", "HEAD")
        return json_response({})

    async def _catalog(self, request: Request, route: Route) -> Response:
        _allow(request, "GET")
        names = await run_blocking(self._storage.repositories)
        return _page(request, "/v2/_catalog", "repositories", names)

    async def _tags(self, request: Request, route: Route) -> Response:
        _allow(request, "GET")
        names = await run_blocking(self._storage.tags, route.repository)
        path = f"/v2/{route.repository}/tags/list"
        return _page(request, path, "tags", names, {"name": route.repository})

    async def _blob(self, request: Request, route: Route) -> Response:
        _allow(request, "GET", "HEAD", "DELETE")
        digest = route.reference
        if request.method == "DELETE":
            await run_blocking(self._storage.delete_blob, route.repository, digest)
            return Response(202)
        path = await run_blocking(self._storage.blob_path, route.repository, digest)
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise BlobUnknown(f"blob {digest} is not in {route.repository}") from error
        headers = {
            "content-type": "application/octet-stream",
            "docker-content-digest": digest,
            "accept-ranges": "bytes",
            "etag": f'"{digest}"',
        }
        try:
            span = rules.byte_range(request.headers.get("range", ""), size)
        except ValueError:
            return Response(416, {"content-range": f"bytes */{size}"})
        first, last = span or (0, size - 1)
        headers["content-length"] = str(last - first + 1)
        if span:
            headers["content-range"] = f"bytes {first}-{last}/{size}"
        body = b"" if request.method == "HEAD" else _file(path, first, last)
        return Response(206 if span else 200, headers, body)

    async def _uploads(self, request: Request, route: Route) -> Response:
        _allow(request, "POST")
        params = request.params()
        if "mount" in params and "from" in params and oci.is_repository(params["from"]):
            digest, source = params["mount"], params["from"]
            if await run_blocking(self._storage.mount, route.repository, digest, source):
                return self._created(route.repository, digest)
        digest = params.get("digest", "")
        if digest and not oci.is_digest(digest):
            raise DigestInvalid(f"{digest!r} is no digest")
        upload = await run_blocking(self._storage.start_upload)
        if digest:
            await self._receive(request, upload, 0)
            return await self._finish(route.repository, upload, digest)
        return self._accepted(route.repository, upload, 0)

    async def _upload(self, request: Request, route: Route) -> Response:
        _allow(request, "GET", "PATCH", "PUT", "DELETE")
        upload = route.reference
        size = await run_blocking(self._storage.upload_size, upload)
        if request.method == "GET":
            return self._accepted(route.repository, upload, size, 204)
        if request.method == "DELETE":
            await run_blocking(self._storage.cancel_upload, upload)
            return Response(204)
        digest = request.params().get("digest", "")
        if request.method == "PUT" and not oci.is_digest(digest):
            raise DigestInvalid(f"{digest!r} is no digest")
        if upload in self._receiving:
            raise RangeInvalid(f"another request is writing to the upload {upload}")
        self._receiving.add(upload)
        try:
            size = await self._receive_chunk(request, upload, size)
            if request.method == "PATCH":
                return self._accepted(route.repository, upload, size)
            return await self._finish(route.repository, upload, digest)
        finally:
            self._receiving.discard(upload)

    async def _receive_chunk(self, request: Request, upload: str, size: int) -> int:
        """Append the body; a chunk whose range or length is wrong leaves nothing behind."""
        chunk = rules.chunk_range(request.headers.get("content-range", ""))
        if chunk and chunk[0] != size:
            raise RangeInvalid(f"the upload holds {size} bytes; the chunk begins at {chunk[0]}")
        received = await self._receive(request, upload, size)
        if chunk and received != chunk[1] + 1:
            await run_blocking(self._storage.truncate_upload, upload, size)
            raise SizeInvalid(f"{received - size} bytes came for {chunk[0]}-{chunk[1]}")
        return received

    async def _receive(self, request: Request, upload: str, size: int) -> int:
        pending = bytearray()
        async for piece in request.stream():
            pending += piece
            if len(pending) >= _PIECE:
                await run_blocking(self._storage.append, upload, size, bytes(pending))
                size += len(pending)
                pending.clear()
        if pending:
            await run_blocking(self._storage.append, upload, size, bytes(pending))
        return size + len(pending)

    async def _finish(self, repository: str, upload: str, digest: str) -> Response:
        await run_blocking(self._storage.finish_upload, repository, upload, digest)
        return self._created(repository, digest)

    def _created(self, repository: str, digest: str) -> Response:
        location = f"/v2/{repository}/blobs/{digest}"
        return Response(201, {"location": location, "docker-content-digest": digest})

    def _accepted(self, repository: str, upload: str, size: int, status: int = 202) -> Response:
        return Response(
            status,
            {
                "location": f"/v2/{repository}/blobs/uploads/{upload}",
                "docker-upload-uuid": upload,
                "range": f"0-{max(0, size - 1)}",
            },
        )

    async def _manifest(self, request: Request, route: Route) -> Response:
        _allow(request, "GET", "HEAD", "PUT", "DELETE")
        if request.method == "PUT":
            return await self._put_manifest(request, route)
        if request.method == "DELETE":
            storage = self._storage
            by_digest = oci.is_digest(route.reference)
            remove = storage.delete_manifest if by_digest else storage.delete_tag
            await run_blocking(remove, route.repository, route.reference)
            return Response(202)
        stored = await self._find(route)
        headers = {
            "content-type": stored.media_type,
            "content-length": str(len(stored.data)),
            "docker-content-digest": stored.digest,
            "etag": f'"{stored.digest}"',
        }
        return Response(200, headers, b"" if request.method == "HEAD" else stored.data)

    async def _find(self, route: Route) -> Stored:
        try:
            return await run_blocking(self._storage.manifest, route.repository, route.reference)
        except ManifestUnknown:
            if not self._stand_ins.offers(route.repository, route.reference):
                raise
        await self._stand_ins.make(route.repository, route.reference)
        return await run_blocking(self._storage.manifest, route.repository, route.reference)

    async def _put_manifest(self, request: Request, route: Route) -> Response:
        try:
            data = await request.read(oci.MANIFEST_LIMIT)
        except TooLarge as error:
            raise ManifestTooLarge("the manifest is larger than 4 MiB") from error
        media_type = request.headers.get("content-type", "").partition(";")[0].strip()
        content = rules.check_manifest(data, media_type)
        digest = oci.digest_of(data)
        if ":" in route.reference and route.reference != digest:
            raise DigestInvalid(f"the manifest has digest {digest}, not {route.reference}")
        if ":" not in route.reference and not oci.is_tag(route.reference):
            raise ManifestInvalid(f"{route.reference!r} is neither tag nor digest")
        subject = rules.subject_of(content)
        await run_blocking(
            self._storage.put_manifest,
            route.repository,
            Stored(digest, media_type, data),
            tag="" if ":" in route.reference else route.reference,
            blobs=[each.digest for each in rules.blobs_of(content)],
            manifests=[each.digest for each in rules.manifests_of(content)],
            subject=subject,
        )
        headers = {
            "location": f"/v2/{route.repository}/manifests/{digest}",
            "docker-content-digest": digest,
        }
        if subject:
            headers["oci-subject"] = subject
        return Response(201, headers)

    async def _referrers(self, request: Request, route: Route) -> Response:
        _allow(request, "GET")
        wanted = request.params().get("artifactType", "")
        entries = await run_blocking(self._list_referrers, route)
        headers = {}
        if wanted:
            entries = [entry for entry in entries if entry.get("artifactType") == wanted]
            headers["oci-filters-applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}
        return Response(200, {"content-type": oci.INDEX, **headers}, msgspec.json.encode(index))

    def _list_referrers(self, route: Route) -> list[dict[str, object]]:
        stored = self._storage.referrers(route.repository, route.reference)
        return [rules.referrer(each.digest, each.data, each.media_type) for each in stored]


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise Unsupported(f"{request.method} is not supported here")


def _page(
    request: Request, path: str, key: str, names: list[str], more: dict[str, str] | None = None
) -> Response:
    shown, follows = rules.page(names, request.params())
    headers = {}
    if follows:
        query = urlencode({"n": request.params()["n"], "last": shown[-1]})
        headers["link"] = f'<{quote(path)}?{query}>; rel="next"'
    return json_response({**(more or {}), key: shown}, headers=headers)


async def _file(path: Path, first: int, last: int) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(first)
        left = last - first + 1
        while left > 0:
            piece = await run_blocking(stream.read, min(_PIECE, left))
            if not piece:
                raise OSError(f"{path} is shorter than it was")
            left -= len(piece)
            yield piece
