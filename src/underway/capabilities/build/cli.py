"""``underway build``, with docker buildx's common flags."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from underway.base.errors import BadRequest

_TRUE = ("true", "1")
_KINDS = ("oci", "docker", "tar", "local", "registry", "image")


def pairs(values: tuple[str, ...], what: str) -> dict[str, str]:
    """``NAME=VALUE`` words; a bare name passes on the environment's value, if any.

    Raises:
        BadRequest: a word has no name.
    """
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name:
            raise BadRequest(f"{what} {text!r} has no name")
        if not equals and name not in os.environ:
            continue
        found[name] = value if equals else os.environ[name]
    return found


def _options(text: str) -> dict[str, str]:
    return dict(part.strip().partition("=")[::2] for part in text.split(","))


def secrets_of(values: tuple[str, ...]) -> dict[str, Path | bytes]:
    """``id=NAME[,src=FILE|,env=VARIABLE]``; without either, the variable or file of that name.

    Raises:
        BadRequest: the secret is not there; the message never holds its value.
    """
    found: dict[str, Path | bytes] = {}
    for text in values:
        options = _options(text)
        name = options.get("id", "")
        source = options.get("src") or options.get("source") or ""
        variable = options.get("env", "")
        if not source and not variable and name in os.environ:
            variable = name
        if name and variable in os.environ and options.get("type") != "file":
            found[name] = os.environ[variable].encode()
        elif name and Path(source or name).is_file() and not variable:
            found[name] = Path(source or name)
        else:
            raise BadRequest(
                f"--secret {text!r} must be id=NAME,src=FILE or id=NAME,env=VARIABLE,"
                " with a file or variable that exists"
            )
    return found


@dataclass(frozen=True)
class Output:
    """One ``--output``: ``dest`` is a path, or ``-`` for standard output."""

    kind: str
    dest: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Output:
        """``type=KIND,dest=PATH``; a path alone is a directory for the files, ``-`` their tar.

        Raises:
            BadRequest: the kind is unknown, or lacks the path it needs.
        """
        if "=" not in text:
            return cls("tar" if text == "-" else "local", text)
        options = _options(text)
        kind, dest = options.get("type", ""), options.get("dest", "")
        if kind not in _KINDS:
            raise BadRequest(f"--output {text}: the types are {', '.join(_KINDS)}")
        if kind == "image":
            kind = "registry" if options.get("push", "") in _TRUE else "image"
        if not dest and kind not in ("registry", "image"):
            raise BadRequest(f"--output {text} needs dest=PATH")
        if dest == "-" and (kind == "local" or options.get("tar") == "false"):
            raise BadRequest(f"--output {text}: a directory cannot go to standard output")
        return cls(kind, dest, options)

    def write(self, made: Any, names: list[str]) -> None:
        """Write the image, whole or not at all."""
        from underway.capabilities.build.backend import layout, outputs
        from underway.wire.oci import Reference

        if self.kind == "local":
            outputs.write_files(Path(self.dest).absolute(), made)
        elif self.kind == "tar":
            outputs.to_stream(self.dest, lambda out: outputs.write_tar(out, made))
        elif self.options.get("tar") == "false":
            tag = Reference.parse(names[0]).tag if names else ""
            folder = Path(self.dest).absolute()
            layout.write(folder, made.documents, made.image.layers, made.shelf, tag)
        elif self.kind in ("oci", "docker"):
            docker = self.kind == "docker"
            outputs.to_stream(
                self.dest, lambda out: outputs.write_archive(out, made, names, docker=docker)
            )


@click.command()
@click.argument("path", default=".")
@click.option("-f", "--file", default="", help="PATH/Dockerfile by default; - is standard input.")
@click.option("-t", "--tag", "tags", multiple=True, help="A name of the image; may be repeated.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE")
@click.option(
    "--build-context",
    "contexts",
    multiple=True,
    metavar="NAME=PATH",
    help="What FROM and --from mean by NAME: a directory, oci-layout://, docker-image://.",
)
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE")
@click.option("--target", default="", help="Build this stage instead of the last.")
@click.option("--platform", default="", help="This machine's own; no other can be built.")
@click.option("--no-cache", is_flag=True, help="Run every step anew.")
@click.option(
    "--push/--no-push",
    default=None,
    help="Push to the platform's registry; the default where there is a tag and no -o.",
)
@click.option("--secret", "secrets", multiple=True, metavar="id=NAME[,src=FILE|,env=NAME]")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="type=KIND,dest=PATH",
    help="oci, docker, tar, local or registry; oci,tar=false is a layout directory.",
)
@click.option("--iidfile", type=click.Path(path_type=Path), help="Write the image's digest here.")
@click.option("--metadata-file", type=click.Path(path_type=Path), help="Write the result as JSON.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "quiet", "tty"]),
    default="auto",
    help="quiet prints the digest alone.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the digest alone.")
def build(
    path: str,
    file: str,
    tags: tuple[str, ...],
    build_args: tuple[str, ...],
    contexts: tuple[str, ...],
    labels: tuple[str, ...],
    target: str,
    platform: str,
    no_cache: bool,
    push: bool | None,
    secrets: tuple[str, ...],
    outputs: tuple[str, ...],
    iidfile: Path | None,
    metadata_file: Path | None,
    progress: str,
    quiet: bool,
) -> None:
    """Build an image from the Dockerfile in PATH: a directory, a git URL, or - for a tar archive.

    It is pushed to the platform's registry where it has a tag, unless --no-push is given.
    """  # fmt: skip
    from underway.base.home import Home
    from underway.capabilities.build.backend import machine
    from underway.capabilities.build.backend.builder import Builder, Extras
    from underway.kit.ports import BuildRequest
    from underway.wire.oci import Reference

    machine.check_platform(platform, "--platform")
    chosen = [Output.parse(text) for text in outputs]
    arguments = pairs(build_args, "--build-arg")
    if "SOURCE_DATE_EPOCH" in os.environ:
        arguments.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    pushing = bool(tags and not chosen) if push is None else push
    pushing |= any(each.kind == "registry" for each in chosen)
    if pushing and not tags:
        raise BadRequest("an image without a tag cannot be pushed", hint="give it one with -t")
    tell = _teller(quiet=quiet or progress == "quiet")
    extras = Extras(secrets=secrets_of(secrets), tags=tags[1:], contexts=_contexts(contexts))
    builder = Builder(Home.from_environment())
    with _context(path) as context, _dockerfile(file, context) as dockerfile:
        request = BuildRequest(
            context=context,
            dockerfile=dockerfile,
            tag=tags[0] if tags else "",
            target=target,
            build_args=arguments,
            labels=pairs(labels, "--label"),
            no_cache=no_cache,
            push=False,
        )
        result, made = builder.make(request, tell, extras)
    names = [str(Reference.parse(tag)) for tag in tags]
    for each in chosen:
        each.write(made, names)
    if pushing:
        for name in names:
            builder.push(Reference.parse(name), made, tell)
    called = ", ".join(tags) or "image"
    size = f"{result.size_bytes / 1e6:.1f} MB"
    tell(f"built {called}: {size}, {result.steps_cached} steps from the cache")
    if iidfile:
        iidfile.write_text(result.digest)
    if metadata_file:
        metadata_file.write_bytes(_metadata(made, names))
    if not any(each.dest == "-" for each in chosen):
        click.echo(result.digest)


def _teller(*, quiet: bool) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    return tell


def _metadata(made: Any, names: list[str]) -> bytes:
    """What buildx writes to ``--metadata-file``."""
    from underway.capabilities.build.backend.layout import encode
    from underway.wire import oci

    manifest = made.documents.manifest
    found: dict[str, Any] = {
        "containerimage.config.digest": oci.digest_of(made.documents.config),
        "containerimage.descriptor": oci.Descriptor.of(oci.MANIFEST, manifest).as_dict(),
        "containerimage.digest": made.documents.digest,
    }
    return encode(found | ({"image.name": ",".join(names)} if names else {})) + b"\n"


def _contexts(values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        scheme = value.partition("://")[0] if "://" in value else ""
        if not name or not equals or not value:
            raise BadRequest(f"--build-context {text!r} must be NAME=PATH")
        if scheme not in ("", "oci-layout", "docker-image"):
            raise BadRequest(f"--build-context {text}: {scheme}:// is not supported")
        if not scheme and not Path(value).is_dir():
            raise BadRequest(f"--build-context {text}: {value} is no directory")
        found[name] = value
    return found


@contextlib.contextmanager
def _context(text: str) -> Iterator[Path]:
    from underway.capabilities.build.backend.delivery import is_git

    if text != "-" and not is_git(text):
        if not Path(text).is_dir():
            raise BadRequest(f"{text} is no directory")
        yield Path(text)
        return
    from underway.capabilities.build.backend import contexts

    with (
        contexts.unpacked("-")
        if text == "-"
        else contexts.cloned(contexts.git_source(text)) as found
    ):
        yield found


@contextlib.contextmanager
def _dockerfile(text: str, context: Path) -> Iterator[Path]:
    if text != "-":
        # As docker: relative to here, or else to a context that came from elsewhere.
        here = Path(text) if text else context / "Dockerfile"
        yield here if here.is_file() or not text else _either(here, context / text)
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="underway-dockerfile-") as made:
        file = Path(made) / "Dockerfile"
        file.write_bytes(sys.stdin.buffer.read(1 << 20))
        yield file


def _either(first: Path, second: Path) -> Path:
    return second if second.is_file() else first
