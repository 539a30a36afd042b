"""What is allowed in a Dockerfile but most likely not meant: warnings, by BuildKit's rule names.

Source: BuildKit ``frontend/dockerfile/docs/rules`` and the ``check`` directive of ``reference.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from underway.base.errors import BadRequest
from underway.wire import dockerfile_instructions as ins
from underway.wire.dockerfile_words import expand, split

_SECRET = re.compile(
    r"(?:^|_)(?:apikey|auth|credentials?|key|passw(?:or)?d|pwd|secret|token)(?:_|$)", re.I
)
_PUBLIC = re.compile(r"(?:^|_)(?:public|file|path|url|id|name)(?:_|$)", re.I)
PLATFORM_ARGS = tuple(
    f"{side}{part}"
    for side in ("TARGET", "BUILD")
    for part in ("PLATFORM", "OS", "ARCH", "VARIANT")
)
_RESERVED = ("scratch", "context")
_ONCE = (ins.Cmd, ins.Entrypoint, ins.Healthcheck)


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a line breaks."""

    rule: str
    line: int
    message: str


def lint(dockerfile: ins.Dockerfile) -> list[Finding]:
    """What the file's text alone shows, in the order of its lines.

    Raises:
        BadRequest: the file's ``check`` directive makes findings errors, and there is one.
    """
    found = [*_casing(dockerfile), *_global_args(dockerfile)]
    for stage in dockerfile.stages:
        found += _from(stage.base)
        for step in stage.steps:
            found += _step(step)
        found += _stage(stage)
    return judged(dockerfile, found)


def undefined(
    dockerfile: ins.Dockerfile, stage: ins.Stage, known: Collection[str]
) -> list[Finding]:
    """Variables a stage uses and nobody sets; ``known`` are those it starts with.

    Raises:
        BadRequest: as ``lint``.
    """
    names, found = set(known), []
    for step in stage.steps:
        used: dict[str, None] = {}
        for word in _words(step):
            _expand(word, dockerfile.escape, used.setdefault)
        missing = [n for n in used if n not in names and n.isidentifier()]
        found += [
            Finding("UndefinedVar", step.line, f"${name} is not set by an ARG or ENV before it")
            for name in missing
        ]
        if isinstance(step, ins.Arg | ins.Env):
            names |= {name for name, _ in step.pairs}
    return judged(dockerfile, found)


def judged(dockerfile: ins.Dockerfile, found: Iterable[Finding]) -> list[Finding]:
    """Findings less those the ``check`` directive skips; an error where it asks for that."""
    wanted = _directive(dockerfile.directives)
    skipped = {name.strip().lower() for name in wanted.get("skip", "").split(",")}
    if "all" in skipped:
        return []
    left = sorted((f for f in found if f.rule.lower() not in skipped), key=lambda f: f.line)
    if left and wanted.get("error", "").lower() == "true":
        raise dockerfile.error(left[0].line, f"{left[0].rule}: {left[0].message}")
    return left


def _directive(directives: Mapping[str, str]) -> dict[str, str]:
    parts = (part.partition("=") for part in directives.get("check", "").split(";"))
    return {name.strip().lower(): value.strip() for name, _, value in parts}


def _casing(dockerfile: ins.Dockerfile) -> Iterator[Finding]:
    keywords = [
        (each.line, each.at.source.split(None, 1)[0])
        for stage in dockerfile.stages
        for each in (stage.base, *stage.steps)
    ]
    lower = sum(word.islower() for _, word in keywords)
    style = "lower" if lower > len(keywords) / 2 else "upper"
    for line, word in keywords:
        if not (word.islower() if style == "lower" else word.isupper()):
            message = f"{word} is not written in {style} case as the file's other instructions are"
            yield Finding("ConsistentInstructionCasing", line, message)


def _global_args(dockerfile: ins.Dockerfile) -> Iterator[Finding]:
    """Variables of FROM: those nobody declares, and those without which there is no image."""
    defaults = {name: value or "" for each in dockerfile.args for name, value in each.pairs}
    known = {**dict.fromkeys(PLATFORM_ARGS, "x"), **defaults}
    for stage in dockerfile.stages:
        base, used = stage.base, dict[str, None]()
        for word in (base.image, base.platform):
            _expand(word, dockerfile.escape, used.setdefault)
        missing = [name for name in used if name not in known]
        for name in missing:
            message = f"${name} is not declared by an ARG before the first FROM"
            yield Finding("UndefinedArgInFrom", base.line, message)
        if "$" not in base.image or missing:
            continue
        try:
            image = expand(base.image, known, dockerfile.escape)
        except (ValueError, BadRequest):
            continue
        if not image or not image[0].isalnum() or image[-1] in ":@/":
            message = f"without --build-arg, {base.image} comes to {image or 'nothing'}"
            yield Finding("InvalidDefaultArgInFrom", base.line, message)


