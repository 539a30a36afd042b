"""The instructions of a Dockerfile as values. Words are kept as written.

Source: BuildKit ``frontend/dockerfile/docs/reference.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from underway.base.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: ``expand`` says whether its variables are replaced."""

    name: str
    content: str
    expand: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: in shell form one text for the shell, else the argument vector."""

    argv: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an instruction stands and how it was written, continuations joined."""

    line: int
    source: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What every instruction has."""

    at: Origin

    @property
    def line(self) -> int:
        """The number of its first line."""
        return self.at.line

    @property
    def keyword(self) -> str:
        """``RUN``, ``COPY`` and so on."""
        return self.at.source.split(None, 1)[0].upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """``FROM [--platform=P] IMAGE [AS NAME]``; IMAGE may name an earlier stage."""

    image: str
    alias: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """``ARG NAME[=DEFAULT] ...``."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """``ENV NAME=VALUE ...``."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """``LABEL NAME=VALUE ...``."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """``RUN``; each mount is its options by name (``type``, ``target`` ...)."""

    command: Command
    mounts: tuple[Mapping[str, str], ...] = ()
    network: str = ""
    security: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """``COPY`` and, with ``add``, ``ADD``."""

    sources: tuple[str, ...]
    destination: str
    add: bool = False
    stage: str = ""
    chown: str = ""
    chmod: str = ""
    excludes: tuple[str, ...] = ()
    checksum: str = ""
    unpack: bool | None = None
    parents: bool = False
    keep_git: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """``WORKDIR``."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """``USER``."""

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """``EXPOSE``: words that expand to ``PORT[-PORT][/PROTOCOL]``."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """``ENTRYPOINT``."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """``CMD``."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """``SHELL``."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """``VOLUME``."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK``; no command is ``NONE``. Durations are nanoseconds, absent ones 0."""

    command: Command | None
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopsignal(Instruction):
    """``STOPSIGNAL``."""

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """``ONBUILD``: an instruction as text, for builds that start from the image."""

    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """``MAINTAINER``."""

    name: str


Step: TypeAlias = (
    Arg
    | Env
    | Label
    | Run
    | Copy
    | Workdir
    | User
    | Expose
    | Entrypoint
    | Cmd
    | Shell
    | Volume
    | Healthcheck
    | Stopsignal
    | Onbuild
    | Maintainer
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One ``FROM`` and what follows it. ``name`` is empty where it has none."""

    index: int
    base: From
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The name given by ``AS``, in lower case."""
        return self.base.alias


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file. ``args`` are the ``ARG`` before the first ``FROM``."""

    file: str
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    directives: Mapping[str, str] = field(default_factory=dict)

    def error(self, line: int, message: str, hint: str = "") -> BadRequest:
        """An error at a line of this file."""
        return BadRequest(f"{self.file}:{line}: {message}", hint=hint)
