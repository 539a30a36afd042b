"""Putting a default into a field: what counts as unset, and quantities in canonical form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from underway.api import quantity
from underway.api.objects import Object
from underway.api.shape import ShapeError, mapping


def default(parent: Object, **fields: Any) -> None:
    """Set fields that are missing, null or an empty string; zero and false are values."""
    for name, value in fields.items():
        if parent.get(name) in (None, ""):
            parent[name] = value


def default_positive(parent: Object, **fields: int) -> None:
    """Set numbers that are missing or zero, for fields where Kubernetes takes zero as unset."""
    for name, value in fields.items():
        if not parent.get(name):
            parent[name] = value


def canonical_quantity(parent: Object, field: str) -> None:
    """Write the quantity at ``field`` in canonical form, if there is one."""
    if parent.get(field) is not None:
        try:
            parent[field] = quantity.canonical(parent[field])
        except ValueError as error:
            raise ShapeError(f"{field}: {error}") from error


def canonical_quantities(parent: Object, *fields: str) -> None:
    """Write every quantity of the maps at ``fields`` in canonical form."""
    for field in fields:
        amounts = mapping(parent, field)
        for name in amounts:
            canonical_quantity(amounts, name)


def drop_nulls(value: Any, skip: Iterable[str] = ()) -> None:
    """Drop fields that are null, which mean the same as fields left out, everywhere below."""
    if b"null" in msgspec.json.encode(value):  # mostly there are none, and C looks faster
        _drop(value, skip)


def _drop(value: Any, skip: Iterable[str]) -> None:
    if isinstance(value, dict):
        for name in [name for name, each in value.items() if each is None]:
            del value[name]
        for name, each in value.items():
            if name not in skip:
                _drop(each, ())
    elif isinstance(value, list):
        for each in value:
            _drop(each, ())
