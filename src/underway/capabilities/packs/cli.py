"""``underway pack``: see what a source is, and write what it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import (
    DEPLOYMENTS,
    FEATURES,
    LANGUAGES,
    SERVICES,
    Options,
)

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
_NAME = click.option(
    "--name", default="", help="The application's name; otherwise the directory's."
)
_PORT = click.option("--port", type=click.IntRange(1, 65_535), help="The port it shall listen on.")
_WITH = click.option(
    "--with", "features", multiple=True, type=click.Choice(FEATURES), help="Write this as well."
)
_HOST = click.option("--host", default="", help="The host name of the Ingress.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")


@click.group()
def pack() -> None:
    """Detect what a source directory is and write what it lacks."""


@pack.command()
@click.argument("path", type=_DIRECTORY, default=".")
@_PORT
@_OUTPUT
def detect(path: Path, port: int | None, output: str) -> None:
    """Say what PATH is and how it would be run; writes nothing."""
    from underway.capabilities.packs.backend.fitting import Fitter

    plan = Fitter().propose(path, "", port).plan
    if output == "json":
        found = {"language": plan.language, "evidence": plan.evidence, "port": plan.port}
        _print_json({**found, "command": list(plan.command)})
        return
    click.echo(plan.evidence)
    click.echo(f"language: {plan.language}")
    click.echo(f"port: {plan.port}")
    if plan.command:
        click.echo(f"command: {' '.join(plan.command)}")


@pack.command()
@click.argument("path", type=_DIRECTORY, default=".")
@_NAME
@_PORT
@click.option(
    "--deploy", type=click.Choice(DEPLOYMENTS), default="manifests", show_default=True,
    help="In which form it is deployed.",
)  # fmt: skip
@_WITH
@click.option(
    "--service", type=click.Choice(SERVICES), default="NodePort", show_default=True,
    help="The type of its Service.",
)  # fmt: skip
@_HOST
@click.option("--pipeline", type=click.Choice(["github"]), help="Write a delivery workflow too.")
@click.option("--pack", "draft_pack", type=_DIRECTORY, help="Take the files of this Draft pack.")
@click.option("--variable", "variables", multiple=True, metavar="NAME=VALUE",
              help="A variable of the Draft pack.")  # fmt: skip
@_DRY_RUN
@_OUTPUT
def create(
    path: Path,
    name: str,
    port: int | None,
    deploy: str,
    features: tuple[str, ...],
    service: str,
    host: str,
    pipeline: str | None,
    draft_pack: Path | None,
    variables: tuple[str, ...],
    dry_run: bool,
    output: str,
) -> None:
    """Write the Dockerfile, the manifests and what else PATH lacks.

    What is there is kept. Manifests lie in .underway, where ship looks for them; overlays in base
    and overlays, a chart in charts.

    \b
    underway pack create .
    underway pack create ./shop --with ingress --with hpa --host shop.example.org
    underway pack create . --deploy helm --pipeline github
    underway pack create . --pack ./packs/python --variable PORT=8000 --dry-run -o json
    """
    from underway.capabilities.packs.backend import drafts, fitting

    fitter = fitting.Fitter()
    if draft_pack is not None:
        given = _pairs(variables)
        files = fitting.missing(path, drafts.pack_files(draft_pack, given))
        _finish(path, files, given, dry_run, output)
        return
    if variables:
        raise BadRequest("--variable is for --pack", hint="name the Draft pack: --pack DIR")
    options = Options(deploy, features, service, host, pipeline or "")
    proposal = fitter.propose(path, name, port, options)
    values = {"NAME": proposal.name, "PORT": str(proposal.plan.port),
              "LANGUAGE": proposal.plan.language}  # fmt: skip
    if output == "text":
        click.echo(proposal.plan.evidence)
    if not dry_run:
        fitter.fit(path, name, port, options)
    _tell(path, proposal.files, values, dry_run, output)


@pack.command()
@click.argument("path", type=_DIRECTORY, default=".")
@_NAME
@_WITH
@_HOST
@_DRY_RUN
@_OUTPUT
def update(
    path: Path, name: str, features: tuple[str, ...], host: str, dry_run: bool, output: str
) -> None:
    """Add an Ingress, an autoscaler or a disruption budget to an application in PATH.

    \b
    underway pack update . --with ingress --host shop.example.org
    """
    from underway.capabilities.packs.backend import fitting

    if not features:
        raise BadRequest("nothing to add", hint=f"--with {'|'.join(FEATURES)}")
    files = fitting.additions(path, name, Options(features=features, host=host))
    _finish(path, files, {}, dry_run, output)


@pack.command(name="list")
@_OUTPUT
def list_(output: str) -> None:
    """List the languages that are recognised, and by what."""
    from underway.capabilities.packs.rules.detect import LOOKED_FOR

    if output == "json":
        languages = [{"name": each, "knownBy": LOOKED_FOR[each]} for each in LANGUAGES]
        _print_json({"supportedLanguages": languages, "supportedDeploymentTypes": DEPLOYMENTS})
        return
    for each in LANGUAGES:
        click.echo(f"{each:<8} {LOOKED_FOR[each]}")


@pack.command()
@click.argument("language", type=click.Choice(LANGUAGES))
@_OUTPUT
def info(language: str, output: str) -> None:
    """Say what is written for a language."""
    from underway.capabilities.packs.backend.rendering import dockerfile_templates
    from underway.capabilities.packs.rules.detect import LOOKED_FOR

    templates = dockerfile_templates(language)
    if output == "json":
        _print_json({"name": language, "knownBy": LOOKED_FOR[language], "templates": templates,
                     "supportedDeploymentTypes": DEPLOYMENTS, "features": FEATURES})  # fmt: skip
        return
    click.echo(f"{language}: {LOOKED_FOR[language]}")
    for name, text in templates.items():
        click.echo(f"\n{name}:\n{text}".rstrip())


@pack.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path), default=".")
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@_OUTPUT
@click.pass_context
def validate(context: click.Context, path: Path, strict: bool, output: str) -> None:
    """Check the manifests of PATH (a file, or a source directory) against the safeguards.

    Ends with 1 where there is an error.
    """
    from underway.capabilities.packs.backend.fitting import read_objects
    from underway.capabilities.packs.rules import safeguards

    found = safeguards.check(read_objects(path))
    if output == "json":
        _print_json({"findings": found, "rules": safeguards.RULES})
    else:
        for each in found:
            click.echo(f"{each.level}: {each.object}: {each.message} ({each.rule})")
        if not found:
            click.echo("nothing to object to")
    if any(strict or each.level == "error" for each in found):
        context.exit(1)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for name, mark, _ in pairs:
        if not mark or not name:
            raise BadRequest(f"--variable {name}: not NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _finish(
    path: Path, files: dict[str, str], values: dict[str, str], dry_run: bool, output: str
) -> None:
    from underway.capabilities.packs.backend.fitting import write

    if not dry_run:
        write(path, files)
    _tell(path, files, values, dry_run, output)


def _tell(
    path: Path, files: Iterable[str], values: dict[str, str], dry_run: bool, output: str
) -> None:
    names = list(files)
    if output == "json":
        _print_json({"variables": values, "filesToWrite": [str(path / name) for name in names]})
        return
    for name in names:
        click.echo(f"{'would write' if dry_run else 'wrote'} {name}")
    if not names:
        click.echo("nothing was missing")


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
