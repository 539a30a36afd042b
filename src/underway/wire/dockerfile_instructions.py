"""The instructions of a Dockerfile as values. Words are kept as written.

Source: BuildKit ``frontend/dockerfile/docs/reference.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from underway.base.errors import BadRequest


class Heredoc(msgspec.Struct, frozen=True):
    """A here-document: ``expand`` says whether its variables are replaced."""

    name: str
    content: str
    expand: bool


class Command(msgspec.Struct, frozen=True):
    """A program to run: in shell form one text for the shell, else the argument vector."""

    argv: tuple[str, ...]
    shell: bool


class Origin(msgspec.Struct, frozen=True):
    """Where an instruction stands and how it was written, continuations joined."""

    line: int
    source: str
    heredocs: tuple[Heredoc, ...] = ()


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
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


class From(Instruction, frozen=True, kw_only=True):
    """``FROM [--platform=P] IMAGE [AS NAME]``; IMAGE may name an earlier stage."""

    image: str
    alias: str = ""
    platform: str = ""


class Arg(Instruction, frozen=True, kw_only=True):
    """``ARG NAME[=DEFAULT] ...``."""

    pairs: tuple[tuple[str, str | None], ...]


class Env(Instruction, frozen=True, kw_only=True):
    """``ENV NAME=VALUE ...``."""

    pairs: tuple[tuple[str, str], ...]


class Label(Instruction, frozen=True, kw_only=True):
    """``LABEL NAME=VALUE ...``."""

    pairs: tuple[tuple[str, str], ...]


class Run(Instruction, frozen=True, kw_only=True):
    """``RUN``; each mount is its options by name (``type``, ``target`` ...)."""

    command: Command
    mounts: tuple[Mapping[str, str], ...] = ()
    network: str = ""
    security: str = ""


class Copy(Instruction, frozen=True, kw_only=True):
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


class Workdir(Instruction, frozen=True, kw_only=True):
    """``WORKDIR``."""

    path: str


class User(Instruction, frozen=True, kw_only=True):
    """``USER``."""

    user: str


class Expose(Instruction, frozen=True, kw_only=True):
    """``EXPOSE``: words that expand to ``PORT[-PORT][/PROTOCOL]``."""

    ports: tuple[str, ...]


class Entrypoint(Instruction, frozen=True, kw_only=True):
    """``ENTRYPOINT``."""

    command: Command


class Cmd(Instruction, frozen=True, kw_only=True):
    """``CMD``."""

    command: Command


class Shell(Instruction, frozen=True, kw_only=True):
    """``SHELL``."""

    argv: tuple[str, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    """``VOLUME``."""

    paths: tuple[str, ...]


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """``HEALTHCHECK``; no command is ``NONE``. Durations are nanoseconds, absent ones 0."""

    command: Command | None
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class Stopsignal(Instruction, frozen=True, kw_only=True):
    """``STOPSIGNAL``."""

    signal: str


class Onbuild(Instruction, frozen=True, kw_only=True):
    """``ONBUILD``: an instruction as text, for builds that start from the image."""

    trigger: str


class Maintainer(Instruction, frozen=True, kw_only=True):
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


class Stage(msgspec.Struct, frozen=True):
    """One ``FROM`` and what follows it. ``name`` is empty where it has none."""

    index: int
    base: From
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The name given by ``AS``, in lower case."""
        return self.base.alias


class Dockerfile(msgspec.Struct, frozen=True):
    """A whole file. ``args`` are the ``ARG`` before the first ``FROM``."""

    file: str
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    directives: Mapping[str, str] = msgspec.field(default_factory=dict)

    def error(self, line: int, message: str, hint: str = "") -> BadRequest:
        """An error at a line of this file."""
        return BadRequest(f"{self.file}:{line}: {message}", hint=hint)
