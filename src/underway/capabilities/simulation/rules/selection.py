"""Which Stage an object enters next, and when.

Source: kwok documentation, "Stages Configuration".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from underway.api.cel import program as cel
from underway.api.objects import Object
from underway.base.clock import parse_rfc3339
from underway.capabilities.simulation.model import Amount, Expression, Requirement, Stage
from underway.capabilities.simulation.rules.queries import compile_query

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}


def choose(stages: Iterable[Stage], obj: Object, chance: random.Random) -> Stage | None:
    """The Stage an object enters: of those that match one, by chance, as their weights say.

    Raises:
        Invalid: an expression is none.
        EvaluationError: an expression has no value for the object.
    """
    matching = [stage for stage in stages if matches(stage, obj)]
    if len(matching) <= 1:
        return matching[0] if matching else None
    weights = [_weight(stage.weight, obj) for stage in matching]
    known = [(stage, weight) for stage, weight in zip(matching, weights, strict=True) if weight]
    if known:
        return chance.choices([stage for stage, _ in known], [weight for _, weight in known])[0]
    # None has a weight above zero: those that say zero come before those that say nothing.
    zero = [stage for stage, weight in zip(matching, weights, strict=True) if weight == 0]
    return chance.choice(zero or matching)


def matches(stage: Stage, obj: Object) -> bool:
    """Whether the Stage's selector chooses the object."""
    selector = stage.selector
    if selector is None:
        return False
    header = obj["metadata"]
    for wanted, present in (
        (selector.labels, header.get("labels") or {}),
        (selector.annotations, header.get("annotations") or {}),
    ):
        if any(present.get(key) != value for key, value in wanted.items()):
            return False
    return all(_holds(requirement, obj) for requirement in selector.requirements)


def delay_s(stage: Stage, obj: Object, now: datetime, chance: random.Random) -> float:
    """How long the object waits before it enters the Stage, in seconds."""
    if stage.delay_ms is None:
        return 0.0
    least = _duration_ms(stage.delay_ms, obj, now)
    if least is None:
        return 0.0
    most = None if stage.jitter_ms is None else _duration_ms(stage.jitter_ms, obj, now)
    if most is None:
        return max(0.0, least / 1000)
    return max(0.0, (most if most <= least else chance.uniform(least, most)) / 1000)


def check(stage: Stage) -> None:
    """Compile every expression once.

    Raises:
        Invalid: one is none; the message names the Stage.
    """
    amounts = (stage.weight, stage.delay_ms, stage.jitter_ms)
    expressions = [each.source for each in amounts if each and each.source]
    if stage.selector:
        expressions += [each.expression for each in stage.selector.requirements]
    for expression in expressions:
        if expression.cel:
            cel.compile_expression(expression.cel, ("self",))
        else:
            compile_query(expression.jq)


def _holds(requirement: Requirement, obj: Object) -> bool:
    if requirement.expression.cel:
        return _evaluate(requirement.expression, obj) == [True]
    found = _evaluate(requirement.expression, obj)
    match requirement.operator:
        case "In":
            return any(_as_text(each) in requirement.values for each in found)
        case "NotIn":
            return not any(_as_text(each) in requirement.values for each in found)
        case "Exists":
            return bool(found)
    return not found


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _evaluate(expression: Expression, obj: Object) -> Sequence[Any]:
    if expression.cel:
        program = cel.compile_expression(expression.cel, ("self",))
        return [program.evaluate({"self": obj})]
    return compile_query(expression.jq)(obj)


def _weight(amount: Amount, obj: Object) -> int | None:
    """The Stage's weight; None where the object says one that is no number."""
    found = _evaluate(amount.source, obj) if amount.source else ()
    if not found:
        return amount.given
    if isinstance(found[0], str):
        try:
            return max(0, int(found[0], 0))
        except ValueError:
            return None
    return max(0, int(found[0])) if isinstance(found[0], int | float) else amount.given


def _duration_ms(amount: Amount, obj: Object, now: datetime) -> float | None:
    found = _evaluate(amount.source, obj) if amount.source else ()
    if not found or not isinstance(found[0], str):
        return amount.given
    text = found[0]
    if not text:
        return None
    try:
        return (parse_rfc3339(text) - now).total_seconds() * 1000
    except ValueError:
        parsed = go_duration_ms(text)
        return amount.given if parsed is None else parsed


def go_duration_ms(text: str) -> float | None:
    """Milliseconds of a duration as Go writes it (``1h30m``, ``-1.5s``); None where it is none."""
    digits = text.lstrip("+-")
    if digits == "0":
        return 0.0
    total, at = 0.0, 0
    while part := _DURATION.match(digits, at):
        total += float(part[1]) * _UNITS_MS[part[2]]
        at = part.end()
    if not at or at != len(digits):
        return None
    return -total if text.startswith("-") else total
