"""Go's ``text/template``: parsed once, executed with JSON values and functions of Python.

    template = Template("hello", "Hello, {{.name | printf "%q"}}!")
    template.execute({"name": "you"})

Data are JSON values: ``map[string]any`` is a mapping, ``[]any`` a list, nil is None. What is no
JSON value shows the fields and methods its ``template_fields`` mapping names, and nothing else.
Execution is bounded in steps, in depth and in output.

Source: Go ``text/template`` package documentation.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from underway.base.errors import UnderwayError
from underway.wire import gotemplate_nodes as nodes
from underway.wire.gotemplate_functions import BUILTINS, Function, FunctionError, truth
from underway.wire.gotemplate_literals import display, type_name
from underway.wire.gotemplate_nodes import TemplateError, Tree
from underway.wire.gotemplate_parser import parse

__all__ = ["Function", "FunctionError", "Limits", "Template", "TemplateError"]

MissingKey = Literal["default", "zero", "error"]
_LAZY = ("and", "or", "call")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one execution may do: nodes evaluated, templates within one another, characters."""

    steps: int = 5_000_000
    depth: int = 60
    output: int = 32 * 1024 * 1024


class _Missing:
    """Go's invalid value: what a missing key gives. Unlike nil, it has fields, all missing."""

    def __repr__(self) -> str:
        return "<no value>"


MISSING = _Missing()


class Template:
    """Templates that know one another by name, and the functions they may call.

    Args:
        name: the first template's, for messages and for ``{{template}}``.
        text: of the first template.
        functions: further functions; those of Go's that bear the same name are replaced.
        delimiters: what actions stand between.
        missing_key: what a key that a map lacks gives: ``default`` and ``zero`` as in Go (where
            ``zero`` is nil, of which no field can be asked), ``error`` stops.

    Raises:
        TemplateError: the text is no template.
    """

    def __init__(
        self,
        name: str,
        text: str,
        functions: Mapping[str, Function] | None = None,
        *,
        delimiters: tuple[str, str] = ("{{", "}}"),
        missing_key: MissingKey = "default",
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.missing_key = missing_key
        self.limits = limits or Limits()
        self.functions: dict[str, Function] = {**BUILTINS, **(functions or {})}
        self.trees: dict[str, Tree] = {}
        self._delimiters = delimiters
        self._arity: dict[str, tuple[int, int | None]] = {}
        self.add(name, text)

    def add(self, name: str, text: str) -> None:
        """Add a template, and those it defines; an empty one replaces none that is there.

        Raises:
            TemplateError: the text is no template.
        """
        known = self.functions.keys() | set(_LAZY)
        for each, tree in parse(name, text, known, self._delimiters).items():
            if each not in self.trees or not tree.is_empty():
                self.trees[each] = tree

    def execute(self, data: Any, name: str = "") -> str:
        """The text that a template gives with these data.

        Raises:
            TemplateError: an action failed, or execution went beyond its limits.
        """
        tree = self.trees.get(name or self.name)
        if tree is None:
            raise TemplateError(f'template: no template "{name}" associated with "{self.name}"')
        run = _Run(self)
        try:
            run.template(tree, MISSING if data is None else data)
        except RecursionError as error:
            raise TemplateError(f"template: {tree.name}: nested too deeply") from error
        return "".join(run.output)

    def arity(self, name: str) -> tuple[int, int | None]:
        """The fewest and the most arguments of a function."""
        if name not in self._arity:
            self._arity[name] = _arity(self.functions[name])
        return self._arity[name]


def _arity(function: Function) -> tuple[int, int | None]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0, None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in positional)
    any_number = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    return least, None if any_number else len(positional)


def _place(node: nodes.Node) -> int:
    """Where Go says a node is: of several fields, at the second."""
    match node:
        case nodes.Field(names=(first, _, *_)):
            return node.at + 1 + len(first)
        case nodes.Variable(names=(_, *_)):
            return node.at + len(node.name)
    return node.at


class _LeaveLoop(Exception):  # it is no error
    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


