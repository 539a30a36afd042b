"""``underway build``, with docker buildx's common flags."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from underway.base.errors import BadRequest

if TYPE_CHECKING:
    from underway.capabilities.build.backend.builder import Builder, Extras
    from underway.capabilities.build.backend.outputs import Index, Made
    from underway.kit.ports import BuildResult


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
@click.option(
    "--annotation",
    "annotations",
    multiple=True,
    metavar="[index:]NAME=VALUE",
    help="An annotation of the manifest, or the index.",
)
@click.option("--target", default="", help="Build this stage instead of the last.")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="linux/ARCH,...",
    help="Several make an index. RUN for another machine needs qemu-user-static.",
)
@click.option("--no-cache", is_flag=True, help="Run every step anew.")
@click.option(
    "--cache-from",
    "cache_from",
    multiple=True,
    metavar="type=registry,ref=NAME",
    help="Take steps from there too; or type=local,src=DIRECTORY.",
)
@click.option(
    "--cache-to",
    "cache_to",
    multiple=True,
    metavar="type=registry,ref=NAME[,mode=max]",
    help="Keep steps there too; or type=local,dest=DIRECTORY, or type=inline.",
)
@click.option(
    "--push/--no-push",
    default=None,
    help="Push to the platform's registry; the default where there is a tag and no -o.",
)
@click.option("--load", is_flag=True, help="Keep the image on this machine, push it nowhere.")
@click.option("--secret", "secrets", multiple=True, metavar="id=NAME[,src=FILE|,env=NAME]")
@click.option(
    "--ssh",
    "agents",
    multiple=True,
    metavar="default[=SOCKET]",
    help="Let RUN --mount=type=ssh use this agent.",
)
@click.option(
    "--allow",
    "entitlements",
    multiple=True,
    metavar="security.insecure",
    help="Allow RUN --security=insecure.",
)
@click.option(
    "--attest",
    "attests",
    multiple=True,
    metavar="type=sbom|provenance",
    help="Attach an attestation to what is pushed.",
)
@click.option("--sbom", default="", metavar="true", help="As --attest type=sbom.")
@click.option("--provenance", default="", metavar="true", help="As --attest type=provenance.")
@click.option("--step-timeout", default="", metavar="10m", help="How long one RUN may take.")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="type=KIND,dest=PATH",
    help="oci, docker, tar, local, registry or cacheonly; oci,tar=false is a layout directory.",
)
@click.option("--iidfile", type=click.Path(path_type=Path), help="Write the image's digest here.")
@click.option("--metadata-file", type=click.Path(path_type=Path), help="Write the result as JSON.")
@click.option("--check", "check", is_flag=True, help="Only say what is wrong with the Dockerfile.")
@click.option("--call", "call", default="build", metavar="build|check|outline|targets")
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "quiet", "tty"]),
    default="auto",
    help="quiet prints the digest alone.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the digest alone.")
def build(path: str, file: str, **flags: Any) -> None:
    """Build an image from the Dockerfile in PATH: a directory, a git URL, or - for a tar archive.

    It is pushed to the platform's registry where it has a tag, unless --no-push is given.
    """  # fmt: skip
    from underway.capabilities.build import cli_checks
    from underway.capabilities.build.backend import userns

    with _context(path) as context, _dockerfile(file, context) as dockerfile:
        call = "check" if flags["check"] else flags["call"]
        if call != "build":
            sys.exit(cli_checks.run(call, dockerfile, flags))
        userns.enter_unless_root()
        _build(context, dockerfile, flags)


def _build(context: Path, dockerfile: Path, flags: dict[str, Any]) -> None:
    from underway.base.home import Home
    from underway.capabilities.build import cli_options as options
    from underway.capabilities.build.backend.builder import Builder
    from underway.capabilities.build.backend.outputs import Index
    from underway.wire.oci import Reference

    tags, quiet = flags["tags"], flags["quiet"] or flags["progress"] == "quiet"
    chosen = [options.Output.parse(text) for text in flags["outputs"]]
    pushing = _pushes(flags, chosen)
    tell = _teller(quiet=quiet)
    builder = Builder(Home.from_environment())
    platforms = [p.strip() for text in flags["platforms"] for p in text.split(",") if p.strip()]
    _, index_annotations = options.annotations_of(flags["annotations"])
    extras = _extras(flags, chosen, builder)
    made: list[Made] = []
    for platform in platforms or [""]:
        label = f"{platform} " if len(platforms) > 1 else ""
        told = functools.partial(_labelled, tell, label)
        result, one = _one(builder, context, dockerfile, flags, extras, platform, told)
        made.append(one)
    whole: Made | Index = made[0] if len(made) == 1 else Index(tuple(made), index_annotations)
    digest = whole.digest if isinstance(whole, Index) else whole.documents.digest
    names = [str(Reference.parse(tag)) for tag in tags]
    for each in chosen:
        each.write(whole, names)
    if pushing:
        for name in names:
            builder.push(Reference.parse(name), whole, tell)
    _export(flags, made, builder, tell)
    _attest(flags, names if pushing else [], made[0], result, tell)
    called = ", ".join(tags) or "image"
    size = f"{result.size_bytes / 1e6:.1f} MB"
    tell(f"built {called}: {size}, {result.steps_cached} steps from the cache")
    if flags["iidfile"]:
        flags["iidfile"].write_text(digest)
    if flags["metadata_file"]:
        flags["metadata_file"].write_bytes(_metadata(whole, names))
    if not any(each.dest == "-" for each in chosen):
        click.echo(digest)


def _pushes(flags: dict[str, Any], chosen: list[Any]) -> bool:
    tags, push = flags["tags"], flags["push"]
    if push and flags["load"]:
        raise BadRequest("--load keeps the image here and --push does not: choose one")
    unsaid = bool(tags and not chosen and not flags["load"])
    pushing = unsaid if push is None else push
    pushing |= any(each.kind == "registry" for each in chosen)
    if pushing and not tags:
        raise BadRequest("an image without a tag cannot be pushed", hint="give it one with -t")
    return bool(pushing)


def _extras(flags: dict[str, Any], chosen: list[Any], builder: Builder) -> Extras:
    from underway.capabilities.build import cli_options as options
    from underway.capabilities.build.backend.builder import Extras

    lenders, inline = _lenders(flags, builder)
    allowed = frozenset(flags["entitlements"])
    if allowed - set(options.ENTITLEMENTS):
        known = ", ".join(options.ENTITLEMENTS)
        raise BadRequest(f"--allow {min(allowed)}: there are {known}")
    packings = [each.packing for each in chosen if each.packing]
    manifest_annotations, _ = options.annotations_of(flags["annotations"])
    more = {"packing": packings[0]} if packings else {}
    return Extras(
        secrets=options.secrets_of(flags["secrets"]),
        tags=flags["tags"][1:],
        contexts=_contexts(flags["contexts"]),
        agents=options.agents_of(flags["agents"]),
        annotations=manifest_annotations,
        entitlements=allowed,
        step_timeout_s=options.duration_s(flags["step_timeout"] or "0", "--step-timeout"),
        lenders=lenders,
        inline_cache=inline,
        **more,
    )


def _lenders(flags: dict[str, Any], builder: Builder) -> tuple[list[Any], bool]:
    """Caches to take steps from, and whether the image is to keep its own."""
    if not flags["cache_from"] and not flags["cache_to"]:
        return [], False
    from underway.capabilities.build.backend.caches import CacheSource, CacheSpec

    sources = [CacheSpec.parse(text, "--cache-from") for text in flags["cache_from"]]
    targets = [CacheSpec.parse(text, "--cache-to") for text in flags["cache_to"]]
    inline = any(spec.kind == "inline" for spec in targets)
    return [CacheSource(spec, builder.registry_of) for spec in sources], inline


def _one(
    builder: Builder,
    context: Path,
    dockerfile: Path,
    flags: dict[str, Any],
    extras: Extras,
    platform: str,
    tell: Callable[[str], None],
) -> tuple[BuildResult, Made]:
    import dataclasses

    from underway.capabilities.build.cli_options import pairs
    from underway.kit.ports import BuildRequest

    arguments = pairs(flags["build_args"], "--build-arg")
    if "SOURCE_DATE_EPOCH" in os.environ:
        arguments.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    request = BuildRequest(
        context=context,
        dockerfile=dockerfile,
        tag=flags["tags"][0] if flags["tags"] else "",
        target=flags["target"],
        build_args=arguments,
        labels=pairs(flags["labels"], "--label"),
        no_cache=flags["no_cache"],
        push=False,
    )
    return builder.make(request, tell, dataclasses.replace(extras, platform=platform))


def _export(
    flags: dict[str, Any], made: list[Made], builder: Builder, tell: Callable[[str], None]
) -> None:
    if not flags["cache_to"]:
        return
    from underway.base.errors import UnderwayError
    from underway.capabilities.build.backend.caches import CacheSpec, export

    for text in flags["cache_to"]:
        spec = CacheSpec.parse(text, "--cache-to")
        if spec.kind == "inline":
            continue
        records = [
            pair
            for each in made
            for pair in each.keys[0 if spec.everything else len(each.keys) - each.own_keys :]
        ]
        try:
            export(spec, records, made[0].shelf, builder.registry_of)
        except UnderwayError as error:
            if not spec.ignore_errors:
                raise
            tell(f"warning: cache {spec.place}: {error.message}")
        else:
            tell(f"cache {spec.place}: {len(records)} steps")


def _attest(
    flags: dict[str, Any],
    names: list[str],
    made: Made,
    result: BuildResult,
    tell: Callable[[str], None],
) -> None:
    from underway.capabilities.build.cli_options import attestations_of

    shorthands = {"sbom": flags["sbom"], "provenance": flags["provenance"]}
    wanted = attestations_of(flags["attests"], shorthands)
    if not wanted:
        return
    if not names:
        raise BadRequest("attestations are attached to what is pushed", hint="add -t and --push")
    from underway.capabilities.build.backend.attesting import attest

    attest(wanted, names[0], made, result, flags["build_args"], tell)


def _teller(*, quiet: bool) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    return tell


def _labelled(tell: Callable[[str], None], label: str, line: str) -> None:
    tell(label + line)


def _metadata(whole: Made | Index, names: list[str]) -> bytes:
    """What buildx writes to ``--metadata-file``."""
    from underway.capabilities.build.backend.layout import encode
    from underway.capabilities.build.backend.outputs import Index
    from underway.wire import oci

    if isinstance(whole, Index):
        found: dict[str, Any] = {
            "containerimage.descriptor": oci.Descriptor.of(oci.INDEX, whole.data).as_dict(),
            "containerimage.digest": whole.digest,
        }
    else:
        manifest = whole.documents.manifest
        found = {
            "containerimage.config.digest": oci.digest_of(whole.documents.config),
            "containerimage.descriptor": oci.Descriptor.of(oci.MANIFEST, manifest).as_dict(),
            "containerimage.digest": whole.documents.digest,
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
