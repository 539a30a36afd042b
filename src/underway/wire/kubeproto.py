"""Kubernetes' protobuf encoding of objects, to and from the dictionaries that JSON gives.

An encoded object is the four bytes ``k8s\\0`` and a ``runtime.Unknown`` message, whose ``typeMeta``
names the kind and whose ``raw`` is the object's own message. The table of messages is generated
(tools/gen_protobuf.py); decoding and encoding walk it.

Source: apimachinery ``pkg/runtime/serializer/protobuf``; Protocol Buffers "Encoding".
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from underway.base.errors import BadRequest
from underway.wire.kubeproto_values import duration_nanos, duration_text, time_parts, time_text

MAGIC = b"k8s\x00"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
DEPTH_LIMIT = 100  # messages within messages
VALUES_LIMIT = 500_000  # values in one object: small input must not become huge output

_META = "k8s.io.apimachinery.pkg.apis.meta.v1"
_EXTENSIONS = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = {
    "bool": _VARINT,
    "int32": _VARINT,
    "int64": _VARINT,
    "double": _FIXED64,
}


class _Table(msgspec.Struct):
    packages: dict[str, str]
    messages: dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    name: str
    kind: str
    repeated: bool
    is_map: bool
    inline: bool
    omitted_when_zero: bool
    wire_type: int


_Message = dict[int, _Field]


@cache
def _table() -> _Table:
    data = resources.files("underway.wire.data").joinpath("protobuf.json").read_bytes()
    return msgspec.json.decode(data, type=_Table)


@cache
def _message(name: str) -> _Message:
    rows: list[tuple[int, str, str, str]] = msgspec.json.decode(_table().messages[name])
    return {
        number: _Field(
            number,
            json_name,
            kind,
            repeated="r" in flags,
            is_map="m" in flags,
            inline="i" in flags,
            omitted_when_zero="o" in flags and "p" not in flags,
            wire_type=_BYTES if "m" in flags else _WIRE_TYPES.get(kind, _BYTES),
        )
        for number, json_name, kind, flags in rows
    }


def _message_name(api_version: str, kind: str) -> str:
    """The message of a kind; options and Status belong to every group."""
    package = _table().packages.get(api_version)
    for candidate in (f"{package}.{kind}", f"{_META}.{kind}"):
        if candidate in _table().messages:
            return candidate
    raise BadRequest(
        f"no protobuf encoding is known for kind {kind!r} of {api_version!r}",
        hint="send the object as application/json",
    )


def decode(data: bytes, expected: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """The object that ``data`` encodes, in its JSON shape with apiVersion and kind.

    Args:
        data: the encoded object.
        expected: apiVersion and kind of an object whose envelope does not name them.

    Raises:
        BadRequest: the bytes are malformed, too deep or too many values, or of an unknown kind.
    """
    if data[:4] != MAGIC:
        raise BadRequest("the body is no Kubernetes protobuf: it does not begin with k8s\\0")
    envelope = _Decoder(data)
    unknown = envelope.message(
        "k8s.io.apimachinery.pkg.runtime.Unknown", 4, len(data), 0, special=True
    )
    api_version, kind = unknown.get("apiVersion", ""), unknown.get("kind", "")
    raw: bytes = unknown.get("raw", b"")
    if unknown.get("contentEncoding"):
        raise BadRequest(f"content encoding {unknown['contentEncoding']!r} is not supported")
    if unknown.get("contentType") == "application/json":
        found = _json(raw)
        if not isinstance(found, dict):
            raise BadRequest("the JSON in the protobuf envelope is no object")
    elif unknown.get("contentType") in (None, "", MEDIA_TYPE):
        name = _message_name(api_version or expected[0], kind or expected[1])
        found = _Decoder(raw).message(name, 0, len(raw), 0)
    else:
        raise BadRequest(f"content type {unknown['contentType']!r} in the envelope is unknown")
    named = {"apiVersion": api_version, "kind": kind} if kind else {}
    return {**named, **found}


def encode(obj: dict[str, Any], expected: tuple[str, str] = ("", "")) -> bytes:
    """``obj`` in its envelope. Fields that the kind does not have are left out.

    Args:
        obj: an object in its JSON shape.
        expected: apiVersion and kind of an object that does not name them.

    Raises:
        BadRequest: the kind has no protobuf encoding, or a value does not fit its field.
    """
    api_version, kind = str(obj.get("apiVersion") or ""), str(obj.get("kind") or "")
    name = _message_name(api_version or expected[0], kind or expected[1])
    raw = _encode_message(name, obj, kind or expected[1], 0)
    type_meta = _length_delimited(1, api_version.encode()) + _length_delimited(2, kind.encode())
    envelope = (
        _length_delimited(1, type_meta)
        + _length_delimited(2, raw)
        + _length_delimited(3, b"")
        + _length_delimited(4, b"")
    )
    return MAGIC + envelope


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the JSON within the protobuf body is malformed: {error}") from error


# Messages whose JSON is not an object of their fields


def _decode_raw(fields: dict[str, Any]) -> Any:
    raw = fields.get("raw") or fields.get("Raw") or b""
    if raw[:4] == MAGIC:
        raise BadRequest("a protobuf object within a protobuf object is not supported")
    return _json(raw) if raw else None


def _encode_raw_as(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: msgspec.json.encode(value)}


def _text_of(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return value


def _decode_int_or_string(fields: dict[str, Any]) -> int | str:
    found: int | str = fields.get("strVal", "") if fields.get("type") else fields.get("intVal", 0)
    return found


def _encode_int_or_string(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"type": 1, "intVal": 0, "strVal": value}
    return {"type": 0, "intVal": value, "strVal": ""}


def _decode_quantity(fields: dict[str, Any]) -> str:
    return str(fields.get("string", ""))


def _encode_quantity(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("expected a quantity")
    return {"string": value if isinstance(value, str) else f"{value:g}"}


def _decode_time(fields: dict[str, Any]) -> str | None:
    if not fields:
        return None
    return time_text(fields.get("seconds", 0), fields.get("nanos", 0))


def _decode_micro_time(fields: dict[str, Any]) -> str | None:
    if not fields:
        return None
    return time_text(fields.get("seconds", 0), fields.get("nanos", 0), micros=True)


def _encode_time(value: Any) -> dict[str, Any]:
    seconds, _ = time_parts(_text_of(value))
    return {"seconds": seconds, "nanos": 0}


def _encode_micro_time(value: Any) -> dict[str, Any]:
    seconds, nanos = time_parts(_text_of(value))
    return {"seconds": seconds, "nanos": nanos // 1000 * 1000}


def _decode_duration(fields: dict[str, Any]) -> str:
    return duration_text(fields.get("duration", 0))


def _encode_duration(value: Any) -> dict[str, Any]:
    return {"duration": duration_nanos(_text_of(value))}


def _decode_schema_or_array(fields: dict[str, Any]) -> Any:
    return fields.get("jSONSchemas") or fields.get("schema", {})


def _encode_schema_or_array(value: Any) -> dict[str, Any]:
    return {"jSONSchemas" if isinstance(value, list) else "schema": value}


def _decode_schema_or_bool(fields: dict[str, Any]) -> Any:
    return fields.get("schema", bool(fields.get("allows")))


def _encode_schema_or_bool(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"allows": value}
    return {"allows": True, "schema": value}


def _decode_schema_or_strings(fields: dict[str, Any]) -> Any:
    return fields.get("property") or fields.get("schema", {})


def _encode_schema_or_strings(value: Any) -> dict[str, Any]:
    return {"property" if isinstance(value, list) else "schema": value}


class _Special(NamedTuple):
    """From a message's own fields to its JSON, and back."""

    decode: Callable[[dict[str, Any]], Any]
    encode: Callable[[Any], dict[str, Any]]