class _Run:
    """One execution."""

    def __init__(self, template: Template) -> None:
        self._set = template
        self.output: list[str] = []
        self._size = 0
        self._steps = 0
        self._depth = 0
        self._variables: list[tuple[str, Any]] = []
        self._tree = template.trees[template.name]

    def template(self, tree: Tree, data: Any) -> None:
        """Execute one template with variables of its own."""
        before = self._variables, self._tree
        self._variables, self._tree = [("$", data)], tree
        self._depth += 1
        self._walk(tree.body, data)
        self._depth -= 1
        self._variables, self._tree = before

    def _error(self, node: nodes.Node, message: str) -> TemplateError:
        source = self._tree.source
        line, column = source.place(_place(node))
        shown = source.text[node.at : node.end].rstrip()
        text = (
            f"template: {source.name}:{line}:{column}: executing {display(self._tree.name)!r} "
            f"at <{shown}>: {message}"
        ).replace(f"{self._tree.name!r}", f'"{self._tree.name}"', 1)
        return TemplateError(text, source.name, line, column)

    # -- actions ---------------------------------------------------------------------------

    def _walk(self, body: Sequence[nodes.Node], dot: Any) -> None:
        for node in body:
            if isinstance(node, nodes.Text):
                self._write(node, node.text)
            elif isinstance(node, nodes.Action):
                value = self._pipe(node.pipe, dot)
                if not node.pipe.variables:
                    shown = value if isinstance(value, str) else self._printed(value)
                    self._write(node, shown)
            elif isinstance(node, nodes.Branch):
                self._branch(node, dot)
            elif isinstance(node, nodes.Call):
                self._call_template(node, dot)
            elif isinstance(node, nodes.Leave):
                raise _LeaveLoop(node.keyword)

    def _write(self, node: nodes.Node, text: str) -> None:
        self._size += len(text)
        if self._size > self._set.limits.output:
            limit = self._set.limits.output
            raise self._error(node, f"output is longer than {limit} characters")
        self.output.append(text)

    def _printed(self, value: Any) -> str:
        return "<no value>" if value is None or value is MISSING else display(value)

    def _branch(self, node: nodes.Branch, dot: Any) -> None:
        scope = len(self._variables)
        if node.keyword == "range":
            self._range(node, dot)
        else:
            value = self._pipe(node.pipe, dot)
            if value is not MISSING and truth(value):
                self._walk(node.body, value if node.keyword == "with" else dot)
            else:
                self._walk(node.otherwise, dot)
        del self._variables[scope:]

    def _range(self, node: nodes.Branch, dot: Any) -> None:
        names = node.pipe.variables
        value = self._pipe(node.pipe, dot, keep=False)
        items = self._items(node, value)
        if not items:
            self._walk(node.otherwise, dot)
            return
        scope = len(self._variables)
        for key, item in items:
            if node.pipe.assigns:
                for name, each in zip(names[::-1], (item, key), strict=False):
                    self._assign(name, each)
            elif names:
                self._variables.append((names[-1], item))
                if len(names) > 1:
                    self._variables.append((names[0], key))
            try:
                self._walk(node.body, item)
            except _LeaveLoop as leave:
                if leave.keyword == "break":
                    break
            finally:
                del self._variables[scope:]
            self._count(node)

    def _items(self, node: nodes.Branch, value: Any) -> Sequence[tuple[Any, Any]]:
        numeric = isinstance(value, int) and not isinstance(value, bool)
        if numeric and len(node.pipe.variables) > 1:
            message = f"can't use {value} to iterate over more than one variable"
            raise self._error(node.pipe.commands[-1], message)
        match value:
            case list() | tuple():
                return list(enumerate(value))
            case Mapping():
                return [(key, value[key]) for key in sorted(value)]
            case bool():
                pass
            case int():
                if value > self._set.limits.steps:
                    raise self._error(node, f"range over {value} is more than is allowed")
                return [(number, number) for number in range(value)]
        if value is None or value is MISSING:
            return []
        raise self._error(node.pipe, f"range can't iterate over {display(value)}")

    def _call_template(self, node: nodes.Call, dot: Any) -> None:
        tree = self._set.trees.get(node.name)
        if tree is None:
            raise self._error(node, f'template "{node.name}" not defined')
        if self._depth >= self._set.limits.depth:
            raise self._error(node, f"exceeded maximum template depth ({self._set.limits.depth})")
        data = MISSING if node.pipe is None else self._pipe(node.pipe, dot)
        self.template(tree, data)

    # -- pipelines -------------------------------------------------------------------------

    def _count(self, node: nodes.Node) -> None:
        self._steps += 1
        if self._steps > self._set.limits.steps:
            raise self._error(node, f"more than {self._set.limits.steps} steps")

    def _pipe(self, pipe: nodes.Pipe, dot: Any, *, keep: bool = True) -> Any:
        self._count(pipe)
        value: Any = MISSING
        for number, command in enumerate(pipe.commands):
            value = self._command(command, dot, (value,) if number else ())
            if value is None:
                value = MISSING  # a pipeline looks through the interface: nil is no value
        if keep:
            for name in pipe.variables:
                if pipe.assigns:
                    self._assign(name, value)
                else:
                    self._variables.append((name, value))
        return value

    def _assign(self, name: str, value: Any) -> None:
        for place in range(len(self._variables) - 1, -1, -1):
            if self._variables[place][0] == name:
                self._variables[place] = (name, value)
                return

    def _command(self, command: nodes.Command, dot: Any, final: tuple[Any, ...]) -> Any:
        first, *arguments = command.operands
        if isinstance(first, nodes.Identifier):
            return self._function(first, command, arguments, dot, final)
        if isinstance(first, nodes.Constant) and first.value is None:
            raise self._error(command, "nil is not a command")
        if isinstance(first, nodes.Field | nodes.Chain | nodes.Variable):
            return self._fields(first, dot, arguments, final)
        if arguments or final:
            shown = self._tree.source.text[first.at : first.end]
            raise self._error(first, f"can't give argument to non-function {shown}")
        return self._value(first, dot)

    def _value(self, node: nodes.Operand, dot: Any) -> Any:
        self._count(node)
        if isinstance(node, nodes.Constant):
            return node.value
        if isinstance(node, nodes.Dot):
            return dot
        if isinstance(node, nodes.Pipe):
            return self._pipe(node, dot)
        if isinstance(node, nodes.Identifier):
            return self._function(node, node, (), dot, ())
        return self._fields(node, dot, (), ())

    def _fields(
        self,
        node: nodes.Field | nodes.Chain | nodes.Variable,
        dot: Any,
        arguments: Sequence[nodes.Operand],
        final: tuple[Any, ...],
    ) -> Any:
        if isinstance(node, nodes.Field):
            value = dot
        elif isinstance(node, nodes.Variable):
            value = next(v for name, v in reversed(self._variables) if name == node.name)
            if not node.names and (arguments or final):
                shown = self._tree.source.text[node.at : node.end]
                raise self._error(node, f"can't give argument to non-function {shown}")
        else:
            value = self._value(node.base, dot)
        last = len(node.names) - 1
        for number, name in enumerate(node.names):
            self._count(node)
            if isinstance(value, Mapping):
                if number == last and (arguments or final):
                    raise self._error(node, f"{name} is not a method but has arguments")
                value = value[name] if name in value else self._absent(node, name)
            elif value is MISSING:
                continue
            else:
                value = self._member(node, value, name, number)
                if callable(value):
                    given = arguments if number == last else ()
                    more = final if number == last else ()
                    value = self._call(node, name, value, [*self._all(given, dot), *more])
        return value

    def _absent(self, node: nodes.Node, name: str) -> Any:
        if self._set.missing_key == "error":
            raise self._error(node, f'map has no entry for key "{name}"')
        return MISSING if self._set.missing_key == "default" else None

    def _member(self, node: nodes.Node, value: Any, name: str, number: int) -> Any:
        if value is None:
            raise self._error(node, f"nil pointer evaluating interface {{}}.{name}")
        shown: Mapping[str, Any] = getattr(value, "template_fields", {})
        if name not in shown:
            kind = "interface {}" if number else type_name(value)
            raise self._error(node, f"can't evaluate field {name} in type {kind}")
        return shown[name]

    def _all(self, arguments: Sequence[nodes.Operand], dot: Any) -> list[Any]:
        return [self._value(each, dot) for each in arguments]

    def _function(
        self,
        node: nodes.Identifier,
        command: nodes.Node,
        arguments: Sequence[nodes.Operand],
        dot: Any,
        final: tuple[Any, ...],
    ) -> Any:
        name = node.name
        function = self._set.functions.get(name)
        if function is not None:
            values = [*self._all(arguments, dot), *final]
            self._check(node, name, len(values), *self._set.arity(name))
            return self._call(command, name, function, values)
        if name == "call":
            values = [*self._all(arguments, dot), *final]
            self._check(node, name, len(values), 1, None)
            if not callable(values[0]):
                kind = type_name(values[0])
                raise self._error(command, f"error calling call: non-function of type {kind}")
            return self._call(command, "call", values[0], values[1:])
        self._check(node, name, len(arguments) + len(final), 1, None)
        decided = name == "or"
        value: Any = None
        lazy = [functools.partial(self._value, each, dot) for each in arguments]
        for ask in (*lazy, *(functools.partial(lambda v: v, each) for each in final)):
            value = ask()
            if (value is not MISSING and truth(value)) == decided:
                break
        return value

    def _check(self, node: nodes.Node, name: str, given: int, least: int, most: int | None) -> None:
        if given >= least and (most is None or given <= most):
            return
        want = f"at least {least}" if most is None or most > least else str(least)
        raise self._error(node, f"wrong number of args for {name}: want {want} got {given}")

    def _call(
        self, node: nodes.Node, name: str, function: Callable[..., Any], values: list[Any]
    ) -> Any:
        self._count(node)
        try:
            return function(*[None if each is MISSING else each for each in values])
        except (FunctionError, UnderwayError) as error:
            raise self._error(node, f"error calling {name}: {error}") from error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise self._error(node, f"error calling {name}: {what}") from error
