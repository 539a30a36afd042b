"""The scheduler on the real server."""

import asyncio
import json

from tests.cluster import api_server, cluster

from underway.api.objects import Object, find_condition
from underway.api.resources import CONFIGMAPS, EVENTS_CORE, NODES, PODS, PRIORITYCLASSES
from underway.base.home import Home
from underway.capabilities.scheduler import controller as scheduler
from underway.reconcile.testenv import Environment, running

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
                "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available:"
                " 1 No preemption victims found for incoming pod."
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


async def add_class(env: Environment, name: str, value: int) -> None:
    made = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    }
    await env.client.create(PRIORITYCLASSES, made)


def test_an_important_pod_takes_the_place_of_a_lesser_one(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_class(env, "high", 1000)
            await add_node(env, "n1", "2")
            for name in ("low1", "low2"):
                await env.client.create(PODS, pod(name))
                await env.until(PODS, bound(name), NS)
            await env.client.create(PODS, pod("high", priorityClassName="high"))
            nominated = await env.until(
                PODS,
                lambda all_: (
                    (each := all_[f"{NS}/high"])
                    and (each.get("status") or {}).get("nominatedNodeName")
                    and each
                ),
                NS,
            )
            assert nominated["status"]["nominatedNodeName"] == "n1"
            leaving = await env.until(
                PODS,
                lambda all_: [e for e in all_.values() if e["metadata"].get("deletionTimestamp")],
                NS,
            )
            assert len(leaving) == 1
            condition = find_condition(leaving[0]["status"]["conditions"], "DisruptionTarget")
            assert condition["reason"] == "PreemptionByScheduler"
            # A lesser pod does not slip into the room that is being made.
            await env.client.create(PODS, pod("late", "500m"))
            await env.until(PODS, refusal("late"), NS)
            await env.client.delete(PODS, leaving[0]["metadata"]["name"], NS, grace_period_s=0)
            assert await env.until(PODS, bound("high"), NS) == "n1"
            assert not (await env.client.get(PODS, "late", NS))["spec"].get("nodeName")

    asyncio.run(main())


def test_of_waiting_pods_the_most_important_gets_the_room(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_class(env, "high", 1000)
            for name, more in (("low", {}), ("high", {"priorityClassName": "high"})):
                await env.client.create(PODS, pod(name, **more))
                await env.until(PODS, refusal(name), NS)
            await add_node(env, "n1", "1")
            assert await env.until(PODS, bound("high"), NS) == "n1"
            assert not (await env.client.get(PODS, "low", NS))["spec"].get("nodeName")

    asyncio.run(main())


def test_a_gated_pod_says_so_and_waits_while_others_pass(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_node(env, "n1", "2")
            gates = [{"name": "example.com/quota"}]
            await env.client.create(PODS, pod("gated", schedulingGates=gates))
            await env.until(
                PODS,
                lambda all_: (
                    (
                        find_condition(
                            (all_[f"{NS}/gated"].get("status") or {}).get("conditions"),
                            "PodScheduled",
                        )
                        or {}
                    ).get("reason")
                    == "SchedulingGated"
                ),
                NS,
            )
            await env.client.create(PODS, pod("after"))
            await env.until(PODS, bound("after"), NS)
            gated = await env.client.get(PODS, "gated", NS)
            assert not gated["spec"].get("nodeName")

    asyncio.run(main())


def test_replicas_that_keep_apart_wait_for_another_node(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_node(env, "n1", "4", **{"kubernetes.io/hostname": "n1"})
            term = {
                "labelSelector": {"matchLabels": {"app": "db"}},
                "topologyKey": "kubernetes.io/hostname",
            }
            required = "requiredDuringSchedulingIgnoredDuringExecution"
            affinity = {"podAntiAffinity": {required: [term]}}
            for name in ("db1", "db2"):
                made = pod(name, affinity=affinity)
                made["metadata"]["labels"] = {"app": "db"}
                await env.client.create(PODS, made)
            await env.until(
                PODS, lambda all_: sum(bool(refusal(f"db{n}")(all_)) for n in (1, 2)) == 1, NS
            )
            await add_node(env, "n2", "4", **{"kubernetes.io/hostname": "n2"})
            nodes = await env.until(
                PODS,
                lambda all_: (
                    len(names := {each["spec"].get("nodeName") for each in all_.values()} - {None})
                    == 2
                    and names
                ),
                NS,
            )
            assert nodes == {"n1", "n2"}

    asyncio.run(main())


def test_a_restarted_scheduler_goes_on_where_the_last_one_stopped(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            handler = server.as_user("admin", ["system:masters"])
            first = Environment(handler)
            scheduler.add(first.manager, Home(tmp_path))
            async with running(first):
                await add_node(first, "n1", "2")
                await first.client.create(PODS, pod("one", "1500m"))
                await first.until(PODS, bound("one"), NS)
            await first.client.create(PODS, pod("two"))
            second = Environment(handler)
            scheduler.add(second.manager, Home(tmp_path))
            async with running(second):
                assert "Insufficient cpu" in await second.until(PODS, refusal("two"), NS)

    asyncio.run(main())


def decision(found: Object) -> Object:
    return json.loads(found["metadata"]["annotations"]["scheduling.underway.dev/decision"])


def test_what_was_decided_stands_on_the_pod(tmp_path):
    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_node(env, "n1", "2")
            await add_node(env, "n2", "8")
            await env.client.create(PODS, pod("small"))
            await env.until(PODS, bound("small"), NS)
            told = decision(await env.client.get(PODS, "small", NS))
            assert (told["node"], told["fits"], told["of"]) == ("n2", 2, 2)
            assert list(told["best"]) == ["n2", "n1"]
            await env.client.create(PODS, pod("large", "20"))
            await env.until(PODS, refusal("large"), NS)
            told = decision(await env.client.get(PODS, "large", NS))
            assert told["against"] == {"n1": ["Insufficient cpu"], "n2": ["Insufficient cpu"]}

    asyncio.run(main())


def test_a_configuration_that_comes_later_is_followed(tmp_path):
    written = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "profiles": [
            {"schedulerName": "default-scheduler"},
            {
                "schedulerName": "packing",
                "plugins": {"filter": {"disabled": [{"name": "TaintToleration"}]}},
            },
        ],
    }
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "underway-scheduler", "namespace": "kube-system"},
        "data": {"config.yaml": "kind: Nothing"},
    }

    async def main():
        async with cluster(tmp_path, scheduler.add) as env:
            await add_node(env, "n1", "2")
            taint = {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}
            await env.client.patch(NODES, "n1", taint)
            await env.client.create(PODS, pod("default"))
            await env.client.create(PODS, pod("packed", schedulerName="packing"))
            assert "untolerated taint {k: }" in await env.until(PODS, refusal("default"), NS)
            await env.client.create(CONFIGMAPS, config)
            await env.until(
                EVENTS_CORE,
                lambda all_: any(e["reason"] == "InvalidConfiguration" for e in all_.values()),
            )
            change = {"data": {"config.yaml": json.dumps(written)}}
            await env.client.patch(CONFIGMAPS, "underway-scheduler", change, "kube-system")
            assert await env.until(PODS, bound("packed"), NS) == "n1"
            waiting = await env.client.get(PODS, "default", NS)
            assert "nodeName" not in waiting["spec"]

    asyncio.run(main())
