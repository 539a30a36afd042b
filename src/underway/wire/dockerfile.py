"""A Dockerfile as typed instructions with their line numbers.

Words are kept as written; ``dockerfile_words.expand`` gives their meaning once the variables are
known. Source: BuildKit ``frontend/dockerfile/docs/reference.md``.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from underway.base.errors import BadRequest
from underway.wire import dockerfile_words
from underway.wire.dockerfile_instructions import (
    Arg,
    Cmd,
    Command,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    Label,
    Maintainer,
    Onbuild,
    Origin,
    Run,
    Shell,
    Stage,
    Step,
    Stopsignal,
    User,
    Volume,
    Workdir,
)

SIZE_MAX = 1 << 20  # characters
HEREDOC = re.compile(r"<<(-?)\s*([\"']?)([A-Za-z0-9_.]+)\2")


def parse(text: str, file: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile.

    Args:
        text: its content.
        file: the name by which errors call it.

    Raises:
        BadRequest: ``file:line: what is wrong`` and, where it can be said, what to do.
    """
    if len(text) > SIZE_MAX:
        raise BadRequest(f"{file}: larger than {SIZE_MAX} characters")
    lines = re.split(r"\r?\n", text.removeprefix("\ufeff"))
    directives = _directives(lines)
    escape = directives.get("escape", "\\")
    if escape not in ("\\", "`"):
        raise BadRequest(f"{file}:1: the escape directive must be \\ or `, not {escape!r}")
    parser = _Parser(file, escape)
    args: list[Arg] = []
    stages: list[tuple[From, list[Step]]] = []
    for line, source, heredocs in parser.logical_lines(lines):
        step = parser.instruction(line, source, heredocs)
        if isinstance(step, From):
            if step.alias and step.alias in (base.alias for base, _ in stages):
                raise parser.error(line, f"two stages are called {step.alias}")
            stages.append((step, []))
        elif stages:
            stages[-1][1].append(step)
        elif isinstance(step, Arg):
            args.append(step)
        else:
            raise parser.error(line, f"{source.split()[0].upper()} stands before the first FROM")
    if not stages:
        raise BadRequest(
            f"{file}: there is no FROM", hint="start with a base: FROM debian:bookworm"
        )
    built = tuple(Stage(i, base, tuple(steps)) for i, (base, steps) in enumerate(stages))
    return Dockerfile(file, tuple(args), built, escape, directives)


def parse_trigger(text: str, origin: str) -> Step:
    """One ``ONBUILD`` instruction of a base image; errors call it ``origin``.

    Raises:
        BadRequest: it is no instruction, or none that may be there.
    """
    step = _Parser(origin, "\\").instruction(0, text, ())
    if isinstance(step, From | Onbuild | Maintainer):
        raise BadRequest(f"{origin}: ONBUILD cannot hold {text.split(maxsplit=1)[0].upper()}")
    return step


def _directives(lines: list[str]) -> dict[str, str]:
    """Parser directives: comments ``# name=value`` before anything else."""
    found: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"\s*#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*", line)
        if not match or match[1].lower() in found:
            break
        if match[1].lower() not in ("syntax", "escape", "check"):
            break
        found[match[1].lower()] = match[2]
    return found


_Line: TypeAlias = tuple[int, str, tuple[Heredoc, ...]]


