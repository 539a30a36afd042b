"""A checked expression's syntax tree, read from its serialised form.

Source: cel-spec ``proto/cel/expr/syntax.proto`` and ``checked.proto`` (field numbers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_CHECKED_EXPR = 2  # of google.protobuf.Any: the value
_EXPR = 4  # of CheckedExpr


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal; ``text`` is the value of a string and None for all others."""

    text: str | None


@dataclass(frozen=True, slots=True)
class Name:
    """A variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """``operand.field``; ``test`` for ``has(operand.field)``."""

    operand: Node
    field: str
    test: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator; the target of a method is the first argument."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    """A list, map or message literal with the values (and keys) it holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A comprehension: what every macro that repeats or binds expands to."""

    variable: str
    over: Node
    accumulator: str
    start: Node
    condition: Node
    step: Node
    result: Node


Node = Constant | Name | Select | Call | Literal | Loop


def read(serialized: bytes) -> Node:
    """The tree of a serialised expression."""
    for number, value in _fields(serialized):
        if number == _CHECKED_EXPR and isinstance(value, bytes):
            for inner, body in _fields(value):
                if inner == _EXPR and isinstance(body, bytes):
                    return _node(body)
    return Constant(None)


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    yield node
    match node:
        case Select(operand):
            yield from walk(operand)
        case Literal(parts) | Call(_, parts):
            for part in parts:
                yield from walk(part)
        case Loop():
            for part in (node.over, node.start, node.condition, node.step, node.result):
                yield from walk(part)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
            case 1:
                yield key >> 3, struct.unpack_from("<Q", data, at)[0]
                at += 8
            case 2:
                size, at = _varint(data, at)
                yield key >> 3, data[at : at + size]
                at += size
            case _:
                yield key >> 3, struct.unpack_from("<I", data, at)[0]
                at += 4


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _parts(data: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for number, value in _fields(data):
        found.setdefault(number, []).append(value if isinstance(value, bytes) else b"")
    return found


def _node(data: bytes) -> Node:
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if number == 4:
            return Name(next((v.decode() for _, v in _fields(value) if isinstance(v, bytes)), ""))
        if number in _READERS:
            return _READERS[number](value)
    return Constant(None)


def _constant(data: bytes) -> Node:
    for number, value in _fields(data):
        if number in (6, 7) and isinstance(value, bytes):
            return Constant(value.decode("utf-8", "replace"))
    return Constant(None)


def _select(data: bytes) -> Node:
    parts = _parts(data)
    return Select(_node(parts[1][0]), parts[2][0].decode(), 3 in parts)


def _call(data: bytes) -> Node:
    parts = _parts(data)
    nodes = [_node(each) for each in (*parts.get(1, ()), *parts.get(3, ()))]
    return Call(parts[2][0].decode(), tuple(nodes))


def _list(data: bytes) -> Node:
    return Literal(tuple(_node(each) for each in _parts(data).get(1, ())))


def _struct(data: bytes) -> Node:
    entries = [_parts(entry) for entry in _parts(data).get(2, ())]
    nodes = [_node(each) for e in entries for each in (*e.get(3, ()), *e.get(4, ()))]
    return Literal(tuple(nodes))


def _loop(data: bytes) -> Node:
    parts = _parts(data)
    over, start, condition, step, result = (_node(parts[n][0]) for n in (2, 4, 5, 6, 7))
    names = [parts.get(n, [b""])[0].decode() for n in (1, 3)]
    return Loop(names[0], over, names[1], start, condition, step, result)


_READERS = {3: _constant, 5: _select, 6: _call, 7: _list, 8: _struct, 9: _loop}
