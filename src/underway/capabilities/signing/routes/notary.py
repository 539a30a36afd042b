"""Notary's HTTP API, version 1, as the client ``notary`` speaks it.

Source: notaryproject/notary v0.7 ``server/server.go``, ``server/handlers``, ``server/errors``.
"""

from __future__ import annotations

import re
from typing import Any

from underway.base.clock import Clock, SystemClock
from underway.base.errors import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    UnderwayError,
)
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.signing.backend.notary_store import NotaryStore, encode_changes
from underway.capabilities.signing.routes.access import Gate
from underway.capabilities.signing.rules import notary
from underway.kit.registry import Ports
from underway.wire.http import Handler, Request, Response, json_response

_UPDATE_LIMIT = 32 * 1024 * 1024  # bytes of one update
_FILE = re.compile(
    r"(?:(?P<version>\d{1,18})\.)?(?P<role>[a-z0-9._/-]+?)(?:\.(?P<sha>[a-f0-9]{64}))?\.json"
)


def app(home: Home, _ports: Ports, clock: Clock | None = None) -> Handler:
    """The service of a home."""
    clock = clock or SystemClock()
    return NotaryService(NotaryStore(home, clock), Gate(home, clock)).handle


class NotaryService:
    """Answers for every name (GUN)."""

    def __init__(self, store: NotaryStore, gate: Gate) -> None:
        self._store, self._gate = store, gate

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        gun = ""
        try:
            segments = request.segments()
            if segments == ["token"]:
                return self._gate.answer_token(request)
            if segments == ["_notary_server", "health"]:
                return json_response({})
            if segments[:1] != ["v2"]:
                raise NotFound("the Notary service has no such path")
            place = segments.index("_trust") if "_trust" in segments else len(segments)
            gun, rest = "/".join(segments[1:place]), segments[place + 1 :]
            write = request.method not in ("GET", "HEAD") or rest == ["changefeed"]
            header = request.headers.get("authorization", "")
            self._gate.check(header, gun, write=write)
            return await self._answer(request, gun, rest)
        except UnderwayError as error:
            response = json_response({"errors": [_complaint(error)]}, error.code)
            if isinstance(error, Unauthorized):
                host = request.headers.get("host", "")
                response.headers["www-authenticate"] = self._gate.challenge(host, gun)
            return response

    async def _answer(self, request: Request, gun: str, rest: list[str]) -> Response:
        if not gun and not rest:
            return json_response({})
        if rest == ["changefeed"]:
            return await self._changes(request, gun)
        if not notary.is_gun(gun):
            raise BadRequest(f"{gun!r} is no name of a collection")
        if rest == ["tuf"]:
            return await self._collection(request, gun)
        if rest[:1] == ["tuf"]:
            return await self._file(request, gun, "/".join(rest[1:]))
        raise NotFound("the Notary service has no such path")

    async def _collection(self, request: Request, gun: str) -> Response:
        if request.method == "POST":
            body = await request.read(_UPDATE_LIMIT)
            files = notary.parts(body, request.headers.get("content-type", ""))
            await run_blocking(self._store.update, gun, files)
        elif request.method == "DELETE":
            await run_blocking(self._store.delete, gun)
        else:
            raise MethodNotAllowed(f"{request.method} is not supported on a collection")
        return Response(200)

    async def _file(self, request: Request, gun: str, name: str) -> Response:
        role = name.removesuffix(".key")
        if role != name:
            if request.method not in ("GET", "POST"):
                raise MethodNotAllowed(f"{request.method} is not supported on a key")
            rotate = request.method == "POST"
            data = await run_blocking(self._store.key, gun, role, rotate=rotate)
            return Response(200, {"content-type": "application/json"}, data)
        match = _FILE.fullmatch(name)
        if match is None or not notary.is_role(match["role"]):
            raise NotFound(f"{name} names no metadata")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} is not supported on metadata")
        wanted: dict[str, Any] = {"sha256": match["sha"] or ""}
        if match["version"]:
            wanted["version"] = int(match["version"])
        data = await run_blocking(self._store.read, gun, match["role"], **wanted)
        lasting = bool(match["sha"] or match["version"])
        age = "public, max-age=2592000" if lasting else "max-age=0, must-revalidate"
        return Response(200, {"content-type": "application/json", "cache-control": age}, data)

    async def _changes(self, request: Request, gun: str) -> Response:
        params = request.params()
        try:
            after, count = int(params.get("change_id") or 0), int(params.get("records") or 100)
        except ValueError as error:
            raise BadRequest(f"change_id and records are numbers: {error}") from error
        found = await run_blocking(self._store.changes, gun, max(after, 0), count)
        return Response(200, {"content-type": "application/json"}, encode_changes(found))


def _complaint(error: UnderwayError) -> dict[str, Any]:
    match error:
        case notary.Refused():
            detail: Any = {"Name": error.kind, "Error": {"Msg": error.message}}
            return {"code": "INVALID_UPDATE", "message": error.message, "detail": detail}
        case notary.OldVersion():
            return {"code": "VERSION", "message": error.message, "detail": None}
        case NotFound():
            return {"code": "METADATA_NOT_FOUND", "message": error.message, "detail": None}
        case Unauthorized():
            return {"code": "UNAUTHORIZED", "message": error.message, "detail": None}
    return {"code": "UNKNOWN", "message": error.message, "detail": None}
