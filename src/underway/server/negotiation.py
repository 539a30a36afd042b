"""Media types: what a request's body is written in, and how its answer is to be written.

Source: Kubernetes API concepts, "Resource representations" and "Receiving resources as Tables".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from underway.api.objects import Object
from underway.base.errors import BadRequest, NotAcceptable, UnderwayError, UnsupportedMediaType
from underway.wire import kubeproto
from underway.wire.http import Request, Response

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
_ACCEPTED = f"{JSON}, {YAML}, {PROTOBUF}"
_YAML_NODES = 500_000  # values one YAML document may hold, aliases expanded
_YAML_DEPTH = 200
# What PyYAML raises; for a scalar that is not of its tag, whatever came of it.
_YAML_ERRORS = (
    yaml.YAMLError, TypeError, ValueError, LookupError, AttributeError, RecursionError
)  # fmt: skip
_WILDCARDS = ("*/*", "application/*")


@dataclass(frozen=True, slots=True)
class Accept:
    """How to answer: ``media`` is JSON or YAML; ``kind`` is empty for the object itself, or
    ``Table``, ``PartialObjectMetadata`` or ``PartialObjectMetadataList`` of meta.k8s.io at
    ``version``.
    """

    media: str = JSON
    kind: str = ""
    version: str = "v1"
    pretty: bool = False

    @property
    def table(self) -> bool:
        """Whether rows for people are wanted."""
        return self.kind == "Table"


_AS_KINDS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")


def parse_accept(request: Request) -> Accept:
    """The first form the client accepts that can be served.

    Raises:
        NotAcceptable: there is none.
    """
    header = request.headers.get("accept", "")
    pretty = "pretty=" in request.query and request.params().get("pretty") in ("1", "true")
    if not header:
        return Accept(pretty=pretty)
    for media, params in _clauses(header):
        if media in _WILDCARDS:
            media = JSON
        if media not in (JSON, YAML, "text/yaml", "application/x-yaml"):
            continue
        media = JSON if media == JSON else YAML
        kind, version = params.get("as", ""), params.get("v", "v1")
        if not kind:
            return Accept(media, pretty=pretty)
        group = params.get("g", "meta.k8s.io")
        if kind in _AS_KINDS and group == "meta.k8s.io" and version in ("v1", "v1beta1"):
            return Accept(media, kind, version, pretty)
    raise NotAcceptable(f"only the following media types are accepted: {JSON}, {YAML}")


def accepts_json(request: Request) -> bool:
    """Whether the client takes plain JSON."""
    header = request.headers.get("accept", "")
    return not header or any(media in (JSON, *_WILDCARDS) for media, _ in _clauses(header))


def _clauses(header: str) -> list[tuple[str, dict[str, str]]]:
    found = []
    for position, clause in enumerate(header.split(",")):
        media, *rest = clause.split(";")
        params: dict[str, str] = {}
        for part in rest:
            name, _, value = part.strip().partition("=")
            params[name.strip().lower()] = value.strip().strip('"')
        try:
            quality = float(params.get("q", "1"))
        except ValueError:
            quality = 0.0
        if quality > 0:
            found.append((-quality, position, media.strip().lower(), params))
    found.sort(key=lambda each: each[:2])
    return [(media, params) for _, _, media, params in found]


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded request body; ``duplicates`` are paths of fields given twice."""

    value: Any
    duplicates: tuple[str, ...] = ()


async def read_body(request: Request, *, find_duplicates: bool = False) -> Body:
    """The request's body, decoded by its content type. An empty body is None.

    Raises:
        BadRequest: it is not well-formed.
        UnsupportedMediaType: nobody reads that type here.
    """
    data = await request.read()
    if not data:
        return Body(None)
    media = request.headers.get("content-type", JSON).split(";")[0].strip().lower()
    if media == PROTOBUF or data.startswith(b"k8s\x00"):
        return Body(kubeproto.decode(data))
    if media in (YAML, "text/yaml", "application/x-yaml"):
        return Body(parse_yaml(data))
    if media in (JSON, "", "text/plain", "application/x-www-form-urlencoded"):
        value = parse_json(data)
        return Body(value, _duplicates(data) if find_duplicates else ())
    raise UnsupportedMediaType(
        "the body of the request was in an unknown format - accepted media types include: "
        + _ACCEPTED
    )


def parse_json(data: bytes) -> Any:
    """JSON.

    Raises:
        BadRequest: it is not well-formed.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not well-formed JSON: {error}") from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: timestamps stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
    for first, entries in _Loader.yaml_implicit_resolvers.items()
}


def parse_yaml(data: bytes) -> Any:
    """One YAML document as JSON's values.

    Raises:
        BadRequest: it is not well-formed, or aliases itself too often.
    """
    try:
        _check_depth(data)
        value = yaml.load(data, _Loader)  # noqa: S506  # a subclass of the safe loader
        if b"*" in data and _expanded(value, {}) > _YAML_NODES:
            raise BadRequest("the YAML document is too large once its aliases are expanded")
        msgspec.json.encode(value)
    except _YAML_ERRORS as error:
        raise BadRequest(f"the body is not well-formed YAML: {error}") from error
    return value


def _check_depth(data: bytes) -> None:
    """Refuse what nests so deep that composing it, which recurses in C, would end the process."""
    depth = 0
    for event in yaml.parse(data, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _YAML_DEPTH:
                raise BadRequest(f"the YAML document is nested deeper than {_YAML_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _expanded(value: Any, known: dict[int, int]) -> int:
    """How many values a document has once aliases are copies; one that holds itself has many."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _YAML_NODES
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_expanded(child, known) for child in children)
    return known[id(value)]


def _duplicates(data: bytes) -> tuple[str, ...]:
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        decoded: dict[str, Any] = {}
        for name, value in items:
            if name in decoded:
                found.append(name)
            decoded[name] = value
        return decoded

    try:
        json.loads(data, object_pairs_hook=pairs)
    except ValueError:
        return ()
    return tuple(found)


def render(value: Object | bytes, accept: Accept, status: int = 200) -> Response:
    """An answer in the form accepted; bytes are JSON already."""
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    if accept.media == YAML:
        text = yaml.safe_dump(msgspec.json.decode(data), sort_keys=False, allow_unicode=True)
        return Response(status, {"content-type": YAML}, text.encode())
    if accept.pretty:
        data = msgspec.json.format(data, indent=2) + b"\n"
    return Response(status, {"content-type": JSON}, data)


def render_error(error: UnderwayError) -> Response:
    """A Status for an error."""
    headers = {"content-type": JSON}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.code == 401:
        headers["www-authenticate"] = 'Bearer realm="kubernetes"'
    return Response(error.code, headers, msgspec.json.encode(error.to_status()))
