"""What a capability's pages of the web console get, and what they give back.

A page is a function from a ``Visit`` to what is shown. It reads the cluster through the visitor's
own client, so that authorization decides what comes back; errors it raises become a polite page.
The console runs the same function again when something the page watches has changed: pages are
live without further code, and readable where no script runs.

A page's template extends the variable ``layout`` and fills the blocks ``actions`` (forms, written
once) and ``live`` (what changes); ``{% import "console/parts.html" as parts %}`` brings the
console's own tables, states, times and lists.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from underway.api.objects import Object
from underway.api.resources import SELFSUBJECTACCESSREVIEWS, Resource
from underway.base.clock import Clock
from underway.base.errors import Forbidden, UnderwayError, from_status
from underway.client import Client
from underway.wire.http import Handler, Request, Response

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@dataclass(frozen=True, slots=True)
class Watch:
    """Objects whose change makes a page be shown anew; ``fields`` and ``labels`` are selectors."""

    resource: Resource
    namespace: str | None = None
    fields: str = ""
    labels: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """A page to show.

    ``template`` is ``"package:file.html"``, a file in the package's folder ``templates``;
    ``values`` are its variables. ``trail`` are the steps that lead here, as text and location.
    """

    title: str
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    watches: tuple[Watch, ...] = ()
    trail: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """Go to another page of the console, after a change; ``message`` is shown there once.

    ``credentials`` are values of the ``authorization`` header by service, which the session's
    requests to these carry from now on.
    """

    location: str
    message: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it comes, such as a log that is followed; ``lines`` need not end."""

    lines: AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; ``wide`` ones are of lower priority."""

    name: str
    description: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One object's row: a cell for each column, and the object's metadata."""

    cells: tuple[Any, ...]
    metadata: Object


@dataclass(frozen=True, slots=True)
class Table:
    """Objects as the API server tabulates them; ``more`` says that the list was cut."""

    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    more: bool = False


@dataclass(frozen=True)
class Visit:
    """One request for a page.

    Attributes:
        method: GET, or POST for a change (its origin and token are checked by then).
        path: the segments below the page's own path, percent-decoded.
        params: the query's parameters.
        form: the fields of a POST.
        namespace: the one picked; None for all of them.
        api: the cluster's API, as the visitor.
        services: the platform's other HTTP services by endpoint, as the visitor, unless a
            request has an ``authorization`` header of its own.
        clock: time.
    """

    method: str
    path: tuple[str, ...]
    params: Mapping[str, str]
    form: Mapping[str, str]
    namespace: str | None
    api: Handler
    services: Mapping[str, Handler]
    clock: Clock

    @property
    def client(self) -> Client:
        """Calls on the cluster, as the visitor."""
        return Client(self.api, user_agent="underway-console")

    @property
    def now(self) -> datetime:
        """The current time, UTC."""
        return self.clock.now()

    def at(self, *path: str) -> Visit:
        """The same visit to another place below the page."""
        return replace(self, path=path)

    async def table(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        name: str = "",
        labels: str = "",
        fields: str = "",
        limit: int = 500,
    ) -> Table:
        """Objects as rows, in the columns ``kubectl get`` shows.

        Raises:
            UnderwayError: what the cluster answered, such as Forbidden.
        """
        asked = {"labelSelector": labels, "fieldSelector": fields, "limit": limit}
        query = urlencode({key: value for key, value in asked.items() if value})
        request = Request("GET", resource.path(namespace, name), query, {"accept": _TABLE}, b"")
        response = await self.api(request)
        return _table(await decoded(response))

    async def may(
        self,
        verb: str,
        resource: Resource,
        namespace: str | None = None,
        name: str = "",
        subresource: str = "",
    ) -> bool:
        """Whether the visitor may do this; where that cannot be asked, no."""
        attributes = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
            "namespace": namespace or "",
            "name": name,
        }
        review = {
            "apiVersion": SELFSUBJECTACCESSREVIEWS.api_version,
            "kind": SELFSUBJECTACCESSREVIEWS.kind,
            "spec": {"resourceAttributes": attributes},
        }
        try:
            answer = await self.client.create(SELFSUBJECTACCESSREVIEWS, review)
        except Forbidden:
            return False
        return bool((answer.get("status") or {}).get("allowed"))


Shown = View | Moved | Text
PageHandler = Callable[[Visit], Awaitable[Shown]]
"""Raises NotFound for a path it does not know."""


async def decoded(response: Response) -> Any:
    """The JSON a service answered with.

    Raises:
        UnderwayError: the answer is an error; its class is that of the status.
    """
    data = await response.read()
    try:
        value = msgspec.json.decode(data) if data else None
    except msgspec.DecodeError:
        value = None
    if response.status >= 400:
        raise _error(response.status, value, data)
    return value


def _error(status: int, value: Any, data: bytes) -> UnderwayError:
    if isinstance(value, dict) and value.get("kind") == "Status":
        return from_status(value)
    message = ""
    if isinstance(value, dict) and isinstance(errors := value.get("errors"), list):
        # The form that registries answer in.
        message = "; ".join(str(each.get("message")) for each in errors if isinstance(each, dict))
    message = message or data[:500].decode("utf-8", "replace")
    return from_status({"code": status, "message": message or f"HTTP {status}"})


def _table(value: Any) -> Table:
    if not isinstance(value, dict) or value.get("kind") != "Table":
        return _plain(value)
    columns = tuple(
        Column(each["name"], each.get("description", ""), bool(each.get("priority")))
        for each in value.get("columnDefinitions") or ()
    )
    rows = tuple(
        Row(tuple(each.get("cells") or ()), (each.get("object") or {}).get("metadata") or {})
        for each in value.get("rows") or ()
    )
    return Table(columns, rows, bool((value.get("metadata") or {}).get("continue")))


def _plain(value: Any) -> Table:
    """A table of names, where the server made none."""
    items = value.get("items") if isinstance(value, dict) else None
    rows = tuple(
        Row(((item.get("metadata") or {}).get("name", ""),), item.get("metadata") or {})
        for item in items or ()
    )
    return Table((Column("Name"),), rows)
