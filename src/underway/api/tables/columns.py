"""Columns of tables, and the small conversions that cells share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from underway.api.objects import Object
from underway.api.tables.durations import UNKNOWN, since

NONE = "<none>"
UNSET = "<unset>"
Cells = Callable[[Object, datetime], list[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """One column; those of priority 1 are shown by ``-o wide``."""

    name: str
    type: str = "string"
    description: str = ""
    format: str = ""
    priority: int = 0

    def as_dict(self) -> Object:
        """The column's definition in a Table."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a kind and how one object fills them."""

    columns: tuple[Column, ...]
    cells: Cells


NAME = Column("Name", description="The object's name", format="name")
AGE = Column("Age", description="Time since the object was created")


def wide(name: str, type_: str = "string", description: str = "") -> Column:
    """A column that only ``-o wide`` shows."""
    return Column(name, type_, description, priority=1)


def name_of(obj: Object) -> str:
    """``metadata.name``."""
    return str((obj.get("metadata") or {}).get("name") or "")


def age(obj: Object, now: datetime) -> str:
    """The time since an object was created."""
    created = (obj.get("metadata") or {}).get("creationTimestamp")
    return since(created, now) if created else UNKNOWN


def spec_of(obj: Object) -> Object:
    """``spec`` or empty."""
    return obj.get("spec") or {}


def status_of(obj: Object) -> Object:
    """``status`` or empty."""
    return obj.get("status") or {}


def joined(values: Iterable[Any], missing: str = NONE) -> str:
    """Values separated by commas."""
    return ",".join(str(value) for value in values) or missing


def labels_text(labels: dict[str, str] | None) -> str:
    """``a=b,c=d``, sorted."""
    return joined(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def selector_text(selector: Object | None) -> str:
    """A LabelSelector as text."""
    if selector is None:
        return NONE
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression.get("key"), ",".join(sorted(expression.get("values") or ()))
        operator = expression.get("operator")
        if operator in ("In", "NotIn"):
            parts.append(f"{key} {operator.lower()} ({values})")
        else:
            parts.append(f"!{key}" if operator == "DoesNotExist" else str(key))
    return ",".join(parts) or NONE


def containers_of(obj: Object) -> tuple[str, str]:
    """Names and images of a workload's containers."""
    containers = ((spec_of(obj).get("template") or {}).get("spec") or {}).get("containers") or ()
    names = joined((each.get("name", "") for each in containers), "")
    return names, joined((each.get("image", "") for each in containers), "")


CONTAINERS = (
    wide("Containers", description="Names of the template's containers"),
    wide("Images", description="Images of the template's containers"),
)
SELECTOR = wide("Selector", description="What selects the pods")
