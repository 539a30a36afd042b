"""The registry beside Debian's docker-registry: CPU per manifest, blobs, small artifacts.

    benchmarks/registry.py [--peer PATH] [--rounds N] [--json FILE]

Both serve TLS with the same certificate, files on the same disk, and take turns. The peer lets
everybody in who sends credentials at all; ours checks them. CPU is the server's own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import NotFound
from underway.base.home import Home, Settings
from underway.capabilities.registry import routes
from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.backend.hub import Hub
from underway.transport import front, pki
from underway.wire import oci

Samples = dict[str, list[dict[str, float]]]
PEER = "/usr/bin/docker-registry"
PEER_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}", tls: {{certificate: {crt}, key: {key}}}}}
auth: {{silly: {{realm: x, service: x}}}}
"""
MANIFESTS = 2000  # requests of one round
ARTIFACTS = 400
LISTED = 100_000
CLIENTS = 8
BLOB_BYTES = 128 * 1024 * 1024
TICKS = os.sysconf("SC_CLK_TCK")


class NoPorts:
    """No other capability is there."""

    def get(self, port: str) -> object:
        raise NotFound(port)


async def serve(root: Path) -> None:
    """Serve our registry on the port in the home's settings until killed."""
    home = Home(root)
    context = pki.server_context(home.pki / "apiserver.crt", home.pki / "apiserver.key")
    hub = Hub(home)
    handler = routes.serve(hub, NoPorts())  # type: ignore[arg-type]
    port = home.load_settings().registry_port
    async with await front.serve(handler, port=port, tls=context):
        await hub.jobs.run()


class Connection:
    """One kept-alive connection; one request after the other."""

    def __init__(self, port: int, ca: Path, authorization: str) -> None:
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = ssl.create_default_context(cafile=str(ca))
        self._socket = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self._in = self._socket.makefile("rb")
        accept = ", ".join(oci.MANIFEST_TYPES)
        self._head = (
            f"Host: 127.0.0.1:{port}\r\nAuthorization: {authorization}\r\nAccept: {accept}\r\n"
        )

    def call(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, str]:
        """Status and Location of an answer whose body is read and dropped."""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n"
        self._socket.sendall(f"{head}Content-Type: {kind}\r\n\r\n".encode() + body[:65536])
        if len(body) > 65536:
            self._socket.sendall(memoryview(body)[65536:])
        status, location, left = int(self._in.readline().split()[1]), "", 0
        while line := self._in.readline().rstrip():
            name, _, value = line.decode().partition(": ")
            if name.lower() == "content-length":
                left = int(value)
            elif name.lower() == "location":
                location = value
        buffer = bytearray(1024 * 1024)
        while left:
            left -= self._in.readinto(memoryview(buffer)[: min(left, len(buffer))])
        return status, location

    def push_blob(self, repository: str, data: bytes, digest: str) -> None:
        """Upload in two requests, as clients do."""
        _, location = self.call("POST", f"/v2/{repository}/blobs/uploads/")
        path = location.partition("127.0.0.1")[2].partition("/")[2] if "//" in location else ""
        path = f"/{path}" if path else location
        status, _ = self.call("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", data)
        assert status == 201, status

    def push_artifact(self, repository: str, tag: str, data: bytes) -> None:
        """A blob and the manifest that names it."""
        digest = oci.digest_of(data)
        self.push_blob(repository, data, digest)
        part = {"mediaType": oci.CONFIG, "digest": digest, "size": len(data)}
        manifest = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": part, "layers": [part]}
        path = f"/v2/{repository}/manifests/{tag}"
        status, _ = self.call("PUT", path, json.dumps(manifest).encode(), oci.MANIFEST)
        assert status == 201, status


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(pid: int, port: int, ca: Path, authorization: str, number: int) -> dict[str, float]:
    """One round of everything against one server."""
    connection = Connection(port, ca, authorization)
    connection.push_artifact("bench/app", "v1", os.urandom(1024))
    found = {}
    before_cpu, before = cpu_s(pid), time.perf_counter()
    for _ in range(MANIFESTS):
        assert connection.call("GET", "/v2/bench/app/manifests/v1")[0] == 200
    found["manifest_get_cpu_ms"] = (cpu_s(pid) - before_cpu) * 1000 / MANIFESTS
    found["manifest_get_per_s"] = MANIFESTS / (time.perf_counter() - before)
    blob = os.urandom(BLOB_BYTES)
    digest = oci.digest_of(blob)
    before_cpu, before = cpu_s(pid), time.perf_counter()
    connection.push_blob("bench/blobs", blob, digest)
    found["blob_push_mib_s"] = BLOB_BYTES / 2**20 / (time.perf_counter() - before)
    found["blob_push_cpu_s"] = cpu_s(pid) - before_cpu
    before_cpu, before = cpu_s(pid), time.perf_counter()
    assert connection.call("GET", f"/v2/bench/blobs/blobs/{digest}")[0] == 200
    found["blob_pull_mib_s"] = BLOB_BYTES / 2**20 / (time.perf_counter() - before)
    found["blob_pull_cpu_s"] = cpu_s(pid) - before_cpu

    def push(client: int, repository: str) -> None:
        own = Connection(port, ca, authorization)
        for each in range(ARTIFACTS // CLIENTS):
            tag = f"t{number}-{client}-{each}"
            own.push_artifact(repository.format(client, each), tag, os.urandom(1024))

    for name, repository in (("one", "bench/small"), ("many", "bench/small{}-{}")):
        before = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(push, range(CLIENTS), [repository] * CLIENTS))
        rate = ARTIFACTS / (time.perf_counter() - before)
        found[f"artifacts_{name}_repo_per_s"] = rate
    return found


