"""Sets of field paths, and what server-side apply asks of two versions of an object.

A path is a tuple of elements as ``fieldsV1`` writes them: ``f:NAME`` a field, ``k:{JSON}`` the item
of a list that is told apart by keys, ``v:JSON`` the item of a set. A field set is a set of paths.

Source: Kubernetes "Server-Side Apply"; sigs.k8s.io/structured-merge-diff for what each owns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from underway.api.patches import copy_json, same_json
from underway.api.schema import ANY, Schema
from underway.base.errors import BadRequest

Path = tuple[str, ...]
FieldSet = set[Path]

_MISSING: Any = object()


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


# fieldsV1


def from_fields_v1(node: Any) -> FieldSet:
    """The set that a ``fieldsV1`` object stands for.

    Raises:
        BadRequest: it is malformed.
    """
    return set(_set_of(msgspec.json.encode(node)))


@lru_cache(256)  # what one program owns of its objects is much the same in each
def _set_of(encoded: bytes) -> frozenset[Path]:
    found: FieldSet = set()
    _read(msgspec.json.decode(encoded), (), found)
    return frozenset(found)


def _read(node: Any, path: Path, found: FieldSet) -> None:
    if not isinstance(node, dict):
        raise BadRequest(f"fieldsV1 holds {node!r} where an object belongs")
    for name, child in node.items():
        if name == ".":
            found.add(path)
            continue
        at = (*path, _element(name))
        if child == {}:
            found.add(at)
        else:
            _read(child, at, found)


def _element(text: str) -> str:
    kind, content = text[:2], text[2:]
    if kind in ("f:", "i:"):
        return text
    if kind not in ("k:", "v:"):
        raise BadRequest(f"fieldsV1 holds the unknown element {text!r}")
    try:
        value = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise BadRequest(f"fieldsV1 holds the malformed element {text!r}: {error}") from error
    if kind == "k:" and not isinstance(value, dict):
        raise BadRequest(f"fieldsV1 holds the malformed element {text!r}: keys are an object")
    return kind + _canonical(value)


def to_fields_v1(paths: FieldSet) -> dict[str, Any]:
    """The ``fieldsV1`` object of a set."""
    decoded: dict[str, Any] = msgspec.json.decode(_object_of(frozenset(paths)))
    return decoded


@lru_cache(256)
def _object_of(paths: frozenset[Path]) -> bytes:
    root: dict[str, Any] = {}
    for path in sorted(paths):
        node = root
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    _collapse(root)
    return msgspec.json.encode(root)


def _collapse(node: dict[str, Any]) -> None:
    for child in node.values():
        if child.keys() == {"."}:
            child.clear()
        else:
            _collapse(child)


def path_text(path: Path) -> str:
    """A path as messages show it: ``.spec.containers[name="web"].image``."""
    parts: list[str] = []
    for element in path:
        kind, content = element[:2], element[2:]
        if kind == "f:":
            parts.append(f".{content}")
        elif kind == "k:":
            keys = msgspec.json.decode(content)
            parts.append("[" + ",".join(f"{k}={_canonical(v)}" for k, v in keys.items()) + "]")
        else:
            parts.append(f"[={content}]" if kind == "v:" else f"[{content}]")
    return "".join(parts)


# Shapes


def _shape(schema: Schema, value: Any) -> str:
    """``map`` or ``list`` for what is owned piece by piece, ``leaf`` for what is owned whole."""
    if isinstance(value, dict):
        granular = schema.type in ("", "object") and not schema.atomic_map
        return "map" if granular and not schema.int_or_string else "leaf"
    if isinstance(value, list):
        return "list" if schema.type in ("", "array") and schema.list_type != "atomic" else "leaf"
    return "leaf"


def _field(schema: Schema, name: str) -> Schema:
    return schema.field(name) or ANY


def _item(schema: Schema) -> Schema:
    return schema.items or ANY


def _identity(schema: Schema, item: Any) -> str:
    """The element of a list's item.

    Raises:
        BadRequest: the item lacks every key.
    """
    if schema.list_type == "set":
        return "v:" + _canonical(item)
    keys = schema.list_map_keys
    if not isinstance(item, dict):
        raise BadRequest(f"an item of a list with keys {keys} is {item!r} instead of an object")
    fields = _item(schema).properties
    identity = {}
    for key in keys:
        default = fields[key].default if key in fields else None
        value = item.get(key, default)
        if key in item or value is not None:
            identity[key] = value
    if not identity:
        raise BadRequest(f"associative list with keys has an element that omits all keys {keys}")
    return "k:" + _canonical(identity)


def _keyed(schema: Schema, items: Any) -> dict[str, list[Any]]:
    """The items of a list by element; more than one only where the list repeats itself."""
    found: dict[str, list[Any]] = {}
    for item in () if items is _MISSING else items:
        found.setdefault(_identity(schema, item), []).append(item)
    return found


# What an object owns, and how two differ


def fields_of(schema: Schema, obj: Any) -> FieldSet:
    """The fields that somebody who applies ``obj`` owns."""
    found: FieldSet = set()
    _own(schema, obj, (), found)
    return found


def _own(schema: Schema, value: Any, path: Path, found: FieldSet) -> None:
    shape = _shape(schema, value)
    if shape == "map":
        for name, child in value.items():
            at = (*path, f"f:{name}")
            _own(_field(schema, name), child, at, found)
            if child is None or child == {} or name not in schema.properties:
                found.add(at)
    elif shape == "list":
        for element, items in _keyed(schema, value).items():
            at = (*path, element)
            if len(items) == 1:
                _own(_item(schema), items[0], at, found)
            found.add(at)
    else:
        found.add(path)


@dataclass(slots=True)
class Comparison:
    """How one version of an object differs from another."""

    added: FieldSet = field(default_factory=set)
    modified: FieldSet = field(default_factory=set)
    removed: FieldSet = field(default_factory=set)

    def note(self, old: Any, new: Any, path: Path) -> None:
        """Take a value as a whole."""
        if old is _MISSING:
            self.added.add(path)
        elif new is _MISSING:
            self.removed.add(path)
        elif not same_json(old, new):
            self.modified.add(path)


def compare(schema: Schema, old: Any, new: Any) -> Comparison:
    """What changed between two versions of an object."""
    found = Comparison()
    _compare(schema, old, new, (), found)
    return found


def _compare(schema: Schema, old: Any, new: Any, path: Path, found: Comparison) -> None:
    if old is _MISSING and isinstance(new, dict | list):
        _add(schema, new, path, found.added)
        return
    if old == new and msgspec.json.encode(old) == msgspec.json.encode(new):
        return  # far cheaper than a look at every field; the bytes tell 1 from true
    shapes = {_shape(schema, value) for value in (old, new) if value is not _MISSING}
    nothing = all(value is _MISSING or not value for value in (old, new))
    if shapes == {"map"} and not nothing:
        before = {} if old is _MISSING else old
        after = {} if new is _MISSING else new
        for name in before.keys() | after.keys():
            children = before.get(name, _MISSING), after.get(name, _MISSING)
            _compare(_field(schema, name), *children, (*path, f"f:{name}"), found)
    elif shapes == {"list"} and not nothing:
        before_items, after_items = _keyed(schema, old), _keyed(schema, new)
        for element in before_items.keys() | after_items.keys():
            one, other = before_items.get(element, []), after_items.get(element, [])
            at = (*path, element)
            if len(one) > 1 or len(other) > 1:
                found.note(one or _MISSING, other or _MISSING, at)
            else:
                pair = (one or [_MISSING])[0], (other or [_MISSING])[0]
                _compare(_item(schema), *pair, at, found)
    else:
        found.note(old, new, path)
        return
    if old is _MISSING or new is _MISSING:
        found.note(old, new, path)


def _add(schema: Schema, value: Any, path: Path, added: FieldSet) -> None:
    """Everything in a value that was not there before."""
    shape = _shape(schema, value)
    if shape == "map":
        for name, child in value.items():
            _add(_field(schema, name), child, (*path, f"f:{name}"), added)
    elif shape == "list":
        for element, items in _keyed(schema, value).items():
            at = (*path, element)
            if len(items) == 1:
                _add(_item(schema), items[0], at, added)
            added.add(at)
    added.add(path)


# Merging and removing


def merge(schema: Schema, live: Any, applied: Any) -> Any:
    """``live`` with everything ``applied`` says laid over it.

    Raises:
        BadRequest: a list of ``applied`` repeats an item or leaves out its keys.
    """
    shapes = {_shape(schema, live), _shape(schema, applied)}
    if shapes == {"map"}:
        result = {name: copy_json(value) for name, value in live.items() if name not in applied}
        for name, value in applied.items():
            below = _field(schema, name)
            result[name] = merge(below, live[name], value) if name in live else copy_json(value)
        return result
    if shapes == {"list"}:
        return _merge_lists(schema, live, applied)
    return copy_json(applied)


def _merge_lists(schema: Schema, live: list[Any], applied: list[Any]) -> list[Any]:
    """The applied order, with the items only ``live`` has kept where they were between them.

    Of the items both have, the one whose turn it is in the applied order ends the run of live
    items before it; those whose turn it is not are passed over.
    """
    wanted = _keyed(schema, applied)
    for element, items in wanted.items():
        if len(items) > 1:
            raise BadRequest(f"duplicate entries for key {path_text((element,))}")
    have = _keyed(schema, live)
    before = deque((_identity(schema, item), item) for item in live)
    pending = deque(wanted)
    turns = deque(element for element in wanted if element in have)
    result: list[Any] = []
    while before or pending:
        head = before[0][0] if before else ""
        if head and head not in wanted:
            result.append(copy_json(before.popleft()[1]))
            continue
        if head and turns and head != turns[0]:
            before.popleft()
            continue
        if head and (not turns or head == pending[0]):
            before.popleft()
        if not pending:
            continue
        element = pending.popleft()
        if turns and element == turns[0]:
            turns.popleft()
        same, item = have.get(element, []), wanted[element][0]
        result.append(merge(_item(schema), same[0], item) if len(same) == 1 else copy_json(item))
    return result


def with_named_fields(schema: Schema, paths: Iterable[Path]) -> FieldSet:
    """``paths`` and every declared field they pass through."""
    found: FieldSet = set(paths)
    for path in list(found):
        at: Schema = schema
        for depth, element in enumerate(path[:-1], start=1):
            if element.startswith("f:"):
                name = element[2:]
                if name in at.properties:
                    found.add(path[:depth])
                at = _field(at, name)
            else:
                at = _item(at)
    return found


def without(schema: Schema, obj: Any, paths: FieldSet) -> Any:
    """A copy of ``obj`` without the fields and items at ``paths``."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    return _strip(schema, obj, tree)


def _strip(schema: Schema, value: Any, tree: dict[str, Any]) -> Any:
    shape = _shape(schema, value)
    if shape == "map":
        kept = {}
        for name, child in value.items():
            below = tree.get(f"f:{name}")
            if below is None:
                kept[name] = copy_json(child)
            elif "." not in below:
                kept[name] = _strip(_field(schema, name), child, below)
        return kept
    if shape == "list":
        items = []
        for item in value:
            below = tree.get(_identity(schema, item))
            if below is None:
                items.append(copy_json(item))
            elif "." not in below:
                items.append(_strip(_item(schema), item, below))
        return items
    return copy_json(value)
