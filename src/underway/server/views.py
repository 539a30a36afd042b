"""How stored bytes become an answer: as they are, in another version, as metadata, as a Table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from underway.api import tables
from underway.api.objects import Object
from underway.base.clock import Clock
from underway.server.catalog import Served
from underway.server.negotiation import Accept
from underway.server.versions import each

_META = "meta.k8s.io"


def view_of(served: Served, accept: Accept, include_object: str, clock: Clock) -> AnyView:
    """The view a request asks for.

    Args:
        served: the API the request speaks.
        accept: the form accepted.
        include_object: ``includeObject`` of a Table: ``None``, ``Metadata`` or ``Object``.
        clock: tells ages.
    """
    if accept.table:
        return TableView(served, accept.version, include_object or "Metadata", clock)
    if accept.kind:
        return PartialView(served, accept.version)
    return ObjectView(served)


@dataclass(frozen=True)
class ObjectView:
    """The object itself."""

    served: Served
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.served.resource.api_version)

    def one(self, data: bytes) -> bytes:
        """The object's JSON."""
        return self.served.shown(data)

    def many(self, rows: Sequence[bytes], metadata: Object) -> bytes:
        """A list's JSON."""
        resource = self.served.resource
        shown = rows if self.served.as_stored else each(self.one, rows)
        return _list(resource.list_kind, resource.api_version, metadata, shown)

    def bookmark(self, metadata: Object) -> bytes:
        """An object of the kind that carries nothing but a version."""
        resource = self.served.resource
        return msgspec.json.encode(
            {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        )


class _OnlyMetadata(msgspec.Struct):
    metadata: msgspec.Raw


_metadata_decoder = msgspec.json.Decoder(_OnlyMetadata)


@dataclass(frozen=True)
class PartialView:
    """Metadata alone: ``PartialObjectMetadata``."""

    served: Served
    version: str
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{_META}/{self.version}/partial")

    def one(self, data: bytes) -> bytes:
        """The object's metadata as an object of its own."""
        metadata = bytes(_metadata_decoder.decode(data).metadata)
        return b'{"kind":"PartialObjectMetadata","apiVersion":"%s/%s","metadata":%s}' % (
            _META.encode(),
            self.version.encode(),
            metadata,
        )

    def many(self, rows: Sequence[bytes], metadata: Object) -> bytes:
        """A list of them."""
        api_version = f"{_META}/{self.version}"
        return _list("PartialObjectMetadataList", api_version, metadata, map(self.one, rows))

    def bookmark(self, metadata: Object) -> bytes:
        """One that carries nothing but a version."""
        return self.one(msgspec.json.encode({"metadata": metadata}))


@dataclass(frozen=True)
class TableView:
    """Rows for people."""

    served: Served
    version: str
    include_object: str
    clock: Clock
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        name = f"{self.served.resource.api_version}/table/{self.version}/{self.include_object}"
        object.__setattr__(self, "name", name)

    def one(self, data: bytes) -> bytes:
        """A Table of one row."""
        obj = msgspec.json.decode(self.served.shown(data))
        version = obj["metadata"].get("resourceVersion", "")
        return self._encode([obj], {"resourceVersion": version})

    def many(self, rows: Sequence[bytes], metadata: Object) -> bytes:
        """A Table of all."""
        objects = [msgspec.json.decode(data) for data in each(self.served.shown, rows)]
        return self._encode(objects, metadata)

    def bookmark(self, metadata: Object) -> bytes:
        """A Table whose only row carries nothing but a version."""
        resource = self.served.resource
        partial = {
            "kind": "PartialObjectMetadata",
            "apiVersion": f"{_META}/v1",
            "metadata": metadata,
        }
        empty = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        shown = empty if self.include_object == "Object" else partial
        row = {"cells": [], "object": shown}
        return msgspec.json.encode(
            {
                "kind": "Table",
                "apiVersion": f"{_META}/{self.version}",
                "metadata": {"resourceVersion": metadata["resourceVersion"]},
                "columnDefinitions": [],
                "rows": [row],
            }
        )

    def _encode(self, objects: list[Object], metadata: Object) -> bytes:
        custom = self.served.custom
        made = tables.table(
            self.served.resource,
            objects,
            metadata,
            self.clock.now(),
            include_object=self.include_object,
            columns=list(custom.columns) if custom is not None else None,
        )
        made["apiVersion"] = f"{_META}/{self.version}"
        return msgspec.json.encode(made)


AnyView = ObjectView | PartialView | TableView


def _list(kind: str, api_version: str, metadata: Object, rows: Iterable[bytes]) -> bytes:
    head = b'{"kind":"%s","apiVersion":"%s","metadata":%s,"items":[' % (
        kind.encode(),
        api_version.encode(),
        msgspec.json.encode(metadata),
    )
    items = list(rows)
    if not items:
        return head + b"]}"
    # One copy of what may be tens of megabytes.
    items[0] = head + items[0]
    items[-1] += b"]}"
    return b",".join(items)
