"""``underway base``: base images by declaration, locked, assembled and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from underway.base.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from underway.capabilities.build.backend.bases import Made, StandIns
    from underway.capabilities.build.rules.debian import Lock
    from underway.capabilities.build.rules.declaration import Declaration

_WHAT = "NAME[#VARIANT] of a base that comes with the product, or a declaration's FILE."
_kind = click.option("-o", "--output", "kind", type=click.Choice(["text", "json"]), default="text")
_locked_at = click.option(
    "--lock",
    "lock_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The lock; by default FILE with the ending .lock.json.",
)
_quietly = click.option("-q", "--quiet", is_flag=True, help="No progress.")


@click.group(epilog="Works alone: neither a running platform nor its home is needed.")
def base() -> None:
    """Base images from Debian packages, by declaration, without running maintainer scripts.

    \b
    underway base list
    underway base lock app.yaml
    underway base build app.yaml -t app-base:1 --output type=oci,dest=app-base.tar
    underway base build debian#slim --output type=oci,dest=layout,tar=false
    underway base sbom python#slim > python.cdx.json
    underway base verify app.yaml
    """


@base.command("list")
@_kind
def list_(kind: str) -> None:
    """List the bases that come with the product, and what they stand in for."""
    from underway.capabilities.build.backend.bases import shipped

    rows = [
        {
            "name": f"{name}#{variant.name}" if variant.name else name,
            "base": variant.base or document.base,
            "repository": document.standsFor.repository if document.standsFor else "",
            "tags": variant.tags,
        }
        for name, document in shipped().items()
        for variant in document.variants or [_no_variant()]
    ]
    _show(
        rows, kind, [f"{each['name']:<22}{each['base']:<16}{each['repository']}" for each in rows]
    )


@base.command()
@click.argument("what", metavar="NAME|FILE")
@_kind
def info(what: str, kind: str) -> None:
    """Show what a declaration means with all it includes."""
    import msgspec

    from underway.capabilities.build.backend.bases import chain_of

    chain = chain_of(what)
    told = [
        {"name": each.title, "base": each.base, "spec": msgspec.to_builtins(each.spec)}
        for each in chain
    ]
    lines = []
    for each in chain:
        lines.append(f"{each.title}: Debian {each.spec.suite}")
        lines += [f"  package {name}  ({each.where.get(name, '')})" for name in each.spec.packages]
        lines += [f"  user {user.name} ({user.uid})" for user in each.spec.users]
        lines += [f"  {entry.type} {entry.path}" for entry in each.spec.paths]
        lines += ["  steps run in a container"] if each.spec.steps else []
    _show(told, kind, lines)


@base.command()
@click.argument("what", metavar="NAME|FILE")
@_locked_at
@_kind
@_quietly
def lock(what: str, lock_path: Path | None, kind: str, quiet: bool) -> None:
    """Choose exact versions of all packages from the signed archives, and write them down."""
    from underway.capabilities.build.backend.bases import chain_of
    from underway.capabilities.build.rules.debian import write_lock

    made = _stand_ins().lock(chain_of(what), _teller(quiet=quiet))
    target = lock_path or _lock_of(what)
    target.write_bytes(write_lock(made))
    if kind == "json":
        click.echo(target.read_text(), nl=False)
        return
    size = sum(each.size for each in made.packages())
    dates = ", ".join(f"{each.suite} of {each.date}" for each in made.releases)
    click.echo(f"{target}: {len(made.packages())} packages, {size / 1e6:.1f} MB; {dates}")


@base.command()
@click.argument("what", metavar="NAME|FILE")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME", help="The image's name.")
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="type=KIND,dest=PATH",
    help="oci, docker, tar or local, as in `underway build`; its SBOM is written beside.",
)
@_locked_at
@click.option("--no-cache", is_flag=True, help="Assemble every layer anew.")
@_quietly
def build(
    what: str, tags: tuple[str, ...], outputs: tuple[str, ...], lock_path: Path | None,
    no_cache: bool, quiet: bool,
) -> None:  # fmt: skip
    """Assemble the image that a lock describes; a FILE without a lock is locked first.

    Its digest goes to standard output. With -t, `FROM NAME` finds it in builds of this home.
    """
    from underway.capabilities.build import cli_options as options
    from underway.capabilities.build.backend.outputs import Made as Output
    from underway.capabilities.build.backend.shelf import Shelf
    from underway.wire.oci import Reference

    chosen = [options.Output.parse(text) for text in outputs]
    tell = _teller(quiet=quiet)
    stand_ins = _stand_ins()
    made = _made(stand_ins, what, lock_path, tell, cached=not no_cache)
    names = [str(Reference.parse(tag)) for tag in tags]
    shelf = Shelf(stand_ins.home)
    for name in names or [made.digest]:
        shelf.images.add(name, made.documents.manifest, made.documents.config)
    for each in chosen:
        each.write(Output(made.documents, made.image, shelf), names)
        if each.dest not in ("", "-") and each.kind in ("oci", "docker"):
            Path(f"{each.dest.rstrip('/')}.cdx.json").write_bytes(made.sbom)
    size = sum(layer.size_bytes for layer in made.image.layers)
    tell(f"{what}: {size / 1e6:.1f} MB in {len(made.image.layers)} layers")
    if not any(each.dest == "-" for each in chosen):
        click.echo(made.digest)


@base.command()
@click.argument("what", metavar="NAME|FILE")
@click.argument("name", metavar="DESTINATION")
@_locked_at
@_quietly
def push(what: str, name: str, lock_path: Path | None, quiet: bool) -> None:
    """Assemble an image, push it to the platform's registry, and attach its SBOM there."""
    from underway.capabilities.build.backend import bases
    from underway.wire.oci import Reference

    tell, stand_ins = _teller(quiet=quiet), _stand_ins()
    made = _made(stand_ins, what, lock_path, tell, cached=True)
    bases.push(stand_ins.home, Reference.parse(name), made)
    tell(f"pushed {name} and its SBOM")
    click.echo(made.digest)


