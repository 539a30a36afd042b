"""Field errors, worded as clients expect them.

Source: Kubernetes apimachinery ``pkg/util/validation/field`` and ``pkg/api/errors`` (NewInvalid).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Any

from underway.api.resources import Resource
from underway.base.errors import Cause, Invalid

VALUE_LIMIT = 1024  # characters of a value quoted in a message
IMMUTABLE = "field is immutable"


def shown(value: Any) -> str:
    """A value as it stands in a message: strings quoted, the rest as JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text if len(text) <= VALUE_LIMIT else text[:VALUE_LIMIT] + "..."


def shown_labels(labels: Mapping[str, str]) -> str:
    """Labels as they stand in a message: as Go writes a map."""
    if not labels:
        return "map[string]string(nil)"
    listed = ", ".join(f"{json.dumps(key)}:{json.dumps(labels[key])}" for key in sorted(labels))
    return f"map[string]string{{{listed}}}"


def bad_labels(field: str, labels: Mapping[str, str], detail: str) -> Cause:
    """The labels break a rule."""
    return Cause(field, f"Invalid value: {shown_labels(labels)}: {detail}", "FieldValueInvalid")


def required(field: str, detail: str = "") -> Cause:
    """The field must be given."""
    return Cause(field, f"Required value{': ' + detail if detail else ''}", "FieldValueRequired")


def bad(field: str, value: Any, detail: str) -> Cause:
    """The value breaks a rule."""
    return Cause(field, f"Invalid value: {shown(value)}: {detail}", "FieldValueInvalid")


def unsupported(field: str, value: Any, supported: Iterable[str]) -> Cause:
    """The value is not one of the few there are."""
    names = ", ".join(json.dumps(name) for name in supported)
    message = f"Unsupported value: {shown(value)}: supported values: {names}"
    return Cause(field, message, "FieldValueNotSupported")


def forbidden(field: str, detail: str) -> Cause:
    """The field may not be set here."""
    return Cause(field, f"Forbidden: {detail}", "FieldValueForbidden")


def duplicate(field: str, value: Any) -> Cause:
    """The value stands there already."""
    return Cause(field, f"Duplicate value: {shown(value)}", "FieldValueDuplicate")


def not_found(field: str, value: Any) -> Cause:
    """The value names something that is not there."""
    return Cause(field, f"Not found: {shown(value)}", "FieldValueNotFound")


def too_long(field: str, limit: int) -> Cause:
    """The value has too many bytes."""
    message = f"Too long: may not be more than {limit} bytes"
    return Cause(field, message, "FieldValueTooLong")


def one_of(field: str, value: Any, supported: Iterable[str]) -> list[Cause]:
    """Required and of a fixed set."""
    if value in (None, ""):
        return [required(field)]
    return [] if value in (names := list(supported)) else [unsupported(field, value, names)]


def unchanged(field: str, new: Any, old: Any) -> list[Cause]:
    """The field may not be changed once the object exists."""
    return [] if new == old else [bad(field, new, IMMUTABLE)]


def not_negative(field: str, value: Any) -> list[Cause]:
    """A number of things."""
    if value is None:
        return []
    if isinstance(value, bool) or not isinstance(value, int):
        return [bad(field, value, "must be an integer")]
    return [] if value >= 0 else [bad(field, value, "must be greater than or equal to 0")]


def check_address(value: object, field: str) -> list[Cause]:
    """An IP address."""
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return [bad(field, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    return []


def invalid(resource: Resource, name: str, causes: list[Cause]) -> Invalid:
    """The error that answers a request whose object breaks rules."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"name": name, "group": resource.group, "kind": resource.kind}
    return Invalid(
        f'{kind} "{name}" is invalid: {listed}',
        details={key: value for key, value in details.items() if value},
        causes=list(dict.fromkeys(causes)),
    )
