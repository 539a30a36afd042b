"""The load generator, a process of its own: reads an order in JSON, prints what it measured.

    python -m benchmarks.load < order.json

Every request's bytes are made before the clock starts. Its own CPU time is told with each result,
so that one can see that the server, not the generator, was measured.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvloop

from benchmarks import wire
from benchmarks.wire import Link

PODS_PATH = "/api/v1/namespaces/default/pods"
PREFIX, PREFIX_END = b"/registry/pods/default/", b"/registry/pods/default0"
_PADDING = {"name": "NOTE", "value": "x" * 200}


def pod(number: int) -> dict[str, Any]:
    """A pod as a Deployment of an ordinary web service makes it."""
    name = f"pod-{number:05d}"
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {
                "app": f"web-{number % 100}",
                "pod-template-hash": "6d4cf56db6",
                "turn": "0",
            },
            "annotations": {"prometheus.io/scrape": "true"},
        },
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "registry.example/team/web@sha256:" + "0" * 64,
                    "ports": [{"containerPort": 8080, "name": "http"}],
                    "env": [{"name": "MODE", "value": "production"}, _PADDING],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"memory": "256Mi"},
                    },
                    "readinessProbe": probe,
                    "livenessProbe": probe,
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}],
                }
            ],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}],
            # What admission would add, so that the same body is a valid update.
            "automountServiceAccountToken": False,
            "preemptionPolicy": "PreemptLowerPriority",
            "priority": 0,
            "serviceAccountName": "default",
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{key}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
                for key in ("not-ready", "unreachable")
            ],
        },
    }


def _body(number: int, turn: int) -> bytes:
    made = pod(number)
    made["metadata"]["labels"]["turn"] = str(turn)
    return json.dumps(made).encode()


def requests_for(order: dict[str, Any]) -> tuple[type[Link], list[bytes]]:
    """The connection's kind and the requests it makes, round and round."""
    count, turn, size = order.get("pods", 0), order.get("turn", 0), order.get("size_bytes", 0)
    numbers = range(count)
    value = f"{turn:08d}".encode() + b"v" * (size - 8)

    def key(number: int) -> bytes:
        return PREFIX + f"pod-{number:05d}".encode()

    match order["target"], order["what"]:
        case "underway", "create":
            made = [wire.http_request("POST", PODS_PATH, _body(n, 0)) for n in numbers]
        case "underway", "update":
            made = [
                wire.http_request("PUT", f"{PODS_PATH}/pod-{n:05d}", _body(n, turn))
                for n in numbers
            ]
        case "underway", "status":
            conditions = [{"type": "Ready", "status": "True", "reason": f"Turn{turn}"}]
            patch = json.dumps({"status": {"conditions": conditions}}).encode()
            media = "application/strategic-merge-patch+json"
            made = [
                wire.http_request("PATCH", f"{PODS_PATH}/pod-{n:05d}/status", patch, media)
                for n in numbers
            ]
        case "underway", "get":
            made = [wire.http_request("GET", f"{PODS_PATH}/pod-{n:05d}") for n in numbers]
        case "underway", "list":
            made = [wire.http_request("GET", PODS_PATH)]
        case "underway", "ready":
            made = [wire.http_request("GET", "/readyz")]
        case "etcd", "create" | "update":
            made = [wire.etcd_put(key(n), value) for n in numbers]
        case "etcd", "get":
            made = [wire.etcd_range(key(n)) for n in numbers]
        case "etcd", "list":
            made = [wire.etcd_range(PREFIX, PREFIX_END)]
        case "etcd", "ready":
            made = [wire.etcd_range(b"ready")]
        case what:
            raise ValueError(what)
    return (wire.Http1 if order["target"] == "underway" else wire.Grpc), made


def context(order: dict[str, Any]) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=order["ca"])
    made.load_cert_chain(order["cert"], order["key"])
    made.check_hostname = False
    made.set_alpn_protocols(["h2"] if order["target"] == "etcd" else ["http/1.1"])
    return made


