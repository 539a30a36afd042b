"""The distribution API.

Source: opencontainers/distribution-spec 1.1, end-1 to end-14.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import ParamSpec, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from underway.base.errors import TooLarge
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend import events
from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.backend.standins import StandIns
from underway.capabilities.registry.model import (
    Blob,
    BlobUnknown,
    DigestInvalid,
    Identity,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    Project,
    Pushed,
    RangeInvalid,
    Route,
    Scope,
    ScopeInsufficient,
    SizeInvalid,
    Stored,
    Unsupported,
)
from underway.capabilities.registry.rules import access, distribution
from underway.wire import oci
from underway.wire.http import Request, Response, json_response

P = ParamSpec("P")
T = TypeVar("T")

_PIECE = 1024 * 1024
_TAGS_LIMIT = 100  # set by one request


class Registry:
    """Answers the distribution API to those who may ask."""

    def __init__(self, hub: Hub, stand_ins: StandIns) -> None:
        self._hub = hub
        self._storage = hub.storage
        self._uploading = hub.storage.uploads
        self._stand_ins = stand_ins
        self._accounts = hub.accounts
        self._receiving: set[str] = set()
        self._handlers: dict[str, Callable[[Request, Route], Awaitable[Response]]] = {
            "base": self._base,
            "catalog": self._catalog,
            "blob": self._blob,
            "upload": self._upload,
            "tags": self._tags,
            "referrers": self._referrers,
        }

    async def answer(self, request: Request, route: Route, identity: Identity) -> Response:
        """Answer one request of somebody who may make it; raises RegistryError."""
        if request.method in ("POST", "PUT", "PATCH") and self._cached(route):
            raise Unsupported(f"{route.repository} is a cache: nothing can be pushed to it")
        if route.kind == "uploads":
            return await self._uploads(request, route, identity)
        if route.kind == "manifest":
            return await self._manifest(request, route, identity)
        return await self._handlers[route.kind](request, route)

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
        found = await self._find_blob(route)
        size = found.size
        headers = {
            "content-type": "application/octet-stream",
            "docker-content-digest": digest,
            "accept-ranges": "bytes",
            "etag": f'"{digest}"',
        }
        try:
            span = distribution.byte_range(request.headers.get("range", ""), size)
        except ValueError:
            return Response(416, {"content-range": f"bytes */{size}"})
        first, last = span or (0, size - 1)
        headers["content-length"] = str(last - first + 1)
        if span:
            headers["content-range"] = f"bytes {first}-{last}/{size}"
        body = b"" if request.method == "HEAD" else self._bytes(found, first, last)
        return Response(206 if span else 200, headers, body)

    async def _uploads(self, request: Request, route: Route, identity: Identity) -> Response:
        _allow(request, "POST")
        params = request.params()
        if oci.is_digest(params.get("mount", "")) and await self._mount(params, route, identity):
            return self._created(route.repository, params["mount"])
        algorithm = params.get("digest-algorithm", "sha256")
        if algorithm not in oci.DIGEST_ALGORITHMS:
            raise DigestInvalid(f"digest-algorithm {algorithm!r} is not known here")
        digest = params.get("digest", "")
        if digest and not oci.is_digest(digest):
            raise DigestInvalid(f"{digest!r} is no digest")
        if digest:
            algorithm = digest.partition(":")[0]
        upload = await run_blocking(self._uploading.start, algorithm)
        if digest:
            await self._receive(request, upload, 0)
            return await self._finish(route.repository, upload, digest)
        return self._accepted(route.repository, upload, 0)

    async def _mount(self, params: dict[str, str], route: Route, identity: Identity) -> bool:
        """Take a blob over from where the client may pull it; False where it has to upload it."""
        target, digest, source = route.repository, params["mount"], params.get("from", "")
        if not source:
            # Without a source, any repository of the project that the account may read will do.
            account = Identity(identity.account)
            if not self._accounts.may_pull(account, target):
                return False
            project = access.project_of(target)
            return await run_blocking(self._storage.mount_from_any, target, digest, project)
        if not oci.is_repository(source):
            return False
        if not self._accounts.may_pull(identity, source):
            if self._accounts.may_pull(Identity(identity.account), source):
                wanted = Scope("repository", source, frozenset({"pull"}))
                raise ScopeInsufficient("the token does not allow reading the source", wanted)
            return False
        return await run_blocking(self._storage.mount, target, digest, source)

    async def _upload(self, request: Request, route: Route) -> Response:
        _allow(request, "GET", "PATCH", "PUT", "DELETE")
        upload = route.reference
        size = await run_blocking(self._uploading.size, upload)
        if request.method == "GET":
            return self._accepted(route.repository, upload, size, 204)
        if request.method == "DELETE":
            await run_blocking(self._uploading.cancel, upload)
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
        chunk = distribution.chunk_range(request.headers.get("content-range", ""))
        if chunk and chunk[0] != size:
            raise RangeInvalid(f"the upload holds {size} bytes; the chunk begins at {chunk[0]}")
        received = await self._receive(request, upload, size)
        if chunk and received != chunk[1] + 1:
            await run_blocking(self._uploading.truncate, upload, size)
            raise SizeInvalid(f"{received - size} bytes came for {chunk[0]}-{chunk[1]}")
        return received

    async def _receive(self, request: Request, upload: str, size: int) -> int:
        pending = bytearray()
        async for piece in request.stream():
            pending += piece
            if len(pending) >= _PIECE:
                await run_blocking(self._uploading.append, upload, size, pending)
                size += len(pending)
                pending = bytearray()
        if pending:
            await run_blocking(self._uploading.append, upload, size, pending)
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

    async def _manifest(self, request: Request, route: Route, identity: Identity) -> Response:
        _allow(request, "GET", "HEAD", "PUT", "DELETE")
        if request.method == "PUT":
            return await self._put_manifest(request, route, identity)
        if request.method == "DELETE":
            await run_blocking(self._delete, route, identity)
            return Response(202)
        stored = None
        if oci.is_digest(route.reference) or not self._cached(route):
            stored = self._storage.recall(route.repository, route.reference)
        stored = stored or await self._find(route)
        headers = {
            "content-type": stored.media_type,
            "content-length": str(len(stored.data)),
            "docker-content-digest": stored.digest,
            "etag": f'"{stored.digest}"',
        }
        if request.method == "HEAD":
            return Response(200, headers)
        who = identity.account.name
        noted = (stored.id, route.repository, route.reference, stored.digest, who)
        if self._hub.events.pulled(*noted):
            await run_blocking(self._hub.events.flush)
        return Response(200, headers, stored.data)

    def _delete(self, route: Route, identity: Identity) -> None:
        name, reference = route.repository, route.reference
        digest = self._storage.manifest(name, reference).digest
        tag = "" if reference == digest else reference
        project = self._accounts.project(name)
        assert project is not None
        happened = events.of_artifact("DELETE_ARTIFACT", name, digest, tag, project.id)

        def then(cursor: Cursor) -> None:
            self._hub.events.record(cursor, identity.account, happened)

        if tag:
            self._storage.delete_tag(name, tag, then)
        else:
            self._storage.delete_manifest(name, digest, then=then)

    def _cached(self, route: Route) -> Project | None:
        """The project of a repository, if that is a cache of another registry."""
        project = self._accounts.project(route.repository) if route.repository else None
        return project if project and project.registry_id else None

    async def _find_blob(self, route: Route) -> Blob:
        name, digest = route.repository, route.reference
        try:
            return await self._call(self._storage.blob, name, digest)
        except BlobUnknown:
            if not (project := self._cached(route)):
                raise
        return await run_blocking(self._hub.proxy.blob, project, name, digest)

    async def _find(self, route: Route) -> Stored:
        if project := self._cached(route):
            proxy = self._hub.proxy
            return await run_blocking(proxy.manifest, project, route.repository, route.reference)
        try:
            return await self._call(self._storage.manifest, route.repository, route.reference)
        except ManifestUnknown:
            if not self._stand_ins.offers(route.repository, route.reference):
                raise
        await self._stand_ins.make(route.repository, route.reference)
        return await run_blocking(self._storage.manifest, route.repository, route.reference)

    async def _call(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read a record: at once where that takes microseconds."""
        if self._hub.database.local and self._storage.contents.local:
            return read(*args, **kwargs)
        return await run_blocking(read, *args, **kwargs)

    async def _bytes(self, blob: Blob, first: int, last: int) -> AsyncIterator[bytes]:
        pieces = self._storage.read_blob(blob, first, last)
        while piece := await run_blocking(next, pieces, b""):
            yield piece

    async def _put_manifest(self, request: Request, route: Route, identity: Identity) -> Response:
        try:
            data = await request.read(oci.MANIFEST_LIMIT)
        except TooLarge as error:
            raise ManifestTooLarge("the manifest is larger than 4 MiB") from error
        media_type = request.headers.get("content-type", "").partition(";")[0].strip()
        content = distribution.check_manifest(data, media_type)
        digest, tags = _targets(request, route.reference, data)
        subject = distribution.subject_of(content)
        project = self._accounts.project(route.repository)

        def then(cursor: Cursor, pushed: Pushed) -> None:
            for tag in tags or [""]:
                happened = events.of_artifact(
                    "PUSH_ARTIFACT", route.repository, digest, tag, pushed.project_id
                )
                self._hub.events.record(cursor, identity.account, happened)

        await run_blocking(
            self._storage.put_manifest,
            route.repository,
            Stored(digest, media_type, data),
            tags=tags,
            sparse=bool(project and project.sparse),
            then=then,
        )
        headers = {
            "location": f"/v2/{route.repository}/manifests/{digest}",
            "docker-content-digest": digest,
        }
        if subject:
            headers["oci-subject"] = subject
        if tags and oci.is_digest(route.reference):
            headers["oci-tag"] = ", ".join(tags)
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
        return [distribution.referrer(each.digest, each.data, each.media_type) for each in stored]


