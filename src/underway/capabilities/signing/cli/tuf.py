"""``underway tuf``: repositories made here, and getting targets from any."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from underway.base.errors import BadRequest, UnderwayError

_REPOSITORY = click.option(
    "--repository", "-r", default="main", show_default=True, metavar="NAME", help="Which one."
)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group()
def tuf() -> None:
    """TUF repositories: make, publish, rotate, get.

    A repository is served by the endpoint "signing" of underway status, below /tuf/NAME.

    \b
    underway tuf init main --threshold root=2 --keys root=3
    underway tuf add releases/app-1.0.tar.gz dist/app-1.0.tar.gz
    underway tuf publish
    underway tuf root > root.json
    underway tuf get releases/app-1.0.tar.gz --root root.json \\
        --url https://127.0.0.1:4444/tuf/main
    """  # fmt: skip


@tuf.command()
@click.argument("name", default="main")
@click.option("--threshold", multiple=True, metavar="ROLE=N", help="Signatures a role needs.")
@click.option("--keys", multiple=True, metavar="ROLE=N", help="Keys a role gets.")
def init(name: str, threshold: tuple[str, ...], keys: tuple[str, ...]) -> None:
    """Make a repository, with keys for root, targets, snapshot and timestamp."""
    _repository(name).init(_numbers(keys), _numbers(threshold))
    click.echo(f"made TUF repository {name}; clients start with: underway tuf root {name}")


@tuf.command()
@click.argument("name", default="main")
def root(name: str) -> None:
    """Write the first root, which clients start with, to the output."""
    click.echo(_repository(name).root(), nl=False)


@tuf.command()
@click.argument("target")
@click.argument("file", type=_FILE)
@click.option("--role", default="", help="Who vouches for it; targets, or its hash bin.")
@_REPOSITORY
def add(target: str, file: Path, role: str, repository: str) -> None:
    """Stage a file as a target."""
    role = _repository(repository).add(target, file, role)
    click.echo(f"staged {target} in {role}; make it visible with: underway tuf publish")


@tuf.command()
@click.argument("target")
@click.option("--role", default="", help="Who vouches for it now.")
@_REPOSITORY
def remove(target: str, role: str, repository: str) -> None:
    """Stage that a target is gone."""
    role = _repository(repository).remove(target, role)
    click.echo(f"staged the removal of {target} from {role}")


@tuf.command()
@click.argument("role")
@click.option("--path", "paths", multiple=True, metavar="PATTERN", help="What it vouches for.")
@click.option("--parent", default="targets", show_default=True, help="Who delegates.")
@click.option("--keys", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option("--threshold", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option("--terminating", is_flag=True, help="No role after it is asked for such a path.")
@click.option("--bins", type=int, default=0, metavar="N", help="N hash bins, ROLE their prefix.")
@click.option("--revoke", is_flag=True, help="Take the delegation back.")
@_REPOSITORY
def delegate(
    role: str,
    paths: tuple[str, ...],
    parent: str,
    keys: int,
    threshold: int,
    terminating: bool,
    bins: int,
    revoke: bool,
    repository: str,
) -> None:
    """Stage that another role vouches for some paths.

    \b
    underway tuf delegate releases --path 'releases/*' --keys 3 --threshold 2
    underway tuf delegate bin --bins 16
    underway tuf delegate releases --revoke
    """  # fmt: skip
    if sum((bool(paths), bool(bins), revoke)) != 1:
        raise BadRequest("one of --path, --bins and --revoke must be given")
    made = _repository(repository)
    if revoke:
        made.undelegate(role)
    elif bins:
        made.delegate_bins(bins, role, parent)
    else:
        made.delegate(
            role, paths, parent=parent, keys=keys, threshold=threshold, terminating=terminating
        )
    click.echo(f"staged; make it visible with: underway tuf publish -r {repository}")


@tuf.command()
@click.argument("role")
@_REPOSITORY
def rotate(role: str, repository: str) -> None:
    """Give a role new keys, and publish."""
    _repository(repository).rotate(role)
    click.echo(f"{role} of {repository} has new keys")


@tuf.command()
@_REPOSITORY
def publish(repository: str) -> None:
    """Make what is staged visible."""
    roles = _repository(repository).publish()
    click.echo(f"published {', '.join(roles)}" if roles else "nothing is staged")


@tuf.command()
@_REPOSITORY
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def status(repository: str, output: str) -> None:
    """Show every role: version, end, keys, targets, what is staged."""
    import json

    from underway.base.clock import rfc3339

    found = _repository(repository).status()
    if output == "json":
        roles = [
            {
                "name": each.name, "version": each.version, "expires": rfc3339(each.expires),
                "threshold": each.threshold, "keys": each.keys, "keysElsewhere": each.missing,
                "targets": each.targets, "staged": each.staged,
            }
            for each in found
        ]  # fmt: skip
        click.echo(json.dumps({"repository": repository, "roles": roles}, indent=2))
        return
    click.echo(f"{'ROLE':20} {'VERSION':>7} {'KEYS':>7} {'TARGETS':>8}  EXPIRES")
    for each in found:
        keys = f"{each.threshold}/{each.keys}"
        mark = "  staged" if each.staged else ""
        when = rfc3339(each.expires)
        click.echo(f"{each.name:20} {each.version:>7} {keys:>7} {each.targets:>8}  {when}{mark}")


@tuf.command()
@click.argument("targets", nargs=-1, required=True)
@click.option("--url", required=True, help="The repository; metadata/ and targets/ lie below it.")
@click.option("--root", "root_file", type=_FILE, help="The first root; needed the first time.")
@click.option("--metadata-dir", type=_DIRECTORY, help="Where trusted metadata is kept.")
@click.option("--ca", "ca_file", type=_FILE, help="The authority of an https URL.")
@click.option("--dir", "directory", type=_DIRECTORY, default=".", help="Where targets go.")
def get(
    targets: tuple[str, ...],
    url: str,
    root_file: Path | None,
    metadata_dir: Path | None,
    ca_file: Path | None,
    directory: Path,
) -> None:
    """Get targets from any TUF repository, verified.

    \b
    underway tuf get app.tar.gz --root root.json --url https://example.com/tuf
    """  # fmt: skip
    import hashlib

    from underway.base.home import Home
    from underway.capabilities.signing.backend.tuf_client import HttpFetcher, TufClient

    home = Home.from_environment()
    place = hashlib.sha256(url.encode()).hexdigest()[:16]
    trusted = metadata_dir or home.signing / "tuf-clients" / place
    if not (trusted / "root.json").exists():
        if root_file is None:
            raise BadRequest(f"nothing is trusted of {url} yet", hint="name its first root: --root")
        TufClient.init(trusted, root_file.read_bytes())
    if ca_file is None and url.startswith("https://127.0.0.1") and (home.pki / "ca.crt").exists():
        ca_file = home.pki / "ca.crt"
    with HttpFetcher(ca_file) as fetch:
        made = TufClient(trusted, f"{url.rstrip('/')}/metadata", fetch)
        made.refresh()
        for target in targets:
            click.echo(made.download(target, f"{url.rstrip('/')}/targets", directory))


@tuf.group(hidden=True)
@click.option("--metadata-dir", type=_DIRECTORY, required=True)
@click.option("--metadata-url", default="")
@click.option("--target-name", "names", multiple=True)
@click.option("--target-base-url", default="")
@click.option("--target-dir", type=_DIRECTORY)
@click.pass_context
def client(context: click.Context, **_options: object) -> None:
    """The client as tuf-conformance calls it."""
    context.obj = context.params


@client.command("init")
@click.argument("trusted_root", type=_FILE)
@click.pass_obj
def client_init(options: dict[str, object], trusted_root: Path) -> None:
    """Start with a trusted root."""
    from underway.capabilities.signing.backend.tuf_client import TufClient

    TufClient.init(Path(str(options["metadata_dir"])), trusted_root.read_bytes())


@client.command("refresh")
@click.pass_obj
def client_refresh(options: dict[str, object]) -> None:
    """Bring the top-level metadata up to date."""
    _conform(options, ())


@client.command("download")
@click.pass_obj
def client_download(options: dict[str, object]) -> None:
    """Get targets, in order."""
    names = options["names"]
    assert isinstance(names, tuple)
    _conform(options, names)


def _conform(options: dict[str, object], names: tuple[str, ...]) -> None:
    from underway.capabilities.signing.backend.tuf_client import HttpFetcher, TufClient

    directory = Path(str(options["metadata_dir"]))
    try:
        with HttpFetcher() as fetch:
            made = TufClient(directory, str(options["metadata_url"]), fetch)
            made.refresh()
            for name in names:
                target_dir = Path(str(options["target_dir"]))
                made.download(name, str(options["target_base_url"]), target_dir)
    except UnderwayError as error:
        click.echo(error.message, err=True)
        sys.exit(1)


def _repository(name: str):  # its module loads the libraries of TUF
    from underway.base.home import Home
    from underway.capabilities.signing.backend.tuf_repository import TufRepository

    return TufRepository(Home.from_environment(), name)


def _numbers(texts: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for text in texts:
        match = re.fullmatch(r"([a-z]+)=(\d{1,2})", text)
        if match is None:
            raise BadRequest(f"{text!r} is not of the form ROLE=N", hint="root=2")
        found[match[1]] = int(match[2])
    return found
