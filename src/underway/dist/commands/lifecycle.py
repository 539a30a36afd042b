"""``underway up``, ``down`` and ``reset``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from underway.base.errors import UnderwayError
from underway.base.home import Home, Settings
from underway.dist import platform, process, processes, supervisor
from underway.dist.commands.status import echo_status
from underway.kit import registry

_READY_TIMEOUT_S = 120.0


@click.command()
@click.option("--detach", is_flag=True, help="Return once the platform is ready.")
@click.option(
    "--api-port", type=click.IntRange(0, 65535), help="Port of the Kubernetes API; 0 picks one."
)
@click.option(
    "--registry-port", type=click.IntRange(0, 65535), help="Port of the registry; 0 picks one."
)
@click.option(
    "--node-port", type=click.IntRange(0, 65535), help="Port of the node agent; 0 picks one."
)
@click.option(
    "--console-port",
    type=click.IntRange(0, 65535),
    help="Port of the web console; 0 picks one, and so does 0 for another port.",
)
def up(detach: bool, **ports: int | None) -> None:
    """Start the platform.

    Ports and address ranges are chosen at the first start and kept. A platform that is running
    already is left as it is.

    \b
    underway up --detach
    UNDERWAY_HOME=/tmp/u underway up --detach --api-port 0 --registry-port 0 --node-port 0
    """
    home = Home.from_environment()
    if pid := processes.running_pid(home, processes.SUPERVISOR):
        click.echo(f"The platform is already running (pid {pid}).")
        return
    chosen = {name: port for name, port in ports.items() if port is not None}
    if 0 in chosen.values() and not home.settings_file.exists():
        # Whoever lets ports be picked runs several platforms: no default fits them all.
        for name in Settings.__struct_fields__:
            if name.endswith("_port"):
                chosen.setdefault(name, 0)
    platform.prepare(home, chosen)
    if not detach:
        click.echo("Starting; stop with Ctrl-C or `underway down`.", err=True)
        supervisor.run(home, process.names())
        return
    start_detached(home)
    echo_status(home)


def start_detached(home: Home) -> None:
    """Start a prepared platform in the background; returns once it is ready.

    Raises:
        ServiceUnavailable: it could not start; the message says why.
    """
    ready, told = os.pipe()
    home.logs.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "UNDERWAY_HOME": str(home.root),
        processes.READY_FD: str(told),
    }
    with (home.logs / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "underway.dist.supervisor", *process.names()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[told],
            start_new_session=True,
            cwd="/",
        )
    os.close(told)
    processes.await_ready(ready, "the platform", timeout_s=_READY_TIMEOUT_S)


@click.command()
@click.option("--keep-pods", is_flag=True, help="Leave the containers running.")
def down(keep_pods: bool) -> None:
    """Stop the platform: its processes, containers, mounts and links. Its state is kept."""
    home = Home.from_environment()
    stopped = stop(home, keep_pods=keep_pods)
    click.echo("Stopped." if stopped else "The platform is not running.")


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def reset(yes: bool) -> None:
    """Stop the platform and delete its state: objects, images, volumes."""
    home = Home.from_environment()
    if not home.root.exists():
        click.echo(f"There is no state in {home.root}.")
        return
    if not yes:
        click.confirm(f"Delete everything in {home.root}?", abort=True)
    stop(home, keep_pods=False)
    if mounts := _mounts_below(home.root):
        raise UnderwayError(
            f"{mounts[0]} is still mounted; nothing was deleted",
            hint=f"unmount it (umount {mounts[0]}) and run `underway reset` again",
        )
    shutil.rmtree(home.root)
    click.echo(f"Deleted {home.root}.")


def stop(home: Home, *, keep_pods: bool) -> bool:
    """End the platform's processes and, but for ``keep_pods``, its containers; whether any ran."""
    found = False
    # The supervisor first: it would start the others again.
    running = sorted(processes.components(home), key=lambda each: each.name != processes.SUPERVISOR)
    for component in running:
        if component.pid is not None:
            found = True
            processes.end(component.pid, grace_s=3 * supervisor.STOP_GRACE_S)
        processes.forget(home, component.name)
    if not keep_pods:
        for capability in reversed(registry.installed()):
            if capability.teardown:
                registry.load(capability.teardown)(home)
    return found


def _mounts_below(root: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    targets = [line.split()[4].replace("\\040", " ") for line in lines]
    return [target for target in targets if Path(target).is_relative_to(root)]
