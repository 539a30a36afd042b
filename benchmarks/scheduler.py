"""How many pods a second the scheduler places on thousands of simulated nodes.

    python -m benchmarks.scheduler [--nodes 5000] [--pods 2000] [--kind plain]

``decide`` is the rules alone; ``bind`` the whole scheduler on the embedded server in one process,
with every binding written durably, from the first pod it sees to the last one bound.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from underway.api.objects import Object, name_of
from underway.api.resources import NODES, PODS
from underway.base.home import Home, Settings
from underway.capabilities.scheduler import controller
from underway.capabilities.scheduler.model import pod_info
from underway.capabilities.scheduler.rules.cluster import Cluster
from underway.capabilities.scheduler.rules.decide import Chosen, decide
from underway.client import Client
from underway.reconcile import Entry, Manager
from underway.server.app import ApiServer
from underway.transport import pki

ZONES = 10
KINDS = ("plain", "spread", "affinity", "anti-affinity", "preferred")
WRITERS = 64


def node(number: int) -> Object:
    """A node like scheduler_perf's: 4 CPUs, 32 GiB, 110 pods."""
    name = f"node-{number:05d}"
    amounts = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    labels = {
        "kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": f"zone-{number % ZONES}",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(number: int, kind: str) -> Object:
    """A pod like scheduler_perf's: 100 thousandths of a CPU and 500 MiB."""
    requests = {"cpu": "100m", "memory": "500Mi"}
    spec: Object = {
        "containers": [{"name": "c", "image": "pause", "resources": {"requests": requests}}]
    }
    chosen = {"matchLabels": {"app": "bench"}}
    term = {"labelSelector": chosen, "topologyKey": "kubernetes.io/hostname"}
    zone = {"labelSelector": chosen, "topologyKey": "topology.kubernetes.io/zone"}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    if kind == "spread":
        constraint = {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", **zone}
        spec["topologySpreadConstraints"] = [constraint]
    elif kind == "affinity":
        spec["affinity"] = {"podAffinity": {required: [zone]}}
    elif kind == "anti-affinity":
        spec["affinity"] = {"podAntiAffinity": {required: [term]}}
    elif kind == "preferred":
        weighted = {"weight": 50, "podAffinityTerm": term}
        spec["affinity"] = {"podAntiAffinity": {preferred: [weighted]}}
    name = f"pod-{number:06d}"
    header = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "labels": {"app": "bench"},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": header, "spec": spec}


def measure_rules(nodes: int, pods: int, kind: str) -> float:
    """Pods a second, decided and placed in memory."""
    cluster = Cluster()
    for number in range(nodes):
        cluster.put_node(node(number))
    waiting = [pod(number, kind) for number in range(pods)]
    gc.collect()
    started = time.perf_counter()
    for each in waiting:
        info = pod_info(each)
        verdict = decide(info, cluster)
        if isinstance(verdict, Chosen):
            cluster.place(info, verdict.node)
    return pods / (time.perf_counter() - started)


async def measure_scheduler(root: Path, nodes: int, pods: int, kind: str) -> tuple[float, float]:
    """Pods a second, bound on the embedded server, and seconds of CPU time a thousand pods took."""
    home = Home(root)
    pki.ensure_pki(home, Settings())
    server = ApiServer(home, settings=Settings())
    await server.start()
    try:
        handler = server.as_user("admin", ["system:masters"])
        client = Client(handler)
        await _create(client, [node(number) for number in range(nodes)])
        await _create(client, [_without_uid(pod(number, kind)) for number in range(pods)])
        manager = Manager(Client(handler))
        bound: set[str] = set()
        times: list[float] = []
        done = asyncio.Event()

        def follow(_kind: str, _old: Entry | None, new: Entry | None) -> None:
            if new is not None and new.view["spec"].get("nodeName"):
                bound.add(name_of(new.view))
                times.append(time.perf_counter())
                if len(bound) == pods:
                    done.set()

        controller.add(manager, home)
        manager.informer(PODS).add_handler(follow)
        gc.collect()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(manager.run())
            await manager.synced()
            started, cpu = time.perf_counter(), time.process_time()
            async with asyncio.timeout(600):
                await done.wait()
            lasted_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
            task.cancel()
        return pods / lasted_s, 1000 * cpu_s / pods
    finally:
        await server.stop()


def _without_uid(made: Object) -> Object:
    del made["metadata"]["uid"]
    return made


async def _create(client: Client, objects: list[Object]) -> None:
    waiting = list(reversed(objects))

    async def work() -> None:
        while waiting:
            each = waiting.pop()
            await client.create(NODES if each["kind"] == "Node" else PODS, each)

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(work())


def case(_bench: Any) -> dict[str, Any]:
    """The case of ``benchmarks.run``: 2,000 pods on 5,000 nodes, of each kind."""
    nodes, pods = 5000, 2000
    rows = [{"kind": "pods", "decide": "decided/s", "bind": "bound/s", "cpu": "CPU s per 1,000"}]
    samples: dict[str, Any] = {}
    for kind in KINDS:
        decided = measure_rules(nodes, pods, kind)
        with tempfile.TemporaryDirectory(prefix="underway-bench-") as root:
            bound, cpu_s = asyncio.run(measure_scheduler(Path(root), nodes, pods, kind))
        samples[kind] = {"decided_per_s": decided, "bound_per_s": bound, "cpu_s_per_1000": cpu_s}
        rows.append(
            {
                "kind": kind,
                "decide": f"{decided:.0f}",
                "bind": f"{bound:.0f}",
                "cpu": f"{cpu_s:.2f}",
            }
        )
    return {
        "title": "Scheduler",
        "how": f"{pods:,} pods on {nodes:,} nodes in one process: the decisions alone, and with "
        "each binding written durably. Upstream's CI asks for 680 pods a second bound.",
        "rows": rows,
        "samples": samples,
    }


@click.command()
@click.option("--nodes", default=5000, show_default=True)
@click.option("--pods", default=2000, show_default=True)
@click.option("--kind", type=click.Choice(KINDS), multiple=True, help="Default: all of them.")
@click.option("--bind/--no-bind", default=True, show_default=True, help="Measure the server too.")
def main(nodes: int, pods: int, kind: tuple[str, ...], bind: bool) -> None:
    """Measure the scheduler."""
    for each in kind or KINDS:
        click.echo(f"{each:14s} decide {measure_rules(nodes, pods, each):9.0f} pods/s", nl=False)
        if bind:
            with tempfile.TemporaryDirectory(prefix="underway-bench-") as root:
                rate, cpu_s = asyncio.run(measure_scheduler(Path(root), nodes, pods, each))
            click.echo(f"   bind {rate:7.0f} pods/s, {cpu_s:.2f} s CPU per 1,000", nl=False)
        click.echo()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
