"""``underway build``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from underway.base.errors import BadRequest
from underway.base.home import Home
from underway.kit.ports import BuildRequest


def _pairs(values: tuple[str, ...], what: str) -> dict[str, str]:
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name:
            raise BadRequest(f"{what} {text!r} has no name")
        if not equals and name not in os.environ:
            continue  # as `docker build`: a bare name passes on the environment's value, if any
        found[name] = value if equals else os.environ[name]
    return found


def _secrets(values: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in values:
        options = dict(part.partition("=")[::2] for part in text.split(","))
        source = options.get("src") or options.get("source")
        if not options.get("id") or not source or not Path(source).is_file():
            raise BadRequest(f"--secret {text!r} must be id=NAME,src=FILE with a file that exists")
        found[options["id"]] = Path(source)
    return found


@click.command()
@click.argument("path", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("-f", "--file", type=click.Path(path_type=Path), help="PATH/Dockerfile by default.")
@click.option("-t", "--tag", default="", help="The image's name.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE")
@click.option("--target", default="", help="Build this stage instead of the last.")
@click.option("--no-cache", is_flag=True, help="Run every step anew.")
@click.option("--push/--no-push", default=None, help="Push to the platform's registry.")
@click.option("--secret", "secrets", multiple=True, metavar="id=NAME,src=FILE")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write an OCI image layout here."
)
@click.option("--iidfile", type=click.Path(path_type=Path), help="Write the image's digest here.")
@click.option("-q", "--quiet", is_flag=True, help="Print the digest alone.")
def build(
    path: Path,
    file: Path | None,
    tag: str,
    build_args: tuple[str, ...],
    labels: tuple[str, ...],
    target: str,
    no_cache: bool,
    push: bool | None,
    secrets: tuple[str, ...],
    output: Path | None,
    iidfile: Path | None,
    quiet: bool,
) -> None:
    """Build an image from the Dockerfile in PATH.

    It is pushed to the platform's registry where it has a tag, unless --no-push is given.
    """
    from underway.capabilities.build.backend.builder import Builder, Extras

    arguments = _pairs(build_args, "--build-arg")
    if "SOURCE_DATE_EPOCH" in os.environ:
        arguments.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    request = BuildRequest(
        context=path,
        dockerfile=file or path / "Dockerfile",
        tag=tag,
        target=target,
        build_args=arguments,
        labels=_pairs(labels, "--label"),
        no_cache=no_cache,
        push=bool(tag) if push is None else push,
    )
    extras = Extras(output.absolute() if output else None, _secrets(secrets))

    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    result = Builder(Home.from_environment()).build(request, tell, extras)
    tell(
        f"built {tag or 'image'}: {result.size_bytes / 1e6:.1f} MB,"
        f" {result.steps_cached} steps from the cache"
    )
    if iidfile:
        iidfile.write_text(result.digest)
    click.echo(result.digest)