_SPECIAL = {
    f"{_META}.Time": _Special(_decode_time, _encode_time),
    f"{_META}.MicroTime": _Special(_decode_micro_time, _encode_micro_time),
    f"{_META}.Duration": _Special(_decode_duration, _encode_duration),
    f"{_META}.FieldsV1": _Special(_decode_raw, _encode_raw_as("Raw")),
    "k8s.io.apimachinery.pkg.runtime.RawExtension": _Special(_decode_raw, _encode_raw_as("raw")),
    "k8s.io.apimachinery.pkg.api.resource.Quantity": _Special(_decode_quantity, _encode_quantity),
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": _Special(
        _decode_int_or_string, _encode_int_or_string
    ),
}
for _version in ("v1", "v1beta1"):
    _package = f"{_EXTENSIONS}.{_version}"
    _SPECIAL |= {
        f"{_package}.JSON": _Special(_decode_raw, _encode_raw_as("raw")),
        f"{_package}.JSONSchemaPropsOrArray": _Special(
            _decode_schema_or_array, _encode_schema_or_array
        ),
        f"{_package}.JSONSchemaPropsOrBool": _Special(
            _decode_schema_or_bool, _encode_schema_or_bool
        ),
        f"{_package}.JSONSchemaPropsOrStringArray": _Special(
            _decode_schema_or_strings, _encode_schema_or_strings
        ),
    }


