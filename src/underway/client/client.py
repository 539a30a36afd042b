"""The Kubernetes REST API as calls.

Source: Kubernetes API concepts (reference/using-api/api-concepts).
"""

from __future__ import annotations

import copy
import enum
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from underway.api.objects import Object, name_of, namespace_of
from underway.api.resources import Resource
from underway.base.errors import InternalError, from_status
from underway.wire.http import Handler, Request, Response


class Patch(enum.StrEnum):
    """How a patch body is to be read; the value is its content type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A consistent list: watching from ``resource_version`` misses nothing."""

    items: list[Object]
    resource_version: str
    continue_token: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """``type`` is ADDED, MODIFIED, DELETED or BOOKMARK; ``raw`` is the object's JSON."""

    type: str
    raw: bytes

    @property
    def object(self) -> Object:
        """The object, decoded anew at each call, so that the caller may change it."""
        decoded: Object = msgspec.json.decode(self.raw)
        return decoded


class _Frame(msgspec.Struct):
    type: str
    object: msgspec.Raw


_frame_decoder = msgspec.json.Decoder(_Frame)


def _query(**params: Any) -> str:
    return urlencode({k: v for k, v in params.items() if v is not None and v != ""})


class Client:
    """Calls on one cluster, as one user.

    Every call raises the ``UnderwayError`` subclass of the ``Status`` the cluster answered with.
    """

    def __init__(self, handler: Handler, *, user_agent: str = "underway") -> None:
        self._handler = handler
        self._user_agent = user_agent
        self._observe: Callable[[str, int], None] | None = None

    def observed(self, observe: Callable[[str, int], None]) -> Client:
        """The same client, which tells ``observe`` of each answer: HTTP method and status."""
        client = copy.copy(self)
        client._observe = observe  # noqa: SLF001  # a copy of its own kind
        return client

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = ""
    ) -> Object:
        """One object, or one of its subresources."""
        return await self._object("GET", resource.path(namespace, name, subresource))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int | None = None,
        continue_token: str = "",
        resource_version: str = "",
    ) -> ObjectList:
        """Objects of a namespace, or of all; ``labels`` and ``fields`` are selectors as text."""
        query = _query(
            labelSelector=labels,
            fieldSelector=fields,
            limit=limit,
            resourceVersion=resource_version,
            **{"continue": continue_token},
        )
        found = await self._object("GET", resource.path(namespace), query)
        header = found.get("metadata") or {}
        items = found.get("items") or []
        for item in items:
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return ObjectList(items, header.get("resourceVersion", ""), header.get("continue", ""))

    async def create(
        self,
        resource: Resource,
        obj: Object,
        namespace: str | None = None,
        *,
        name: str = "",
        subresource: str = "",
    ) -> Object:
        """Create an object, or POST to a subresource of the object ``name``."""
        path = resource.path(namespace or namespace_of(obj), name, subresource)
        return await self._object("POST", path, body=obj)

    async def replace(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Write a whole object; a resourceVersion in it must still be current."""
        path = resource.path(namespace_of(obj), name_of(obj), subresource)
        return await self._object("PUT", path, body=obj)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        namespace: str | None = None,
        *,
        how: Patch = Patch.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Object:
        """Change part of an object."""
        query = _query(fieldManager=field_manager, force="true" if force else None)
        path = resource.path(namespace, name, subresource)
        return await self._object("PATCH", path, query, body, how.value)

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str = "",
    ) -> Object:
        """Server-side apply: create the object, or own exactly the fields given."""
        return await self.patch(
            resource,
            name_of(obj),
            obj,
            namespace_of(obj),
            how=Patch.APPLY,
            subresource=subresource,
            field_manager=field_manager,
            force=force,
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        propagation: str = "",
        grace_period_s: int | None = None,
    ) -> Object:
        """Begin (or, with nothing holding it, finish) an object's deletion."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        return await self._object("DELETE", resource.path(namespace, name), body=options)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
        timeout_s: int | None = None,
        bookmarks: bool = True,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after ``resource_version``, until the server ends the watch.

        Raises:
            Expired: the version lies before the kept history; list again.
        """
        query = _query(
            watch="true",
            resourceVersion=resource_version,
            labelSelector=labels,
            fieldSelector=fields,
            timeoutSeconds=timeout_s,
            allowWatchBookmarks="true" if bookmarks else None,
        )
        response = await self._send("GET", resource.path(namespace), query)
        pending = b""
        async for chunk in _stream(response):
            pending += chunk
            *lines, pending = pending.split(b"\n")
            for line in lines:
                if line:
                    yield _event(line)

    async def request(
        self,
        method: str,
        path: str,
        query: str = "",
        body: Any = None,
        content_type: str = "application/json",
    ) -> Response:
        """Any other call; the response's body may be a stream."""
        return await self._send(method, path, query, body, content_type)

    async def aclose(self) -> None:
        """Close the connections behind the handler, where it has any."""
        aclose = getattr(self._handler, "aclose", None)
        if aclose is not None:
            await aclose()

    async def _object(
        self,
        method: str,
        path: str,
        query: str = "",
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        response = await self._send(method, path, query, body, content_type)
        decoded: Object = msgspec.json.decode(await response.read())
        return decoded

    async def _send(
        self,
        method: str,
        path: str,
        query: str = "",
        body: Any = None,
        content_type: str = "application/json",
    ) -> Response:
        headers = {"accept": "application/json", "user-agent": self._user_agent}
        payload = b""
        if body is not None:
            payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
            headers["content-type"] = content_type
        response = await self._handler(Request(method, path, query, headers, payload))
        if self._observe is not None:
            self._observe(method, response.status)
        if response.status >= 400:
            raise await _error(response)
        return response


async def _stream(response: Response) -> AsyncIterator[bytes]:
    if isinstance(response.body, bytes):
        yield response.body
        return
    async for chunk in response.body:
        yield chunk


def _event(line: bytes) -> WatchEvent:
    try:
        frame = _frame_decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise InternalError(f"the watch sent something that is no event: {error}") from error
    if frame.type == "ERROR":
        raise from_status(msgspec.json.decode(frame.object))
    return WatchEvent(frame.type, bytes(frame.object))


async def _error(response: Response) -> Exception:
    data = await response.read()
    try:
        status = msgspec.json.decode(data)
    except msgspec.DecodeError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = data[:2048].decode("utf-8", "replace")
        status = {"code": response.status, "message": text or f"HTTP {response.status}"}
    return from_status(status)