def _targets(request: Request, reference: str, data: bytes) -> tuple[str, list[str]]:
    """The digest of a pushed manifest, and the tags to set.

    Raises:
        DigestInvalid: the digest in the path is not that of the content.
        ManifestInvalid: the path, or a ``tag`` parameter, holds no tag.
    """
    if oci.is_digest(reference):
        digest = oci.digest_of(data, reference.partition(":")[0])
        if digest != reference:
            raise DigestInvalid(f"the manifest has digest {digest}, not {reference}")
        tags = request.param_lists().get("tag", [])
        if len(tags) > _TAGS_LIMIT:
            raise ManifestInvalid(f"{len(tags)} tags are too many for one request")
    elif ":" in reference:
        raise DigestInvalid(f"{reference!r} is no digest")
    else:
        digest, tags = oci.digest_of(data), [reference]
    for tag in tags:
        if not oci.is_tag(tag):
            raise ManifestInvalid(f"{tag!r} is neither tag nor digest")
    return digest, tags


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise Unsupported(f"{request.method} is not supported here")


def _page(
    request: Request, path: str, key: str, names: list[str], more: dict[str, str] | None = None
) -> Response:
    shown, follows = distribution.page(names, request.params())
    headers = {}
    if follows:
        query = urlencode({"n": request.params()["n"], "last": shown[-1]})
        headers["link"] = f'<{quote(path)}?{query}>; rel="next"'
    return json_response({**(more or {}), key: shown}, headers=headers)