@base.command()
@click.argument("what", metavar="NAME|FILE")
@_locked_at
@_quietly
def sbom(what: str, lock_path: Path | None, quiet: bool) -> None:
    """Print an image's bill of materials: CycloneDX 1.6 as JSON."""
    made = _made(_stand_ins(), what, lock_path, _teller(quiet=quiet), cached=True)
    click.echo(made.sbom.decode())


@base.command()
@click.argument("what", metavar="NAME|FILE")
@_locked_at
@_kind
@_quietly
def verify(what: str, lock_path: Path | None, kind: str, quiet: bool) -> None:
    """Check a lock, the packages it names, and that the image is what they make.

    It is assembled anew in a directory of its own; the exit code is 1 where the digests differ, or
    a file is not the one its package has.
    """
    from underway.capabilities.build.backend import bases

    tell, stand_ins = _teller(quiet=quiet), _stand_ins()
    chain = bases.chain_of(what)
    locked = _lock_for(stand_ins, what, chain, lock_path, tell)
    found = bases.verify(stand_ins, chain, locked, tell)
    lines = [
        f"packages: {found.packages}, all as locked", f"digest: {found.digest}",
        f"assembled again: {found.again}",
        f"files compared with their packages: {found.files}, {len(found.changed)} differ",
        *(f"  {path}" for path in found.changed),
    ]  # fmt: skip
    _show(found, kind, lines)
    if found.digest != found.again or found.changed:
        raise SystemExit(1)


def _no_variant() -> Any:
    from underway.capabilities.build.rules.declaration import Variant

    return Variant()


def _stand_ins() -> StandIns:
    from underway.base.home import Home
    from underway.capabilities.build.backend.bases import base_images

    return base_images(Home.from_environment())


def _is_file(what: str) -> bool:
    plain = what.partition("#")[0]
    return "/" in plain or plain.endswith((".yaml", ".yml"))


def _lock_of(what: str) -> Path:
    plain, _, variant = what.partition("#")
    stem = Path(plain).with_suffix("") if _is_file(what) else Path(plain)
    return stem.with_name(f"{stem.name}{'-' + variant if variant else ''}.lock.json")


def _lock_for(
    stand_ins: StandIns, what: str, chain: Sequence[Declaration], lock_path: Path | None,
    tell: Callable[[str], None],
) -> Lock:  # fmt: skip
    """The lock beside a file, or the one given; a file without one is locked now."""
    from underway.capabilities.build.backend import bases
    from underway.capabilities.build.backend.debian import assembly
    from underway.capabilities.build.rules.debian import read_lock, write_lock

    path = lock_path or (_lock_of(what) if _is_file(what) else None)
    if path is None:
        path = stand_ins.kept(chain, tell) / bases.LOCK_FILE
    if path.exists():
        locked = read_lock(path.read_bytes(), str(path))
    elif lock_path:
        raise NotFound(f"there is no {path}", hint="write it with: underway base lock")
    else:
        locked = stand_ins.lock(chain, tell)
        path.write_bytes(write_lock(locked))
        tell(f"locked {len(locked.packages())} packages in {path}")
    assembly.check(locked, chain, str(path))
    return locked


def _made(
    stand_ins: StandIns, what: str, lock_path: Path | None, tell: Callable[[str], None], *,
    cached: bool,
) -> Made:  # fmt: skip
    import os

    from underway.capabilities.build.backend.bases import chain_of

    if os.geteuid() != 0:
        raise BadRequest("owners of files can only be set as root", hint="run it as root")
    chain = chain_of(what)
    locked = _lock_for(stand_ins, what, chain, lock_path, tell)
    return stand_ins.make(chain, locked, tell, cached=cached)


def _teller(*, quiet: bool) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    return tell


def _show(value: Any, kind: str, lines: Sequence[str]) -> None:
    import msgspec

    if kind == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        click.echo("\n".join(lines))