class _Parser:
    def __init__(self, file: str, escape: str) -> None:
        self.file = file
        self.escape = escape
        self._continued = re.compile(rf"{re.escape(escape)}[ \t]*$")

    def error(self, line: int, message: str) -> BadRequest:
        where = f"{self.file}:{line}" if line else self.file
        return BadRequest(f"{where}: {message}")

    def logical_lines(self, lines: list[str]) -> list[_Line]:
        """(first line's number, text with continuations joined, its here-documents)."""
        found: list[_Line] = []
        index = 0
        while index < len(lines):
            if not lines[index].strip() or lines[index].lstrip().startswith("#"):
                index += 1
                continue
            start, text, more = index, "", True
            while more and index < len(lines):
                line = lines[index]
                index += 1
                if text or start != index - 1:
                    if line.lstrip().startswith("#") or not line.strip():
                        continue
                else:
                    line = line.lstrip()
                cut = self._continued.search(line)
                more = cut is not None
                text += line[: cut.start()] if cut else line
            text = text.rstrip()
            if not text:
                continue  # nothing but the escape character
            heredocs, index = self._heredocs(start + 1, text, lines, index)
            found.append((start + 1, text, heredocs))
        return found

    def _heredocs(
        self, number: int, text: str, lines: list[str], index: int
    ) -> tuple[tuple[Heredoc, ...], int]:
        words = text.upper().split(None, 2)
        keyword = words[1] if words[0] == "ONBUILD" and len(words) > 1 else words[0]
        if keyword not in ("RUN", "COPY", "ADD") or "<<" not in text:
            return (), index
        found = []
        for match in _heredoc_marks(text):
            body = []
            while True:
                if index >= len(lines):
                    raise self.error(number, f"the here-document {match[3]} is not ended")
                line = lines[index]
                index += 1
                line = line.lstrip("\t") if match[1] else line
                if line == match[3]:
                    break
                body.append(line + "\n")
            found.append(Heredoc(match[3], "".join(body), expand=not match[2]))
        return tuple(found), index

    def instruction(self, line: int, source: str, heredocs: tuple[Heredoc, ...]) -> From | Step:
        keyword, _, rest = re.sub(r"\s", " ", source, count=1).partition(" ")
        make = _INSTRUCTIONS.get(keyword.upper())
        if make is None:
            close = difflib.get_close_matches(keyword.upper(), _INSTRUCTIONS, 1, 0.6)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise self.error(line, f"unknown instruction: {keyword}{guess}")
        arguments = _Arguments(self, keyword.upper(), line, source, rest.strip(), heredocs)
        if not arguments.text and not arguments.flags:
            raise self.error(line, f"{keyword.upper()} needs an argument")
        step = make(arguments)
        if arguments.flags:
            name = next(iter(arguments.flags))
            raise self.error(line, f"{keyword.upper()} has no flag --{name}")
        return step


def _heredoc_marks(text: str) -> list[re.Match[str]]:
    """Here-document marks outside quotes; ``<<<`` is a shell's own matter."""
    marks, quote, index = [], "", 0
    while index < len(text):
        char = text[index]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif text.startswith("<<<", index):
            index += 3
            continue
        elif match := HEREDOC.match(text, index):
            marks.append(match)
            index = match.end()
            continue
        index += 1
    return marks