async def dial(
    order: dict[str, Any], kind: type[Link], done: wire.Done, count: int
) -> tuple[list[Link], asyncio.Future[None]]:
    """Open ``count`` connections; the future fails when one of them does."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def failed(error: Exception) -> None:
        if not over.done():
            over.set_exception(error)

    tls, links = context(order), []
    for _ in range(count):
        _, link = await loop.create_connection(
            lambda: kind(done, failed), "127.0.0.1", order["port"], ssl=tls
        )
        links.append(link)
    return links, over


async def closed_loop(order: dict[str, Any]) -> dict[str, Any]:
    """Each connection asks again when it has its answer: for a time, or once around."""
    kind, made = requests_for(order)
    once, seconds = order.get("once", False), order.get("seconds", 0.0)
    todo: Iterator[bytes] = iter(made)
    latencies: list[float] = []
    waiting = order["connections"]
    deadline = 0.0

    def following() -> bytes | None:
        nonlocal todo
        if not once and time.perf_counter() >= deadline:
            return None
        request = next(todo, None)
        if request is None and not once:
            todo = iter(made)
            request = next(todo)
        return request

    def done(link: Link, sent_s: float, now_s: float) -> None:
        nonlocal waiting
        latencies.append(now_s - sent_s)
        request = following()
        if request is None:
            waiting -= 1
            if not waiting and not over.done():
                over.set_result(None)
        else:
            link.ask(request)

    links, over = await dial(order, kind, done, waiting)
    began_cpu, began_s = _cpu_s(), time.perf_counter()
    deadline = began_s + seconds
    for link in links:
        first = following()
        assert first is not None, "more connections than requests"
        link.ask(first)
    await over
    wall_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - began_cpu
    for link in links:
        link.close()
    return {"latencies_s": latencies, "wall_s": wall_s, "generator_cpu_s": cpu_s}


async def fan_out(order: dict[str, Any]) -> dict[str, Any]:
    """Watchers wait; one writer changes one object at a time; each watcher tells when it saw."""
    ours = order["target"] == "underway"
    watchers, events = order["watchers"], order["events"]
    sent_at, seen, latencies = 0.0, 0, []
    arrived = asyncio.Event()

    def saw(_link: Link, _sent_s: float, now_s: float) -> None:
        nonlocal seen
        seen += 1
        if sent_at:
            latencies.append(now_s - sent_at)
        if seen >= watchers:
            arrived.set()

    kind: type[Link] = wire.Stream if ours else wire.GrpcStream
    links, over = await dial(order, kind, saw, watchers)
    if ours:
        version = order["version"]
        path = f"{PODS_PATH}?watch=1&resourceVersion={version}"
        opening = wire.http_request("GET", path)
    else:
        opening = wire.etcd_watch(PREFIX, PREFIX_END)
    for link in links:
        link.ask(opening)
    if not ours:  # etcd says that a watch stands
        await _either(arrived, over)
    await asyncio.sleep(1.0)
    writer_kind, writes = requests_for({**order, "what": "update", "pods": events})
    answered = asyncio.Event()
    (writer,), broken = await dial(order, writer_kind, lambda *_: answered.set(), 1)
    began_cpu, began_s = _cpu_s(), time.perf_counter()
    for request in writes:
        seen = 0
        arrived.clear()
        answered.clear()
        sent_at = time.perf_counter()
        writer.ask(request)
        await _either(arrived, over)
        await _either(answered, broken)
    wall_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - began_cpu
    for link in (*links, writer):
        link.close()
    return {"latencies_s": latencies, "wall_s": wall_s, "generator_cpu_s": cpu_s}


async def _either(event: asyncio.Event, over: asyncio.Future[None]) -> None:
    """Wait for the event; raises what broke a connection meanwhile."""
    waiting = asyncio.get_running_loop().create_task(event.wait())  # awaited here
    await asyncio.wait({waiting, over}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    if over.done():
        over.result()
    if not waiting.done():
        raise TimeoutError("an event did not reach every watcher in 30 s")


async def wait_ready(order: dict[str, Any]) -> dict[str, Any]:
    """Ask every 2 ms until the server answers; the Unix time of that."""
    kind, (request,) = requests_for(order)
    while True:
        answered = asyncio.Event()
        try:
            (link,), over = await dial(order, kind, _setting(answered), 1)
            link.ask(request)
            await _either(answered, over)
        except (OSError, wire.Refused, ssl.SSLError):
            await asyncio.sleep(0.002)
            continue
        link.close()
        return {"ready_at": time.clock_gettime(time.CLOCK_MONOTONIC)}


def _setting(event: asyncio.Event) -> wire.Done:
    return lambda *_: event.set()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


SCENARIOS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "fan-out": fan_out,
    "ready": wait_ready,
}


def main() -> None:
    order = json.load(sys.stdin)
    scenario = SCENARIOS.get(order["what"], closed_loop)
    json.dump(uvloop.run(scenario(order)), sys.stdout)


if __name__ == "__main__":
    main()
