"""``underway build --check`` and ``--call``: what a Dockerfile says, without building it.

Source: docker buildx ``--call`` (check, outline, targets).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from underway.base.errors import BadRequest


def run(call: str, file: Path, flags: dict[str, Any]) -> int:
    """Print what is asked for; the exit code: 1 where a check found something.

    Raises:
        BadRequest: the Dockerfile cannot be read or parsed, or there is no such call.
    """
    from underway.wire.dockerfile import parse

    name, _, form = call.partition(",")
    try:
        dockerfile = parse(file.read_text(encoding="utf-8"), file.name)
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read {file}: {error}") from error
    kinds = {"check": _check, "lint": _check, "targets": _targets, "outline": _outline}
    if name not in kinds:
        raise BadRequest(f"--call {call}: there are build, {', '.join(kinds)}")
    found = kinds[name](dockerfile, flags)
    if form == "format=json":
        from underway.capabilities.build.backend.layout import encode

        click.echo(encode(found).decode())
    else:
        for each in found:
            click.echo("  ".join(str(value) for value in each.values() if value != ""))
    return 1 if found and name in ("check", "lint") else 0


def _check(dockerfile: Any, flags: dict[str, Any]) -> list[dict[str, Any]]:
    from underway.capabilities.build.backend import machine
    from underway.capabilities.build.cli_options import pairs
    from underway.capabilities.build.rules.stages import PROXY_ARGS, plan
    from underway.wire import dockerfile_lint as lint

    arguments = pairs(flags["build_args"], "--build-arg")
    known = {*PROXY_ARGS, *machine.platform_args(), "PATH", "SOURCE_DATE_EPOCH"}
    stages = plan(dockerfile, flags["target"], arguments, machine.platform_args()).stages
    found = lint.lint(dockerfile)
    for each in stages:
        # What a base image sets is not known without fetching it.
        if each.base_stage is None and each.base_image == "scratch":
            found += lint.undefined(dockerfile, each.stage, known)
    rows = [
        {"where": f"{dockerfile.file}:{each.line}", "rule": each.rule, "message": each.message}
        for each in found
    ]
    if not rows:
        click.echo("Check complete, no warnings found.")
    return rows


def _targets(dockerfile: Any, _flags: dict[str, Any]) -> list[dict[str, Any]]:
    last = len(dockerfile.stages) - 1
    return [
        {
            "target": each.name or str(each.index),
            "base": each.base.image,
            "default": "(default)" if each.index == last else "",
        }
        for each in dockerfile.stages
    ]


def _outline(dockerfile: Any, flags: dict[str, Any]) -> list[dict[str, Any]]:
    from underway.capabilities.build.backend import machine
    from underway.capabilities.build.cli_options import pairs
    from underway.capabilities.build.rules.stages import plan
    from underway.wire import dockerfile_instructions as ins

    arguments = pairs(flags["build_args"], "--build-arg")
    chosen = plan(dockerfile, flags["target"], arguments, machine.platform_args())
    rows = [_argument(pair) for each in dockerfile.args for pair in each.pairs]
    for planned in chosen.stages:
        for step in planned.stage.steps:
            if isinstance(step, ins.Arg):
                rows += [_argument(pair) for pair in step.pairs]
            elif isinstance(step, ins.Run):
                rows += [
                    {"kind": mount["type"], "name": mount.get("id", ""), "value": ""}
                    for mount in step.mounts
                    if mount["type"] in ("secret", "ssh")
                ]
    return rows


def _argument(pair: tuple[str, str | None]) -> dict[str, Any]:
    return {"kind": "arg", "name": pair[0], "value": pair[1] or ""}
