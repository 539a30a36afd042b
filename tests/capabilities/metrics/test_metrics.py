"""From a node agent's counters to what the metrics API says."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.cluster import Cluster, api_server

from underway.api.resources import NODES, PODS
from underway.base.clock import SystemClock
from underway.base.home import Home
from underway.capabilities.metrics import controller, routes
from underway.capabilities.metrics.backend import FRESH_S, Sampler
from underway.capabilities.metrics.rules import usage
from underway.capabilities.metrics.rules.exposition import Reading, parse
from underway.capabilities.node.rules.statistics import (
    ContainerUse,
    NodeUse,
    PodUse,
    Used,
    exposition,
)
from underway.client import Client
from underway.reconcile.testenv import running
from underway.testing.clock import MovableClock
from underway.wire.http import Request, Response

AT = datetime(2026, 1, 1, tzinfo=UTC)


def node_use(cpu_s: float, at: datetime) -> NodeUse:
    used = Used(int(cpu_s * 1e9), 3000, 2048)
    container = ContainerUse("c", AT, used)
    pod = PodUse("default", "p", "uid", "", used, (container,))
    return NodeUse("n1", at, AT, Used(int(cpu_s * 2e9), 9000, 4096), 5000, (pod,))


def test_what_the_node_agent_writes_is_read_back():
    found = parse(exposition(node_use(1.5, AT)))
    assert found.node == Reading(AT.timestamp(), 3.0, 4096.0)
    read = found.containers["default", "p", "c"]
    assert read == Reading(AT.timestamp(), 1.5, 2048.0, AT.timestamp())


def test_a_line_of_something_else_is_passed_over():
    assert parse('garbage\ncontainer_x{a="b"} NaN\n# TYPE x y\n\n').containers == {}


@pytest.mark.parametrize(
    ("before", "after", "nanos"),
    [
        (Reading(0, 1.0), Reading(10, 6.0, 1.0), 500_000_000),
        (None, Reading(10, 6.0, 1.0), None),
        (None, Reading(10, 6.0, 1.0, started_s=4.0), 1_000_000_000),
        (Reading(0, 9.0), Reading(10, 6.0, 1.0, started_s=4.0), 1_000_000_000),
        (Reading(0, 9.0), Reading(10, 6.0, 1.0), None),
        (Reading(10, 1.0), Reading(10, 1.0, 1.0), None),
    ],
)
def test_a_rate_needs_two_readings_of_the_same_run(before, after, nanos):
    found = usage.use(before, after)
    assert (found.cpu_nanos if found else None) == nanos


def test_nodes_are_read_only_when_asked_and_a_young_reading_answers_again():
    async def main():
        clock, asked, begun = MovableClock(), [], asyncio.Event()

        async def node(request: Request) -> Response:
            asked.append(request.path)
            begun.set()
            return Response(200, {}, exposition(node_use(len(asked), AT)).encode())

        sampler = Sampler(Client(node), clock)
        assert not asked
        async with asyncio.TaskGroup() as group:
            first = group.create_task(sampler.read("n1"))
            await begun.wait()
            await clock.advance(1.0)
        assert len(asked) == 2
        assert await sampler.read("n1") == first.result()
        assert len(asked) == 2
        await clock.advance(FRESH_S + 1)
        pair = await sampler.read("n1")
        assert pair is not None
        assert pair[0] is first.result()[1]
        assert len(asked) == 3

    asyncio.run(main())


def test_a_node_that_does_not_answer_has_no_metrics():
    async def main():
        async def node(request: Request) -> Response:
            return Response(503)

        assert await Sampler(Client(node), SystemClock()).read("n1") is None

    asyncio.run(main())


def test_simulated_pods_use_what_they_say_and_the_api_lists_selects_and_refuses(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            env = Cluster(server, Home(tmp_path))
            api = routes.app(await env.acting(routes.app))
            await env.add(controller.add)

            async def ask(path: str, query: str = "") -> dict:
                base = "/apis/metrics.k8s.io/v1beta1"
                response = await api(Request("GET", f"{base}{path}", query, {}))
                return msgspec.json.decode(await response.read())

            header = {"name": "n1", "annotations": {usage.SIMULATED: "fake"}}
            await env.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": header})
            for name in ("a", "b"):
                notes = {usage.SIMULATED_CPU: "250m", usage.SIMULATED_MEMORY: "64Mi"}
                header = {"name": name, "namespace": "default", "labels": {"app": name}}
                container = {"name": "c", "image": "x"}
                pod = {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {**header, "annotations": notes},
                    "spec": {"nodeName": "n1", "containers": [container]},
                }
                await env.client.create(PODS, pod)
            async with running(env):
                await env.manager.synced()
                assert len((await ask("/pods"))["items"]) == 2
                found = await ask("/namespaces/default/pods", "labelSelector=app%3Da")
                assert [item["metadata"]["name"] for item in found["items"]] == ["a"]
                used = found["items"][0]["containers"][0]["usage"]
                assert used == {"cpu": "250000000n", "memory": "65536Ki"}
                node = await ask("/nodes/n1")
                assert node["usage"] == {"cpu": "500000000n", "memory": "131072Ki"}
                assert (await ask("/namespaces/default/pods/none"))["code"] == 404
                assert [r["name"] for r in (await ask(""))["resources"]] == ["nodes", "pods"]

    asyncio.run(main())


def test_a_window_is_what_lies_between_two_readings():
    later = AT + timedelta(seconds=10)
    first, second = parse(exposition(node_use(1, AT))), parse(exposition(node_use(3, later)))
    pod = {"metadata": {"namespace": "default", "name": "p", "labels": {"a": "b"}}}
    uses = usage.pod_use(pod, first, second)
    assert uses is not None
    shown = usage.pod_metrics(pod, uses)
    assert shown["window"] == "10.000s"
    assert shown["timestamp"] == "2026-01-01T00:00:10Z"
    assert shown["containers"] == [{"name": "c", "usage": {"cpu": "200000000n", "memory": "2Ki"}}]
    assert shown["metadata"]["labels"] == {"a": "b"}
