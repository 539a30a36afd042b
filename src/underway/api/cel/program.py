"""Expressions: compiled once, evaluated often, never without a bound on the work.

Source: cel-spec; Kubernetes reference, "Common Expression Language in Kubernetes".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from underway.api.cel import cost, syntax
from underway.api.cel.rewriting import rewritten
from underway.base.errors import Invalid

if TYPE_CHECKING:
    from cel_expr_python import cel  # type: ignore[import-untyped]

LENGTH_LIMIT = 16 * 1024  # characters of one expression
POSTPONED_UNITS = 500_000  # about 25 ms of the event loop
_CODES = ("INVALID_ARGUMENT: ", "NOT_FOUND: ", "UNKNOWN: ", "OUT_OF_RANGE: ", "INTERNAL: ")
_BUDGET = "operation cancelled: actual cost limit exceeded"


class EvaluationError(Invalid):
    """An expression has no value for these inputs: a missing key, a division by zero.

    ``exhausted`` says that it would cost too much to find one.
    """

    exhausted = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an evaluation: ``result``, or an ``error`` as ``EvaluationError`` says it.

    ``portable`` is False for a result that is no JSON, which has to be found where it is used.
    """

    result: Any = None
    error: str = ""
    exhausted: bool = False
    portable: bool = True

    def value(self) -> Any:
        """The result.

        Raises:
            EvaluationError: there is none.
        """
        if self.error:
            raise _exhausted() if self.exhausted else EvaluationError(self.error)
        return self.result


class Postponed(Exception):
    """An evaluation that is too expensive to wait for.

    ``payload`` is MessagePack of text, variables and values.
    """

    def __init__(self, payload: bytes) -> None:
        super().__init__("an expensive expression has to be evaluated elsewhere first")
        self.payload = payload


_known: ContextVar[dict[bytes, Outcome] | None] = ContextVar("outcomes", default=None)


@contextmanager
def postponing() -> Iterator[dict[bytes, Outcome]]:
    """Within this block, expensive evaluations raise ``Postponed`` unless their outcome is known.

    The outcomes, by payload, are what the block is given; it puts them there.
    """
    known: dict[bytes, Outcome] = {}
    token = _known.set(known)
    try:
        yield known
    finally:
        _known.reset(token)


def evaluate_payload(payload: bytes) -> Outcome:
    """Evaluate what was postponed."""
    text, variables, values = msgspec.msgpack.decode(payload)
    try:
        result = compile_expression(text, tuple(variables)).evaluate_here(values)
    except EvaluationError as error:
        return Outcome(error=error.message or "no value", exhausted=error.exhausted)
    return Outcome(result) if _is_json(result) else Outcome(portable=False)


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    if isinstance(value, list):
        return all(_is_json(each) for each in value)
    return value is None or isinstance(value, str | bool | int | float)


