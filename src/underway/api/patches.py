"""The three patches that say what to change: JSON patch, merge patch, strategic merge patch.

All functions are pure: neither the document nor the patch is written to.

Source: RFC 6902, RFC 6901, RFC 7386; Kubernetes "Strategic Merge Patch" (sig-api-machinery).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from underway.api.objects import Object
from underway.api.schema import Schema
from underway.base.errors import BadRequest, Invalid, TooLarge

OPERATIONS_LIMIT = 10_000  # operations of one JSON patch, as upstream's API server allows
COPIED_NODES_LIMIT = 300_000  # values that the "copy" operations of one JSON patch may make


def copy_json(value: Any) -> Any:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {key: copy_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_json(item) for item in value]
    return value


# JSON patch


def json_patch(doc: Object, ops: Any) -> Object:
    """``doc`` after the operations of an RFC 6902 patch, all or none.

    Raises:
        BadRequest: the patch is malformed.
        TooLarge: it has too many operations.
        Invalid: an operation does not fit the document, or a ``test`` fails.
    """
    if not isinstance(ops, list):
        raise BadRequest("error decoding patch: a JSON patch is a list of operations")
    if len(ops) > OPERATIONS_LIMIT:
        raise TooLarge(
            f"The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {len(ops)}"
        )
    root = {"": copy_json(doc)}
    copied = 0
    for number, operation in enumerate(ops):
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise BadRequest(f"error decoding patch: operation {number} has no path")
        name = operation.get("op")
        if name not in _JSON_OPERATIONS:
            raise BadRequest(f"error decoding patch: operation {number}: unknown op {name!r}")
        if name in ("add", "replace", "test") and "value" not in operation:
            raise BadRequest(f"error decoding patch: operation {number} ({name}) has no value")
        if name in ("move", "copy") and not isinstance(operation.get("from"), str):
            raise BadRequest(f"error decoding patch: operation {number} ({name}) has no from")
        try:
            copied += _JSON_OPERATIONS[name](root, operation) or 0
        except (LookupError, ValueError) as error:
            raise Invalid(
                f"JSON patch operation {number} ({name} {operation['path']!r}): {error.args[0]}"
            ) from error
        if copied > COPIED_NODES_LIMIT:
            raise TooLarge(f"the copy operations of the JSON patch make more than {copied} values")
    result = root.get("")
    if not isinstance(result, dict):
        raise Invalid("the JSON patch leaves no object")
    return result


def _tokens(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"the pointer {pointer!r} does not begin with /")
    parts = pointer.split("/")
    return [part.replace("~1", "/").replace("~0", "~") for part in parts]


def _index(target: list[Any], part: str, *, end: bool = False) -> int:
    if end and part == "-":
        return len(target)
    if not part.isdecimal() or (part != "0" and part.startswith("0")) or len(part) > 9:
        raise LookupError(f"{part!r} is no index of a list")
    index = int(part)
    if index > len(target) - (0 if end else 1):
        raise LookupError(f"index {index} is beyond the list's {len(target)} items")
    return index


def _step(target: Any, part: str) -> Any:
    if isinstance(target, dict):
        if part not in target:
            raise LookupError(f"there is no {part!r}")
        return target[part]
    if isinstance(target, list):
        return target[_index(target, part)]
    raise LookupError(f"{part!r} lies below a value that is neither object nor list")


def _find(root: Any, pointer: str) -> Any:
    target = root
    for part in _tokens(pointer):
        target = _step(target, part)
    return target


def _parent(root: Any, pointer: str) -> tuple[Any, str]:
    tokens = _tokens(pointer)
    target = root
    for part in tokens[:-1]:
        target = _step(target, part)
    return target, tokens[-1]


def _put(root: Any, pointer: str, value: Any) -> None:
    parent, part = _parent(root, pointer)
    if isinstance(parent, dict):
        parent[part] = value
        return
    if isinstance(parent, list):
        parent.insert(_index(parent, part, end=True), value)
        return
    raise LookupError("the parent is neither object nor list")


def _take(root: Any, pointer: str) -> Any:
    parent, part = _parent(root, pointer)
    value = _step(parent, part)
    if isinstance(parent, dict):
        del parent[part]
    else:
        del parent[int(part)]
    return value


def _op_add(root: Any, operation: Object) -> None:
    _put(root, operation["path"], copy_json(operation["value"]))


def _op_remove(root: Any, operation: Object) -> None:
    _take(root, operation["path"])


def _op_replace(root: Any, operation: Object) -> None:
    parent, part = _parent(root, operation["path"])
    _step(parent, part)
    parent[part if isinstance(parent, dict) else int(part)] = copy_json(operation["value"])


def _op_move(root: Any, operation: Object) -> None:
    if operation["path"].startswith(operation["from"] + "/"):
        raise ValueError(f"a value cannot move into itself, from {operation['from']!r}")
    value = _take(root, operation["from"])
    _put(root, operation["path"], value)


def _op_copy(root: Any, operation: Object) -> int:
    value = _find(root, operation["from"])
    size = _size(value)
    if size <= COPIED_NODES_LIMIT:
        _put(root, operation["path"], copy_json(value))
    return size


def _op_test(root: Any, operation: Object) -> None:
    if not same_json(_find(root, operation["path"]), operation["value"]):
        raise ValueError("the test failed: the value is another")


_JSON_OPERATIONS: dict[str, Callable[[Any, Object], int | None]] = {
    "add": _op_add,
    "remove": _op_remove,
    "replace": _op_replace,
    "move": _op_move,
    "copy": _op_copy,
    "test": _op_test,
}


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(_size(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(_size(item) for item in value)
    return 1


def same_json(one: Any, other: Any) -> bool:
    """Equality of JSON values: ``1`` is no ``true``, but ``1`` is ``1.0``."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


