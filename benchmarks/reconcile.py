"""How many no-op reconciliations a second an operator makes, and in how much memory.

    python -m benchmarks.reconcile [--objects 10000] [--rounds 3]

One embedded API server holds the objects. Ours and kopf take turns as operators in processes of
their own, over TLS, as users run them: each starts, lists every object and looks at it once. The
server shares the machine with them; the operator's own CPU time is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks import measure
from benchmarks.measure import Sample
from underway.api.resources import Resource
from underway.client import Client, kubeconfig
from underway.testing import Cluster

THINGS = Resource("bench.underway.dev", "v1", "things", "Thing")
WRITERS = 32
FREE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": THINGS.group_resource},
    "spec": {
        "group": THINGS.group,
        "scope": "Namespaced",
        "names": {"plural": THINGS.plural, "kind": THINGS.kind, "singular": "thing"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": FREE}}},
            }
        ],
    },
}
# Each counts what it reconciled and when, and tells it for every line it reads.
OURS = """
import asyncio, sys, time
import uvloop
from underway.api.resources import Resource
from underway.reconcile import Controller, Done, Manager, connect

seen, first, last = 0, 0.0, 0.0
THINGS = Resource("bench.underway.dev", "v1", "things", "Thing")

async def main():
    manager = Manager(connect())
    things = manager.informer(THINGS)

    async def reconcile(request):
        global seen, first, last
        thing = things.get(request.key)
        assert thing["spec"]
        last = time.monotonic()
        first = first or last
        seen += 1
        return Done()

    manager.add(Controller("bench", reconcile, primary=THINGS))
    async with asyncio.TaskGroup() as group:
        group.create_task(manager.run())
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.readline():
            print(seen, first, last, flush=True)

uvloop.run(main())
"""
KOPF = """
import sys, threading, time
import kopf

seen, first, last = 0, 0.0, 0.0

@kopf.on.startup()
def configure(settings, **_):
    settings.posting.enabled = False

@kopf.on.event("bench.underway.dev", "v1", "things")
async def look(spec, **_):
    global seen, first, last
    assert spec
    last = time.monotonic()
    first = first or last
    seen += 1

def tell():
    for _ in sys.stdin:
        print(seen, first, last, flush=True)

threading.Thread(target=tell, daemon=True).start()
"""


class Operator:
    """An operator in a process of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def seen(self) -> tuple[int, float]:
        """How many reconciliations there were, and seconds from the first to the last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if not answer:
            raise RuntimeError("the operator has ended")
        return int(answer[0]), float(answer[2]) - float(answer[1])

    def until(self, count: int, timeout_s: float = 600) -> float:
        """Wait until there were so many; seconds from the first to the last."""
        deadline = time.monotonic() + timeout_s
        while True:
            seen, lasted_s = self.seen()
            if seen >= count:
                return lasted_s
            if time.monotonic() > deadline:
                raise RuntimeError(f"the operator stands at {seen} of {count}")
            time.sleep(0.1)

    @property
    def memory_bytes(self) -> int:
        """Proportional memory."""
        return measure.pss_bytes(self._process.pid)

    @property
    def cpu_s(self) -> float:
        """CPU time so far."""
        return measure.cpu_s(self._process.pid)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def operator(name: str, cluster: Cluster, scratch: Path) -> Iterator[Operator]:
    """``ours`` or ``kopf``, watching the cluster."""
    file = scratch / f"bench_{name}.py"
    file.write_text(OURS if name == "ours" else KOPF)
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    command = [sys.executable, str(file)]
    if name == "kopf":
        options = ["run", "--quiet", "--standalone", "--all-namespaces", str(file)]
        command = [sys.executable, "-m", "kopf", *options]
    running = Operator(command, environment, scratch)
    try:
        yield running
    finally:
        running.close()


async def create_objects(path: Path, count: int) -> None:
    """Create every object, some at a time."""
    client: Client = kubeconfig.load(path)
    waiting = list(range(count))

    async def work() -> None:
        while waiting:
            name = f"thing-{waiting.pop():06d}"
            header = {"name": name, "namespace": "default"}
            spec = {"size": 3, "colour": "red", "parts": [{"name": "a"}, {"name": "b"}]}
            made = {"apiVersion": THINGS.api_version, "kind": "Thing", "metadata": header}
            await client.create(THINGS, {**made, "spec": spec})

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(work())
    finally:
        await client.aclose()


def measured(name: str, cluster: Cluster, scratch: Path, objects: int) -> dict[str, Any]:
    """One start of an operator: it reads every object, and looks at each."""
    started = time.perf_counter()
    with operator(name, cluster, scratch) as running:
        lasted_s = running.until(objects)
        whole_s = time.perf_counter() - started
        return {
            "pass": Sample(lasted_s),
            "whole": Sample(whole_s, running.cpu_s),
            "memory_bytes": running.memory_bytes,
        }


def compare(objects: int, rounds: int) -> dict[str, Any]:
    """Both operators in turn on one server."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "kopf": []}
    with (
        tempfile.TemporaryDirectory(prefix="underway-bench-") as scratch,
        Cluster(nodes=0, capabilities=(), crds=[CRD]) as cluster,
    ):
        asyncio.run(create_objects(cluster.kubeconfig, objects))
        for _ in range(rounds):
            for name, samples in found.items():
                samples.append(measured(name, cluster, Path(scratch), objects))
    return found_as_case(objects, found)


def found_as_case(objects: int, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Title, method, rows and raw samples, as ``benchmarks.cases`` has them."""
    rows = [
        {"operator": "operator", "rate": "reconciliations/s", "whole": "start to last of them",
         "cpu": "CPU", "memory": "memory (PSS)"}
    ]  # fmt: skip
    for name, samples in found.items():
        passes = [each["pass"] for each in samples]
        whole = [each["whole"] for each in samples]
        memory = sorted(each["memory_bytes"] for each in samples)[len(samples) // 2]
        rows.append({
            "operator": name,
            "rate": f"{objects / measure.median(passes):,.0f}",
            "whole": f"{measure.median(whole):.1f} s",
            "cpu": f"{measure.cpu(whole):.1f} s",
            "memory": f"{memory / 1e6:.0f} MB",
        })  # fmt: skip
    return {
        "title": "No-op reconciliations",
        "how": f"{objects:,} custom objects on the embedded server. Each operator starts in a"
        " process of its own, over TLS, lists them and looks at each (ours: a reconcile that reads"
        " the object from its cache; kopf: an event handler). Rate: from the first to the last."
        " Goal: at least 1,000 a second in at most 120 MB.",
        "rows": rows,
        "samples": found,
    }


def reconcile(bench: Any) -> dict[str, Any]:
    """The case for ``benchmarks.cases.CASES``."""
    return compare(10_000, max(1, bench.runs // 2))


@click.command()
@click.option("--objects", default=10_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(objects: int, rounds: int) -> None:
    """Measure no-op reconciliations beside kopf."""
    result = compare(objects, rounds)
    for row in result["rows"]:
        click.echo("  ".join(f"{value:>24}" for value in row.values()))
    click.echo(json.dumps(result["samples"], default=vars_of))


def vars_of(sample: Sample) -> dict[str, float]:
    """A sample as JSON."""
    return {"wall_s": sample.wall_s, "cpu_s": sample.cpu_s}


if __name__ == "__main__":
    main()