def measure_listing(home: Home, port: int, ca: Path, authorization: str) -> dict[str, float]:
    """Pages of a repository with 100,000 artifacts, by Harbor's API; ours alone has that."""
    hub = Hub(home)
    hub.storage.database.write(_fill)
    connection, taken = Connection(port, ca, authorization), []
    path = "/api/v2.0/projects/bench/repositories/large/artifacts?page_size=100&page={}"
    for page in (*range(1, 101), *range(901, 1001)):
        before = time.perf_counter()
        assert connection.call("GET", path.format(page))[0] == 200
        taken.append(time.perf_counter() - before)
    taken.sort()
    hub.database.close()
    return {"list_p50_ms": taken[len(taken) // 2] * 1000, "list_p95_ms": taken[-10] * 1000}


def _fill(cursor: Cursor) -> None:
    project = cursor.one("SELECT id FROM projects WHERE name = 'bench'")
    assert project is not None
    sql = "INSERT INTO repositories (project_id, name, pushed) VALUES (?, 'bench/large', 1)"
    repository = cursor.one(f"{sql} RETURNING id", project["id"])
    assert repository is not None
    for number in range(LISTED):
        row = cursor.one(
            "INSERT INTO artifacts (project_id, repository_id, digest, media_type, push_time, "
            "annotations) VALUES (?, ?, ?, ?, ?, '{}') RETURNING id",
            project["id"],
            repository["id"],
            oci.digest_of(str(number).encode()),
            oci.MANIFEST,
            f"2026-01-01T00:{number // 3600 % 60:02}:{number % 60:02}.{number % 1000:03}Z",
        )
        assert row is not None
        cursor.run(
            "INSERT INTO tags (repository_id, artifact_id, name) VALUES (?, ?, ?)",
            repository["id"], row["id"], f"v{number}",
        )  # fmt: skip


def resident_mib(pid: int) -> float:
    """What a process holds in memory."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def running(arguments: list[str], port: int) -> Iterator[int]:
    """A server process that answers on its port; gives its pid."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{arguments[0]} does not answer on port {port}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compare(program: str, rounds: int) -> tuple[Samples, dict[str, float]]:
    """Samples of both, taken in turns, and what only ours is measured for."""
    samples: Samples = {"underway": [], "docker-registry": []}
    with (
        tempfile.TemporaryDirectory(prefix="underway-bench-") as scratch,
        contextlib.ExitStack() as on,
    ):
        home, peer_port = Home(Path(scratch) / "home"), free_port()
        settings = Settings(registry_port=free_port())
        pki.ensure_pki(home, settings)
        home.save_settings(settings)
        ours = on.enter_context(
            running([sys.executable, __file__, "--serve", str(home.root)], settings.registry_port)
        )
        crt, key = home.pki / "apiserver.crt", home.pki / "apiserver.key"
        config = Path(scratch) / "peer.yml"
        config.write_text(
            PEER_CONFIG.format(root=f"{scratch}/peer", port=peer_port, crt=crt, key=key)
        )
        peer = on.enter_context(running([program, "serve", str(config)], peer_port))
        auths = msgspec.json.decode(home.registry_auth.read_bytes())["auths"]
        (entry,) = auths.values()
        silly = "Basic " + base64.b64encode(b"a:b").decode()
        idle = {"idle_mib": resident_mib(ours)}
        for number in range(rounds):
            for name, pid, port, authorization in (
                ("docker-registry", peer, peer_port, silly),
                ("underway", ours, settings.registry_port, f"Basic {entry['auth']}"),
            ):
                found = measure(pid, port, home.pki / "ca.crt", authorization, number)
                samples[name].append(found)
        token, ca = f"Basic {entry['auth']}", home.pki / "ca.crt"
        alone = idle | measure_listing(home, settings.registry_port, ca, token)
        alone["after_mib"] = resident_mib(ours)
    return samples, alone


def case(bench: Any) -> dict[str, Any]:
    """The case of ``benchmarks.run``."""
    samples, alone = compare(PEER, max(1, bench.runs // 2))
    rows = [{"what": "figure", "ours": "ours", "peer": "docker-registry", "ratio": "ours / peer"}]
    for what in samples["underway"][0]:
        ours, peer = (
            statistics.median(each[what] for each in samples[name])
            for name in ("underway", "docker-registry")
        )
        ratio = f"{ours / peer:.2f}" if peer else "-"
        rows.append({"what": what, "ours": f"{ours:.2f}", "peer": f"{peer:.2f}", "ratio": ratio})
    for what, value in alone.items():
        rows.append({"what": what, "ours": f"{value:.2f}", "peer": "-", "ratio": "-"})
    return {
        "title": "Registry",
        "how": "Both over TLS with the same certificate, files on the same disk, in turns; CPU is"
        " the server's own. Goals: manifest GET at most a fifth of the peer's CPU; blobs at its"
        " throughput; 150 artifacts/s, one repository within 10 % of many; a page of 100,000"
        " artifacts p95 <= 100 ms; idle <= 60 MB.",
        "rows": rows,
        "samples": {**samples, "alone": [alone]},
    }


def main() -> None:
    """Measure both and print the medians beside each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=PEER)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keep the raw samples here")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.serve))
        return
    samples, alone = compare(chosen.peer, chosen.rounds)
    print(f"{'':24}{'underway':>12}{'docker-registry':>18}")
    for what in samples["underway"][0]:
        medians = [statistics.median(s[what] for s in samples[name]) for name in samples]
        print(f"{what:24}{medians[0]:>12.2f}{medians[1]:>18.2f}")
    for what, value in alone.items():
        print(f"{what:24}{value:>12.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps({**samples, "underway-alone": [alone]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