# Decoding


class _Decoder:
    """Reads messages out of one buffer; positions are absolute in it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.values = 0

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned varint and the position behind it."""
        result = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise BadRequest(f"malformed protobuf: a number is cut short or too long at byte {at}")

    def message(
        self, name: str, at: int, end: int, depth: int, *, special: bool = False
    ) -> dict[str, Any]:
        """The fields of a message; with ``special``, zeroes and bytes are given as they are."""
        if depth > DEPTH_LIMIT:
            raise BadRequest(f"the protobuf body is nested deeper than {DEPTH_LIMIT} messages")
        fields = _message(name)
        found: dict[str, Any] = {}
        while at < end:
            self.values += 1
            if self.values > VALUES_LIMIT:
                raise BadRequest(f"the protobuf body holds more than {VALUES_LIMIT} values")
            tag, at = self.varint(at, end)
            number, wire_type = tag >> 3, tag & 7
            start, stop, at = self._extent(wire_type, at, end)
            field = fields.get(number)
            if field is None:
                continue
            if wire_type != field.wire_type and not (field.repeated and wire_type == _BYTES):
                raise BadRequest(f"malformed protobuf: {name}.{field.name} has another wire type")
            if field.is_map:
                key, value = self._entry(field, start, stop, depth)
                found.setdefault(field.name, {})[key] = value
            elif field.repeated:
                target = found.setdefault(field.name, [])
                if wire_type == field.wire_type:
                    target.append(self._value(field, start, stop, depth))
                else:
                    self._packed(field, start, stop, target)
            elif special and not field.inline:
                plain = field.kind == "bytes"
                value = self._value(field, start, stop, depth) if not plain else None
                found[field.name] = self.data[start:stop] if plain else value
            else:
                self._single(field, found, self._value(field, start, stop, depth))
        return found

    def _single(self, field: _Field, found: dict[str, Any], value: Any) -> None:
        if field.inline:
            found.update(value)
        elif value is not None and (value or not field.omitted_when_zero):
            found[field.name] = value
        else:
            found.pop(field.name, None)

    def _extent(self, wire_type: int, at: int, end: int) -> tuple[int, int, int]:
        """Where a field's content begins and ends, and where the next field begins."""
        if wire_type == _VARINT:
            _, stop = self.varint(at, end)
            return at, stop, stop
        if wire_type == _BYTES:
            size, at = self.varint(at, end)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise BadRequest(f"malformed protobuf: wire type {wire_type} at byte {at}")
        if size > end - at:
            raise BadRequest(f"malformed protobuf: a field is cut short at byte {at}")
        return at, at + size, at + size

    def _value(self, field: _Field, start: int, stop: int, depth: int) -> Any:
        kind = field.kind
        if kind == "string":
            return self._text(start, stop)
        if kind == "bytes":
            return base64.b64encode(self.data[start:stop]).decode()
        if kind == "double":
            return struct.unpack_from("<d", self.data, start)[0]
        if field.wire_type == _VARINT:
            return self._scalar(kind, start, stop)
        decoder = _SPECIAL.get(kind)
        if decoder is not None:
            try:
                return decoder.decode(self.message(kind, start, stop, depth + 1, special=True))
            except ValueError as error:
                raise BadRequest(f"malformed protobuf: {error}") from error
        value = self.message(kind, start, stop, depth + 1)
        return value if not _is_list(kind) else value.get("", [])

    def _scalar(self, kind: str, start: int, stop: int) -> bool | int:
        number, _ = self.varint(start, stop)
        if kind == "bool":
            return number != 0
        bits = 32 if kind == "int32" else 64
        number &= (1 << bits) - 1
        return number - (1 << bits) if number >> (bits - 1) else number

    def _text(self, start: int, stop: int) -> str:
        try:
            return self.data[start:stop].decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"malformed protobuf: a text is no UTF-8: {error}") from error

    def _packed(self, field: _Field, start: int, stop: int, target: list[Any]) -> None:
        while start < stop:
            self.values += 1
            if self.values > VALUES_LIMIT:
                raise BadRequest(f"the protobuf body holds more than {VALUES_LIMIT} values")
            begin, end, start = self._extent(field.wire_type, start, stop)
            target.append(self._value(field, begin, end, 0))

    def _entry(self, field: _Field, at: int, end: int, depth: int) -> tuple[str, Any]:
        """A map's entry: field 1 is the key, field 2 the value."""
        value_type = _WIRE_TYPES.get(field.kind, _BYTES)
        plain = _Field(2, field.name, field.kind, False, False, False, False, value_type)
        key = ""
        value: Any = None
        seen = False
        while at < end:
            tag, at = self.varint(at, end)
            start, stop, at = self._extent(tag & 7, at, end)
            if tag >> 3 == 1 and tag & 7 == _BYTES:
                key = self._text(start, stop)
            elif tag >> 3 == 2:
                if tag & 7 != value_type:
                    raise BadRequest(f"malformed protobuf: map {field.name} has another wire type")
                value, seen = self._value(plain, start, stop, depth), True
        return key, value if seen else _ZEROES.get(field.kind)


