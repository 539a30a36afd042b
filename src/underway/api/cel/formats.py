"""Named formats of strings: ``format.dns1123Label().validate(text)``.

Source: Kubernetes reference, "Common Expression Language in Kubernetes", format library;
k8s.io/apiserver ``pkg/cel/library/format.go``.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit

from underway.api import names
from underway.api.cel.rewriting import NAMED, VALIDATE
from underway.api.objects import Object

Add = Callable[..., None]
_FORMAT = "format"
_PREFIX_END = re.compile(r"-+\Z")
_UUID = re.compile(r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def _prefix(check: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """A name that something is appended to may end in a dash."""
    return lambda text: check(_PREFIX_END.sub("a", text))


def _uri(text: str) -> list[str]:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        return [str(error)]
    return [] if parts.scheme or text.startswith("/") else ["invalid URI for request"]


def _byte(text: str) -> list[str]:
    try:
        b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ["invalid base64"]
    return []


def _date(text: str) -> list[str]:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            raise ValueError(text)
        date.fromisoformat(text)
    except ValueError:
        return ["invalid date"]
    return []


def _datetime(text: str) -> list[str]:
    try:
        if not re.match(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d", text):
            raise ValueError(text)
        datetime.fromisoformat(text)
    except ValueError:
        return ["invalid datetime"]
    return []


FORMATS: dict[str, Callable[[str], list[str]]] = {
    "dns1123Label": names.dns_label,
    "dns1123Subdomain": names.dns_subdomain,
    "dns1035Label": names.dns_1035_label,
    "qualifiedName": names.qualified_name,
    "dns1123LabelPrefix": _prefix(names.dns_label),
    "dns1123SubdomainPrefix": _prefix(names.dns_subdomain),
    "dns1035LabelPrefix": _prefix(names.dns_1035_label),
    "labelValue": names.label_value,
    "uri": _uri,
    "uuid": lambda text: [] if _UUID.fullmatch(text) else ["does not match the UUID format"],
    "byte": _byte,
    "date": _date,
    "datetime": _datetime,
}


def declare(add: Add, types: Any) -> None:
    """Declare the library's functions; ``rewriting`` makes optionals of the lists."""
    value = types.Map(types.STRING, types.DYN)
    for name in FORMATS:
        add(f"format.{name}", value, [], _constant(name))
    add(f"format.{NAMED}", types.List(value), [types.STRING], _named)
    found = types.List(types.List(types.STRING))
    add(VALIDATE, found, [value, types.STRING], _validate, of=_FORMAT)


def _constant(name: str) -> Callable[[], Object]:
    return lambda: {_FORMAT: name}


def _named(name: str) -> list[Object]:
    return [{_FORMAT: name}] if name in FORMATS else []


def _validate(value: Object, text: str) -> list[list[str]]:
    if _FORMAT not in value:
        raise ValueError("no such overload: the value is no format")
    problems = FORMATS[value[_FORMAT]](text)
    return [problems] if problems else []
