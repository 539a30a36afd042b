"""Apply as Metacontroller does it: three-way merge, lists of objects merged by a key they share.

What was applied last stands in an annotation of the child, so that a field a hook no longer names
is taken away, and what others set stays.

Source: Metacontroller's "Apply Semantics".
"""

from __future__ import annotations

import json
from typing import Any

from underway.api.objects import Object, annotations_of, meta
from underway.api.patches import copy_json

LAST_APPLIED = "metacontroller.k8s.io/last-applied-configuration"
MERGE_KEYS = ("containerPort", "port", "mountPath", "name", "uid", "ip", "path")
_SYSTEM = (
    *("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"),
    *("deletionGracePeriodSeconds", "managedFields", "selfLink"),
)


def remembered(desired: Object) -> Object:
    """``desired`` with the note of what it applies; for creating it."""
    made = copy_json(desired)
    note = json.dumps(_without_note(desired), sort_keys=True, separators=(",", ":"))
    meta(made)["annotations"] = {**annotations_of(made), LAST_APPLIED: note}
    return made


def applied(observed: Object, desired: Object) -> Object:
    """``observed`` as it is to be when ``desired`` is applied; neither is changed."""
    try:
        last = json.loads(annotations_of(observed).get(LAST_APPLIED) or "{}")
    except ValueError:  # somebody else wrote it: nothing is known to have been applied
        last = {}
    wanted = remembered(desired)
    wanted.pop("status", None)
    for field in _SYSTEM:
        meta(wanted).pop(field, None)
    last.pop("status", None)
    merged: Object = _merge(observed, last, wanted)
    if "status" in observed:
        merged["status"] = copy_json(observed["status"])
    for field in _SYSTEM:
        meta(merged).pop(field, None)
        if field in meta(observed):
            meta(merged)[field] = copy_json(meta(observed)[field])
    return merged


def same(one: Object, other: Object) -> bool:
    """Whether two objects are equal but for the note of what was applied."""
    return _without_note(one) == _without_note(other)


def _without_note(obj: Object) -> Object:
    notes = annotations_of(obj)
    if LAST_APPLIED not in notes:
        return obj
    rest = {name: value for name, value in notes.items() if name != LAST_APPLIED}
    header = {name: value for name, value in meta(obj).items() if name != "annotations"}
    return {**obj, "metadata": {**header, **({"annotations": rest} if rest else {})}}


def _merge(observed: Any, last: Any, desired: Any) -> Any:
    if isinstance(observed, dict) and isinstance(desired, dict):
        return _merge_maps(observed, last if isinstance(last, dict) else {}, desired)
    if isinstance(observed, list) and isinstance(desired, list):
        return _merge_lists(observed, last if isinstance(last, list) else [], desired)
    return copy_json(desired)


def _merge_maps(observed: Object, last: Object, desired: Object) -> Object:
    merged = {
        name: copy_json(value)
        for name, value in observed.items()
        if name not in last or name in desired
    }
    for name, value in desired.items():
        if name in observed:
            merged[name] = _merge(observed[name], last.get(name), value)
        else:
            merged[name] = copy_json(value)
    return merged


def _merge_lists(observed: list[Any], last: list[Any], desired: list[Any]) -> list[Any]:
    key = _merge_key([*observed, *last, *desired])
    if not key:
        return [copy_json(each) for each in desired]
    before = {each[key]: each for each in last}
    wanted = {each[key]: each for each in desired}
    merged = []
    for item in observed:
        value = item[key]
        if value in wanted:
            merged.append(_merge(item, before.get(value), wanted.pop(value)))
        elif value not in before:
            merged.append(copy_json(item))
    return [*merged, *(copy_json(each) for each in wanted.values())]


def _merge_key(items: list[Any]) -> str:
    """The key all items have; empty where the list is replaced as a whole."""
    if not items or not all(isinstance(each, dict) for each in items):
        return ""
    for key in MERGE_KEYS:
        if all(isinstance(each.get(key), str | int) for each in items):
            return key
    return ""
