"""How fast thousands of simulated nodes and pods come up and go, on the whole control plane.

    python -m benchmarks.scale [--nodes 5000] [--pods 10000]

The control plane is a process of its own: API server with durable writes, all controllers of
workloads, the scheduler, and the simulation that drives nodes and pods by Stages. This process is
the user: it creates, follows and deletes over TLS. The limits beside are those of kwok's own CI,
where pods are given their nodes and the scheduler has nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import uvloop

from benchmarks import measure
from underway.api.objects import Object, find_condition
from underway.api.resources import NODES, PODS, SERVICEACCOUNTS, Resource
from underway.base.errors import NotFound
from underway.base.home import Home, Settings
from underway.base.memory import collect_seldom
from underway.capabilities.simulation.model import node_object
from underway.client import Client, kubeconfig
from underway.dist import assembly
from underway.kit import registry
from underway.reconcile.informer import Entry, Informer
from underway.transport import pki
from underway.wire.http import Request, Response

CAPABILITIES = ("workloads", "scheduler", "simulation")
WRITERS = 14  # requests of the user under way at once: what the client keeps connections for
NODES_LIMIT_S, PODS_LIMIT_S, DELETED_LIMIT_S = 60, 60, 90
_START_S, _PATIENCE_S = 60, 600


def pod(number: int) -> Object:
    """A small pod, like scheduler_perf's."""
    requests = {"cpu": "100m", "memory": "500Mi"}
    container = {"name": "c", "image": "pause", "resources": {"requests": requests}}
    header = {"name": f"pod-{number:06d}", "namespace": "default", "labels": {"app": "scale"}}
    spec = {"containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": header, "spec": spec}


# -- the control plane's process -----------------------------------------------------------


async def serve(root: Path) -> None:
    """Run a control plane below ``root`` until this process is ended."""
    home, settings = Home(root), Settings(api_port=0)
    pki.ensure_pki(home, settings)
    manifest = "underway.capabilities.{}.manifest:CAPABILITY"
    chosen = [registry.load(manifest.format(name)) for name in CAPABILITIES]
    async with assembly.control_plane(home, settings, chosen, connector=_no_nodes) as plane:
        keys = home.pki
        kubeconfig.write(
            home.kubeconfig,
            server=f"https://127.0.0.1:{plane.port}",
            ca_pem=(keys / "ca.crt").read_bytes(),
            cert_pem=(keys / "admin.crt").read_bytes(),
            key_pem=(keys / "admin.key").read_bytes(),
            name="scale",
        )
        collect_seldom()  # as the platform's control plane does
        await plane.manager.run()


async def _no_nodes(_node: Object, _request: Request) -> Response:
    return Response(503)


