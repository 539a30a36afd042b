"""Objects out of what people have in hand: bytes as etcd stores them, bodies and watch streams as
the wire carries them.

Source: apimachinery ``pkg/runtime/serializer/protobuf`` and ``pkg/util/framer`` (a protobuf watch
is messages behind four bytes of length, each a ``WatchEvent`` whose object is an envelope of its
own); etcdctl's ``-w json``.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator
from typing import Any

from underway.base.errors import BadRequest
from underway.wire import kubeproto
from underway.wire.kubeproto import MAGIC

SIZE_LIMIT_BYTES = 256 * 1024 * 1024  # of what a compressed capture may unfold to
_KEY_LIMIT_BYTES = 4096  # etcdctl prints the key before the value
_ENCRYPTED = b"k8s:enc:"
_GZIP = b"\x1f\x8b"


def objects(data: bytes) -> list[dict[str, Any]]:
    """The objects in a capture, in order; a watch's events are ``{"type", "object"}``.

    Understood: the protobuf envelope, also behind the key that ``etcdctl get`` prints and with its
    line break at the end; ``etcdctl get -w json``; protobuf watch streams; JSON, also many values
    in a row, as a JSON watch gives them; each of these compressed with gzip.

    Raises:
        BadRequest: it is none of these, damaged, or encrypted.
    """
    if data.startswith(_GZIP):
        data = _unfolded(data)
    if not data.strip():
        raise BadRequest("there is nothing to decode", hint="name a file, or pipe the bytes in")
    if data.startswith(MAGIC):
        return [_stored(data)]
    if data.lstrip()[:1] in (b"{", b"["):
        return [each for value in _json_values(data) for each in _of_etcdctl(value)]
    head = data[:_KEY_LIMIT_BYTES]
    if _ENCRYPTED in head:
        raise BadRequest(
            "the value is encrypted at rest", hint="read it through the API server instead"
        )
    if data.startswith(b"/") and (at := head.find(b"\n" + MAGIC)) > 0:
        return [_stored(data[at + 1 :])]
    return list(_watch_events(data))


def _unfolded(data: bytes) -> bytes:
    unfolding = zlib.decompressobj(wbits=31)
    try:
        found = unfolding.decompress(data, SIZE_LIMIT_BYTES)
    except zlib.error as error:
        raise BadRequest(f"the gzip data is damaged: {error}") from error
    if not unfolding.eof:
        raise BadRequest("the gzip data is cut short, or too large once unfolded")
    return found


def _stored(data: bytes) -> dict[str, Any]:
    try:
        return kubeproto.decode(data)
    except BadRequest:
        if not data.endswith(b"\n"):
            raise
        return kubeproto.decode(data[:-1])  # etcdctl --print-value-only ends with a line break


def _json_values(data: bytes) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    try:
        text = data.decode()
        at = 0
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            yield value
            while at < len(text) and text[at] in " \t\r\n":
                at += 1
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"malformed JSON: {error}") from error


def _of_etcdctl(value: Any) -> Iterator[dict[str, Any]]:
    """The values in etcdctl's JSON; any other object is itself."""
    if not isinstance(value, dict):
        raise BadRequest("the JSON is no object")
    pairs = value.get("kvs")
    if "apiVersion" in value or not isinstance(pairs, list):
        yield value
        return
    for pair in pairs:
        try:
            stored = base64.b64decode(pair["value"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise BadRequest(f"a value in etcdctl's output is no base64: {error}") from error
        yield from objects(stored)


def _watch_events(data: bytes) -> Iterator[dict[str, Any]]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        frame = data[at + 4 : at + 4 + size]
        if len(data) - at < 4 or len(frame) != size or not size:
            raise BadRequest(
                f"neither JSON nor Kubernetes protobuf, and no watch stream: at byte {at}",
                hint="captures of a whole connection must be cut to the body first",
            )
        yield _watch_event(frame)
        at += 4 + size


def _watch_event(frame: bytes) -> dict[str, Any]:
    fields = dict(_fields(frame))
    raw = dict(_fields(fields.get(2, b""))).get(1, b"")
    try:
        kind = fields.get(1, b"").decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"a watch event's type is no text: {error}") from error
    if raw.startswith(MAGIC):
        return {"type": kind, "object": kubeproto.decode(raw)}
    values = list(_json_values(raw)) if raw else []
    if len(values) != 1:
        raise BadRequest("a watch event carries no object")
    return {"type": kind, "object": values[0]}


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of a message's fields, all of which must be length-delimited."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        if tag & 7 != 2 or at + size > len(data):
            raise BadRequest("a watch event is damaged")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise BadRequest("a watch event is damaged")


def watch_frame(kind: str, obj: dict[str, Any]) -> bytes:
    """One event of a protobuf watch.

    Raises:
        BadRequest: the object's kind has no protobuf encoding.
    """
    raw = _delimited(1, kubeproto.encode(obj))
    event = _delimited(1, kind.encode()) + _delimited(2, raw)
    return len(event).to_bytes(4, "big") + event


def _delimited(number: int, data: bytes) -> bytes:
    size, length = len(data), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + data
