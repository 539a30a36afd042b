"""Functions over lists and maps: sets, the pairs of two-variable macros, JSON pointers.

Source: cel-go ``ext/sets.go``, ``ext/comprehensions.go``; Kubernetes "Mutating Admission Policy",
``jsonpatch.escapeKey``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from underway.api.cel.rewriting import AS_MAP, MERGED, PAIRS

Add = Callable[..., None]


def declare(add: Add, types: Any) -> None:
    """Declare the functions."""
    some, anything = types.List(types.DYN), types.DYN
    add("sets.contains", types.BOOL, [some, some], _contains)
    add("sets.equivalent", types.BOOL, [some, some], _equivalent)
    add("sets.intersects", types.BOOL, [some, some], _intersects)
    add("jsonpatch.escapeKey", types.STRING, [types.STRING], _escaped)
    add(PAIRS, types.List(types.List(anything)), [anything], _pairs, of="collection")
    add(AS_MAP, anything, [some], _as_map, of="list")
    add(MERGED, anything, [some], _merged, of="list")


def _same(one: Any, other: Any) -> bool:
    """Equality as CEL has it: numbers by value, a boolean never a number."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _contains(items: list[Any], wanted: list[Any]) -> bool:
    return all(any(_same(each, item) for item in items) for each in wanted)


def _equivalent(items: list[Any], others: list[Any]) -> bool:
    return _contains(items, others) and _contains(others, items)


def _intersects(items: list[Any], others: list[Any]) -> bool:
    return any(_same(each, item) for each in others for item in items)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _pairs(value: Any) -> list[list[Any]]:
    if isinstance(value, dict):
        return [[key, item] for key, item in value.items()]
    if isinstance(value, list):
        return [[at, item] for at, item in enumerate(value)]
    raise ValueError("no such overload: only lists and maps can be ranged over")


def _as_map(pairs: list[Any]) -> dict[Any, Any]:
    return {key: item for key, item in pairs}  # noqa: C416  # a pair is a list


def _merged(maps: list[Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for each in maps:
        for key, item in each.items():
            if key in found:
                raise ValueError(f"insert failed: key {key!r} already exists")
            found[key] = item
    return found
