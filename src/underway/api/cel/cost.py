"""How much an expression may cost at most, before it runs.

Every value has a bound: how long it is as text and as a list, and what its items and fields are.
For values with a schema the bounds come from ``maxLength``, ``maxItems`` and ``maxProperties``;
without one they are given. One unit is about one step of the evaluator.

Source: k8s.io/apiserver ``pkg/cel/limits.go`` (the limits); cel-go ``checker/cost.go`` (the idea).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from underway.api.cel import syntax
from underway.api.schema import Schema

EXPRESSION_LIMIT = 10_000_000  # units one rule may be estimated at when it is declared
TOTAL_LIMIT = 100_000_000  # units all rules of one schema may be estimated at
CALL_LIMIT = 10_000_000  # units one evaluation may be estimated at, knowing the values
OBJECT_LIMIT = 20_000_000  # units all rules over one object may be estimated at
REQUEST_SIZE_BYTES = 3 * 1024 * 1024
_CEILING = 10**15  # larger figures say nothing more
_PYTHON_UNITS = 100  # what one step in Python costs, of the evaluator's own
_TEXT_FACTOR = 10  # characters handled in one unit


class Bound(Protocol):
    """What is known of a value's size."""

    @property
    def text(self) -> int:
        """Characters, if it is a string."""

    @property
    def items(self) -> int:
        """Items, if it is a list or a map."""

    @property
    def item(self) -> Bound:
        """Its items."""

    def field(self, name: str) -> Bound:
        """A field of it.

        Raises:
            UndefinedFieldError: it has none of the name.
        """


class UndefinedFieldError(Exception):
    """An expression names a field the schema does not have."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A value whose parts are of its own size at most, or of ``inner``."""

    text: int = 0
    items: int = 0
    inner: Bound | None = None

    @property
    def item(self) -> Bound:
        """Its items."""
        return self.inner or self

    def field(self, _name: str) -> Bound:
        """A field of it."""
        return self.inner or self


@dataclass(frozen=True, slots=True)
class Typed:
    """A value with a schema."""

    schema: Schema

    @property
    def text(self) -> int:
        """Characters, if it is a string."""
        if self.schema.type in ("object", "array", "integer", "number", "boolean"):
            return 0
        longest = self.schema.node.get("maxLength")
        if longest is None and self.schema.node.get("enum"):
            longest = max(len(str(value)) for value in self.schema.node["enum"])
        return REQUEST_SIZE_BYTES if longest is None else int(longest)

    @property
    def items(self) -> int:
        """Items, if it is a list or a map."""
        return _capacity(self.schema)

    @property
    def item(self) -> Bound:
        """The values of a list; those of a map are reached by their keys."""
        if self.schema.items is not None:
            return Typed(self.schema.items)
        if self.schema.type == "object":
            return Flat(text=min(REQUEST_SIZE_BYTES, 253))
        return UNKNOWN

    def field(self, name: str) -> Bound:
        """A field, or a value of a map."""
        child = self.schema.field(unescaped(name))
        if child is not None:
            return Typed(child)
        if self.schema.type == "object" and not self.schema.int_or_string:
            raise UndefinedFieldError(name)
        return UNKNOWN


