"""Which node a pod gets, and who makes way ([sig-scheduling], [sig-node] taints and classes)."""

from __future__ import annotations

import pytest

from tests.conformance.world import World, condition, pod, unique, workload
from underway.api.objects import deleting, name_of
from underway.base.errors import Forbidden, Invalid
from underway.testing import Cluster

NODE = {"kubernetes.io/hostname": "node-0"}


def asking(name: str, cpu: str, **spec: object) -> dict:
    made = pod(name, terminationGracePeriodSeconds=0, **spec)
    made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    return made


def bound(world: World, name: str) -> str:
    return world.until("pods", name, lambda each: each["spec"].get("nodeName"))["spec"]["nodeName"]


def refused(world: World, name: str) -> str:
    """The scheduler's message why the pod has no node."""
    found = world.until(
        "pods", name, lambda each: condition(each, "PodScheduled").get("status") == "False"
    )
    assert condition(found, "PodScheduled")["reason"] == "Unschedulable"
    return condition(found, "PodScheduled")["message"]


def priority(world: World, value: int) -> str:
    name = unique("priority")
    world.create(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
        }
    )
    return name


def test_a_node_takes_no_more_than_it_has(world: World) -> None:
    world.create(asking("filler", "20", nodeSelector=NODE))
    bound(world, "filler")
    world.create(asking("more", "20", nodeSelector=NODE))
    assert "1 Insufficient cpu" in refused(world, "more")
    world.delete("pods", "filler")
    assert bound(world, "more") == "node-0"


def test_a_node_selector_chooses_the_node(world: World) -> None:
    label = unique("chosen")
    world.create(pod("p", nodeSelector={label: "42"}))
    assert "didn't match Pod's node affinity/selector" in refused(world, "p")
    world.patch("nodes", "node-1", {"metadata": {"labels": {label: "42"}}})
    assert bound(world, "p") == "node-1"
    world.patch("nodes", "node-1", {"metadata": {"labels": {label: None}}})


def host_port(name: str, **port: object) -> dict:
    made = pod(name, nodeSelector=NODE, terminationGracePeriodSeconds=0)
    made["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 54322, **port}]
    return made


def test_host_ports_meet_on_every_address(world: World) -> None:
    world.create(host_port("one", hostIP="0.0.0.0"))
    bound(world, "one")
    world.create(host_port("two", hostIP="127.0.0.1"))
    assert "didn't have free ports" in refused(world, "two")


def test_host_ports_part_by_address_and_protocol(world: World) -> None:
    for name, port in {
        "one": {"hostIP": "127.0.0.1"},
        "two": {"hostIP": "192.0.2.9"},
        "three": {"hostIP": "192.0.2.9", "protocol": "UDP"},
    }.items():
        world.create(host_port(name, **port))
        assert bound(world, name) == "node-0"


@pytest.mark.parametrize("critical", [False, True], ids=["priority", "critical"])
def test_a_lesser_pod_makes_way(world: World, critical: bool) -> None:
    low, high = priority(world, 1), priority(world, 1000)
    lesser = asking("lesser", "30", nodeSelector=NODE, priorityClassName=low)
    lesser["metadata"]["finalizers"] = ["example.com/look"]
    world.create(lesser)
    bound(world, "lesser")
    greater = asking("greater", "30", nodeSelector=NODE)
    greater["spec"]["priorityClassName"] = "system-cluster-critical" if critical else high
    world.create(greater)
    victim = world.until("pods", "lesser", deleting)
    disrupted = condition(victim, "DisruptionTarget")
    assert (disrupted["status"], disrupted["reason"]) == ("True", "PreemptionByScheduler")
    world.patch("pods", "lesser", {"metadata": {"finalizers": None}})
    assert bound(world, "greater") == "node-0"
    world.gone("pods", "lesser")


def test_replicasets_get_their_room_by_priority(world: World) -> None:
    classes = [priority(world, value) for value in (1, 2, 3)]
    for index, (replicas, each) in enumerate(zip((4, 3, 2), classes, strict=True)):
        made = workload("ReplicaSet", f"rs{index}", replicas)
        made["spec"]["template"]["spec"] |= {
            "priorityClassName": each,
            "nodeSelector": NODE,
            "terminationGracePeriodSeconds": 0,
        }
        container = made["spec"]["template"]["spec"]["containers"][0]
        container["resources"] = {"requests": {"cpu": "3"}}
        world.create(made)
        world.until(
            "ReplicaSet",
            f"rs{index}",
            lambda each, n=replicas: (each.get("status") or {}).get("readyReplicas") == n,
        )
    world.create(asking("top", "12", nodeSelector=NODE, priorityClassName=priority(world, 4)))
    assert bound(world, "top") == "node-0"
    for index, left in enumerate((1, 3, 2)):
        world.until(
            "ReplicaSet",
            f"rs{index}",
            lambda each, n=left: each["status"].get("readyReplicas", 0) == n,
        )


def test_the_value_of_a_priority_class_stays(world: World) -> None:
    name = priority(world, 7)
    world.patch("PriorityClass", name, {"description": "changed"})
    assert world.get("PriorityClass", name)["description"] == "changed"
    with pytest.raises((Invalid, Forbidden)):
        world.patch("PriorityClass", name, {"value": 8})
    with pytest.raises((Invalid, Forbidden)):
        world.change(world.get("PriorityClass", name), value=8)
    world.delete("PriorityClass", name)


# -- runtime classes -----------------------------------------------------------------------------


def runtime_class(world: World, **fields: object) -> str:
    name = unique("runtime")
    metadata = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}}
    world.create({**metadata, "handler": "runc", **fields})
    return name


