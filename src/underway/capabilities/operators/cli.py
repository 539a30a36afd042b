"""``underway operator``: begin an operator of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def operator() -> None:
    """Write a new operator project."""


@operator.command()
@click.argument("name")
@click.option("--group", required=True, help="API group: a domain, such as example.com.")
@click.option("--kind", required=True, help="The custom resource's kind, such as Widget.")
@click.option("--version", default="v1alpha1", show_default=True, help="Its version.")
@click.option("--plural", default="", help="Its plural; by default the kind's usual one.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to write; by default ./NAME."
)
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would be written.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def new(
    name: str,
    group: str,
    kind: str,
    version: str,
    plural: str,
    folder: Path | None,
    dry_run: bool,
    output: str,
) -> None:
    """Write an operator called NAME: model, controller, tests, image and manifests.

    It runs and its tests pass as it is. Nothing that is there is overwritten.
    """
    from underway.capabilities.operators import scaffold
    from underway.capabilities.operators.rules.project import project

    made = project(name, group, kind, version, plural)
    target = folder or Path(name)
    if dry_run:
        files = scaffold.files_of(made)
        if output == "json":
            click.echo(json.dumps({"folder": str(target), "files": files}, indent=2))
        else:
            for path in files:
                click.echo(str(target / path))
        return
    written = scaffold.create(made, target)
    if output == "json":
        click.echo(
            json.dumps({"folder": str(target), "files": [str(each) for each in written]}, indent=2)
        )
        return
    for path in written:
        click.echo(f"wrote {target / path}")
    click.echo(f"next: cd {target} && python -m pytest")
