"""``grafeas.v1.Grafeas`` over gRPC: a gateway in a process of its own, in front of the REST API.

Calls are passed on with the caller's own token, so that there is one place that decides who may
do what. Needs the packages ``grpcio`` and ``grafeas``, which the platform itself does without.
Source: grafeas ``proto/v1/grafeas.proto``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from underway.base.errors import ServiceUnavailable, UnderwayError
from underway.base.home import Home
from underway.transport import pki
from underway.transport.client import HttpTransport
from underway.wire.http import Handler, Request

SERVICE = "grafeas.v1.Grafeas"
_TOKEN = "authorization"  # noqa: S105  # a header's name
_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Method:
    """One call: ``path`` with ``{field}`` of the request, ``body`` the member that is sent."""

    request: str
    response: str
    verb: str
    path: str
    body: str = ""
    query: tuple[str, ...] = ()


_PAGED = ("filter", "pageSize", "pageToken")
_METHODS = {
    "GetOccurrence": Method("GetOccurrenceRequest", "Occurrence", "GET", "{name}"),
    "ListOccurrences": Method(
        "ListOccurrencesRequest", "ListOccurrencesResponse", "GET", "{parent}/occurrences",
        query=_PAGED,
    ),
    "DeleteOccurrence": Method("DeleteOccurrenceRequest", "", "DELETE", "{name}"),
    "CreateOccurrence": Method(
        "CreateOccurrenceRequest", "Occurrence", "POST", "{parent}/occurrences", "occurrence"
    ),
    "BatchCreateOccurrences": Method(
        "BatchCreateOccurrencesRequest", "BatchCreateOccurrencesResponse", "POST",
        "{parent}/occurrences:batchCreate", "*",
    ),
    "UpdateOccurrence": Method(
        "UpdateOccurrenceRequest", "Occurrence", "PATCH", "{name}", "occurrence", ("updateMask",)
    ),
    "GetOccurrenceNote": Method("GetOccurrenceNoteRequest", "Note", "GET", "{name}/notes"),
    "GetNote": Method("GetNoteRequest", "Note", "GET", "{name}"),
    "ListNotes": Method("ListNotesRequest", "ListNotesResponse", "GET", "{parent}/notes",
                        query=_PAGED),
    "DeleteNote": Method("DeleteNoteRequest", "", "DELETE", "{name}"),
    "CreateNote": Method(
        "CreateNoteRequest", "Note", "POST", "{parent}/notes", "note", ("noteId",)
    ),
    "BatchCreateNotes": Method(
        "BatchCreateNotesRequest", "BatchCreateNotesResponse", "POST",
        "{parent}/notes:batchCreate", "*",
    ),
    "UpdateNote": Method("UpdateNoteRequest", "Note", "PATCH", "{name}", "note", ("updateMask",)),
    "ListNoteOccurrences": Method(
        "ListNoteOccurrencesRequest", "ListNoteOccurrencesResponse", "GET", "{name}/occurrences",
        query=_PAGED,
    ),
}  # fmt: skip


async def serve(home: Home, port: int, ready: Callable[[int], None]) -> None:
    """Serve until cancelled; ``ready`` is told the port.

    Raises:
        ServiceUnavailable: a package it needs is not installed, or the port is taken.
    """
    try:
        import grpc
        from grafeas.grafeas_v1 import types
    except ImportError as error:
        raise ServiceUnavailable(
            f"gRPC needs a package that is not here: {error.name}",
            hint="pip install grpcio grafeas",
        ) from error
    settings = home.load_settings()
    context = pki.client_context(home.pki / "ca.crt")
    backend = HttpTransport(f"https://{settings.bind_address}:{settings.grafeas_port}", tls=context)
    handlers = {name: _handler(grpc, types, each, backend) for name, each in _METHODS.items()}
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", _LIMIT)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    keys = home.pki
    credentials = grpc.ssl_server_credentials(
        [((keys / "apiserver.key").read_bytes(), (keys / "apiserver.crt").read_bytes())]
    )
    try:
        bound = server.add_secure_port(f"{settings.bind_address}:{port}", credentials)
    except RuntimeError as error:
        raise ServiceUnavailable(f"port {port} cannot be served: {error}") from error
    await server.start()
    ready(bound)
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(1.0)
        await backend.aclose()


def _handler(grpc: Any, types: Any, method: Method, backend: Handler) -> Any:
    from google.protobuf import empty_pb2, json_format

    asked_type = getattr(types, method.request).pb()
    answer_type = getattr(types, method.response).pb() if method.response else empty_pb2.Empty
    codes = {each.value[0]: each for each in grpc.StatusCode}

    async def call(message: Any, context: Any) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        asked = json_format.MessageToDict(message)
        request = _request(method, asked, str(metadata.get(_TOKEN, "")))
        try:
            response = await backend(request)
            value = msgspec.json.decode(await response.read())
        except (UnderwayError, msgspec.DecodeError) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        if response.status >= 300:
            code = codes.get(value.get("code"), grpc.StatusCode.INTERNAL)
            await context.abort(code, str(value.get("message", "")))
        try:
            return json_format.ParseDict(value, answer_type(), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, f"what is stored: {error}")

    unary: Callable[[Any, Any], Awaitable[Any]] = call
    return grpc.unary_unary_rpc_method_handler(
        unary,
        request_deserializer=asked_type.FromString,
        response_serializer=answer_type.SerializeToString,
    )


def _request(method: Method, asked: dict[str, Any], authorization: str) -> Request:
    fields = {name: quote(str(asked.get(name, "")), safe="/") for name in ("name", "parent")}
    query = {name: str(asked[name]) for name in method.query if name in asked}
    body: Any = asked if method.body == "*" else asked.get(method.body, {})
    return Request(
        method.verb,
        f"/v1/{method.path.format(**fields)}",
        urlencode(query),
        {"authorization": authorization, "content-type": "application/json"},
        msgspec.json.encode(body) if method.body else b"",
    )
