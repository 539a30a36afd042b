"""Tables of built-in kinds, of custom resources by their printer columns, and of all others.

Source: Kubernetes ``pkg/printers/internalversion`` for columns and cells,
apiextensions-apiserver ``pkg/registry/customresource/tableconvertor`` for printer columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from underway.api import quantity
from underway.api.objects import Object
from underway.api.resources import Resource
from underway.api.tables import cluster, infrastructure, jsonpath, network, pods, workloads
from underway.api.tables.columns import AGE, NAME, Column, Layout, age, name_of
from underway.api.tables.durations import since
from underway.base.errors import BadRequest

_LAYOUTS: dict[tuple[str, str], Layout] = {
    **pods.LAYOUTS,
    **workloads.LAYOUTS,
    **network.LAYOUTS,
    **cluster.LAYOUTS,
    **infrastructure.LAYOUTS,
}
_PLAIN = Layout((NAME, AGE), lambda obj, now: [name_of(obj), age(obj, now)])


def table(
    resource: Resource,
    objects: Iterable[Object],
    list_metadata: Object,
    now: datetime,
    *,
    include_object: str = "Metadata",
    columns: list[Object] | None = None,
) -> Object:
    """A ``meta.k8s.io/v1 Table`` of objects.

    Args:
        resource: what they are.
        objects: in the order of the rows.
        list_metadata: the list's ``metadata`` (``resourceVersion``, ``continue`` ...).
        now: what ages are counted to.
        include_object: ``None``, ``Metadata`` or ``Object``: what of the object a row carries.
        columns: a custom resource's ``additionalPrinterColumns``.

    Raises:
        BadRequest: ``include_object`` is none of the three.
    """
    if include_object not in ("", "None", "Metadata", "Object"):
        raise BadRequest(
            f"unrecognized includeObject value: {include_object!r}",
            hint="use None, Metadata or Object",
        )
    layout = _LAYOUTS.get((resource.group, resource.kind), _PLAIN)
    if columns is not None:
        layout = _custom(columns)
    cells, conditions = layout.cells, _CONDITIONS.get((resource.group, resource.kind))
    rows = []
    for obj in objects:
        row: Object = {"cells": cells(obj, now)}
        if conditions and (noted := conditions(obj)):
            row["conditions"] = noted
        if include_object == "Object":
            row["object"] = {
                "kind": resource.kind,
                "apiVersion": resource.api_version,
                **obj,
            }
        elif include_object != "None":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj.get("metadata") or {},
            }
        else:
            row["object"] = None
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": [column.as_dict() for column in layout.columns],
        "rows": rows,
    }


_CONDITIONS: dict[tuple[str, str], Callable[[Object], list[Object]]] = {
    ("", "Pod"): pods.row_conditions,
}


def _custom(columns: list[Object]) -> Layout:
    """The layout printer columns describe; without an age of their own they get one."""
    shown = [NAME]
    readers: list[tuple[str, str]] = []
    for column in columns:
        kind = str(column.get("type") or "string")
        shown.append(
            Column(
                str(column.get("name") or ""),
                kind,
                str(column.get("description") or ""),
                str(column.get("format") or ""),
                int(column.get("priority") or 0),
            )
        )
        readers.append((str(column.get("jsonPath") or ""), kind))
    if not columns:
        return _PLAIN

    def cells(obj: Object, now: datetime) -> list[Any]:
        return [name_of(obj), *(_custom_cell(obj, path, kind, now) for path, kind in readers)]

    return Layout(tuple(shown), cells)


def _custom_cell(obj: Object, path: str, kind: str, now: datetime) -> Any:
    """One cell: None where there is no value or it is of another type."""
    try:
        values = jsonpath.find(path, obj)
    except ValueError:
        return None
    if not values or values[0] is None:
        return None
    value = values[0]
    if kind == "date":
        return since(value, now)
    if kind == "integer":
        return _whole(value)
    if kind == "number":
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    return _shown(value)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value)
    return quantity.bytes(value) if quantity.is_quantity(value) else None


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)
