"""Lost nodes, the pods on them, and disruption budgets, on the real server."""

import asyncio

import pytest
from tests.capabilities.workloads.kubelet import add_node, kubelet
from tests.cluster import cluster

from underway.api.objects import Object, find_condition
from underway.api.resources import LEASES, NODES, POD_DISRUPTION_BUDGETS, PODS
from underway.base.clock import FakeClock, rfc3339
from underway.base.errors import NotFound, TooManyRequests
from underway.capabilities.workloads.controller import (
    budgets,
    evictions,
    nodes,
    podgc,
    replicaset,
)
from underway.capabilities.workloads.rules import nodes as rules
from underway.reconcile.testenv import Environment

NS = "default"


def pod(name: str, node: str, labels: dict | None = None, **spec: object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NS, "labels": labels or {}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "web"}], **spec},
    }


def keys_of(node: Object) -> set[tuple[str, str]]:
    taints = node["spec"].get("taints") or []
    return {(each["key"].rpartition("/")[2], each["effect"]) for each in taints}


async def beat(env: Environment, name: str) -> None:
    spec = {"holderIdentity": name, "renewTime": rfc3339(env.clock.now(), micro=True)}
    try:
        await env.client.patch(LEASES, name, {"spec": spec}, nodes.LEASE_NAMESPACE)
    except NotFound:
        header = {"name": name, "namespace": nodes.LEASE_NAMESPACE}
        lease = {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": header,
            "spec": spec,
        }
        await env.client.create(LEASES, lease)


async def settle(env: Environment) -> None:
    """Let the informers and controllers take in what was written."""
    while True:
        for _ in range(15):
            await asyncio.sleep(0.002)
        if not env.manager.busy():
            return


