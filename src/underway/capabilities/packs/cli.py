"""``underway pack``: see what a source is, and write what it lacks."""

from __future__ import annotations

from pathlib import Path

import click

from underway.capabilities.packs.backend import Fitter, read_listing
from underway.capabilities.packs.rules import detect as detect_plan

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def pack() -> None:
    """Detect what a source directory is and write what it lacks."""


@pack.command()
@click.argument("path", type=_DIRECTORY, default=".")
@click.option("--port", type=click.IntRange(1, 65_535), help="The port it shall listen on.")
def detect(path: Path, port: int | None) -> None:
    """Say what PATH is and how it would be run; writes nothing."""
    plan = detect_plan(read_listing(path), port)
    click.echo(plan.evidence)
    click.echo(f"language: {plan.language}")
    click.echo(f"port: {plan.port}")
    if plan.command:
        click.echo(f"command: {' '.join(plan.command)}")


@pack.command()
@click.argument("path", type=_DIRECTORY, default=".")
@click.option("--name", default="", help="The application's name; otherwise the directory's.")
@click.option("--port", type=click.IntRange(1, 65_535), help="The port it shall listen on.")
def create(path: Path, name: str, port: int | None) -> None:
    """Write the Dockerfile and the manifests that PATH lacks."""
    fitted = Fitter().fit(path, name, port)
    click.echo(fitted.evidence)
    for file in fitted.written:
        click.echo(f"wrote {file.relative_to(fitted.root)}")
    if not fitted.written:
        click.echo("nothing was missing")
