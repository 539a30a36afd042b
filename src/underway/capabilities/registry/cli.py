"""``underway registry``: what the built-in registry holds, and freeing what is unused."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, NotFound
from underway.base.home import Home
from underway.capabilities.registry import rules
from underway.capabilities.registry.backend import garbage
from underway.capabilities.registry.backend.storage import Storage
from underway.wire import oci


@click.group()
def registry() -> None:
    """Look at the built-in registry, and free what is unused."""


@registry.command("list")
@click.argument("repository", required=False)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def list_images(repository: str | None, output: str) -> None:
    """List the images, or those of one REPOSITORY."""
    storage = _storage()
    if repository and not oci.is_repository(repository):
        raise BadRequest(f"{repository!r} is no repository name")
    names = [repository] if repository else storage.repositories()
    rows = [_row(storage, name, tag) for name in names for tag in storage.tags(name)]
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    if not rows:
        click.echo("No images.", err=True)
        return
    wide = max(len(f"{row['repository']}:{row['tag']}") for row in rows)
    for row in rows:
        name = f"{row['repository']}:{row['tag']}"
        click.echo(f"{name:<{wide}}  {row['digest'][:19]}  {_readable(row['sizeBytes']):>9}")


@registry.command("gc")
@click.option(
    "--grace-s",
    type=click.IntRange(0),
    default=garbage.GRACE_S,
    show_default=True,
    help="Keep what was used within this many seconds; a push may still need it.",
)
def collect_garbage(grace_s: int) -> None:
    """Delete blobs that no manifest names, and uploads nobody went on with.

    Works beside a running platform.
    """
    freed = garbage.collect(_storage(), SystemClock().now(), grace_s=grace_s)
    click.echo(
        f"Freed {_readable(freed.size_bytes)}: {freed.blobs} blobs, {freed.uploads} uploads."
    )


def _storage() -> Storage:
    home = Home.from_environment()
    if not home.registry.is_dir():
        raise NotFound(
            f"there is no registry at {home.registry}",
            hint="start the platform once with `underway up`, or set UNDERWAY_HOME",
        )
    return Storage(home.registry)


def _row(storage: Storage, repository: str, tag: str) -> dict[str, Any]:
    stored = storage.manifest(repository, tag)
    content = rules.check_manifest(stored.data, stored.media_type)
    parts = [*rules.blobs_of(content), *rules.manifests_of(content)]
    return {
        "repository": repository,
        "tag": tag,
        "digest": stored.digest,
        "mediaType": stored.media_type,
        "sizeBytes": sum(part.size_bytes for part in parts),
    }


def _readable(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