class Program:
    """A compiled expression; safe to share. Make it with ``compile_expression``."""

    def __init__(self, text: str, variables: tuple[str, ...], compiled: cel.Expression) -> None:
        self.text = text
        self._variables = variables
        self.tree = syntax.read(compiled.serialize())
        self.returns = compiled.return_type().name()
        self._compiled = compiled
        self._cost = lru_cache(maxsize=64)(self._cost_at)

    def uses(self, name: str) -> bool:
        """Whether a variable occurs in it."""
        return name in _names(self.tree)

    def fields_of(self, name: str) -> set[str]:
        """The fields it selects of a variable, as ``variables.a`` does."""
        return {
            each.field
            for each in syntax.walk(self.tree)
            if isinstance(each, syntax.Select) and each.operand == syntax.Name(name)
        }

    def estimate(self, variables: Mapping[str, cost.Bound]) -> int:
        """The most it can cost, in units of ``cost``.

        Raises:
            UndefinedFieldError: it names a field a schema does not have.
        """
        return cost.estimate(self.tree, variables)

    def cost_of(self, size: tuple[int, int]) -> int:
        """The most it can cost over untyped values of a size as ``largest`` says it."""
        return self._cost(size[0].bit_length(), size[1].bit_length())

    def evaluate(self, values: Mapping[str, Any], size: tuple[int, int] | None = None) -> Any:
        """The value for these variables, as JSON.

        Args:
            values: name -> JSON value.
            size: what ``largest`` says of the values, where that is known.

        Raises:
            EvaluationError: there is none, or finding it costs too much.
        """
        units = self.cost_of(size or largest(list(values.values())))
        if units > cost.CALL_LIMIT:
            raise _exhausted()
        if units > POSTPONED_UNITS and (known := _known.get()) is not None:
            found = self._elsewhere(values, known)
            if found is not None:
                return found.value()
        return self.evaluate_here(values)

    def _elsewhere(self, values: Mapping[str, Any], known: dict[bytes, Outcome]) -> Outcome | None:
        """The outcome found meanwhile; None where only this process can find it.

        Raises:
            Postponed: nobody has looked yet.
        """
        if self.uses("authorizer"):
            return None
        used = {name: value for name, value in values.items() if self.uses(name)}
        try:
            payload = msgspec.msgpack.encode([self.text, list(self._variables), used])
        except (TypeError, ValueError, OverflowError):
            return None
        outcome = known.get(payload)
        if outcome is None:
            raise Postponed(payload)
        return outcome if outcome.portable else None

    def evaluate_here(self, values: Mapping[str, Any]) -> Any:
        """The value for these variables, whatever it costs.

        Raises:
            EvaluationError: there is none.
        """
        try:
            result = self._compiled.eval(data=dict(values))
            found = result.plain_value()
        except (RuntimeError, TypeError, ValueError) as error:
            if "Iteration budget" in str(error):
                raise _exhausted() from error
            raise EvaluationError(_worded(str(error))) from error
        if result.type().name() == "ERROR":
            raise EvaluationError(_worded(str(found)))
        return found

    def _cost_at(self, text_bits: int, items_bits: int) -> int:
        inner = cost.Flat(1 << text_bits, 1 << items_bits)
        return cost.estimate(self.tree, dict.fromkeys(_names(self.tree), inner))


def _exhausted() -> EvaluationError:
    error = EvaluationError(_BUDGET)
    error.exhausted = True
    return error


def compile_expression(text: str, variables: tuple[str, ...]) -> Program:
    """The program of an expression over untyped variables.

    Raises:
        Invalid: it is no expression; the message points at the place.
    """
    if len(text) > LENGTH_LIMIT:
        raise Invalid(f"expression is longer than {LENGTH_LIMIT} characters")
    return _compiled(text, variables)


@lru_cache(maxsize=4096)
def _compiled(text: str, variables: tuple[str, ...]) -> Program:
    from underway.api.cel.environment import environment  # 20 MB, for those who use it

    try:
        return Program(text, variables, environment(variables).compile(rewritten(text)))
    except (RuntimeError, ValueError) as error:
        raise Invalid(_worded(str(error))) from error


def largest(value: Any) -> tuple[int, int]:
    """The longest string (characters) and the longest list or map (items) in a value."""
    text = items = 0
    rest = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, str | bytes):
            text = max(text, len(each))
        elif isinstance(each, dict):
            items = max(items, len(each))
            rest.extend(each.keys())
            rest.extend(each.values())
        elif isinstance(each, list):
            items = max(items, len(each))
            rest.extend(each)
    return text, items


def _worded(text: str) -> str:
    """The library's message without its status code, missing keys as Kubernetes names them."""
    for code in _CODES:
        text = text.removeprefix(code).removesuffix(f" [{code[:-2]}]")
    if text.startswith("Key not found in map : "):
        return f"no such key: {text.removeprefix('Key not found in map : ').strip(chr(34))}"
    return text


def _names(node: syntax.Node) -> set[str]:
    return {each.name for each in syntax.walk(node) if isinstance(each, syntax.Name)}
