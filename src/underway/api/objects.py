"""Reading and writing objects as the plain dictionaries that JSON gives.

A key is ``namespace/name``, or ``name`` alone for cluster-scoped objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]


def key_of(namespace: str | None, name: str) -> str:
    """The key of an object."""
    return f"{namespace}/{name}" if namespace else name


def split_key(key: str) -> tuple[str, str]:
    """``(namespace, name)``; the namespace is empty for cluster-scoped objects."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


def meta(obj: Object) -> Object:
    """``metadata``, made if it was missing."""
    found = obj.get("metadata")
    if not isinstance(found, dict):
        found = obj["metadata"] = {}
    return found


def name_of(obj: Object) -> str:
    """``metadata.name`` or empty."""
    return str(meta(obj).get("name") or "")


def namespace_of(obj: Object) -> str:
    """``metadata.namespace`` or empty."""
    return str(meta(obj).get("namespace") or "")


def uid_of(obj: Object) -> str:
    """``metadata.uid`` or empty."""
    return str(meta(obj).get("uid") or "")


def object_key(obj: Object) -> str:
    """The object's key."""
    return key_of(namespace_of(obj), name_of(obj))


def labels_of(obj: Object) -> dict[str, str]:
    """``metadata.labels`` or empty; not to be written to."""
    return meta(obj).get("labels") or {}


def annotations_of(obj: Object) -> dict[str, str]:
    """``metadata.annotations`` or empty; not to be written to."""
    return meta(obj).get("annotations") or {}


def controller_of(obj: Object) -> Object | None:
    """The owner reference marked ``controller``, if any."""
    for owner in meta(obj).get("ownerReferences") or ():
        if owner.get("controller"):
            return dict(owner)
    return None


def owner_reference(owner: Object, *, controller: bool = True) -> Object:
    """A reference to ``owner`` as it goes into a dependent's ``ownerReferences``."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": controller,
        "blockOwnerDeletion": True,
    }


def deleting(obj: Object) -> bool:
    """Whether the object's deletion has begun."""
    return bool(meta(obj).get("deletionTimestamp"))


def find_condition(conditions: Iterable[Object] | None, kind: str) -> Object | None:
    """The condition of a type, if present."""
    for condition in conditions or ():
        if condition.get("type") == kind:
            return condition
    return None


def set_condition(conditions: list[Object], condition: Object, now: str) -> bool:
    """Put a condition into a list, moving ``lastTransitionTime`` only when its status changes.

    Returns:
        Whether anything changed.
    """
    current = find_condition(conditions, condition["type"])
    if current is None:
        conditions.append({"lastTransitionTime": now, **condition})
        return True
    changed = any(current.get(name) != value for name, value in condition.items())
    if current.get("status") != condition.get("status"):
        current["lastTransitionTime"] = now
    current.update(condition)
    return changed
