"""Grafeas' REST API: notes and occurrences of all kinds, and projects.

Source: grafeas ``proto/v1/grafeas.proto`` (google.api.http annotations), ``proto/v1beta1/
project.proto``; google.rpc.Status for errors.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, MethodNotAllowed, NotFound, UnderwayError
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.provenance.backend.grafeas import GrafeasStore
from underway.capabilities.provenance.routes.access import Access
from underway.capabilities.provenance.rules import notes
from underway.capabilities.provenance.rules.notes import Json
from underway.client import kubeconfig
from underway.kit.registry import Ports
from underway.wire.http import Handler, Request, Response, json_response

_BODY_LIMIT = 16 * 1024 * 1024
_VERSIONS = ("v1", "v1beta1")
# google.rpc.Code of each HTTP status.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 409: 6, 413: 3, 503: 14, 504: 4}
_VERBS = {"GET": "get", "POST": "create", "PATCH": "update", "DELETE": "delete"}


def app(home: Home, ports: Ports) -> Handler:  # the route's shape
    """The service as a handler."""
    clock = SystemClock()
    access = Access(lambda: kubeconfig.load(home.kubeconfig), clock)
    return GrafeasApi(home, access).handle


class GrafeasApi:
    """Answers requests of those whom the cluster lets."""

    def __init__(self, home: Home, access: Access) -> None:
        self._home = home
        self._access = access

    @functools.cached_property
    def _store(self) -> GrafeasStore:
        return GrafeasStore(self._home.provenance / "grafeas.db")

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        try:
            return json_response(await self._answer(request))
        except UnderwayError as error:
            hint = f" ({error.hint})" if error.hint else ""
            value = {
                "code": _CODES.get(error.code, 13),
                "message": f"{error.message}{hint}",
                "details": [],
            }
            return json_response(value, error.code)

    async def _answer(self, request: Request) -> Json:
        segments = request.segments()
        if len(segments) < 2 or segments[0] not in _VERSIONS or segments[1] != "projects":
            raise NotFound("there is nothing here: /v1/projects/PROJECT/notes or /occurrences")
        match segments[2:]:
            case []:
                return await self._projects(request)
            case [project]:
                return await self._project(request, project)
            case [project, collection]:
                return await self._collection(request, project, *_action(collection))
            case [project, ("notes" | "occurrences") as table, name]:
                return await self._object(request, project, table, name)
            case [project, "notes", name, "occurrences"]:
                await self._access.require(request, "list", "occurrences")
                return await self._page(
                    request, project, "occurrences", f"projects/{project}/notes/{name}"
                )
            case [project, "occurrences", name, "notes"]:
                await self._access.require(request, "get", "notes")
                found = await self._run("get_occurrence", project, name)
                return await self._run("get_note", *notes.note_key(found["noteName"]))
        raise NotFound("there is nothing here: /v1/projects/PROJECT/notes or /occurrences")

    async def _projects(self, request: Request) -> Json:
        if request.method == "POST":
            await self._access.require(request, "create", "projects")
            name = str((await _body(request)).get("name") or "").removeprefix("projects/")
            return await self._run("create_project", name)
        await self._access.require(request, "list", "projects")
        params = request.params()
        found, token = await self._run("list_projects", _size(params), _token(params))
        return {"projects": found, "nextPageToken": token}

    async def _project(self, request: Request, project: str) -> Json:
        await self._access.require(request, _verb(request), "projects", project)
        if request.method == "GET":
            return await self._run("get_project", project)
        if request.method == "DELETE":
            await self._run("delete_project", project)
            return {}
        raise MethodNotAllowed(f"{request.method} on a project")

    async def _collection(self, request: Request, project: str, table: str, action: str) -> Json:
        if table not in ("notes", "occurrences"):
            raise NotFound(f"a project has no {table}")
        if (table, action) == ("occurrences", "vulnerabilitySummary"):
            await self._access.require(request, "list", table)
            return await run_blocking(self._summary, project, request.params().get("filter", ""))
        if action not in ("", "batchCreate"):
            raise NotFound(f"{table} have no {action}")
        if request.method == "GET" and not action:
            await self._access.require(request, "list", table)
            return await self._page(request, project, table)
        if request.method != "POST":
            raise MethodNotAllowed(f"{request.method} on {table}")
        await self._access.require(request, "create", table)
        body, params = await _body(request), request.params()
        if table == "notes":
            if action:
                return {"notes": await self._run("create_notes", project, _map(body, "notes"))}
            name = params.get("noteId") or params.get("note_id") or ""
            return (await self._run("create_notes", project, {name: body}))[0]
        many = _list(body, "occurrences") if action else [body]
        found = await self._run("create_occurrences", project, many)
        return {"occurrences": found} if action else found[0]

    async def _object(self, request: Request, project: str, table: str, name: str) -> Json:
        await self._access.require(request, _verb(request), table)
        one = table.removesuffix("s")
        if request.method == "GET":
            return await self._run(f"get_{one}", project, name)
        if request.method == "DELETE":
            await self._run(f"delete_{one}", project, name)
            return {}
        if request.method == "PATCH":
            params = request.params()
            mask = params.get("updateMask") or params.get("update_mask") or ""
            body = await _body(request)
            return await self._run(f"update_{one}", project, name, body, mask.split(","))
        raise MethodNotAllowed(f"{request.method} on one of {table}")

    async def _page(self, request: Request, project: str, table: str, note: str = "") -> Json:
        params = request.params()
        found, token = await run_blocking(
            lambda: self._store.list(
                table, project, params.get("filter", ""), _size(params), _token(params), note=note
            )
        )
        return {table: found, "nextPageToken": token}

    def _summary(self, project: str, text: str) -> Json:
        both = f'kind = "VULNERABILITY" AND ({text})' if text else 'kind = "VULNERABILITY"'
        return notes.vulnerability_summary(self._store.each("occurrences", project, both))

    async def _run(self, method: str, *arguments: Any) -> Any:
        return await run_blocking(lambda: getattr(self._store, method)(*arguments))


def _action(collection: str) -> tuple[str, str]:
    table, _, action = collection.partition(":")
    return table, action


def _verb(request: Request) -> str:
    verb = _VERBS.get(request.method)
    if verb is None:
        raise MethodNotAllowed(f"{request.method} is not supported")
    return verb


async def _body(request: Request) -> Json:
    try:
        value = msgspec.json.decode(await request.read(_BODY_LIMIT))
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest("the body is no object")
    return value


def _map(body: Json, name: str) -> Json:
    value = body.get(name)
    if not isinstance(value, dict):
        raise BadRequest(f"{name} is no object")
    return value


def _list(body: Json, name: str) -> list[Any]:
    value = body.get(name)
    if not isinstance(value, list):
        raise BadRequest(f"{name} is no list")
    return value


def _size(params: dict[str, str]) -> int:
    text = params.get("pageSize") or params.get("page_size") or "0"
    if not text.isdigit() or len(text) > 9:
        raise BadRequest(f"{text!r} is no page size")
    return int(text)


def _token(params: dict[str, str]) -> str:
    return params.get("pageToken") or params.get("page_token") or ""
