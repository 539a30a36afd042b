"""``x-kubernetes-validations``: the rules in CEL a custom resource's schema carries.

Source: Kubernetes, "CustomResourceDefinition", validation rules, transition rules, and CRD
validation ratcheting (KEP-4008); messages as k8s.io/apiextensions-apiserver ``pkg/apiserver/
schema/cel`` gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from underway.api.cel import cost
from underway.api.cel.program import EvaluationError, Program, compile_expression, largest
from underway.api.objects import Object
from underway.api.schema import Schema
from underway.api.validation import shown
from underway.base.errors import Cause, Invalid

EXTENSION = "x-kubernetes-validations"
_VARIABLES = ("self", "oldSelf")
_OPTIONAL = "optionalOldSelves"  # a list of none or one: values from outside are never optional
_HINT = (
    "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays,"
    " maps, and strings are declared)"
)
_MISSING: Any = object()
_REASONS = {
    "FieldValueRequired": "Required value",
    "FieldValueForbidden": "Forbidden",
    "FieldValueDuplicate": "Duplicate value: {kind}",
    "FieldValueInvalid": "Invalid value: {kind}",
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """One rule; ``wrong`` says why it has no program."""

    given: Object
    program: Program | None
    words: Program | None
    wrong: str = ""

    @property
    def optional(self) -> bool:
        return bool(self.given.get("optionalOldSelf"))

    @property
    def transition(self) -> bool:
        return self.program is not None and self.program.uses("oldSelf")


@dataclass(slots=True)
class _Place:
    """A node of the schema with rules at it or below."""

    schema: Schema
    convert: Callable[[Any], Any] | None
    rules: list[_Rule]
    fields: dict[str, _Place] = field(default_factory=dict)
    items: _Place | None = None
    values: _Place | None = None


class RuleSet:
    """All rules of one version's schema, compiled."""

    def __init__(self, schema: Schema) -> None:
        self._root = _place(schema)

    def check(self, new: Object, old: Object | None = None) -> list[Cause]:
        """The rules an object breaks; with ``old``, what did not change is not held against it."""
        if self._root is None:
            return []
        run = _Run(largest([new, old]))
        before = _MISSING if old is None else _root_value(old)
        run.visit(self._root, _root_value(new), before, "")
        return run.found


def _root_value(obj: Object) -> Object:
    """What rules see of a whole object: of its metadata only the name."""
    metadata = obj.get("metadata") or {}
    names = {key: metadata[key] for key in ("name", "generateName") if key in metadata}
    return {**obj, "metadata": names}


def _place(schema: Schema) -> _Place | None:
    rules = [_rule(given) for given in schema.node.get(EXTENSION) or ()]
    place = _Place(schema, _converter(schema) if rules else None, rules)
    for name, child in schema.properties.items():
        if name not in schema.overrides and (below := _place(child)):
            place.fields[name] = below
    place.items = _place(schema.items) if schema.items is not None else None
    place.values = _place(schema.values) if schema.values is not None else None
    return place if rules or place.fields or place.items or place.values else None


def _rule(given: Object) -> _Rule:
    try:
        words = given.get("messageExpression")
        program = _compile(given)
        return _Rule(given, program, _compile_words(given) if words else None)
    except Invalid as error:
        return _Rule(given, None, None, error.message)


def _compile(rule: Object) -> Program:
    return _optionally(rule, str(rule.get("rule") or ""))


def _compile_words(rule: Object) -> Program:
    return _optionally(rule, str(rule.get("messageExpression") or ""))


def _optionally(rule: Object, text: str) -> Program:
    plain = compile_expression(text, _VARIABLES)
    if not rule.get("optionalOldSelf") or not plain.uses("oldSelf"):
        return plain
    old = f"size({_OPTIONAL}) == 0 ? optional.none() : optional.of({_OPTIONAL}[0])"
    return compile_expression(f"cel.bind(oldSelf, {old}, {text}\n)", ("self", _OPTIONAL))


def _converter(schema: Schema) -> Callable[[Any], Any] | None:
    """Turns JSON of the type into what CEL sees; None where they are the same.

    A ``number`` is a double even without a fraction; properties have escaped names.
    """
    if schema.type == "number" and not schema.int_or_string:
        return lambda value: float(value) if isinstance(value, int) else value
    if schema.type == "array" and schema.items is not None:
        each = _converter(schema.items)
        return _list_converter(each) if each else None
    fields = {name: _converter(child) for name, child in schema.properties.items()}
    names = {name: _escaped(name) for name in schema.properties}
    values = _converter(schema.values) if schema.values is not None else None
    changed = any(fields.values()) or values or any(k != v for k, v in names.items())
    return _map_converter(fields, names, values) if changed else None


