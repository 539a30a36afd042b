"""Repositories, tags and artifacts, and freeing what is unused."""

from __future__ import annotations

from typing import Any

import click

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest
from underway.capabilities.registry.backend import garbage
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.cli.output import (
    columns,
    output_option,
    readable,
    registry_hub,
    show,
)
from underway.capabilities.registry.rules import distribution
from underway.wire import oci


@click.command("list")
@click.argument("repository", required=False)
@output_option
def list_images(repository: str | None, output: str) -> None:
    """List the images, or those of one REPOSITORY."""
    storage = _storage()
    names = [_checked(repository)] if repository else storage.repositories()
    rows = [_tag_row(storage, name, tag) for name in names for tag in storage.tags(name)]
    table = [
        (f"{row['repository']}:{row['tag']}", row["digest"][:19], readable(row["sizeBytes"]))
        for row in rows
    ]
    show(rows, output, columns(table), empty="No images.")


@click.command("gc")
@click.option(
    "--grace-s",
    type=click.IntRange(0),
    default=int(garbage.GRACE_S),
    show_default=True,
    help="Keep what was used within this many seconds; a push may still need it.",
)
def collect_garbage(grace_s: int) -> None:
    """Delete blobs that no manifest names, and uploads nobody went on with.

    Works beside a running platform.
    """
    freed = garbage.collect(_storage(), SystemClock().now(), grace_s=grace_s)
    click.echo(f"Freed {readable(freed.size_bytes)}: {freed.blobs} blobs, {freed.uploads} uploads.")


@click.group()
def repo() -> None:
    """List, show and delete repositories."""


@repo.command("list")
@click.option("--project", default="", help="Only the repositories of this project.")
@output_option
def list_repositories(project: str, output: str) -> None:
    """List repositories."""
    storage = _storage()
    names = storage.repositories(_checked(project) if project else "")
    rows = [_repository_row(storage, name) for name in names]
    table = [(r["repository"], f"{r['tags']} tags", f"{r['artifacts']} artifacts") for r in rows]
    show(rows, output, columns(table), empty="No repositories.")


@repo.command("show")
@click.argument("repository")
@output_option
def show_repository(repository: str, output: str) -> None:
    """Show a REPOSITORY's tags and size."""
    storage = _storage()
    tags = storage.tags(_checked(repository))
    found: dict[str, int] = {}
    for digest in storage.manifests(repository):
        found |= {part.digest: part.size_bytes for part in _parts(storage, repository, digest)}
    value = {**_repository_row(storage, repository), "sizeBytes": sum(found.values())}
    value["tagNames"] = tags
    lines = [f"{repository}  {value['artifacts']} artifacts  {readable(value['sizeBytes'])}", *tags]
    show(value, output, lines)


@repo.command("delete")
@click.argument("repository")
def delete_repository(repository: str) -> None:
    """Delete a REPOSITORY with everything in it. The next collection frees its blobs."""
    _storage().delete_repository(_checked(repository))
    click.echo(f"Deleted {repository}.")


@click.group()
def tag() -> None:
    """List, show and delete tags."""


@tag.command("list")
@click.argument("repository")
@output_option
def list_tags(repository: str, output: str) -> None:
    """List the tags of a REPOSITORY."""
    storage = _storage()
    rows = [_tag_row(storage, repository, name) for name in storage.tags(_checked(repository))]
    table = [(row["tag"], row["digest"], readable(row["sizeBytes"])) for row in rows]
    show(rows, output, columns(table), empty="No tags.")


@tag.command("show")
@click.argument("image", metavar="REPOSITORY:TAG")
@output_option
def show_tag(image: str, output: str) -> None:
    """Show what a tag points at."""
    repository, reference = _split(image, "tag")
    row = _tag_row(_storage(), repository, reference)
    show(row, output, [f"{name}: {value}" for name, value in row.items()])


@tag.command("delete")
@click.argument("image", metavar="REPOSITORY:TAG")
def delete_tag(image: str) -> None:
    """Delete a tag; the artifact stays, and can be pulled by digest."""
    repository, reference = _split(image, "tag")
    _storage().delete_tag(repository, reference)
    click.echo(f"Deleted {image}.")


