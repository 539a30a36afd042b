"""The scheduler on the real server."""

import asyncio

from tests.cluster import cluster

from underway.api.objects import Object, find_condition
from underway.api.resources import EVENTS_CORE, NODES, PODS
from underway.capabilities.scheduler import controller as scheduler
from underway.reconcile.testenv import Environment

NS = "default"


def pod(name: str, cpu: str = "1", **spec: object) -> Object:
    container = {"name": "c", "image": "web", "resources": {"requests": {"cpu": cpu}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NS},
        "spec": {"containers": [container], **spec},
    }


async def add_node(env: Environment, name: str, cpu: str, **labels: str) -> None:
    amounts = {"cpu": cpu, "memory": "8Gi", "pods": "20"}
    status = {
        "allocatable": amounts,
        "capacity": amounts,
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    header = {"name": name, "labels": labels}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": header, "status": status}
    await env.client.create(NODES, node)


def bound(name: str):
    return lambda all_: all_[f"{NS}/{name}"]["spec"].get("nodeName")


def refusal(name: str):
    def check(all_: dict[str, Object]) -> str:
        conditions = (all_[f"{NS}/{name}"].get("status") or {}).get("conditions")
        found = find_condition(conditions, "PodScheduled") or {}
        return found.get("message", "") if found.get("reason") == "Unschedulable" else ""

    return check


def test_pods_are_bound_and_those_without_room_wait_until_there_is_some(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await env.client.create(PODS, pod("first"))
            assert await env.until(PODS, refusal("first"), NS) == (
                "no nodes available to schedule pods"
            )
            await add_node(env, "n1", "2")
            assert await env.until(PODS, bound("first"), NS) == "n1"
            await env.client.create(PODS, pod("second", "1500m"))
            assert await env.until(PODS, refusal("second"), NS) == (
                "0/1 nodes are available: 1 Insufficient cpu."
            )
            told = await env.until(
                EVENTS_CORE,
                lambda all_: [e for e in all_.values() if e["reason"] == "FailedScheduling"],
                NS,
            )
            assert told[0]["type"] == "Warning"
            await env.client.delete(PODS, "first", NS, grace_period_s=0)
            assert await env.until(PODS, bound("second"), NS) == "n1"

    asyncio.run(main())


def test_many_pods_at_once_never_overfill_a_node(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            for name in ("a", "b"):
                await add_node(env, name, "2")
            for number in range(6):
                await env.client.create(PODS, pod(f"p{number}"))
            await env.until(
                PODS,
                lambda all_: (
                    sum(bool(each["spec"].get("nodeName")) for each in all_.values()) == 4
                    and sum(bool(refusal(key.split("/")[1])(all_)) for key in all_) == 2
                ),
                NS,
            )
            pods = (await env.client.list(PODS, NS)).items
            nodes = [each["spec"].get("nodeName") for each in pods]
            assert (nodes.count("a"), nodes.count("b")) == (2, 2)

    asyncio.run(main())


def test_a_label_that_appears_lets_a_waiting_pod_in(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_node(env, "n1", "2")
            await env.client.create(PODS, pod("picky", nodeSelector={"disk": "ssd"}))
            await env.until(PODS, refusal("picky"), NS)
            await env.client.patch(NODES, "n1", {"metadata": {"labels": {"disk": "ssd"}}})
            assert await env.until(PODS, bound("picky"), NS) == "n1"

    asyncio.run(main())


def test_pods_of_another_scheduler_are_left_alone(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_node(env, "n1", "2")
            await env.client.create(PODS, pod("other", schedulerName="mine"))
            await env.client.create(PODS, pod("ours"))
            await env.until(PODS, bound("ours"), NS)
            other = await env.client.get(PODS, "other", NS)
            assert not other["spec"].get("nodeName")

    asyncio.run(main())