# Merge patch


def merge_patch(doc: Object, patch: Any) -> Object:
    """``doc`` after an RFC 7386 patch.

    Raises:
        BadRequest: the patch is no object.
    """
    if not isinstance(patch, dict):
        raise BadRequest("error decoding patch: a merge patch is an object")
    result: Object = _merge(doc, patch)
    return result


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy_json(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return {name: value if name in patch else copy_json(value) for name, value in result.items()}


# Strategic merge patch

_DIRECTIVE = "$patch"
_RETAIN_KEYS = "$retainKeys"
_ELEMENT_ORDER = "$setElementOrder/"
_PRIMITIVE_DELETION = "$deleteFromPrimitiveList/"


def strategic_merge_patch(doc: Object, patch: Any, schema: Schema) -> Object:
    """``doc`` after a strategic merge patch, with merge keys from the type's patch table.

    Raises:
        BadRequest: the patch is malformed or a directive is unknown.
    """
    if not isinstance(patch, dict):
        raise BadRequest("error decoding patch: a strategic merge patch is an object")
    return _merge_map(copy_json(doc), copy_json(patch), schema)


def _bad(text: str) -> NoReturn:
    raise BadRequest(f"strategic merge patch: {text}")


def _merge_map(original: Object, patch: Object, schema: Schema | None) -> Object:
    """Both arguments are private copies and may be changed."""
    if _DIRECTIVE in patch:
        directive = patch.pop(_DIRECTIVE)
        if directive == "replace":
            return patch
        if directive == "delete":
            return {}
        _bad(f"unknown patch type: {directive!r}")
    _retain_keys(original, patch)
    orders = {
        key.removeprefix(_ELEMENT_ORDER): patch.pop(key)
        for key in list(patch)
        if key.startswith(_ELEMENT_ORDER)
    }
    on_server = {name: original.get(name) for name in orders}
    for key in [key for key in patch if key.startswith(_PRIMITIVE_DELETION)]:
        _delete_primitives(original, key.removeprefix(_PRIMITIVE_DELETION), patch.pop(key))
    for name, value in patch.items():
        _merge_field(original, name, value, schema.field(name) if schema else None)
    for name, order in orders.items():
        _reorder(original, name, order, on_server[name], schema.field(name) if schema else None)
    return original


def _merge_field(original: Object, name: str, value: Any, field: Schema | None) -> None:
    current = original.get(name)
    strategies = field.patch_strategies if field else []
    if value is None:
        original.pop(name, None)
    elif isinstance(value, dict) and isinstance(current, dict):
        if "replace" in strategies:
            original[name] = value
        else:
            original[name] = _merge_map(current, value, field)
    elif isinstance(value, list) and isinstance(current, list) and "merge" in strategies:
        assert field is not None
        original[name] = _merge_list(current, value, field)
    elif _is_directive(value):
        original.pop(name, None)
    else:
        original[name] = _without_directives(value)


def _is_directive(value: Any) -> bool:
    return isinstance(value, dict) and _DIRECTIVE in value


def _without_directives(value: Any) -> Any:
    """A patch's value that meets nothing: its directives and nulls say nothing."""
    if isinstance(value, dict):
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if item is not None
            and key != _RETAIN_KEYS
            and not _is_directive(item)
            and not key.startswith((_ELEMENT_ORDER, _PRIMITIVE_DELETION))
        }
    if isinstance(value, list):
        return [_without_directives(item) for item in value if not _is_directive(item)]
    return value


