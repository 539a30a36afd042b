"""Which stages of a Dockerfile have to be built, and with which variables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from underway.base.errors import BadRequest
from underway.wire.dockerfile_instructions import Arg, Copy, Dockerfile, Instruction, Run, Stage
from underway.wire.dockerfile_words import expand

PROXY_ARGS = frozenset(
    name
    for each in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (each, each.lower())
)
"""Build arguments that every RUN sees without declaring them, and that no cache key holds."""


@dataclass(frozen=True)
class StagePlan:
    """A stage with what it stands on: ``base_stage`` is an index, or None for ``base_image``.

    ``needs`` are the indexes of all stages it takes something from.
    """

    stage: Stage
    base_stage: int | None
    base_image: str
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The stages to build, each after those it needs; the last one is the target."""

    dockerfile: Dockerfile
    variables: Mapping[str, str]
    stages: tuple[StagePlan, ...]

    def stage_named(self, name: str, before: int) -> int | None:
        """The index of the stage that ``--from=NAME`` means for the stage ``before``."""
        return _find(self.dockerfile, name, before)


def plan(
    dockerfile: Dockerfile,
    target: str,
    build_args: Mapping[str, str],
    machine: Mapping[str, str],
    named: Collection[str] = (),
) -> Plan:
    """Choose the stages that the target needs.

    Args:
        dockerfile: the whole file.
        target: a stage's name or number; empty for the last.
        build_args: ``--build-arg`` values.
        machine: the platform arguments (``TARGETARCH`` ...).
        named: names of contexts, which stand for stages of those names.

    Raises:
        BadRequest: no such target, or a FROM that comes to nothing.
    """
    variables = dict(machine)
    for instruction in dockerfile.args:
        for name, default in instruction.pairs:
            if name in build_args:
                variables[name] = build_args[name]
            elif default is not None:
                variables[name] = word(dockerfile, instruction, default, variables)
    last = len(dockerfile.stages) - 1
    if target:
        found = _find(dockerfile, target, len(dockerfile.stages))
        if found is None:
            names = ", ".join(s.name or str(s.index) for s in dockerfile.stages)
            raise BadRequest(f"{dockerfile.file}: no stage {target!r}", hint=f"there are: {names}")
        last = found
    plans: dict[int, StagePlan] = {}
    _need(dockerfile, last, variables, plans, named)
    return Plan(dockerfile, variables, tuple(plans[index] for index in sorted(plans)))


def _need(
    dockerfile: Dockerfile,
    index: int,
    variables: Mapping[str, str],
    plans: dict[int, StagePlan],
    named: Collection[str],
) -> None:
    pending = [index]
    while pending:
        index = pending.pop()
        if index in plans:
            continue
        stage = dockerfile.stages[index]
        image = word(dockerfile, stage.base, stage.base.image, variables)
        if not image:
            raise dockerfile.error(
                stage.base.line,
                f"FROM {stage.base.image} comes to nothing",
                "give its ARG a default before the first FROM, or pass --build-arg",
            )
        base = next((s.index for s in dockerfile.stages[:index] if s.name == image.lower()), None)
        base = None if image in named else base
        needed = [] if base is None else [base]
        for step in stage.steps:
            names = [step.stage] if isinstance(step, Copy) and step.stage else []
            if isinstance(step, Run):
                names += [m["from"] for m in step.mounts if m.get("from")]
            found = (_find(dockerfile, n, index) for n in names if n not in named)
            needed += [i for i in found if i is not None]
        base_image = "" if base is not None else image
        plans[index] = StagePlan(stage, base, base_image, tuple(sorted(set(needed))))
        pending += needed


def _find(dockerfile: Dockerfile, name: str, before: int) -> int | None:
    for stage in dockerfile.stages[:before]:
        if stage.name and stage.name == name.lower():
            return stage.index
    if name.isdigit() and int(name) < before:
        return int(name)
    return None


def word(
    dockerfile: Dockerfile, instruction: Instruction, text: str, scope: Mapping[str, str]
) -> str:
    """A word with its variables replaced; what is wrong with it names file and line."""
    try:
        return expand(text, scope, dockerfile.escape)
    except ValueError as error:
        raise dockerfile.error(instruction.line, str(error)) from error


def declare(
    dockerfile: Dockerfile,
    instruction: Arg,
    scope: dict[str, str],
    build_args: Mapping[str, str],
    outer: Mapping[str, str],
) -> None:
    """Bring a stage's ``ARG`` into its scope.

    A value comes from the command line, else from its default, else from the ``ARG`` of that
    name before the first ``FROM``.
    """
    for name, default in instruction.pairs:
        if name in build_args:
            scope[name] = build_args[name]
        elif default is not None:
            scope[name] = word(dockerfile, instruction, default, scope)
        elif name in outer:
            scope[name] = outer[name]


def unused_args(dockerfile: Dockerfile, build_args: Mapping[str, str]) -> list[str]:
    """Build arguments that no ``ARG`` declares: most likely a slip of the pen."""
    declared = {name for each in dockerfile.args for name, _ in each.pairs}
    for stage in dockerfile.stages:
        for step in stage.steps:
            if isinstance(step, Arg):
                declared |= {name for name, _ in step.pairs}
    return sorted(set(build_args) - declared - PROXY_ARGS - {"SOURCE_DATE_EPOCH"})