def _list_converter(each: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: [each(item) for item in value] if isinstance(value, list) else value


def _map_converter(
    fields: dict[str, Callable[[Any], Any] | None],
    names: dict[str, str],
    values: Callable[[Any], Any] | None,
) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        seen = {}
        for name, item in value.items():
            each = fields.get(name, values)
            seen[names.get(name, name)] = each(item) if each else item
        return seen

    return convert


def _escaped(name: str) -> str:
    if name in cost.RESERVED:
        return f"__{name}__"
    for char, escape in (("__", "__underscores__"), (".", "__dot__")):
        name = name.replace(char, escape)
    return name.replace("-", "__dash__").replace("/", "__slash__")


class _Run:
    """One object's check: what is found, and what may still be spent."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.found: list[Cause] = []
        self._size = size
        self._budget = cost.OBJECT_LIMIT

    def visit(self, place: _Place, value: Any, old: Any, path: str) -> None:
        if value is None and place.schema.nullable:
            return
        if place.rules:
            self._apply(place, value, old, path)
        if self._budget < 0:
            return
        if isinstance(value, dict):
            before = old if isinstance(old, dict) else {}
            for name, item in value.items():
                below = place.fields.get(name) or place.values
                if below is not None:
                    at = f"{path}.{name}" if path else name
                    self.visit(below, item, before.get(name, _MISSING), at)
        elif isinstance(value, list) and place.items is not None:
            correlated = correlate(place.schema, old)
            for number, item in enumerate(value):
                self.visit(place.items, item, correlated(item), f"{path}[{number}]")

    def _apply(self, place: _Place, value: Any, old: Any, path: str) -> None:
        seen = place.convert(value) if place.convert else value
        before = place.convert(old) if place.convert and old is not _MISSING else old
        for rule in place.rules:
            if rule.transition and not rule.optional and old is _MISSING:
                continue
            if not rule.transition and old is not _MISSING and old == value:
                continue  # ratcheting
            if self._budget < 0:
                return
            self._evaluate(place, rule, _values(rule, seen, before), path)

    def _evaluate(self, place: _Place, rule: _Rule, values: Object, path: str) -> None:
        kind = shown(place.schema.type or "object")
        at = path or "<nil>"
        if rule.program is None:
            text = f"Invalid value: {kind}: rule compile error: {rule.wrong}"
            self.found.append(Cause(at, text))
            return
        name = (rule.given.get("message") or rule.given.get("rule") or "").strip()
        units = rule.program.cost_of(self._size)
        self._budget -= units
        if self._budget < 0 and units <= cost.CALL_LIMIT:
            text = "validation failed due to running out of cost budget, no further validation"
            self.found.append(Cause(at, f"Invalid value: {kind}: {text} rules will be run"))
            return
        try:
            passed = rule.program.evaluate(values, self._size)
        except EvaluationError as error:
            text = f"{error.message} evaluating rule: {name}"
            if error.exhausted:
                self._budget = -1
                why = "no further validation rules will be run due to call cost exceeds limit"
                text = f"'{error.message}': {why} for rule: {name}"
            elif error.message.startswith("No matching overloads"):
                why = "call arguments did not match a supported operator, function or macro"
                text = f"'no such overload': {why} signature for rule: {name}"
            self.found.append(Cause(at, f"Invalid value: {kind}: {text}"))
            return
        if passed is not True:
            self.found.append(self._failure(rule, values, path, kind))

    def _failure(self, rule: _Rule, values: Object, path: str, kind: str) -> Cause:
        text = (rule.given.get("message") or "").strip()
        text = text or f"failed rule: {(rule.given.get('rule') or '').strip()}"
        if rule.words is not None:
            text = message_of(rule.words, values, self._size) or text
        reason = rule.given.get("reason") or "FieldValueInvalid"
        start = _REASONS.get(reason, _REASONS["FieldValueInvalid"]).format(kind=kind)
        at = f"{path}{rule.given.get('fieldPath') or ''}".removeprefix(".") or "<nil>"
        return Cause(at, f"{start}: {text}", reason)


def _values(rule: _Rule, value: Any, old: Any) -> Object:
    values = {"self": value}
    if rule.optional:
        values[_OPTIONAL] = [] if old is _MISSING else [old]
    values["oldSelf"] = None if old is _MISSING else old
    return values


def message_of(program: Program, values: Object, size: tuple[int, int] | None = None) -> str:
    """What a message expression says; empty where its value is no message to show."""
    try:
        text = program.evaluate(values, size)
    except EvaluationError:
        return ""
    if not isinstance(text, str) or "\n" in text or len(text) > 5 * 1024:
        return ""
    return text.strip()


def correlate(schema: Schema, old: Any) -> Callable[[Any], Any]:
    """From a list's item to the item it was before, or a mark that there is none."""
    if schema.list_type != "map" or not isinstance(old, list):
        return lambda _item: _MISSING
    keys = schema.list_map_keys

    def identity(item: Any) -> Any:
        return tuple(repr(item.get(key)) for key in keys) if isinstance(item, dict) else None

    known = {identity(item): item for item in old}
    return lambda item: known.get(identity(item), _MISSING)


def ratcheted(schema: Schema, problems: list[Cause], new: Object, old: Object) -> list[Cause]:
    """Of the problems a schema finds, those not in parts that stay as they are.

    The nearest part both objects have at a problem's place decides.
    """
    return [each for each in problems if not _unchanged(schema, each.field, new, old)]


def _unchanged(schema: Schema, path: str, new: Any, old: Any) -> bool:
    if path == "<nil>":
        return bool(new == old)
    place: Schema | None = schema
    rest = path
    while rest and place is not None and old is not _MISSING:
        if isinstance(new, list) and rest.startswith("["):
            number, _, rest = rest[1:].partition("]")
            if not number.isdecimal() or int(number) >= len(new):
                break
            old, new = correlate(place, old)(new[int(number)]), new[int(number)]
            place = place.items
        elif isinstance(new, dict):
            rest = rest.removeprefix(".")
            fitting = (k for k in new if rest == k or rest.startswith((f"{k}.", f"{k}[")))
            name = max(fitting, key=len, default="")
            if not name:
                break
            rest = rest[len(name) :]
            old = old.get(name, _MISSING) if isinstance(old, dict) else _MISSING
            new, place = new[name], place.field(name)
        else:
            break
        rest = rest.removeprefix(".")
    return old is not _MISSING and bool(new == old)


# -- the definition's own check ------------------------------------------------------------


@dataclass(slots=True)
class _Total:
    units: int = 0


def problems_of_schema(schema: Schema, at: str) -> list[Cause]:
    """What is wrong with the rules themselves: syntax, unknown fields, cost.

    Args:
        schema: the version's schema.
        at: the schema's path in the definition.
    """
    total = _Total()
    found = list(_problems(schema, at, 1, True, total))
    if total.units > cost.TOTAL_LIMIT:
        text = "Forbidden: x-kubernetes-validations estimated rule cost total for entire"
        text += " OpenAPIv3 schema exceeds budget by factor of"
        text += f" {_factor(total.units, cost.TOTAL_LIMIT)} {_HINT}"
        found.append(Cause(at, text, "FieldValueForbidden"))
    return found


def _problems(
    schema: Schema, at: str, times: int, correlatable: bool, total: _Total
) -> Iterator[Cause]:
    for number, rule in enumerate(schema.node.get(EXTENSION) or ()):
        yield from _rule_problems(
            schema, rule, f"{at}.{EXTENSION}[{number}]", times, correlatable, total
        )
    for name, child in schema.properties.items():
        if name not in schema.overrides:
            yield from _problems(child, f"{at}.properties[{name}]", times, correlatable, total)
    below = min(times * cost.capacity(schema), 10**15)
    if schema.items is not None:
        kept = correlatable and schema.list_type == "map"
        yield from _problems(schema.items, f"{at}.items", below, kept, total)
    if isinstance(schema.node.get("additionalProperties"), dict) and schema.values is not None:
        here = f"{at}.additionalProperties"
        yield from _problems(schema.values, here, below, correlatable, total)


def _rule_problems(
    schema: Schema, rule: Object, at: str, times: int, correlatable: bool, total: _Total
) -> Iterator[Cause]:
    text = rule.get("rule")
    if not isinstance(text, str) or not text.strip():
        yield Cause(f"{at}.rule", "Required value: rule is not specified", "FieldValueRequired")
        return
    bound = cost.Typed(schema)
    known: dict[str, cost.Bound] = {
        "self": bound,
        "oldSelf": bound,
        _OPTIONAL: cost.Flat(items=1, inner=bound),
    }
    for name, compiled, wanted in (
        ("rule", _compile, "bool"),
        ("messageExpression", _compile_words, "string"),
    ):
        written = rule.get(name)
        if not written:
            continue
        try:
            program = compiled(rule)
            units = min(program.estimate(known) * times, 10**15)
        except Invalid as error:
            why = f"compilation failed: {error.message}"
            yield Cause(f"{at}.{name}", f"Invalid value: {shown(written)}: {why}")
            continue
        except cost.UndefinedFieldError as error:
            why = f"compilation failed: ERROR: <input>: undefined field '{error}'"
            yield Cause(f"{at}.{name}", f"Invalid value: {shown(written)}: {why}")
            continue
        if program.returns.lower() not in (wanted, "dyn"):
            why = f"cel expression must evaluate to a {wanted}"
            yield Cause(f"{at}.{name}", f"Invalid value: {shown(written)}: {why}")
        if name == "rule" and program.uses("oldSelf") and not correlatable:
            why = "oldSelf cannot be used on the uncorrelatable portion of the schema"
            yield Cause(f"{at}.rule", f"Invalid value: {shown(written)}: {why}")
        total.units += units
        if units > cost.EXPRESSION_LIMIT:
            why = f"estimated {name} cost exceeds budget by factor of"
            why = f"{why} {_factor(units, cost.EXPRESSION_LIMIT)} {_HINT}"
            yield Cause(f"{at}.{name}", f"Forbidden: {why}", "FieldValueForbidden")


def _factor(units: int, limit: int) -> str:
    factor = units / limit
    return "more than 100x" if factor > 100 else f"{factor:.1f}x"
