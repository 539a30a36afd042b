"""``underway snapshot``: the whole cluster at a point in time, and back."""

from __future__ import annotations

import click
import msgspec

from underway.base.home import Home
from underway.dist import platform, processes
from underway.dist.commands import lifecycle
from underway.server import snapshots

_output = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")


@click.group()
def snapshot() -> None:
    """Save the whole cluster, and bring it back to that point in time.

    A snapshot holds every object, the certificates and keys, and the settings. It does not hold
    images and volumes. Whoever can read it has the cluster's keys: it lies in the platform's state
    directory, readable by its owner alone.
    """


@snapshot.command()
@click.argument("name", default="")
@_output
def save(name: str, output: str) -> None:
    """Save the cluster as it is now; it keeps running.

    \b
    underway snapshot save before-upgrade
    """
    made = snapshots.save(Home.from_environment(), name)
    if output == "json":
        _echo_json(made)
    else:
        click.echo(f"Saved {made.name} ({_size(made.size_bytes)}).")


@snapshot.command(name="list")
@_output
def list_(output: str) -> None:
    """List the snapshots, oldest first."""
    found = snapshots.listed(Home.from_environment())
    if output == "json":
        _echo_json(found)
        return
    rows = [("NAME", "CREATED", "SIZE", "REVISION")]
    rows += [(s.name, s.created_at, _size(s.size_bytes), str(s.revision)) for s in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("   ".join(cells).rstrip())


@snapshot.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def restore(name: str, yes: bool) -> None:
    """Bring the cluster back to a snapshot; what has changed since then is lost.

    A running platform is stopped for it and started again. Pods that are in the snapshot go on
    running; those that are not are ended.

    \b
    underway snapshot restore before-upgrade
    """
    home = Home.from_environment()
    found = snapshots.check(home, name)
    if not yes:
        question = f"Replace the cluster in {home.root} by {name}, saved {found.created_at}?"
        click.confirm(question, abort=True)
    running = processes.running_pid(home, processes.SUPERVISOR) is not None
    same_network = Home(home.snapshots / name).load_settings() == home.load_settings()
    lifecycle.stop(home, keep_pods=same_network)
    try:
        snapshots.restore(home, name)
    finally:
        # Also where it failed: then the cluster is as it was, and runs as it did.
        if running:
            platform.prepare(home, {})
            lifecycle.start_detached(home)
    click.echo(f"Restored {name}.")
    if not running:
        click.echo("The platform is stopped; start it with `underway up`.")


@snapshot.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a snapshot."""
    snapshots.delete(Home.from_environment(), name)
    click.echo(f"Deleted {name}.")


def _echo_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1024 / 1024:.1f} MiB"