@click.group()
def artifact() -> None:
    """List, show and delete artifacts: images, indexes and whatever else has a manifest."""


@artifact.command("list")
@click.argument("repository")
@output_option
def list_artifacts(repository: str, output: str) -> None:
    """List the artifacts of a REPOSITORY, those without a tag too."""
    storage = _storage()
    tags = _tags_by_digest(storage, _checked(repository))
    rows = [
        {**_row(storage, repository, digest), "tags": tags.get(digest, [])}
        for digest in storage.manifests(repository)
    ]
    table = [
        (row["digest"], readable(row["sizeBytes"]), row["mediaType"], ",".join(row["tags"]))
        for row in rows
    ]
    show(rows, output, columns(table), empty="No artifacts.")


@artifact.command("show")
@click.argument("image", metavar="REPOSITORY@DIGEST|REPOSITORY:TAG")
@output_option
def show_artifact(image: str, output: str) -> None:
    """Show an artifact's parts, tags and referrers."""
    storage = _storage()
    repository, reference = _split(image)
    value = _row(storage, repository, reference)
    digest = value["digest"]
    value["tags"] = _tags_by_digest(storage, repository).get(digest, [])
    value["parts"] = [part.as_dict() for part in _parts(storage, repository, digest)]
    value["referrers"] = [
        distribution.referrer(each.digest, each.data, each.media_type)
        for each in storage.referrers(repository, digest)
    ]
    lines = [f"{name}: {value[name]}" for name in ("repository", "digest", "mediaType")]
    lines.append(f"tags: {', '.join(value['tags'])}")
    parts = [(f"  {p['digest']}", readable(p["size"]), p["mediaType"]) for p in value["parts"]]
    about = [(f"  {r['digest']}", r.get("artifactType", "")) for r in value["referrers"]]
    show(value, output, [*lines, "parts:", *columns(parts), "referrers:", *columns(about)])


@artifact.command("delete")
@click.argument("image", metavar="REPOSITORY@DIGEST|REPOSITORY:TAG")
def delete_artifact(image: str) -> None:
    """Delete an artifact and the tags that point at it."""
    storage = _storage()
    repository, reference = _split(image)
    storage.delete_manifest(repository, storage.manifest(repository, reference).digest)
    click.echo(f"Deleted {image}.")


def _storage() -> Storage:
    return registry_hub().storage


def _checked(repository: str) -> str:
    if not oci.is_repository(repository):
        raise BadRequest(f"{repository!r} is no repository name")
    return repository


def _split(image: str, kind: str = "tag or digest") -> tuple[str, str]:
    """Repository, and tag or digest."""
    repository, at, reference = image.partition("@")
    if at and kind == "tag":
        raise BadRequest(f"{image!r} names no tag", hint="REPOSITORY:TAG")
    if not at:
        repository, _, reference = image.rpartition(":")
    if not (oci.is_digest(reference) if at else oci.is_tag(reference)):
        raise BadRequest(f"{image!r} names no {kind}", hint="REPOSITORY:TAG or REPOSITORY@DIGEST")
    return _checked(repository), reference


def _parts(storage: Storage, repository: str, reference: str) -> list[oci.Descriptor]:
    stored = storage.manifest(repository, reference)
    content = distribution.check_manifest(stored.data, stored.media_type)
    return [*distribution.blobs_of(content), *distribution.manifests_of(content)]


def _row(storage: Storage, repository: str, reference: str) -> dict[str, Any]:
    stored = storage.manifest(repository, reference)
    return {
        "repository": repository,
        "digest": stored.digest,
        "mediaType": stored.media_type,
        "sizeBytes": sum(part.size_bytes for part in _parts(storage, repository, stored.digest)),
    }


def _tag_row(storage: Storage, repository: str, name: str) -> dict[str, Any]:
    return {"tag": name, **_row(storage, repository, name)}


def _repository_row(storage: Storage, repository: str) -> dict[str, Any]:
    return {
        "repository": repository,
        "tags": len(storage.tags(repository)),
        "artifacts": len(storage.manifests(repository)),
    }


def _tags_by_digest(storage: Storage, repository: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in storage.tags(repository):
        found.setdefault(storage.manifest(repository, name).digest, []).append(name)
    return found
