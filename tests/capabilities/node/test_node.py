"""The Node object, its Lease, and pods that meet the registry."""

from __future__ import annotations

import asyncio

import pytest

from underway.api.objects import Object, find_condition
from underway.api.resources import LEASES, NODES
from underway.base.home import Home
from underway.capabilities.node.rules import node_object
from underway.capabilities.node.rules.fields import Machine

from .conftest import running_node


@pytest.mark.privileged
def test_the_machine_is_registered_with_its_resources_and_a_lease(home: Home) -> None:
    def ready(nodes: dict[str, Object]) -> Object | None:
        node = nodes.get("testnode", {})
        found = find_condition(node.get("status", {}).get("conditions"), "Ready")
        return node if found and found["status"] == "True" else None

    async def main() -> None:
        async with running_node(home) as running:
            node = await running.environment.until(NODES, ready)
            labels, status = node["metadata"]["labels"], node["status"]
            assert labels["kubernetes.io/hostname"] == "testnode"
            assert labels["kubernetes.io/os"] == "linux"
            assert status["capacity"]["pods"] == "110"
            assert int(status["allocatable"]["cpu"]) >= 1
            assert {each["type"] for each in status["addresses"]} == {"InternalIP", "Hostname"}
            assert status["nodeInfo"]["containerRuntimeVersion"].startswith("runc://")
            lease = await running.environment.until(
                LEASES,
                lambda leases: next(iter(leases.values()), None),
                node_object.LEASE_NAMESPACE,
            )
            assert lease["spec"]["holderIdentity"] == "testnode"
            assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]

    asyncio.run(main())


def test_a_node_that_cannot_run_pods_says_why() -> None:
    machine = Machine("n", "192.0.2.1", 1500, 1 << 30, 1 << 34)
    pressure = {"MemoryPressure": False, "DiskPressure": True}
    status = node_object.node_status({}, machine, {}, pressure, [], "no network", 10250, "now")
    conditions = {each["type"]: each for each in status["conditions"]}
    assert (conditions["Ready"]["status"], conditions["Ready"]["message"]) == (
        "False",
        "no network",
    )
    assert conditions["DiskPressure"]["reason"] == "KubeletHasDiskPressure"
    assert conditions["MemoryPressure"]["status"] == "False"
    assert status["capacity"]["cpu"] == "1500m"
    again = node_object.node_status(status, machine, {}, pressure, [], "", 10250, "later")
    times = {each["type"]: each["lastTransitionTime"] for each in again["conditions"]}
    assert times == {"Ready": "later", "DiskPressure": "now", "MemoryPressure": "now"}
