"""What every handler of Harbor's API gets and gives.

Source: goharbor/harbor api/v2.0/swagger.yaml: parameters, headers, error bodies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from underway.base.errors import BadRequest, Forbidden, NotFound, Unauthorized
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.events import Happened
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.model import Account
from underway.capabilities.registry.rules import query
from underway.wire.http import Request, Response, json_response


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the rows there are, and how many there are."""

    rows: list[Any]
    total: int


@dataclass(frozen=True, slots=True)
class Created:
    """Something new, and where it is: ``name`` is added to the request's path."""

    name: object = ""
    body: Any = None
    status: int = 201


@dataclass
class Call:
    """One request, understood."""

    hub: Hub
    account: Account
    request: Request
    path: dict[str, str]
    params: dict[str, str]
    data: bytes = b""
    _project: Row | None = field(default=None, repr=False)

    @property
    def query(self) -> query.Query:
        """Page, filters and order; raises BadRequest."""
        return query.parse(self.params)

    def body(self) -> dict[str, Any]:
        """The JSON object that was sent; raises BadRequest."""
        try:
            return msgspec.json.decode(self.data or b"{}", type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise BadRequest(f"the body is no JSON object: {error}") from error

    def id(self, name: str) -> int:
        """A number in the path; raises NotFound."""
        text = self.path[name]
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise NotFound(f"there is no {name} {text}")
        return int(text)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean among the query's parameters."""
        return {"true": True, "1": True, "false": False, "0": False}.get(
            self.params.get(name, "").lower(), default
        )

    def project(self) -> Row:
        """The project in the path; raises NotFound."""
        if self._project is None:
            text = self.path.get("project_name_or_id") or self.path.get("project_name", "")
            named = self.request.headers.get("x-is-resource-name", "").lower() == "true"
            by_id = "project_name_or_id" in self.path and text.isdigit() and not named
            self._project = self.hub.projects.row(text, by_name=not by_id)
        return self._project

    def repository(self) -> str:
        """The full name of the repository in the path, whose slashes are encoded twice."""
        return f"{self.project()['name']}/{unquote(self.path['repository_name'])}"

    def rights(self, project: str = "") -> frozenset[str]:
        """What the caller may do in a project, or on the registry itself."""
        return self.hub.accounts.rights(self.account, project)

    def require(self, right: str, project: str = "") -> None:
        """Raise Unauthorized or Forbidden unless the caller has a right."""
        if right in self.rights(project):
            return
        if not self.account.name:
            raise Unauthorized("login is required")
        raise Forbidden("the account may not do this")

    def tell(self, operation: str, resource_type: str, resource: str, project_id: int = 0) -> None:
        """Write into the audit log what was done."""
        self.hub.events.tell(self.account, Happened(operation, resource_type, resource, project_id))


Handler = Callable[[Call], Any]
Route = tuple[str, str, str, Handler]
"""Method, path, what is needed, handler.

Needed is ``anyone``, ``user`` (who is known), ``admin``, ``project RESOURCE:ACTION`` (in the
project of the path) or ``system RESOURCE:ACTION``.
"""

_CODES = {
    400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED", 409: "CONFLICT", 412: "PRECONDITION", 413: "BAD_REQUEST",
}  # fmt: skip


def check_access(call: Call, needed: str) -> None:
    """Raise Unauthorized or Forbidden unless the caller may go on.

    Who may not read a project gets the same answer whether or not it exists.
    """
    kind, _, right = needed.partition(" ")
    if kind == "anyone":
        return
    if kind == "project":
        name = ""
        try:
            name = call.project()["name"]
        except NotFound:
            if call.account.administrator:
                raise
        if name:
            call.require(right, name)
        elif not call.account.name:
            raise Unauthorized("login is required")
        else:
            raise Forbidden("the account may not do this")
        return
    if kind == "system" and right in call.rights():
        return
    if not call.account.name:
        raise Unauthorized("login is required")
    if kind == "user" or (kind == "admin" and call.account.administrator):
        return
    raise Forbidden("the account may not do this")


def answer(call: Call, value: Any) -> Response:
    """What a handler gave, as a response."""
    match value:
        case Response():
            return value
        case Page():
            headers = {"x-total-count": str(value.total)}
            path = call.request.path
            if link := query.links(path, call.params, call.query, value.total):
                headers["link"] = link
            return json_response(value.rows, headers=headers)
        case Created():
            path = call.request.path.rstrip("/")
            headers = {"location": f"{path}/{value.name}" if value.name != "" else path}
            if value.body is None:
                return Response(value.status, headers)
            return json_response(value.body, value.status, headers)
        case None:
            return Response(200)
    return json_response(value)


def error_response(status: int, message: str) -> Response:
    """An error as Harbor writes it."""
    code = _CODES.get(status, "UNKNOWN")
    return json_response({"errors": [{"code": code, "message": message}]}, status)


def pick(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of some fields that are there."""
    return {name: values[name] for name in names if values.get(name) is not None}