@contextlib.contextmanager
def control_plane(root: Path) -> Iterator[tuple[int, Client]]:
    """A control plane in a process of its own: its pid and an administrator's client."""
    command = [sys.executable, "-m", "benchmarks.scale", "--serve", str(root)]
    with (root / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as run:
        try:
            home = Home(root)
            end = time.monotonic() + _START_S
            while not home.kubeconfig.exists():
                if run.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((root / "log").read_text()[-4000:])
                time.sleep(0.05)
            yield run.pid, kubeconfig.load(home.kubeconfig)
        finally:
            run.terminate()


# -- the user ------------------------------------------------------------------------------


async def each(calls: Iterable[Awaitable[Any]]) -> None:
    """Make many requests, a few at once."""
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(work())


@contextlib.asynccontextmanager
async def following(client: Client, resource: Resource) -> AsyncIterator[Informer]:
    """An informer that has seen everything there is."""
    from underway.base.clock import SystemClock

    informer = Informer(client, SystemClock(), resource)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        await informer.synced()
        yield informer
        task.cancel()


async def until(informer: Informer, count: int, holds: Callable[[Entry | None], bool]) -> None:
    """Return when ``holds`` is true of the last version of so many objects."""
    seen: set[str] = set()
    done = asyncio.Event()

    def handle(_kind: str, old: Entry | None, new: Entry | None) -> None:
        if holds(new):
            seen.add((new or old).meta.key)  # type: ignore[union-attr]
        if len(seen) >= count:
            done.set()

    informer.add_handler(handle)
    async with asyncio.timeout(_PATIENCE_S):
        await done.wait()
    informer.remove_handler(handle)


def is_ready(entry: Entry | None) -> bool:
    """Whether a node or pod is Ready."""
    if entry is None:
        return False
    conditions = (entry.view.get("status") or {}).get("conditions")
    return (find_condition(conditions, "Ready") or {}).get("status") == "True"


async def phase(
    pid: int, informer: Informer, calls: list[Awaitable[Any]], holds: Callable[[Entry | None], bool]
) -> measure.Sample:
    """Make the requests and wait until what they ask for is there."""
    started, cpu = time.perf_counter(), measure.cpu_s(pid)
    async with asyncio.TaskGroup() as group:
        group.create_task(until(informer, len(calls), holds))
        group.create_task(each(calls))
    return measure.Sample(time.perf_counter() - started, measure.cpu_s(pid) - cpu)


async def _account(client: Client) -> None:
    """Wait for the service account that pods are given."""
    while True:
        try:
            await client.get(SERVICEACCOUNTS, "default", "default")
        except NotFound:
            await asyncio.sleep(0.05)
        else:
            return


async def play(
    pid: int, client: Client, nodes: int, pods: int, tell: Callable[[str, measure.Sample], None]
) -> dict[str, measure.Sample]:
    """Nodes come, pods come, pods go."""
    found: dict[str, measure.Sample] = {}
    await _account(client)
    async with following(client, NODES) as informer:
        calls = [
            client.create(NODES, node_object(f"fake-{number:06d}", cpu="4", memory="32Gi"))
            for number in range(nodes)
        ]
        found["nodes"] = await phase(pid, informer, calls, is_ready)
    tell("nodes", found["nodes"])
    async with following(client, PODS) as informer:
        calls = [client.create(PODS, pod(number)) for number in range(pods)]
        found["pods"] = await phase(pid, informer, calls, is_ready)
        tell("pods", found["pods"])
        calls = [client.delete(PODS, f"pod-{number:06d}", "default") for number in range(pods)]
        found["deleted"] = await phase(pid, informer, calls, lambda new: new is None)
        tell("deleted", found["deleted"])
    return found


def measured(nodes: int, pods: int, tell: Callable[[str, measure.Sample], None]) -> dict[str, Any]:
    """One run, as ``benchmarks.run`` keeps and renders it."""
    with (
        tempfile.TemporaryDirectory(prefix="underway-scale-") as scratch,
        control_plane(Path(scratch)) as (pid, client),
    ):
        samples = uvloop.run(play(pid, client, nodes, pods, tell))
        memory = measure.pss_bytes(pid)
    limits = {"nodes": NODES_LIMIT_S, "pods": PODS_LIMIT_S, "deleted": DELETED_LIMIT_S}
    names = {
        "nodes": f"{nodes:,} nodes Ready",
        "pods": f"{pods:,} pods Running",
        "deleted": f"{pods:,} pods deleted",
    }
    head = {"what": "what", "wall": "seconds", "limit": "kwok's CI", "cpu": "CPU s"}
    rows = [
        {
            "what": names[name],
            "wall": f"{sample.wall_s:.1f}",
            "limit": f"{limits[name]}",
            "cpu": f"{sample.cpu_s:.1f}",
        }
        for name, sample in samples.items()
    ]
    return {
        "title": "Scale without machines",
        "how": "One control plane (durable writes, all controllers, scheduler) and one client "
        f"over TLS; CPU is the control plane's, which holds {memory / 2**20:.0f} MiB at the end.",
        "rows": [head, *rows],
        "samples": samples,
        "memory_bytes": memory,
    }


def case(_bench: Any) -> dict[str, Any]:
    """The case of ``benchmarks.run``: the sizes that kwok's own CI has."""
    return measured(5000, 10_000, lambda *_: None)


@click.command()
@click.option("--nodes", default=5000, show_default=True)
@click.option("--pods", default=10_000, show_default=True)
@click.option("--serve", "serve_root", type=click.Path(path_type=Path), hidden=True)
def main(nodes: int, pods: int, serve_root: Path | None) -> None:
    """Measure simulated nodes and pods."""
    if serve_root is not None:
        uvloop.run(serve(serve_root))
        return

    def tell(name: str, sample: measure.Sample) -> None:
        click.echo(f"{name:8s} {sample.wall_s:7.1f} s  {sample.cpu_s:7.1f} s CPU")

    result = measured(nodes, pods, tell)
    click.echo(f"memory   {result['memory_bytes'] / 2**20:7.1f} MiB")


if __name__ == "__main__":
    main()