async def pass_time(env: Environment, clock: FakeClock, total_s: float, *alive: str) -> None:
    for _ in range(int(total_s // 10)):
        for name in alive:
            await beat(env, name)
        await settle(env)
        await clock.advance(10)
        await settle(env)


def test_a_node_that_falls_silent_is_marked_tainted_and_loses_its_pods_in_time(tmp_path):
    clock = FakeClock()

    async def main():
        factories = (nodes.add, evictions.add, kubelet(only_bound=True))
        async with cluster(tmp_path, *factories, clock=clock) as env:
            for name in ("alive", "silent"):
                await add_node(env.client, name)
                await beat(env, name)
            patient = {
                "key": rules.UNREACHABLE,
                "operator": "Exists",
                "effect": "NoExecute",
            }
            await env.client.create(PODS, pod("default", "silent"))
            await env.client.create(
                PODS, pod("quick", "silent", tolerations=[{**patient, "tolerationSeconds": 20}])
            )
            await env.client.create(PODS, pod("patient", "silent", tolerations=[patient]))
            await env.client.create(PODS, pod("elsewhere", "alive"))
            await pass_time(env, clock, 60, "alive")
            silent = await env.until(
                NODES, lambda all_: len(keys_of(all_["silent"])) == 2 and all_["silent"]
            )
            assert keys_of(silent) == {
                ("unreachable", "NoSchedule"),
                ("unreachable", "NoExecute"),
            }
            ready = find_condition(silent["status"]["conditions"], "Ready")
            assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
            unready = await env.client.get(PODS, "patient", NS)
            assert find_condition(unready["status"]["conditions"], "Ready")["status"] == "False"
            assert not keys_of(await env.client.get(NODES, "alive"))
            await pass_time(env, clock, 30, "alive")
            await env.until(PODS, lambda all_: f"{NS}/quick" not in all_)
            assert {f"{NS}/default", f"{NS}/patient"} <= {
                f"{NS}/{each['metadata']['name']}" for each in (await env.client.list(PODS)).items
            }
            await pass_time(env, clock, 290, "alive")
            left = await env.until(PODS, lambda all_: len(all_) == 2 and set(all_))
            assert left == {f"{NS}/patient", f"{NS}/elsewhere"}

    asyncio.run(main())


def test_the_only_node_is_marked_lost_but_keeps_its_pods_and_recovers(tmp_path):
    clock = FakeClock()

    async def main():
        async with cluster(tmp_path, nodes.add, evictions.add, clock=clock) as env:
            await add_node(env.client, "only")
            await env.client.create(PODS, pod("stays", "only"))
            await pass_time(env, clock, 120)
            await clock.advance(600)
            await settle(env)
            lost = await env.client.get(NODES, "only")
            assert keys_of(lost) == {("unreachable", "NoSchedule")}
            assert (await env.client.get(PODS, "stays", NS))["metadata"]["name"] == "stays"
            find_condition(lost["status"]["conditions"], "Ready")["status"] = "True"
            await env.client.replace(NODES, lost, subresource="status")
            await env.until(NODES, lambda all_: not keys_of(all_["only"]))

    asyncio.run(main())


def test_pods_of_a_node_that_is_gone_are_failed_and_removed(tmp_path):
    clock = FakeClock()

    async def main():
        async with cluster(tmp_path, podgc.add, clock=clock) as env:
            seen = env.manager.informer(PODS)
            failed: list[Object] = []
            seen.add_handler(
                lambda _kind, _old, new: (
                    failed.append(new.object)
                    if new and (new.view.get("status") or {}).get("phase") == "Failed"
                    else None
                )
            )
            await add_node(env.client, "n1")
            await env.client.create(PODS, pod("orphan", "n1"))
            await env.client.create(PODS, pod("kept", "n1"))
            await settle(env)
            await env.client.delete(NODES, "n1")
            await settle(env)
            assert len((await env.client.list(PODS)).items) == 2
            await clock.advance(41)
            await env.until(PODS, lambda all_: not all_)
            condition = find_condition(failed[0]["status"]["conditions"], "DisruptionTarget")
            assert condition["reason"] == "DeletionByPodGC"

    asyncio.run(main())


def test_ended_pods_beyond_the_limit_go_oldest_first(tmp_path):
    def two(manager, _home):
        collector = podgc.PodCollector(manager, 2)
        manager.add(collector.controller)
        collector.listen()

    async def main():
        async with cluster(tmp_path, two, kubelet(lambda _pod: "Succeeded")) as env:
            await add_node(env.client, "n1")
            for number in range(4):
                await env.client.create(PODS, pod(f"p{number}", "n1"))
            await env.until(PODS, lambda all_: len(all_) == 2)

    asyncio.run(main())


def test_a_budget_counts_the_pods_of_a_set_and_eviction_honours_it(tmp_path):
    async def main():
        async with cluster(tmp_path, budgets.add, replicaset.add, kubelet()) as env:
            labels = {"app": "web"}
            template = {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "web"}]},
            }
            selector = {"matchLabels": labels}
            wanted = {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {"name": "web", "namespace": NS},
                "spec": {"replicas": 3, "selector": selector, "template": template},
            }
            await env.client.request(
                "POST", f"/apis/apps/v1/namespaces/{NS}/replicasets", body=wanted
            )
            budget = {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {"name": "web", "namespace": NS},
                "spec": {"maxUnavailable": "40%", "selector": selector},
            }
            await env.client.create(POD_DISRUPTION_BUDGETS, budget)

            def counts(all_):
                status = all_[f"{NS}/web"].get("status") or {}
                names = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")
                return tuple(status.get(name) for name in names) == (2, 3, 1, 3)

            await env.until(POD_DISRUPTION_BUDGETS, counts)
            await env.client.patch(
                POD_DISRUPTION_BUDGETS, "web", {"spec": {"maxUnavailable": 0}}, NS
            )
            await env.until(
                POD_DISRUPTION_BUDGETS,
                lambda all_: all_[f"{NS}/web"]["status"]["disruptionsAllowed"] == 0,
            )
            victim = (await env.client.list(PODS, NS)).items[0]["metadata"]["name"]
            eviction = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": victim, "namespace": NS},
            }
            with pytest.raises(TooManyRequests):
                await env.client.create(PODS, eviction, NS, name=victim, subresource="eviction")

    asyncio.run(main())


def test_a_budget_over_pods_without_a_controller_says_that_it_cannot_count(tmp_path):
    async def main():
        async with cluster(tmp_path, budgets.add) as env:
            await env.client.create(PODS, pod("bare", "n1", {"app": "web"}))
            budget = {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {"name": "web", "namespace": NS},
                "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
            }
            await env.client.create(POD_DISRUPTION_BUDGETS, budget)
            condition = await env.until(
                POD_DISRUPTION_BUDGETS,
                lambda all_: find_condition(
                    (all_[f"{NS}/web"].get("status") or {}).get("conditions"), "DisruptionAllowed"
                ),
            )
            assert condition["reason"] == "SyncFailed"

    asyncio.run(main())
