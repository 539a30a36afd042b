"""EndpointSlices, Endpoints, StatefulSets and DaemonSets on the real server."""

import asyncio

from tests.capabilities.workloads.kubelet import add_node, kubelet
from tests.cluster import cluster

from underway.api.objects import Object, labels_of, name_of
from underway.api.resources import (
    CONTROLLERREVISIONS,
    DAEMONSETS,
    ENDPOINTS,
    ENDPOINTSLICES,
    PODS,
    SERVICES,
    STATEFULSETS,
)
from underway.capabilities.scheduler import controller as scheduler
from underway.capabilities.workloads.controller import (
    cleanup,
    daemonset,
    endpoints,
    statefulset,
)
from underway.reconcile.testenv import Environment

NS = "default"
POD = {
    "containers": [
        {"name": "c", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}]}
    ]
}


def pod(name: str) -> Object:
    header = {"name": name, "namespace": NS, "labels": {"app": "web"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": header, "spec": POD}


def service() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": NS},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }


def addresses(slices: dict[str, Object]) -> list[tuple[str, bool]]:
    return sorted(
        (each["targetRef"]["name"], each["conditions"]["ready"])
        for piece in slices.values()
        if labels_of(piece).get("kubernetes.io/service-name") == "web"
        for each in piece.get("endpoints") or ()
    )


def test_a_service_follows_its_pods(tmp_path):
    async def main():
        factories = (endpoints.add, cleanup.add)
        unready = kubelet(lambda p: "Unready" if name_of(p) == "b" else "Running")
        async with cluster(tmp_path, *factories, unready) as env:
            await env.client.create(SERVICES, service())
            await env.client.create(PODS, pod("a"))
            await env.client.create(PODS, pod("b"))
            await env.until(
                ENDPOINTSLICES, lambda all_: addresses(all_) == [("a", True), ("b", False)], NS
            )
            legacy = await env.until(
                ENDPOINTS,
                lambda all_: (
                    (e := all_.get("default/web"))
                    and e.get("subsets")
                    and len(e["subsets"][0].get("addresses") or ()) == 1
                    and len(e["subsets"][0].get("notReadyAddresses") or ()) == 1
                    and e
                ),
                NS,
            )
            assert legacy["subsets"][0]["ports"][0]["port"] == 8080
            await env.client.delete(PODS, "a", NS)
            await env.until(ENDPOINTSLICES, lambda all_: addresses(all_) == [("b", False)], NS)
            await env.client.delete(SERVICES, "web", NS)
            await env.until(ENDPOINTSLICES, lambda all_: not mine(all_), NS)
            await env.until(ENDPOINTS, lambda all_: "default/web" not in all_, NS)

    asyncio.run(main())


def mine(slices: dict[str, Object]) -> list[Object]:
    return [
        each
        for each in slices.values()
        if labels_of(each).get("kubernetes.io/service-name") == "web"
    ]


def workload(kind: str, **spec: object) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "db", "namespace": NS},
        "spec": {
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": POD},
            **spec,
        },
    }


NEW_IMAGE = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "web:2"}]}}}}


def test_a_statefulset_goes_up_updates_and_goes_down_in_order(tmp_path):
    async def main():
        async with cluster(tmp_path, statefulset.add, kubelet()) as env:
            order: list[str] = []
            seen = env.manager.informer(PODS)
            seen.add_handler(
                lambda kind, old, new: (
                    order.append(f"{kind[0]}{(new or old).meta.name[-1]}")
                    if kind != "MODIFIED"
                    else None
                )
            )
            await env.client.create(STATEFULSETS, workload("StatefulSet", replicas=3))
            await current(env, 3)
            assert order == ["A0", "A1", "A2"]
            order.clear()
            await env.client.patch(STATEFULSETS, "db", NEW_IMAGE, NS)
            await current(env, 3, image="web:2")
            assert order == ["D2", "A2", "D1", "A1", "D0", "A0"]
            order.clear()
            await env.client.patch(STATEFULSETS, "db", {"spec": {"replicas": 1}}, NS)
            found = await current(env, 1, image="web:2")
            assert order == ["D2", "D1"]
            assert found["status"]["currentRevision"] == found["status"]["updateRevision"]
            history = (await env.client.list(CONTROLLERREVISIONS, NS)).items
            assert sorted(each["revision"] for each in history) == [1, 2]

    asyncio.run(main())


async def current(env: Environment, replicas: int, image: str = "web:1") -> Object:
    def check(all_: dict[str, Object]) -> Object | None:
        found = all_["default/db"]
        status = found.get("status") or {}
        done = (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("replicas") == replicas
            and status.get("readyReplicas") == replicas
            and status.get("updatedReplicas") == replicas
            and status.get("currentRevision") == status.get("updateRevision")
        )
        return found if done else None

    found = await env.until(STATEFULSETS, check, NS)
    pods = (await env.client.list(PODS, NS)).items
    assert {each["spec"]["containers"][0]["image"] for each in pods} == {image}
    return found


def test_a_daemonset_covers_nodes_that_come_and_leaves_those_that_go(tmp_path):
    async def main():
        factories = (daemonset.add, scheduler.add, kubelet(only_bound=True))
        async with cluster(tmp_path, *factories) as env:
            await add_node(env.client, "n1")
            await env.client.create(DAEMONSETS, workload("DaemonSet"))
            await everywhere(env, {"n1"})
            await add_node(env.client, "n2")
            await everywhere(env, {"n1", "n2"})
            await env.client.patch(DAEMONSETS, "db", NEW_IMAGE, NS)
            await everywhere(env, {"n1", "n2"}, "web:2")
            await env.until(
                DAEMONSETS,
                lambda all_: (
                    all_["default/db"]["status"].get("updatedNumberScheduled") == 2
                    and all_["default/db"]["status"].get("numberAvailable") == 2
                ),
                NS,
            )

    asyncio.run(main())


async def everywhere(env: Environment, nodes: set[str], image: str = "web:1") -> None:
    await env.until(
        PODS,
        lambda all_: (
            {each["spec"].get("nodeName") for each in all_.values()} == nodes
            and len(all_) == len(nodes)
            and all(each["status"].get("phase") == "Running" for each in all_.values())
            and {each["spec"]["containers"][0]["image"] for each in all_.values()} == {image}
        ),
        NS,
    )