def test_a_pod_of_a_runtime_class_is_bound_with_its_overhead(world: World) -> None:
    overhead = {"cpu": "10m", "memory": "1Mi"}
    plain, heavy = runtime_class(world), runtime_class(world, overhead={"podFixed": overhead})
    made = world.create(pod("plain", runtimeClassName=plain))
    assert "overhead" not in made["spec"]
    made = world.create(pod("heavy", runtimeClassName=heavy))
    assert made["spec"]["overhead"] == overhead
    assert bound(world, "plain")
    assert bound(world, "heavy")


def test_a_runtime_class_that_is_not_there_is_refused(world: World) -> None:
    name = runtime_class(world)
    world.delete("RuntimeClass", name)
    world.gone("RuntimeClass", name)
    for missing in ("never-there", name):
        with pytest.raises(Forbidden, match=missing):
            world.create(pod("p", runtimeClassName=missing))


# -- taints --------------------------------------------------------------------------------------


def test_taints_evict_when_what_is_tolerated_has_passed(world: World) -> None:
    label = {"metadata": {"labels": {"tainted": "yes"}}}
    name = unique("tainted")
    world.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    key = {"key": "example.com/evict", "operator": "Equal", "value": "yes", "effect": "NoExecute"}
    for pod_name, seconds in (("soon", 1), ("later", 3600)):
        made = pod(pod_name, nodeName=name)
        made["spec"]["tolerations"] = [{**key, "tolerationSeconds": seconds}]
        world.create(made)
    for pod_name in ("soon", "later"):
        world.patch("pods", pod_name, {"status": {"phase": "Running"}, **label}, "status")
    taint = {key_: key[key_] for key_ in ("key", "value", "effect")}
    world.patch("nodes", name, {"spec": {"taints": [taint]}})
    soon = world.until("pods", "soon", deleting)
    assert condition(soon, "DisruptionTarget")["reason"] == "DeletionByTaintManager"
    world.delete("pods", "soon", grace_s=0)
    assert [name_of(each) for each in world.list("pods") if not deleting(each)] == ["later"]
    world.patch("nodes", name, {"spec": {"taints": None}})
    world.delete("nodes", name)


def test_a_taint_that_is_taken_away_in_time_evicts_nobody(cluster: Cluster) -> None:
    with World.of(cluster, "cancelled") as world:
        name = unique("tainted")
        world.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        taint = {"key": "example.com/evict", "value": "yes", "effect": "NoExecute"}
        for pod_name, seconds in (("stays", 2), ("goes", 0)):
            made = pod(pod_name, nodeName=name)
            tolerated = {**taint, "operator": "Equal", "tolerationSeconds": seconds}
            made["spec"]["tolerations"] = [tolerated]
            world.create(made)
            world.patch("pods", pod_name, {"status": {"phase": "Running"}}, "status")
        world.patch("nodes", name, {"spec": {"taints": [taint]}})
        world.until("pods", "goes", deleting)
        world.patch("nodes", name, {"spec": {"taints": None}})
        cluster.advance(3)
        # Another taint is acted on after the first one's time: by then it would have evicted.
        late = pod("late", nodeName=name)
        late["spec"]["tolerations"] = [{**taint, "operator": "Equal", "key": "example.com/other", "tolerationSeconds": 0}]  # fmt: skip
        world.create(late)
        world.patch("pods", "late", {"status": {"phase": "Running"}}, "status")
        other = {**taint, "key": "example.com/other"}
        world.patch("pods", "stays", {"spec": {"tolerations": [*world.get("pods", "stays")["spec"]["tolerations"], {"key": "example.com/other", "operator": "Exists"}]}})  # fmt: skip
        world.patch("nodes", name, {"spec": {"taints": [other]}})
        world.until("pods", "late", deleting)
        assert not deleting(world.get("pods", "stays"))
        world.patch("nodes", name, {"spec": {"taints": None}})
        world.delete("nodes", name)
