"""The rules an OpenAPI v3 schema sets a custom resource, with Kubernetes' wording.

Source: OpenAPI 3.0 "Schema Object"; messages as kube-openapi ``pkg/validation`` and apimachinery
``util/validation/field`` give them.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from underway.api.patterns import compile_pattern
from underway.api.schema import Schema
from underway.base.errors import Cause

_TYPE_NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def shown(value: Any) -> str:
    """A value as it stands in a message: JSON, which for strings is a quoted string."""
    return msgspec.json.encode(value).decode()


def _invalid(path: str, value: Any, text: str) -> Cause:
    return Cause(path, f"Invalid value: {shown(value)}: {path} in body {text}")


def _type_invalid(path: str, value: Any, kind: str, data: str) -> Cause:
    text = f"Invalid value: {shown(value)}: {path} in body must be of type {kind}: {shown(data)}"
    return Cause(path, text, "FieldValueTypeInvalid")


def _required(path: str, detail: str = "") -> Cause:
    suffix = f": {detail}" if detail else ""
    return Cause(path, f"Required value{suffix}", "FieldValueRequired")


def _too_many(path: str, count: int, limit: int) -> Cause:
    noun = "item" if limit == 1 else "items"
    text = f"Too many: {count}: must have at most {limit} {noun}"
    return Cause(path, text, "FieldValueTooMany")


def check(schema: Schema, value: Any, path: str = "") -> list[Cause]:
    """The causes for which ``value`` does not fit, in document order."""
    found: list[Cause] = []
    _check(schema, value, path, found)
    return found


def _check(schema: Schema, value: Any, path: str, found: list[Cause]) -> None:
    if value is None and (schema.nullable or schema.built_in or not schema.type):
        return
    wrong = _wrong_type(schema, value)
    if wrong:
        actual = _TYPE_NAMES.get(type(value), "object")
        found.append(_type_invalid(path, actual, wrong, actual))
        return
    _check_enum(schema, value, path, found)
    if isinstance(value, str):
        _check_string(schema.node, value, path, found)
    elif isinstance(value, dict):
        _check_object(schema, value, path, found)
    elif isinstance(value, list):
        _check_list(schema, value, path, found)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(schema.node, value, path, found)
    _check_combinations(schema, value, path, found)


def _wrong_type(schema: Schema, value: Any) -> str:
    """The type wanted, when ``value`` is of another; empty when it fits."""
    if schema.int_or_string:
        fitting = int | float | str if schema.node.get("format") == "quantity" else int | str
        fits = isinstance(value, fitting) and not isinstance(value, bool)
        return "" if fits else "integer,string"
    fits_of: dict[str, Callable[[Any], bool]] = {
        "object": lambda v: isinstance(v, dict),
        "array": lambda v: isinstance(v, list),
        "string": lambda v: isinstance(v, str),
        "boolean": lambda v: isinstance(v, bool),
        "integer": lambda v: (
            not isinstance(v, bool)
            and (isinstance(v, int) or (isinstance(v, float) and v.is_integer()))
        ),
        "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    }
    fits_type = fits_of.get(schema.type)
    return "" if fits_type is None or fits_type(value) else schema.type


def _check_enum(schema: Schema, value: Any, path: str, found: list[Cause]) -> None:
    allowed = schema.node.get("enum")
    if not allowed or any(value == item and type(value) is type(item) for item in allowed):
        return
    names = ", ".join(
        shown(item if isinstance(item, str) else msgspec.json.encode(item).decode())
        for item in allowed
    )
    text = f"Unsupported value: {shown(value)}: supported values: {names}"
    found.append(Cause(path, text, "FieldValueNotSupported"))


def _check_string(node: Any, value: str, path: str, found: list[Cause]) -> None:
    longest, shortest = node.get("maxLength"), node.get("minLength")
    if longest is not None and len(value) > longest:
        noun = "byte" if longest == 1 else "bytes"
        text = f"Too long: may not be more than {longest} {noun}"
        found.append(Cause(path, text, "FieldValueTooLong"))
    if shortest is not None and len(value) < shortest:
        found.append(_invalid(path, value, f"should be at least {shortest} chars long"))
    pattern = node.get("pattern")
    if pattern and not _matches(pattern, value):
        found.append(_invalid(path, value, f"should match '{pattern}'"))
    form = node.get("format")
    if form in _FORMATS:
        try:
            _FORMATS[form](value)
        except (ValueError, binascii.Error):
            found.append(_type_invalid(path, value, form, value))


def _matches(pattern: str, value: str) -> bool:
    try:
        return compile_pattern(pattern).search(value) is not None
    except ValueError:
        return True  # no pattern; the definition's own check is the place to say so


def _date_time(value: str) -> None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", value):
        raise ValueError(value)
    datetime.fromisoformat(re.sub(r"\.\d+", "", value).upper().replace("Z", "+00:00"))


def _uri(value: str) -> None:
    if not urlsplit(value).scheme and not value.startswith("/"):
        raise ValueError(value)


def _email(value: str) -> None:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
        raise ValueError(value)


_FORMATS: dict[str, Callable[[str], Any]] = {
    "byte": lambda v: base64.b64decode(v, validate=True),
    "cidr": lambda v: (
        ipaddress.ip_network(v, strict=False) if "/" in v else ipaddress.ip_network("")
    ),
    "date": date.fromisoformat,
    "date-time": _date_time,
    "email": _email,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": _uri,
    "uuid": UUID,
}


def _check_number(node: Any, value: float, path: str, found: list[Cause]) -> None:
    low, high, step = node.get("minimum"), node.get("maximum"), node.get("multipleOf")
    if low is not None:
        if node.get("exclusiveMinimum"):
            if value <= low:
                found.append(_invalid(path, value, f"should be greater than {low:g}"))
        elif value < low:
            found.append(_invalid(path, value, f"should be greater than or equal to {low:g}"))
    if high is not None:
        if node.get("exclusiveMaximum"):
            if value >= high:
                found.append(_invalid(path, value, f"should be less than {high:g}"))
        elif value > high:
            found.append(_invalid(path, value, f"should be less than or equal to {high:g}"))
    if step and value % step:
        found.append(_invalid(path, value, f"should be a multiple of {step:g}"))


def _check_object(schema: Schema, value: dict[str, Any], path: str, found: list[Cause]) -> None:
    most, fewest = schema.node.get("maxProperties"), schema.node.get("minProperties")
    if most is not None and len(value) > most:
        found.append(_too_many(path, len(value), most))
    if fewest is not None and len(value) < fewest:
        found.append(_invalid(path, len(value), f"should have at least {fewest} properties"))
    found.extend(_required(_join(path, name)) for name in schema.required if name not in value)
    if schema.embedded_resource:
        found.extend(
            _required(_join(path, name), "must not be empty")
            for name in ("apiVersion", "kind")
            if not value.get(name)
        )
    for name, item in value.items():
        child = schema.field(name)
        if child is not None:
            _check(child, item, _join(path, name), found)


def _check_list(schema: Schema, value: list[Any], path: str, found: list[Cause]) -> None:
    most, fewest = schema.node.get("maxItems"), schema.node.get("minItems")
    if most is not None and len(value) > most:
        found.append(_too_many(path, len(value), most))
    if fewest is not None and len(value) < fewest:
        found.append(_invalid(path, len(value), f"should have at least {fewest} items"))
    if schema.items is not None:
        for number, item in enumerate(value):
            _check(schema.items, item, f"{path}[{number}]", found)
    seen: set[bytes] = set()
    for number, item in enumerate(value):
        identity = _identity(schema, item)
        if identity is None:
            continue
        key = msgspec.json.encode(identity, order="deterministic")
        if key in seen:
            at, text = f"{path}[{number}]", f"Duplicate value: {shown(identity)}"
            found.append(Cause(at, text, "FieldValueDuplicate"))
        seen.add(key)


def _identity(schema: Schema, item: Any) -> Any:
    """What tells a list's item apart from its neighbours, or None where nothing needs to."""
    if schema.list_type == "set":
        return item
    if schema.list_type == "map" and isinstance(item, dict):
        fields = schema.items.properties if schema.items else {}
        identity = {}
        for key in schema.list_map_keys:
            fallback = fields[key].default if key in fields else None
            if item.get(key, fallback) is not None:
                identity[key] = item.get(key, fallback)
        return identity
    return None


def _check_combinations(schema: Schema, value: Any, path: str, found: list[Cause]) -> None:
    if schema.int_or_string:
        return
    node, problems = schema.node, []
    for key in ("allOf", "anyOf", "oneOf"):
        options = node.get(key)
        if not options:
            continue
        fitting = sum(not check(schema.variant(option), value, path) for option in options)
        if key == "allOf" and fitting < len(options):
            tail = " None validated" if not fitting else ""
            problems.append(f"must validate all the schemas (allOf).{tail}")
        elif key == "anyOf" and not fitting:
            problems.append("must validate at least one schema (anyOf)")
        elif key == "oneOf" and fitting != 1:
            count = "none valid" if not fitting else f"{fitting} valid alternatives"
            problems.append(f"must validate one and only one schema (oneOf). Found {count}")
    if node.get("not") is not None and not check(schema.variant(node["not"]), value, path):
        problems.append("must not validate the schema (not)")
    found.extend(Cause("<nil>", f'Invalid value: "": "{path}" {problem}') for problem in problems)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