def _retain_keys(original: Object, patch: Object) -> None:
    if _RETAIN_KEYS not in patch:
        return
    retained = patch.pop(_RETAIN_KEYS)
    if not isinstance(retained, list) or not all(isinstance(key, str) for key in retained):
        _bad("invalid patch format of retainKeys")
    content = {key for key in patch if not key.startswith("$")}
    if not content <= set(retained):
        _bad("patch content doesn't match retainKeys list")
    for key in [key for key in original if key not in retained]:
        del original[key]


def _delete_primitives(original: Object, name: str, values: Any) -> None:
    if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
        _bad(f"invalid patch format of primitive list {name!r}")
    if isinstance(original.get(name), list):
        unwanted = {_hashable(value) for value in values}
        original[name] = [item for item in original[name] if _hashable(item) not in unwanted]


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, dict | list) else (type(value), value)


def _key(item: Any, merge_key: str) -> Any:
    """What tells an item apart: its merge key's value, or the item itself."""
    if merge_key and isinstance(item, dict) and merge_key in item:
        return _hashable(item[merge_key])
    return _hashable(item)


def _merge_list(original: list[Any], patch: list[Any], field: Schema) -> list[Any]:
    merge_key = field.patch_merge_key
    if not merge_key:
        if any(isinstance(item, dict | list) for item in [*original, *patch]):
            _bad("lists of lists are not supported")
        merged = list({_hashable(item): item for item in [*original, *patch]}.values())
        return _ordered(merged, patch, original, "")

    original, plain, replace = _list_directives(original, patch, merge_key)
    if replace:
        return [_without_directives(item) for item in plain]
    merged = list(original)
    places = {_key(item, merge_key): place for place, item in reversed(list(enumerate(merged)))}
    for item in plain:
        if item.get(merge_key) is None:
            _bad(f"map: {item} does not contain declared merge key: {merge_key}")
        place = places.get(_key(item, merge_key))
        if place is None:
            places[_key(item, merge_key)] = len(merged)
            merged.append(_without_directives(item))
        else:
            merged[place] = _merge_map(merged[place], item, field.items)
    return _ordered(merged, plain, original, merge_key)


def _list_directives(
    original: list[Any], patch: list[Any], merge_key: str
) -> tuple[list[Any], list[Object], bool]:
    """The list without what the patch deletes, the patch's plain items, whether they replace."""
    plain: list[Object] = []
    deleted: set[Any] = set()
    replace = False
    for item in patch:
        if not isinstance(item, dict):
            _bad(f"expected a map in a list merged by {merge_key!r}, got {item!r}")
        directive = item.get(_DIRECTIVE)
        if directive is None:
            plain.append(item)
        elif directive == "delete":
            if merge_key not in item:
                _bad(f"map: {item} does not contain declared merge key: {merge_key}")
            deleted.add(_key(item, merge_key))
        elif directive == "replace":
            replace = True
        elif directive == "merge":
            _bad("merging lists cannot yet be specified in the patch")
        else:
            _bad(f"unknown patch type: {directive!r}")
    return [item for item in original if _key(item, merge_key) not in deleted], plain, replace


def _ordered(
    merged: list[Any], order: Sequence[Any], server_order: Sequence[Any], merge_key: str
) -> list[Any]:
    """``merged`` with the items of ``order`` in that order and the server's own between them."""
    wanted = {_key(item, merge_key): place for place, item in enumerate(order)}
    on_server = {_key(item, merge_key): place for place, item in enumerate(server_order)}
    keyed = [(_key(item, merge_key), item) for item in merged]
    listed = sorted((pair for pair in keyed if pair[0] in wanted), key=lambda p: wanted[p[0]])
    own = deque(pair for pair in keyed if pair[0] not in wanted)

    result: list[Any] = []
    for key, item in listed:
        place = on_server.get(key, -1)
        while own and on_server.get(own[0][0], place) < place:
            result.append(own.popleft()[1])
        result.append(item)
    return result + [item for _, item in own]


def _reorder(original: Object, name: str, order: Any, on_server: Any, field: Schema | None) -> None:
    merge_key = field.patch_merge_key if field else ""
    if not isinstance(order, list):
        _bad(f"invalid patch format of setElementOrder list {name!r}")
    items = original.get(name)
    if not isinstance(items, list):
        return
    if merge_key and any(not isinstance(i, dict) or merge_key not in i for i in order):
        _bad(f"invalid patch format of setElementOrder list {name!r}: no {merge_key!r}")
    server_order = on_server if isinstance(on_server, list) else items
    original[name] = _ordered(items, order, server_order, merge_key)