UNKNOWN = Flat(REQUEST_SIZE_BYTES, REQUEST_SIZE_BYTES // 2)
_ESCAPES = {"__dot__": ".", "__dash__": "-", "__slash__": "/", "__underscores__": "__"}
RESERVED = frozenset(
    (
        *("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for"),
        *("function", "if", "import", "let", "loop", "package", "namespace", "return", "var"),
        *("void", "while"),
    )
)


def unescaped(name: str) -> str:
    """The property an identifier stands for. Source: CRD "Validation rules", escaping."""
    if name.startswith("__") and name.endswith("__") and name[2:-2] in RESERVED:
        return name[2:-2]
    for escape, char in _ESCAPES.items():
        name = name.replace(escape, char)
    return name


def _capacity(schema: Schema) -> int:
    """The most items a list or map of the type can have."""
    given = schema.node.get("maxItems" if schema.type == "array" else "maxProperties")
    if given is not None:
        return int(given)
    if schema.type == "array" and schema.items is not None:
        return REQUEST_SIZE_BYTES // (smallest(schema.items) + 1)
    if schema.type == "object" and schema.values is not None:
        return REQUEST_SIZE_BYTES // (smallest(schema.values) + 4)
    return len(schema.properties) if schema.type == "object" else 0


def smallest(schema: Schema) -> int:
    """The bytes the shortest JSON of the type has."""
    size = {"string": 2, "array": 2, "boolean": 4}.get(schema.type, 1)
    if schema.type == "object":
        size = 2
        for name in schema.required:
            child = schema.properties.get(name)
            size += len(name) + 4 + (smallest(child) if child else 1)
    return size


def capacity(schema: Schema) -> int:
    """How often a rule below a list or map of the type runs at most."""
    return max(1, _capacity(schema))


def estimate(node: syntax.Node, variables: Mapping[str, Bound]) -> int:
    """The units evaluating the expression costs at most.

    Raises:
        UndefinedFieldError: the expression names a field a schema does not have.
    """
    return _estimate(node, dict(variables))[0]


def _estimate(node: syntax.Node, known: dict[str, Bound]) -> tuple[int, Bound]:
    match node:
        case syntax.Constant(text):
            return 0, Flat(text=len(text or ""))
        case syntax.Name(name):
            return 1, known.get(name, Flat())
        case syntax.Select(operand, field, _):
            cost, bound = _estimate(operand, known)
            return cost + 1, bound.field(field)
        case syntax.Literal(parts):
            costs = [_estimate(each, known) for each in parts]
            inner = _merged([bound for _, bound in costs]) if costs else Flat()
            total = 10 + sum(cost for cost, _ in costs)
            return min(total, _CEILING), Flat(items=len(costs), inner=inner)
        case syntax.Call(function, arguments):
            costs = [_estimate(each, known) for each in arguments]
            before = sum(cost for cost, _ in costs)
            own, bound = _call(function, arguments, [bound for _, bound in costs])
            return min(before + own, _CEILING), bound
        case syntax.Loop():
            return _loop(node, known)


def _loop(node: syntax.Loop, known: dict[str, Bound]) -> tuple[int, Bound]:
    over_cost, over = _estimate(node.over, known)
    start_cost, start = _estimate(node.start, known)
    times = over.items
    known = {**known, node.variable: over.item, node.accumulator: start}
    condition_cost, _ = _estimate(node.condition, known)
    step_cost, after = _estimate(node.step, known)
    total = over_cost + start_cost + times * (condition_cost + step_cost)
    if times and after.items > start.items:  # map and filter append, copying what they have
        grown = start.items + times * (after.items - start.items)
        known[node.accumulator] = Flat(start.text, min(grown, _CEILING), after.item)
        total += times * times // 8
    elif times:
        known[node.accumulator] = _merged([start, after])
    result_cost, result = _estimate(node.result, known)
    return min(total + result_cost, _CEILING), result


def _merged(bounds: list[Bound]) -> Bound:
    """A bound for each of several values; a single one keeps what is known of its parts."""
    distinct = list(dict.fromkeys(bounds))
    if len(distinct) == 1:
        return distinct[0]
    inner = Flat(*_deepest(distinct, 6))
    text, items = max(b.text for b in distinct), max(b.items for b in distinct)
    return Flat(text, items, inner)


def _deepest(bounds: list[Bound], levels: int) -> tuple[int, int]:
    """Text and items of what the values hold, a few levels down."""
    text, items = max(b.text for b in bounds), max(b.items for b in bounds)
    below = [b.item for b in bounds if b.items and b.item is not b]
    if below and levels:
        deeper = _deepest(below, levels - 1)
        text, items = max(text, deeper[0]), max(items, deeper[1])
    return text, items


def _call(function: str, nodes: tuple[syntax.Node, ...], bounds: list[Bound]) -> tuple[int, Bound]:
    texts = [bound.text for bound in bounds]
    size = sum(texts) // _TEXT_FACTOR
    if function in _TEXT_FUNCTIONS:
        return _text_call(function, nodes, bounds, texts)
    match function:
        case "_&&_" | "_||_" | "!_" | "@not_strictly_false" | "_>_" | "_<_" | "_>=_" | "_<=_":
            return 1 + size, Flat()
        case "_?_:_":
            return 1, _merged(bounds[1:])
        case "_+_":
            items = sum(bound.items for bound in bounds)
            joined = Flat(min(sum(texts), _CEILING), min(items, _CEILING), _items_of(bounds))
            return 1 + size, joined
        case "_==_" | "_!=_":
            return 1 + min(texts) // _TEXT_FACTOR + min(b.items for b in bounds), Flat()
        case "@in":
            inner = bounds[1].item.text // _TEXT_FACTOR
            return 1 + bounds[1].items * (1 + min(inner, texts[0])), Flat()
        case "_[_]" | "_[?_]" | "_?._":
            return 1, _indexed(nodes, bounds)
        case "size" | "type" | "timestamp" | "duration" | "int" | "double" | "bool":
            return 1 + size, Flat()
        case "dyn" | "orValue" | "or" | "optional.of" | "optional.ofNonZeroValue" | "value":
            return 1, _merged(bounds)
        case "pairs__":
            held = bounds[0].item
            pair = Flat(max(held.text, bounds[0].text), 2, held)
            return 1 + bounds[0].items, Flat(items=bounds[0].items, inner=pair)
        case "as_map__" | "merged__":
            return 1 + bounds[0].items, Flat(bounds[0].text, bounds[0].items, _pair_item(bounds[0]))
        case "sets.contains" | "sets.equivalent" | "sets.intersects":
            least = min(each.item.text for each in bounds) // _TEXT_FACTOR
            pairs = bounds[0].items * bounds[1].items
            return 1 + pairs * (_PYTHON_UNITS // 25 + least), Flat()
    work = 1 + size + sum(bound.items for bound in bounds)
    return work, Flat(max(texts, default=0) * 4, 0, _items_of(bounds))


_TEXT_FUNCTIONS = frozenset(
    ("matches", "find", "findAll", "contains", "replace", "split", "join", "format")
)


def _text_call(
    function: str, nodes: tuple[syntax.Node, ...], bounds: list[Bound], texts: list[int]
) -> tuple[int, Bound]:
    """Functions whose work or result outgrows the sum of what they are given."""
    first = texts[0]
    match function:
        case "contains":
            return (1 + first // _TEXT_FACTOR) * (1 + texts[1] // _TEXT_FACTOR), Flat()
        case "replace":
            return _replaced(nodes, texts)
        case "split":
            return 1 + first, Flat(first, first + 1, Flat(first))
        case "join":
            apart = texts[1] if len(texts) > 1 else 0
            length = bounds[0].items * (bounds[0].item.text + apart)
            return 1 + length // _TEXT_FACTOR, Flat(min(length, _CEILING))
        case "format":
            text, items = _deepest([bounds[1]], 6)
            length = first + (1 + first // 2) * (1 + text + items * text)
            return 1 + length // _TEXT_FACTOR, Flat(min(length, _CEILING))
    work = (1 + first // _TEXT_FACTOR) * (1 + texts[1] // 4)
    if function == "findAll":  # each find is a step of Python's
        work += first * _PYTHON_UNITS // 4
    return work, Flat(first, first + 1, Flat(first))


def _pair_item(bound: Bound) -> Bound:
    """What a map made of pairs or of maps holds."""
    return bound.item.item if bound.item is not bound else bound


def _items_of(bounds: list[Bound]) -> Bound | None:
    holders = [bound.item for bound in bounds if bound.items]
    return _merged(holders) if holders else None


def _indexed(nodes: tuple[syntax.Node, ...], bounds: list[Bound]) -> Bound:
    key = nodes[1]
    holder = bounds[0]
    if isinstance(key, syntax.Constant) and key.text is not None:
        return holder.field(key.text)
    if isinstance(holder, Typed) and holder.schema.type == "object":
        return Typed(holder.schema.values) if holder.schema.values else UNKNOWN
    return holder.item


def _replaced(nodes: tuple[syntax.Node, ...], texts: list[int]) -> tuple[int, Bound]:
    wanted = nodes[1]
    found = len(wanted.text or "") if isinstance(wanted, syntax.Constant) else 0
    places = texts[0] // found if found else texts[0] + 1
    length = min(texts[0] + places * texts[2], _CEILING)
    return 1 + length // _TEXT_FACTOR, Flat(length)
