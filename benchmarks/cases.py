"""What is measured: each case gives a title, how it was done, table rows and raw samples."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    api,
    bases,
    build_stages,
    measure,
    reconcile,
    registry,
    scale,
    scan,
    scheduler,
)
from benchmarks.measure import Sample
from underway.api.resources import PODS
from underway.base.errors import UnderwayError
from underway.client import Client, kubeconfig

UNDERWAY = [sys.executable, "-m", "underway.dist.main"]
DOCKERFILE = """FROM busybox
ARG GREETING=hello
WORKDIR /srv
COPY files ./files
RUN for i in $(seq 1 200); do echo "$GREETING $i" > out-$i; done
RUN cat files/* > all && rm -f out-1*
ENV MODE=production
CMD ["cat", "/srv/all"]
"""


class Bench:
    """One platform in a scratch directory, started when first needed."""

    def __init__(self, scratch: Path, runs: int) -> None:
        self.scratch = scratch
        self.runs = runs
        self.home = scratch / "home"
        self.environment = {
            **os.environ,
            "UNDERWAY_HOME": str(self.home),
            "UNDERWAY_BASE_CACHE": os.environ.get("UNDERWAY_BASE_CACHE", "/var/cache/underway"),
        }

    def underway(self, *arguments: str) -> Sample:
        return measure.command([*UNDERWAY, *arguments], self.environment)

    def up(self) -> Sample:
        free = ["--api-port", "0", "--registry-port", "0", "--node-port", "0"]
        first = not (self.home / "settings.json").exists()
        return self.underway("up", "--detach", *(free if first else []))

    def status(self) -> dict[str, Any]:
        command = [*UNDERWAY, "status", "-o", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def client(self) -> Client:
        return kubeconfig.load(self.home / "kubeconfig")

    def close(self) -> None:
        if self.home.exists():
            self.underway("reset", "--yes")


def pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "main", "image": "busybox", "command": ["sleep", "3600"],
                 "imagePullPolicy": "IfNotPresent"},
            ],
        },
    }  # fmt: skip


async def until_running(client: Client, name: str) -> float:
    """Create a pod; seconds until its status says Running."""
    started = time.perf_counter()
    created = await client.create(PODS, pod(name))
    version = created["metadata"]["resourceVersion"]
    async for event in client.watch(
        PODS, "default", resource_version=version, fields=f"metadata.name={name}"
    ):
        if event.object.get("status", {}).get("phase") == "Running":
            return time.perf_counter() - started
    raise RuntimeError("the watch ended")


async def gone(client: Client, name: str) -> None:
    """Delete a pod and wait until it is gone."""
    with contextlib.suppress(UnderwayError):
        await client.delete(PODS, name, "default", grace_period_s=0)
        while True:
            await client.get(PODS, name, "default")
            await asyncio.sleep(0.05)


async def until_ready(client: Client) -> None:
    """Ask until the API server says that it is ready."""
    while True:
        with contextlib.suppress(UnderwayError):
            await client.request("GET", "/readyz")
            return
        await asyncio.sleep(0.005)


def startup(bench: Bench) -> dict[str, Any]:
    """From the command to API ready, and to the first pod Running, with the image present."""
    bench.up()
    asyncio.run(_warm(bench.client()))
    ready: list[Sample] = []
    running: list[Sample] = []
    for number in range(bench.runs):
        bench.underway("down")
        api_s, pod_s = asyncio.run(_start_once(bench, f"first-{number}"))
        ready.append(Sample(api_s))
        running.append(Sample(pod_s))
    return {
        "title": "Start of the platform",
        "how": "`underway down`, then `underway up`; a client asks /readyz every 5 ms, then "
        "creates a busybox pod (image present) and watches it. No peer can run here; published: "
        "k3d 33 s, kind 47 s, minikube 57 s until application and DNS answer.",
        "rows": [
            {"figure": "figure", "median": "median", "p99": "p99", "goal": "goal"},
            {"figure": "`up` to API ready", "median": _s(measure.median(ready)),
             "p99": _s(measure.p99(ready)), "goal": "≤ 1 s"},
            {"figure": "`up` to first pod Running", "median": _s(measure.median(running)),
             "p99": _s(measure.p99(running)), "goal": "≤ 3 s"},
        ],
        "samples": {"ready": ready, "running": running},
    }  # fmt: skip


async def _warm(client: Client) -> None:
    await until_running(client, "warm")
    await gone(client, "warm")


async def _start_once(bench: Bench, name: str) -> tuple[float, float]:
    started = time.perf_counter()
    starting = await asyncio.create_subprocess_exec(
        *UNDERWAY, "up", "--detach", env=bench.environment, stdout=subprocess.DEVNULL
    )
    client = bench.client()
    await until_ready(client)
    api_s = time.perf_counter() - started
    await until_running(client, name)
    pod_s = time.perf_counter() - started
    await starting.wait()
    await gone(client, name)
    return api_s, pod_s


def container(bench: Bench) -> dict[str, Any]:
    """A pod from creation to Running, beside ``runc run`` of the same root."""
    bench.up()
    root = bench.scratch / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    bundle = bench.scratch / "bundle"
    bundle.mkdir()
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["/bin/busybox", "true"]}
    spec["root"] = {"path": str(root), "readonly": True}
    (bundle / "config.json").write_text(json.dumps(spec))
    client = bench.client()
    ours, peer = asyncio.run(_containers(bench, client, bundle))
    ratio = measure.median(ours) / measure.median(peer)
    return {
        "title": "Start of a container",
        "how": "Ours: POST of a pod until a watch sees it Running, image present: scheduling, "
        "network, overlay, conmon and runc. Peer: `runc run` of busybox `true`, to its end.",
        "rows": [
            {"what": "what", "median": "median", "p99": "p99", "ratio": "ratio"},
            {"what": "pod created to Running", "median": _s(measure.median(ours)),
             "p99": _s(measure.p99(ours)), "ratio": f"{ratio:.1f}"},
            {"what": "`runc run`", "median": _s(measure.median(peer)),
             "p99": _s(measure.p99(peer)), "ratio": "1"},
        ],
        "samples": {"ours": ours, "runc": peer},
    }  # fmt: skip


async def _containers(
    bench: Bench, client: Client, bundle: Path
) -> tuple[list[Sample], list[Sample]]:
    await _warm(client)
    ours, peer = [], []
    for number in range(bench.runs * 3):
        ours.append(Sample(await until_running(client, f"pod-{number}")))
        await gone(client, f"pod-{number}")
        peer.append(measure.command(["runc", "run", "--bundle", str(bundle), f"bench-{number}"]))
    return ours, peer


def build(bench: Bench) -> dict[str, Any]:
    """The same Dockerfile by the platform's builder and by buildah, cold and cached."""
    bench.up()
    context = bench.scratch / "context"
    (context / "files").mkdir(parents=True)
    for number in range(500):
        (context / "files" / f"f{number:03}").write_text(f"line {number}\n" * 50)
    (context / "Dockerfile").write_text(DOCKERFILE)
    status = bench.status()
    registry = status["endpoints"]["registry"].removeprefix("https://")
    buildah = _buildah(bench, context, registry, status)
    ours_cold, ours_cached, peer_cold, peer_cached = [], [], [], []
    tag = f"{registry}/bench/app:1"
    bench.underway("build", str(context), "-t", tag)
    buildah("--layers")
    for _ in range(bench.runs):
        ours_cold.append(bench.underway("build", str(context), "-t", tag, "--no-cache"))
        peer_cold.append(buildah("--no-cache"))
        bench.underway("build", str(context), "-t", tag)
        buildah("--layers")
        ours_cached.append(bench.underway("build", str(context), "-t", tag))
        peer_cached.append(buildah("--layers"))
    subprocess.run(
        ["buildah", *_stores(bench), "rmi", "--all", "--force"], capture_output=True, check=False
    )
    rows = [{"build": "build", "ours": "ours", "buildah": "buildah", "ratio": "ratio",
             "cpu": "CPU ours / buildah"}]  # fmt: skip
    for name, ours, peer in (
        ("steps run anew", ours_cold, peer_cold),
        ("unchanged", ours_cached, peer_cached),
    ):
        rows.append({
            "build": name,
            "ours": _s(measure.median(ours)),
            "buildah": _s(measure.median(peer)),
            "ratio": f"{measure.median(ours) / measure.median(peer):.2f}",
            "cpu": f"{_s(measure.cpu(ours))} / {_s(measure.cpu(peer))}",
        })  # fmt: skip
    return {
        "title": "Building an image",
        "how": "Two RUN and one COPY of 500 files on the busybox stand-in, base present for both. "
        "Ours: `underway build`, pushed to the registry over TLS. Peer: Debian's "
        "`buildah bud --isolation chroot`, not pushed.",
        "rows": rows,
        "samples": {
            "ours_cold": ours_cold,
            "ours_cached": ours_cached,
            "buildah_cold": peer_cold,
            "buildah_cached": peer_cached,
        },
    }


def _stores(bench: Bench) -> list[str]:
    return ["--root", str(bench.scratch / "buildah"), "--runroot", str(bench.scratch / "buildrun")]


def _buildah(
    bench: Bench, context: Path, registry: str, status: dict[str, Any]
) -> Callable[[str], Sample]:
    certificates = Path(tempfile.mkdtemp(dir=bench.scratch))
    shutil.copy(status["caFile"], certificates / "ca.crt")
    dockerfile = bench.scratch / "Dockerfile.buildah"
    base = f"{registry}/docker.io/library/busybox:latest"
    dockerfile.write_text(DOCKERFILE.replace("FROM busybox", f"FROM {base}"))

    def run(mode: str) -> Sample:
        return measure.command(
            ["buildah", *_stores(bench), "bud", "--isolation", "chroot", "--pull=false", mode,
             "--cert-dir", str(certificates), "--authfile", status["registryAuthFile"],
             "-f", str(dockerfile), "-t", "bench", str(context)]
        )  # fmt: skip

    command = ["buildah", *_stores(bench), "pull", "--cert-dir", str(certificates),
               "--authfile", status["registryAuthFile"], base]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return run


def idle(bench: Bench) -> dict[str, Any]:
    """Memory and CPU of the whole platform with nothing to do."""
    bench.up()
    time.sleep(20)
    pids = {each["name"]: each["pid"] for each in bench.status()["components"]}
    window_s = 60.0
    before = {name: measure.cpu_s(pid) for name, pid in pids.items()}
    time.sleep(window_s)
    rows = [{"process": "process", "memory": "memory (PSS)", "cpu": "CPU of one core"}]
    total_bytes, total_cpu = 0, 0.0
    samples = {}
    for name, pid in pids.items():
        memory = measure.pss_bytes(pid)
        share = (measure.cpu_s(pid) - before[name]) / window_s
        total_bytes, total_cpu = total_bytes + memory, total_cpu + share
        samples[name] = {"pss_bytes": memory, "cpu_share": share}
        rows.append({"process": name, "memory": _mb(memory), "cpu": f"{share:.1%}"})
    rows.append({"process": "whole platform (goal ≤ 150 MB, ≤ 2 %)", "memory": _mb(total_bytes),
                 "cpu": f"{total_cpu:.1%}"})  # fmt: skip
    return {
        "title": "The idle platform",
        "how": "Proportional memory after 80 s, CPU over 60 s, no pods.",
        "rows": rows,
        "samples": samples,
    }


def _s(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


CASES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "startup": startup,
    "container": container,
    "build": build,
    "build-stages": build_stages.case,
    "bases": bases.case,
    "idle": idle,
    "api": api.case,
    "scheduler": scheduler.case,
    "scale": scale.case,
    "reconcile": reconcile.reconcile,
    "registry": registry.case,
    "scan": scan.case,
}
