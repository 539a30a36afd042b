"""What a Go template is made of after parsing, and the errors templates raise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from underway.base.errors import BadRequest


class TemplateError(BadRequest):
    """A template cannot be parsed or executed; the message has the form of Go's own.

    ``name``, ``line`` (from 1) and ``column`` (characters before it on that line) say where.
    """

    def __init__(self, message: str, name: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.name = name
        self.line = line
        self.column = column


@dataclass(slots=True, eq=False)
class Source:
    """The text that nodes come from."""

    name: str
    text: str

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of an offset."""
        before = self.text[:at]
        return before.count("\n") + 1, at - (before.rfind("\n") + 1)


@dataclass(slots=True, eq=False)
class Node:
    """A piece of the template: from offset ``at`` to ``end`` of its source."""

    at: int
    end: int


@dataclass(slots=True, eq=False)
class Text(Node):
    """Text that stands outside of actions."""

    text: str


@dataclass(slots=True, eq=False)
class Dot(Node):
    """The cursor."""


@dataclass(slots=True, eq=False)
class Constant(Node):
    """A string, number, truth value or nil."""

    value: str | int | float | bool | None


@dataclass(slots=True, eq=False)
class Field(Node):
    """``.a.b``."""

    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Variable(Node):
    """``$x.a.b``; ``name`` has its dollar."""

    name: str
    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Chain(Node):
    """``(pipeline).a.b``."""

    base: Operand
    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Identifier(Node):
    """A function's name."""

    name: str


@dataclass(slots=True, eq=False)
class Command(Node):
    """An operand, or a function with its arguments."""

    operands: tuple[Operand, ...]


@dataclass(slots=True, eq=False)
class Pipe(Node):
    """Commands, each given the value of the one before, and the variables set to the last's."""

    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False  # ``=``, not ``:=``


Operand = Dot | Constant | Field | Variable | Chain | Identifier | Pipe


@dataclass(slots=True, eq=False)
class Action(Node):
    """``{{pipeline}}``."""

    pipe: Pipe


@dataclass(slots=True, eq=False)
class Branch(Node):
    """``if``, ``with`` or ``range``."""

    keyword: str
    pipe: Pipe
    body: Sequence[Node] = field(default_factory=list)
    otherwise: Sequence[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call(Node):
    """``{{template "name" pipeline}}``."""

    name: str
    pipe: Pipe | None


@dataclass(slots=True, eq=False)
class Leave(Node):
    """``break`` or ``continue``."""

    keyword: str


@dataclass(slots=True, eq=False)
class Tree:
    """One named template."""

    name: str
    source: Source
    body: Sequence[Node]

    def is_empty(self) -> bool:
        """Whether it holds nothing but white space, so that it replaces no other."""
        return all(isinstance(node, Text) and not node.text.strip() for node in self.body)


def syntax_error(source: Source, at: int, message: str) -> TemplateError:
    """An error of parsing."""
    line, column = source.place(at)
    text = f"template: {source.name}:{line}:{column}: {message}"
    return TemplateError(text, source.name, line, column)