_ZEROES: dict[str, Any] = {"string": "", "bytes": "", "bool": False, "int32": 0, "int64": 0}


@cache
def _is_list(kind: str) -> bool:
    """Whether a message is a bare list in JSON."""
    return any(field.name == "" and not field.inline for field in _message(kind).values())


# Encoding


def _varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _length_delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _encode_message(name: str, obj: Any, path: str, depth: int) -> bytes:
    if depth > DEPTH_LIMIT:
        raise BadRequest(f"{path}: nested deeper than {DEPTH_LIMIT} messages")
    if _is_list(name):
        obj = {"": obj}
    if not isinstance(obj, dict):
        raise BadRequest(f"{path}: expected an object, got {type(obj).__name__}")
    parts: list[bytes] = []
    for field in sorted(_message(name).values(), key=lambda f: f.number):
        if field.inline:
            content = _encode_message(field.kind, obj, path, depth + 1)
            if content:
                parts.append(_length_delimited(field.number, content))
        elif obj.get(field.name) is not None:
            _encode_field(field, obj[field.name], f"{path}.{field.name}", depth, parts)
    return b"".join(parts)


def _encode_field(field: _Field, value: Any, path: str, depth: int, parts: list[bytes]) -> None:
    if field.is_map:
        if not isinstance(value, dict):
            raise BadRequest(f"{path}: expected an object, got {type(value).__name__}")
        for key in sorted(value):
            at = f"{path}[{key}]"
            entry = _encode_value("string", 1, key, at, depth)
            if value[key] is None:
                entry += _length_delimited(2, b"") if field.kind not in _WIRE_TYPES else b""
            else:
                entry += _encode_value(field.kind, 2, value[key], at, depth)
            parts.append(_length_delimited(field.number, entry))
    elif field.repeated:
        if not isinstance(value, list):
            raise BadRequest(f"{path}: expected a list, got {type(value).__name__}")
        parts.extend(
            _encode_value(field.kind, field.number, item, f"{path}[{place}]", depth)
            for place, item in enumerate(value)
        )
    else:
        parts.append(_encode_value(field.kind, field.number, value, path, depth))


def _encode_value(kind: str, number: int, value: Any, path: str, depth: int) -> bytes:
    try:
        if kind in ("string", "bytes"):
            if not isinstance(value, str):
                raise TypeError("expected a string")
            content = value.encode() if kind == "string" else base64.b64decode(value, validate=True)
            return _length_delimited(number, content)
        if kind in _WIRE_TYPES:
            return _encode_scalar(kind, number, value)
        special = _SPECIAL.get(kind)
        if special is not None:
            fields = special.encode(value)
            content = _encode_raw(kind, fields, path, depth + 1)
        else:
            content = _encode_message(kind, value, path, depth + 1)
        return _length_delimited(number, content)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"{path}: {error}") from error


def _encode_scalar(kind: str, number: int, value: Any) -> bytes:
    if kind == "bool":
        if not isinstance(value, bool):
            raise TypeError("expected a boolean")
        return _varint(number << 3) + _varint(int(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("expected a number")
    if kind == "double":
        return _varint(number << 3 | _FIXED64) + struct.pack("<d", value)
    if value != int(value):
        raise TypeError("expected a whole number")
    bits = 31 if kind == "int32" else 63
    if not -(1 << bits) <= value < 1 << bits:
        raise ValueError(f"{value} is out of range of {kind}")
    return _varint(number << 3) + _varint(int(value))


def _encode_raw(kind: str, fields: dict[str, Any], path: str, depth: int) -> bytes:
    """A special message from its own fields, whose bytes are bytes already."""
    parts: list[bytes] = []
    for field in sorted(_message(kind).values(), key=lambda f: f.number):
        value = fields.get(field.name)
        if isinstance(value, bytes):
            parts.append(_length_delimited(field.number, value))
        elif value is not None:
            _encode_field(field, value, path, depth, parts)
    return b"".join(parts)