class _Arguments:
    """What stands behind an instruction's keyword; ``flags`` are taken off as they are read."""

    def __init__(
        self,
        parser: _Parser,
        keyword: str,
        line: int,
        source: str,
        text: str,
        heredocs: tuple[Heredoc, ...],
    ) -> None:
        self._parser, self.keyword, self.line = parser, keyword, line
        self.at = Origin(line, source, heredocs)
        self.flags: dict[str, list[str]] = {}
        self.text = text
        if keyword in ("FROM", "RUN", "COPY", "ADD", "HEALTHCHECK"):
            while match := re.match(r"--([a-z][a-z-]*)(=(?:\"[^\"]*\"|\S)*)?(?:\s+|$)", self.text):
                value = match[2][1:].replace('"', "") if match[2] else ""
                self.flags.setdefault(match[1], []).append(value)
                self.text = self.text[match.end() :]

    def error(self, message: str) -> BadRequest:
        return self._parser.error(self.line, message)

    def check(self, source: str) -> None:
        """Raise what is wrong with an instruction inside this one."""
        self._parser.instruction(self.line, source, self.at.heredocs)

    def flag(self, name: str, default: str = "") -> str:
        values = self.flags.pop(name, [default])
        if len(values) > 1:
            raise self.error(f"--{name} is given twice")
        return values[0]

    def switch(self, name: str) -> bool | None:
        if name not in self.flags:
            return None
        value = self.flag(name).lower()
        if value not in ("", "true", "false"):
            raise self.error(f"--{name} is true or false, not {value}")
        return value != "false"

    def words(self) -> list[str]:
        try:
            return dockerfile_words.split(self.text, self._parser.escape)
        except ValueError as error:
            raise self.error(str(error)) from error

    def json(self) -> tuple[str, ...] | None:
        """The arguments as a JSON list of strings, or None where they are not one."""
        if not self.text.startswith("["):
            return None
        try:
            value = json.loads(self.text)
        except ValueError:
            return None
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.error(f"{self.keyword}: a JSON list may hold strings only")
        return tuple(value)

    def command(self) -> Command:
        argv = self.json()
        if argv is not None:
            return Command(argv, shell=False)
        return Command((self.text,), shell=True)  # noqa: S604  # a value, nothing is run

    def list(self) -> tuple[str, ...]:
        found = self.json()
        return tuple(self.words()) if found is None else found

    def single(self) -> str:
        words = self.words()
        if len(words) != 1:
            raise self.error(f"{self.keyword} takes exactly one argument, not {len(words)}")
        return words[0]

    def pairs(self) -> tuple[tuple[str, str], ...]:
        words = self.words()
        if "=" not in words[0]:
            name, _, value = re.sub(r"\s", " ", self.text, count=1).partition(" ")
            if not value.strip():
                raise self.error(f"{self.keyword} must be NAME=VALUE; {name} has no value")
            return ((name, value.strip()),)
        found = []
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                raise self.error(
                    f"{self.keyword} must be NAME=VALUE; {word!r} has no =, or a blank is unquoted"
                )
            if not name:
                raise self.error(f"{self.keyword}: {word!r} has no name")
            found.append((name, value))
        return tuple(found)


def _from(a: _Arguments) -> From:
    words = a.text.split()
    platform = a.flag("platform")
    if len(words) == 3 and words[1].upper() == "AS":
        alias = words[2].lower()
        if not re.fullmatch(r"[a-z][a-z0-9_.-]*", alias):
            raise a.error(f"{words[2]!r} is no stage name: letters, digits, - _ and . only")
        return From(image=words[0], alias=alias, platform=platform, at=a.at)
    if len(words) != 1:
        raise a.error("FROM must be FROM IMAGE or FROM IMAGE AS NAME")
    return From(image=words[0], platform=platform, at=a.at)


def _run(a: _Arguments) -> Run:
    mounts = tuple(_mount(a, value) for value in a.flags.pop("mount", []))
    network, security = a.flag("network"), a.flag("security")
    if network not in ("", "default", "none", "host"):
        raise a.error(f"--network is default, none or host, not {network}")
    if security not in ("", "sandbox", "insecure"):
        raise a.error(f"--security is sandbox or insecure, not {security}")
    if not a.text:
        raise a.error("RUN needs a command")
    return Run(command=a.command(), mounts=mounts, network=network, security=security, at=a.at)


def _mount(a: _Arguments, text: str) -> dict[str, str]:
    options = {"type": "bind"}
    names = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        name = names.get(name.lower(), name.lower())
        options[name] = value if equals else "true"
    kinds = ("bind", "cache", "tmpfs", "secret", "ssh")
    if options["type"] not in kinds:
        raise a.error(f"--mount=type={options['type']}: the types are {', '.join(kinds)}")
    if options["type"] in ("bind", "cache", "tmpfs") and not options.get("target"):
        raise a.error(f"--mount=type={options['type']} needs a target")
    return options


