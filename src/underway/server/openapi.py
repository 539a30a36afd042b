"""OpenAPI documents: v3, one for each group and version, and v2, all in one.

Source: Kubernetes API concepts, "OpenAPI"; KEP-2896.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator

import msgspec
import zstandard

from underway.api import openapi, openapi_v2
from underway.base.errors import NotAcceptable, UnderwayError
from underway.base.threads import run_blocking
from underway.server.aggregation import Aggregation
from underway.server.call import no_such_path
from underway.server.catalog import Catalog
from underway.server.identity import User
from underway.server.negotiation import JSON, accepts_json
from underway.wire.http import Request, Response

log = logging.getLogger(__name__)

_BACKEND_BYTES = 4 * 1024 * 1024


class OpenApi:
    """Makes the documents when they are asked for, and keeps them until something changes."""

    def __init__(self, catalog: Catalog, aggregation: Aggregation) -> None:
        self._catalog = catalog
        self._aggregation = aggregation
        self._documents: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._whole: tuple[str, bytes] = ("", b"")  # v2: digest, compressed

    async def v3(self, request: Request, rest: list[str]) -> Response:
        """``/openapi/v3`` and what lies below it.

        Raises:
            NotFound: there is no such group and version.
        """
        if not rest:
            return Response(200, {"content-type": JSON}, openapi.index(self._hashes()))
        match rest:
            case ["api", version]:
                group = ""
            case ["apis", group, version]:
                pass
            case _:
                raise no_such_path()
        if version not in self._catalog.groups().get(group, ()):
            raise no_such_path()
        digest = self._hash(group, version)
        headers = {"content-type": JSON, "etag": f'"{digest}"', "vary": "Accept"}
        if request.params().get("hash") == digest:
            headers["cache-control"] = "public, immutable"
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(304, headers)
        known = self._documents.get((group, version))
        if known is None or known[0] != digest:
            data = await self._document(group, version)
            known = self._documents[group, version] = (digest, data)
        return Response(200, headers, known[1])

    async def v2(self, request: Request, user: User) -> Response:
        """``/openapi/v2``, in JSON.

        Raises:
            NotAcceptable: the client takes protobuf alone.
        """
        if not accepts_json(request):
            raise NotAcceptable(f"only the following media types are accepted: {JSON}")
        hashes = self._hashes()
        digest = hashlib.sha256(msgspec.json.encode(hashes, order="sorted")).hexdigest().upper()
        headers = {"content-type": JSON, "etag": f'"{digest}"', "vary": "Accept"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(304, headers)
        if self._whole[0] != digest:
            parts = [
                await self._document(group, version)
                for group, versions in self._catalog.groups().items()
                for version in versions
            ]
            parts += await self._of_backends(user)
            self._whole = (digest, await run_blocking(_packed, parts))
        return Response(200, headers, await run_blocking(zstandard.decompress, self._whole[1]))

    async def _document(self, group: str, version: str) -> bytes:
        found = self._catalog.in_version(group, version)
        custom = {s.resource.kind: s.custom.openapi for s in found if s.custom}
        resources = [served.resource for served in found]
        return await run_blocking(openapi.document, group, version, resources, custom)

    async def _of_backends(self, user: User) -> list[bytes]:
        """The documents of aggregated servers that have one."""
        found = []
        for backend in list(self._aggregation.backends()):
            if not self._aggregation.said_of(backend).openapi or not backend.available:
                continue
            path = f"/openapi/v3/{openapi.document_path(backend.group, backend.version)}"
            request = Request("GET", path, "", {"accept": JSON})
            try:
                response = await self._aggregation.send(backend, request, user)
                chunks = [chunk async for chunk in _bounded(response)]
                msgspec.json.decode(b"".join(chunks))
            except (UnderwayError, msgspec.DecodeError, TimeoutError) as error:
                log.warning("no OpenAPI document of %s: %s", backend.object_name, error)
                continue
            if response.status == 200:
                found.append(b"".join(chunks))
        return found

    def _hashes(self) -> dict[str, str]:
        hashes = {
            openapi.document_path(group, version): self._hash(group, version)
            for group, versions in self._catalog.groups().items()
            for version in versions
        }
        for backend in self._aggregation.backends():
            if digest := self._aggregation.said_of(backend).openapi:
                hashes[openapi.document_path(backend.group, backend.version)] = digest
        return hashes

    def _hash(self, group: str, version: str) -> str:
        found = self._catalog.in_version(group, version)
        custom = {s.resource.kind: s.custom.openapi for s in found if s.custom}
        return openapi.document_hash([served.resource for served in found], custom)


def _packed(parts: list[bytes]) -> bytes:
    return zstandard.compress(openapi_v2.document(parts), 3)


async def _bounded(response: Response) -> AsyncIterator[bytes]:
    if isinstance(response.body, bytes):
        yield response.body
        return
    size = 0
    async for chunk in response.body:
        size += len(chunk)
        if size > _BACKEND_BYTES:
            raise NotAcceptable(f"the document is longer than {_BACKEND_BYTES} bytes")
        yield chunk
