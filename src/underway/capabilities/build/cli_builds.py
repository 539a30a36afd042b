"""``underway builds``: what builds keep on this machine, and making room."""

from __future__ import annotations

import re

import click

from underway.base.errors import BadRequest

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_UNITS_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS_BYTES |= {f"{unit}i": 1024**power for power, unit in enumerate("kmgt", 1)}


def seconds(text: str) -> float:
    """``90m``, ``24h``, ``7d``.

    Raises:
        BadRequest: it is no duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not match:
        raise BadRequest(f"{text!r} is no duration", hint="write 90m, 24h or 7d")
    return float(match[1]) * _UNITS_S[match[2]]


def size(text: str) -> int:
    """``500MB``, ``2GiB``, ``10G``, in bytes.

    Raises:
        BadRequest: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if not match or match[2] not in _UNITS_BYTES:
        raise BadRequest(f"{text!r} is no size", hint="write 500MB or 2GiB")
    return int(float(match[1]) * _UNITS_BYTES[match[2]])


@click.group()
def builds() -> None:
    """Show what builds keep on this machine, and make room."""


@builds.command()
def usage() -> None:
    """Show how much the cache holds, and the images built here."""
    from underway.base.home import Home
    from underway.capabilities.build.backend import garbage

    found = garbage.usage(Home.from_environment())
    click.echo(f"{found.steps} steps, {found.blobs} layers of {found.blob_bytes / 1e6:.1f} MB")
    click.echo(f"cache mounts: {found.cache_mount_bytes / 1e6:.1f} MB")
    for name in found.images:
        click.echo(name)


@builds.command()
@click.option(
    "--older-than", default="", metavar="AGE", help="Steps not used for so long: 24h, 7d."
)
@click.option(
    "--keep-storage",
    default="",
    metavar="SIZE",
    help="Keep the steps used last, as many as fit: 2GiB.",
)
@click.option("--image", "images", multiple=True, metavar="NAME", help="Forget this image.")
@click.option("--untagged", is_flag=True, help="Forget the images that have no name.")
@click.option("--cache-mounts", is_flag=True, help="Also what RUN --mount=type=cache keeps.")
@click.option("--all", "everything", is_flag=True, help="All steps, and layers however young.")
def prune(
    older_than: str,
    keep_storage: str,
    images: tuple[str, ...],
    untagged: bool,
    cache_mounts: bool,
    everything: bool,
) -> None:
    """Remove steps from the cache, and layers that no image, pod or step needs any more.

    One of --older-than, --keep-storage, --image, --untagged and --all must say what.
    """  # fmt: skip
    from underway.base.clock import SystemClock
    from underway.base.home import Home
    from underway.capabilities.build.backend import garbage
    from underway.wire.oci import Reference

    if sum(map(bool, (older_than, keep_storage, everything))) > 1:
        raise BadRequest("--older-than, --keep-storage and --all exclude one another")
    if not any((older_than, keep_storage, everything, images, untagged, cache_mounts)):
        raise BadRequest("nothing to remove was named", hint="try --older-than 7d")
    home = Home.from_environment()
    names = [name if name.startswith("sha256:") else str(Reference.parse(name)) for name in images]
    if untagged:
        names += [name for name in garbage.usage(home).images if name.startswith("sha256:")]
    wanted = garbage.Wanted(
        unused_s=seconds(older_than) if older_than else 0.0 if everything else float("inf"),
        keep_bytes=size(keep_storage) if keep_storage else None,
        images=tuple(names),
        cache_mounts=cache_mounts,
        grace_s=0.0 if everything else garbage.GRACE_S,
    )
    done = garbage.prune(home, wanted, SystemClock().now().timestamp())
    click.echo(
        f"removed {done.steps} steps, {done.images} images,"
        f" {done.layers} unpacked layers; freed {done.freed_bytes / 1e6:.1f} MB of {done.blobs}"
        " compressed layers and cache mounts"
    )