def _copy(a: _Arguments) -> Copy:
    add = a.keyword == "ADD"
    a.switch("link")  # every COPY is a layer of its own here
    chown, chmod = a.flag("chown"), a.flag("chmod")
    excludes = tuple(a.flags.pop("exclude", []))
    stage = "" if add else a.flag("from")
    parents = False if add else bool(a.switch("parents"))
    checksum = a.flag("checksum") if add else ""
    unpack = a.switch("unpack") if add else None
    keep_git = bool(a.switch("keep-git-dir")) if add else False
    words = a.list()
    if len(words) < 2:
        raise a.error(f"{a.keyword} needs at least a source and a destination")
    sources, destination = words[:-1], words[-1]
    if (
        len(sources) > 1
        and not destination.rstrip("'\"").endswith(("/", "/."))
        and (destination not in (".", "..") and "$" not in destination)
    ):
        raise a.error(f"{a.keyword} of several sources needs a destination that ends with /")
    return Copy(
        at=a.at,
        sources=sources,
        destination=destination,
        add=add,
        stage=stage,
        chown=chown,
        chmod=chmod,
        excludes=excludes,
        checksum=checksum,
        unpack=unpack,
        parents=parents,
        keep_git=keep_git,
    )


def _arg(a: _Arguments) -> Arg:
    pairs: list[tuple[str, str | None]] = []
    for word in a.words():
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
            raise a.error(f"ARG: {name!r} is no variable name")
        pairs.append((name, value if equals else None))
    return Arg(pairs=tuple(pairs), at=a.at)


def _shell(a: _Arguments) -> Shell:
    argv = a.json()
    if not argv:
        raise a.error('SHELL must be a JSON list: SHELL ["/bin/bash", "-c"]')
    return Shell(argv=argv, at=a.at)


def _healthcheck(a: _Arguments) -> Healthcheck:
    names = ("interval", "timeout", "start-period", "start-interval")
    durations = {f"{n.replace('-', '_')}_ns": _duration(a, n, a.flag(n)) for n in names}
    retries = a.flag("retries") or "0"
    if not retries.isdigit():
        raise a.error(f"--retries must be a number, not {retries}")
    kind, _, rest = re.sub(r"\s", " ", a.text, count=1).partition(" ")
    a.text = rest.strip()
    if kind.upper() == "NONE" and not a.text:
        return Healthcheck(command=None, at=a.at)
    if kind.upper() != "CMD" or not a.text:
        raise a.error("HEALTHCHECK must be HEALTHCHECK CMD COMMAND or HEALTHCHECK NONE")
    return Healthcheck(command=a.command(), retries=int(retries), **durations, at=a.at)


_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_UNITS_NS["h"] = 3600 * 10**9


def _duration(a: _Arguments, name: str, text: str) -> int:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise a.error(f"--{name} must be a duration like 30s or 1m30s, not {text}")
    return sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)


def _onbuild(a: _Arguments) -> Onbuild:
    keyword = a.text.split()[0].upper()
    if keyword in ("FROM", "ONBUILD", "MAINTAINER"):
        raise a.error(f"ONBUILD cannot hold {keyword}")
    # Checked now, so that the error names this file and not the one built from the image.
    a.check(a.text)
    if a.at.heredocs:
        raise a.error("ONBUILD cannot hold a here-document")
    return Onbuild(trigger=a.text, at=a.at)


_INSTRUCTIONS: Mapping[str, Callable[[_Arguments], From | Step]] = {
    "FROM": _from,
    "RUN": _run,
    "COPY": _copy,
    "ADD": _copy,
    "ARG": _arg,
    "ENV": lambda a: Env(pairs=a.pairs(), at=a.at),
    "LABEL": lambda a: Label(pairs=a.pairs(), at=a.at),
    "WORKDIR": lambda a: Workdir(path=a.text, at=a.at),
    "USER": lambda a: User(user=a.single(), at=a.at),
    "EXPOSE": lambda a: Expose(ports=tuple(a.words()), at=a.at),
    "ENTRYPOINT": lambda a: Entrypoint(command=a.command(), at=a.at),
    "CMD": lambda a: Cmd(command=a.command(), at=a.at),
    "SHELL": _shell,
    "VOLUME": lambda a: Volume(paths=a.list(), at=a.at),
    "HEALTHCHECK": _healthcheck,
    "STOPSIGNAL": lambda a: Stopsignal(signal=a.single(), at=a.at),
    "ONBUILD": _onbuild,
    "MAINTAINER": lambda a: Maintainer(name=a.text, at=a.at),
}
