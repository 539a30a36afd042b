"""``underway provenance``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, Forbidden
from underway.base.home import Home
from underway.capabilities.provenance.cli.output import FORMAT, print_json

if TYPE_CHECKING:
    from underway.capabilities.provenance.rules.verification import Verified

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def provenance() -> None:
    """Where images come from, and proofs of it.

    \b
    underway provenance show default/guestbook:latest
    underway provenance layout lint root.layout
    underway provenance layout verify root.layout --key owner.pub --links .
    """


@provenance.group()
def layout() -> None:
    """in-toto layouts."""


@layout.command()
@click.argument("file", type=_FILE)
@FORMAT
def lint(file: Path, output: str) -> None:
    """Look for holes in the layout FILE: what lets a tampered product through.

    Ends with 1 where there is an error.

    \b
    underway provenance layout lint root.layout
    underway provenance layout lint root.layout -o json | jq '.problems[].message'
    """
    from underway.capabilities.provenance.backend import links
    from underway.capabilities.provenance.rules import layouts

    try:
        read = layouts.parse(links.read_metadata(file).signed)
    except ValueError as error:
        raise BadRequest(f"{file}: {error}") from error
    problems = layouts.lint(read, SystemClock().now())
    if output == "json":
        print_json({"problems": [each.as_dict() for each in problems]})
    else:
        for each in problems:
            remedy = f" ({each.remedy})" if each.remedy else ""
            click.echo(f"{each.severity:<8} {each.where}: {each.message}{remedy}")
        if not problems:
            click.echo("no holes found")
    if any(each.severity == layouts.ERROR for each in problems):
        raise SystemExit(1)


@layout.command()
@click.argument("file", type=_FILE)
@click.option("--key", "keys", type=_FILE, multiple=True, required=True, help="Owner's public key.")
@click.option("--links", "where", type=_DIRECTORY, default=Path(), help="Where the links lie.")
@click.option("--product", type=_DIRECTORY, default=Path(), help="What is inspected.")
@click.option("--allow-inspection", "allowed", multiple=True, help="An inspection that may run.")
@click.option("--parameter", "parameters", multiple=True, help="NAME=VALUE put into the layout.")
@FORMAT
def verify(
    file: Path,
    keys: tuple[Path, ...],
    where: Path,
    product: Path,
    allowed: tuple[str, ...],
    parameters: tuple[str, ...],
    output: str,
) -> None:
    """Verify a product by the layout FILE and the links of its steps.

    Every --key must have signed the layout. A layout with a hole is refused, and inspections
    run only where they are allowed by name.

    \b
    underway provenance layout verify root.layout --key owner.pub --links links
    underway provenance layout verify root.layout --key owner.pub --allow-inspection untar
    """
    from underway.capabilities.provenance.backend import links
    from underway.capabilities.provenance.rules import verification
    from underway.capabilities.provenance.rules.artifacts import Refused

    owners = dict(links.read_key(each) for each in keys)
    terms = verification.Terms(
        SystemClock().now(),
        dict(_pair(each) for each in parameters),
        allowed,
        lambda step: links.inspect(product, step),
    )
    metadata = links.read_metadata(file)
    try:
        found = verification.verify(metadata, owners, links.Directory(where), terms)
    except Refused as error:
        raise Forbidden(
            f"{file} does not hold: {error}", hint=f"underway provenance layout lint {file}"
        ) from error
    _print_verified(found, output)


def _print_verified(found: Verified, output: str) -> None:
    from underway.capabilities.provenance.rules.verification import explained

    if output == "json":
        print_json({
            "verified": True,
            "steps": found.steps,
            "inspections": found.inspections,
            "products": found.summary.products,
            "warnings": found.warnings,
        })  # fmt: skip
        return
    for each in found.warnings:
        click.echo(f"warning: {each}", err=True)
    click.echo(f"verified: {explained((*found.steps, *found.inspections))}")
    for path, digest in sorted(found.summary.products.items()):
        click.echo(f"  {path} {next(iter(digest.items()), ('', ''))[1]}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadRequest(f"--parameter {text}: not NAME=VALUE")
    return name, value


@provenance.command()
@click.argument("image")
@click.option(
    "--links", "target", type=click.Path(file_okay=False, path_type=Path),
    help="Write the in-toto links and the key they are signed by to this directory.",
)  # fmt: skip
@FORMAT
def show(image: str, target: Path | None, output: str) -> None:
    """What is proved of IMAGE: signatures, attestations, links and notes.

    \b
    underway provenance show default/guestbook:latest
    underway provenance show default/guestbook@sha256:... -o json
    """
    from underway.capabilities.provenance.backend import showing

    home = Home.from_environment()
    found: dict[str, Any] = showing.shown(home, image)
    if target is not None:
        for path in showing.export_links(home, found["digest"], target):
            click.echo(f"wrote {path}", err=True)
    if output == "json":
        print_json(found)
        return
    for line in showing.lines(found):
        click.echo(line)


@provenance.command("grafeas-grpc")
@click.option("--port", type=click.IntRange(0, 65535), default=8084, show_default=True)
def grafeas_grpc(port: int) -> None:
    """Serve Grafeas over gRPC until interrupted, in front of the platform's REST API.

    Needs the packages grpcio and grafeas. Clients show a token of the cluster as metadata
    `authorization: Bearer ...`.

    \b
    underway provenance grafeas-grpc --port 8084
    """
    import asyncio

    from underway.capabilities.provenance.routes import grpc

    home = Home.from_environment()

    def ready(bound: int) -> None:
        click.echo(f"grafeas.v1.Grafeas on port {bound}")

    try:
        asyncio.run(grpc.serve(home, port, ready))
    except KeyboardInterrupt:
        click.echo("ended", err=True)