def _from(base: ins.From) -> Iterator[Finding]:
    words = base.at.source.split()
    if base.alias:
        if words[-2].isupper() != words[0].isupper():
            message = f"{words[-2]} and {words[0]} differ in case"
            yield Finding("FromAsCasing", base.line, message)
        if words[-1] != words[-1].lower():
            message = f"the stage name {words[-1]} should be in lower case"
            yield Finding("StageNameCasing", base.line, message)
        if base.alias in _RESERVED:
            yield Finding("ReservedStageName", base.line, f"{base.alias} has a meaning of its own")
    if base.platform and "$" not in base.platform:
        arch = base.platform.removeprefix("linux/").split("/")[0]
        if arch not in base.alias:
            message = f"--platform={base.platform} ties this stage to one platform"
            yield Finding("FromPlatformFlagConstDisallowed", base.line, message)
    if base.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        message = f"--platform={base.platform} is the default"
        yield Finding("RedundantTargetPlatform", base.line, message)


def _step(step: ins.Step) -> Iterator[Finding]:
    if isinstance(step, ins.Maintainer):
        message = "MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors"
        yield Finding("MaintainerDeprecated", step.line, message)
    if isinstance(step, ins.Env | ins.Label) and "=" not in split(step.at.source)[1]:
        message = f"{step.keyword} NAME VALUE is an old form: write {step.keyword} NAME=VALUE"
        yield Finding("LegacyKeyValueFormat", step.line, message)
    if isinstance(step, ins.Arg | ins.Env):
        for name, _ in step.pairs:
            if _SECRET.search(name) and not _PUBLIC.search(name):
                message = (
                    f"{step.keyword} {name} stays readable in the image: RUN --mount=type=secret"
                )
                yield Finding("SecretsUsedInArgOrEnv", step.line, message)
    if isinstance(step, ins.Expose):
        for port in step.ports:
            if port != port.lower() and "$" not in port:
                yield Finding("ExposeProtoCasing", step.line, f"{port} should be in lower case")


def _stage(stage: ins.Stage) -> Iterator[Finding]:
    shell = any(isinstance(step, ins.Shell) for step in stage.steps)
    for step in stage.steps:
        if isinstance(step, ins.Cmd | ins.Entrypoint) and step.command.shell and not shell:
            message = (
                f"{step.keyword} in shell form keeps signals from the program: use a JSON list"
            )
            yield Finding("JSONArgsRecommended", step.line, message)
    for kind in _ONCE:
        for step in [step for step in stage.steps if isinstance(step, kind)][:-1]:
            message = f"only the last {step.keyword} of a stage has an effect"
            yield Finding("MultipleInstructionsDisallowed", step.line, message)
    for step in stage.steps:
        if isinstance(step, ins.Workdir):
            if not step.path.lstrip("\"'").startswith(("/", "$")):
                message = f"WORKDIR {step.path} depends on the base image's own: start with /"
                yield Finding("WorkdirRelativePath", step.line, message)
            break


def _words(step: ins.Step) -> list[str]:
    """The words of an instruction in which the builder, not a shell, replaces variables."""
    if isinstance(step, ins.Env | ins.Label):
        return [word for pair in step.pairs for word in pair]
    if isinstance(step, ins.Arg):
        return [value for _, value in step.pairs if value is not None]
    if isinstance(step, ins.Copy):
        return [*step.sources, step.destination, step.chown, step.chmod, step.stage]
    found: Mapping[type, Callable[..., list[str]]] = {
        ins.Workdir: lambda s: [s.path],
        ins.User: lambda s: [s.user],
        ins.Expose: lambda s: list(s.ports),
        ins.Volume: lambda s: list(s.paths),
        ins.Stopsignal: lambda s: [s.signal],
    }
    return found[type(step)](step) if type(step) in found else []


def _expand(word: str, escape: str, used: Callable[[str], object]) -> None:
    """Tell which variables a word needs; one with a default needs none."""
    for match in re.finditer(r"\$\{(\w+):?[-+?]", word):
        word = word.replace(f"${{{match[1]}", "${_")
    try:
        expand(word, {"_": ""}, escape, used=lambda name: name != "_" and used(name))
    except (ValueError, BadRequest):
        return  # what is wrong with it is said when it is built
