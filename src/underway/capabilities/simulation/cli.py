"""``underway simulate``: nodes without machines."""

from __future__ import annotations

import asyncio

import click

from underway.api.objects import Object, find_condition, name_of
from underway.api.resources import NODES
from underway.base.errors import BadRequest, ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.simulation.model import GROUP, SIMULATED, node_object
from underway.client import Client, kubeconfig

WRITERS = 32  # requests under way at once
_COLUMNS = ("NAME", "READY", "CPU", "MEMORY", "PODS")


async def scale(client: Client, count: int, prefix: str, **amounts: str) -> tuple[int, int]:
    """Have exactly ``count`` simulated nodes ``prefix-000000``...; how many came and went."""
    found = await client.list(NODES, labels=f"{GROUP}={prefix}")
    present = {name_of(each) for each in found.items}
    wanted = [f"{prefix}-{number:06d}" for number in range(count)]
    new = [node_object(n, group=prefix, **amounts) for n in wanted if n not in present]
    old = sorted(present - set(wanted))
    waiting = [client.delete(NODES, name) for name in old]
    waiting += [client.create(NODES, node) for node in reversed(new)]

    async def work() -> None:
        while waiting:
            await waiting.pop()

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(work())
    return len(new), len(old)


async def wait_ready(client: Client, prefix: str, count: int, timeout_s: float) -> int:
    """How many nodes are ready, at the latest after ``timeout_s``."""
    selector = f"{GROUP}={prefix}"
    found = await client.list(NODES, labels=selector)
    ready = {name_of(each) for each in found.items if _is_ready(each)}
    try:
        async with asyncio.timeout(timeout_s):
            if len(ready) < count:
                async for event in client.watch(
                    NODES, labels=selector, resource_version=found.resource_version
                ):
                    if event.type == "MODIFIED" and _is_ready(event.object):
                        ready.add(name_of(event.object))
                    if len(ready) >= count:
                        break
    except TimeoutError:
        pass
    return len(ready)


def _is_ready(node: Object) -> bool:
    condition = find_condition((node.get("status") or {}).get("conditions"), "Ready")
    return (condition or {}).get("status") == "True"


@click.group()
def simulate() -> None:
    """Nodes without machines, driven by kwok's Stages.

    Pods on them run nothing: what becomes of them is what the Stages of the cluster say
    (kubectl get stages), or pods that run, of Jobs complete, and go when deleted.

    \b
    underway simulate nodes --count 100
    underway simulate nodes --count 0
    underway simulate list
    """


@simulate.command()
@click.option("--count", type=click.IntRange(0, 20_000), required=True, help="How many to have.")
@click.option("--prefix", default="fake", show_default=True, help="Of the nodes' names.")
@click.option("--cpu", default="32", show_default=True)
@click.option("--memory", default="256Gi", show_default=True)
@click.option("--pods", default="110", show_default=True)
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait.")
def nodes(count: int, prefix: str, cpu: str, memory: str, pods: str, timeout_s: float) -> None:
    """Have so many simulated nodes: make those that lack, delete those too many.

    \b
    underway simulate nodes --count 1000 --cpu 4 --memory 16Gi
    underway simulate nodes --count 0
    """

    async def run() -> None:
        client = _client()
        amounts = {"cpu": cpu, "memory": memory, "pods": pods}
        made, gone = await scale(client, count, prefix, **amounts)
        ready = await wait_ready(client, prefix, count, timeout_s)
        click.echo(f"{made} nodes made, {gone} deleted, {ready} of {count} ready")
        if ready < count:
            raise ServiceUnavailable(
                f"{count - ready} nodes were not ready within {timeout_s:g} s",
                hint="underway simulate list",
            )

    asyncio.run(run())


@simulate.command("list")
def list_nodes() -> None:
    """The simulated nodes there are."""

    async def run() -> None:
        found = await _client().list(NODES)
        rows = [_row(each) for each in found.items if SIMULATED in _annotations(each)]
        if not rows:
            raise BadRequest(
                "there are no simulated nodes", hint="underway simulate nodes --count 10"
            )
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
        for row in (_COLUMNS, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(cells).rstrip())

    asyncio.run(run())


def _annotations(node: Object) -> dict[str, str]:
    return node["metadata"].get("annotations") or {}


def _row(node: Object) -> tuple[str, ...]:
    amounts = (node.get("status") or {}).get("allocatable") or {}
    ready = "yes" if _is_ready(node) else "no"
    shown = (str(amounts.get(name, "-")) for name in ("cpu", "memory", "pods"))
    return (name_of(node), ready, *shown)


def _client() -> Client:
    home = Home.from_environment()
    if not home.kubeconfig.exists():
        raise ServiceUnavailable(
            f"there is no platform in {home.root}", hint="start it: underway up --detach"
        )
    return kubeconfig.load(home.kubeconfig)
