"""StatefulSets, DaemonSets and ControllerRevisions ([sig-apps])."""

from __future__ import annotations

from tests.conformance.world import Watching, World, condition, unique, workload
from underway.api.objects import deleting, name_of
from underway.client import Patch
from underway.testing.node import EXIT_CODE

OLD, NEW = "registry.example.com/web:1", "registry.example.com/web:2"
GATE = "example.com/healthy"


def image(pod: dict) -> str:
    return pod["spec"]["containers"][0]["image"]


def gated(world: World, replicas: int, **spec: object) -> None:
    """A StatefulSet whose pods are ready only while ``healthy`` says so."""
    made = workload("StatefulSet", replicas=replicas, **spec)
    made["spec"]["template"]["spec"]["readinessGates"] = [{"conditionType": GATE}]
    world.create(made)


def healthy(world: World, name: str, yes: bool = True) -> None:
    world.until("pods", name, lambda pod: (pod.get("status") or {}).get("phase") == "Running")
    gate = {"type": GATE, "status": "True" if yes else "False"}
    world.patch("pods", name, {"status": {"conditions": [gate]}}, "status", Patch.STRATEGIC)
    world.until("pods", name, lambda pod: (condition(pod, "Ready")["status"] == "True") == yes)


def ready(count: int):
    return lambda found: (found.get("status") or {}).get("readyReplicas", 0) == count


def deleted(events: Watching, count: int) -> list[str]:
    """Names of the next pods that go."""
    names: list[str] = []
    while len(names) < count:
        event = events.next()
        if event.type == "DELETED":
            names.append(name_of(event.object))
    return names


def update(world: World, kind: str, new: str = NEW) -> None:
    containers = [{"name": "web", "image": new}]
    body = {"spec": {"template": {"spec": {"containers": containers}}}}
    world.patch(kind, "web", body, how=Patch.STRATEGIC)


def images(*wanted: str):
    return lambda pods: [image(each) for each in pods if not deleting(each)] == list(wanted)


def test_pods_come_and_go_in_order_and_wait_for_the_unhealthy(world: World) -> None:
    with world.watch("pods") as events:
        gated(world, 3)
        for name in ("web-0", "web-1", "web-2"):
            events.until("ADDED", name)
            assert len(world.list("pods")) == int(name[-1]) + 1
            healthy(world, name)
        world.until("StatefulSet", "web", ready(3))
        healthy(world, "web-0", yes=False)
        world.until("StatefulSet", "web", ready(2))
        scaled = world.patch("StatefulSet", "web", {"spec": {"replicas": 1}})
        world.until(
            "StatefulSet",
            "web",
            lambda each: each["status"]["observedGeneration"] >= scaled["metadata"]["generation"],
        )
        assert len(world.list("pods")) == 3
        healthy(world, "web-0")
        assert deleted(events, 2) == ["web-2", "web-1"]
        world.until("StatefulSet", "web", lambda each: each["status"]["replicas"] == 1)


def test_in_parallel_the_unhealthy_hold_up_nobody(world: World) -> None:
    gated(world, 3, podManagementPolicy="Parallel")
    world.until_all("pods", lambda pods: len(pods) == 3)
    assert not world.get("StatefulSet", "web").get("status", {}).get("readyReplicas")
    world.patch("StatefulSet", "web", {"spec": {"replicas": 5}})
    world.until_all("pods", lambda pods: len(pods) == 5)
    world.patch("StatefulSet", "web", {"spec": {"replicas": 0}})
    world.until_all("pods", lambda pods: not pods)


def test_a_pod_that_failed_is_made_anew_under_its_name(world: World) -> None:
    world.create(workload("StatefulSet"))
    world.until("StatefulSet", "web", ready(1))
    before = world.get("pods", "web-0")["metadata"]["uid"]
    evicted = {"phase": "Failed", "reason": "Evicted"}
    world.patch("pods", "web-0", {"status": evicted}, "status")
    world.until("pods", "web-0", lambda pod: pod["metadata"]["uid"] != before)
    world.until("StatefulSet", "web", ready(1))


def test_an_update_rolls_down_and_back_without_a_new_revision(world: World) -> None:
    world.create(workload("StatefulSet", replicas=3))
    first = world.until("StatefulSet", "web", ready(3))["status"]
    assert first["currentRevision"] == first["updateRevision"]
    with world.watch("pods") as events:
        update(world, "StatefulSet")
        second = world.until(
            "StatefulSet", "web", lambda each: each["status"].get("currentRevision") != first["currentRevision"]
        )["status"]  # fmt: skip
        assert deleted(events, 3) == ["web-2", "web-1", "web-0"]
    assert second["updateRevision"] != first["updateRevision"]
    world.until_all("pods", images(NEW, NEW, NEW))
    update(world, "StatefulSet", OLD)
    back = world.until(
        "StatefulSet",
        "web",
        lambda each: (
            each["status"]["currentRevision"] == first["currentRevision"]
            and each["status"].get("updatedReplicas", 0) in (0, 3)
            and ready(3)(each)
        ),
    )["status"]
    assert back["updateRevision"] == first["updateRevision"]
    world.until_all("pods", images(OLD, OLD, OLD))
    assert len(world.list("ControllerRevision")) == 2


def test_the_partition_keeps_lower_pods_at_their_revision(world: World) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}
    world.create(workload("StatefulSet", replicas=3, updateStrategy=strategy))
    world.until("StatefulSet", "web", ready(3))
    update(world, "StatefulSet")
    world.until(
        "StatefulSet",
        "web",
        lambda each: each["status"]["updateRevision"] != each["status"]["currentRevision"],
    )
    assert images(OLD, OLD, OLD)(world.list("pods"))

    def partition(number: int) -> None:
        body = {"spec": {"updateStrategy": {"rollingUpdate": {"partition": number}}}}
        world.patch("StatefulSet", "web", body)

    partition(2)
    world.until_all("pods", images(OLD, OLD, NEW))
    world.until("StatefulSet", "web", ready(3))
    for name in ("web-0", "web-2"):
        before = world.get("pods", name)["metadata"]["uid"]
        world.delete("pods", name)
        world.until("pods", name, lambda pod, before=before: pod["metadata"]["uid"] != before)
    world.until("StatefulSet", "web", ready(3))
    assert images(OLD, OLD, NEW)(world.list("pods"))
    for number, wanted in ((1, (OLD, NEW, NEW)), (0, (NEW, NEW, NEW))):
        partition(number)
        world.until_all("pods", images(*wanted))
    world.until(
        "StatefulSet",
        "web",
        lambda each: each["status"]["updateRevision"] == each["status"]["currentRevision"],
    )


# -- DaemonSets --------------------------------------------------------------------------------


def daemon(world: World, **spec: object) -> None:
    world.create(workload("DaemonSet", **spec))
    world.until_all("pods", running_everywhere)


def running_everywhere(pods: list[dict]):
    pods = [each for each in pods if not deleting(each)]
    everywhere = {each["spec"].get("nodeName") for each in pods} == {"node-0", "node-1"}
    return everywhere and all(condition(each, "Ready").get("status") == "True" for each in pods) and pods  # fmt: skip


def test_a_daemon_runs_on_every_node_and_is_made_anew(world: World) -> None:
    daemon(world)
    (gone, _) = world.list("pods")
    world.delete("pods", name_of(gone))
    world.until_all(
        "pods", lambda pods: gone["metadata"]["uid"] not in {each["metadata"]["uid"] for each in pods} and running_everywhere(pods)
    )  # fmt: skip
    world.delete("DaemonSet", "web")
    world.until_all("pods", lambda pods: not pods)


def test_a_daemon_follows_the_labels_of_nodes(world: World) -> None:
    color = unique("blue")
    made = workload("DaemonSet", updateStrategy={"type": "OnDelete"})
    made["spec"]["template"]["spec"]["nodeSelector"] = {"color": color}
    world.create(made)
    world.until("DaemonSet", "web", lambda each: each["status"].get("observedGeneration") == 1)
    assert world.list("pods") == []
    world.patch("nodes", "node-1", {"metadata": {"labels": {"color": color}}})
    world.until_all(
        "pods", lambda pods: [each["spec"].get("nodeName") for each in pods] == ["node-1"]
    )
    world.patch("nodes", "node-1", {"metadata": {"labels": {"color": "green"}}})
    world.until_all("pods", lambda pods: not pods)
    body = {"spec": {"template": {"spec": {"nodeSelector": {"color": "green"}}}, "updateStrategy": {"type": "RollingUpdate"}}}  # fmt: skip
    world.patch("DaemonSet", "web", body)
    world.until_all(
        "pods", lambda pods: [each["spec"].get("nodeName") for each in pods] == ["node-1"]
    )
    world.patch("nodes", "node-1", {"metadata": {"labels": {"color": None}}})


def test_a_daemon_pod_that_failed_is_replaced(world: World) -> None:
    daemon(world)
    (failed, _) = world.list("pods")
    world.patch("pods", name_of(failed), {"status": {"phase": "Failed"}}, "status")
    world.gone("pods", name_of(failed))
    world.until_all("pods", running_everywhere)


def test_a_daemon_is_updated_pod_by_pod(world: World) -> None:
    daemon(world)
    update(world, "DaemonSet")
    world.until_all("pods", images(NEW, NEW))
    world.until_all("pods", running_everywhere)
    assert len(world.list("ControllerRevision", "app=web")) == 2


def test_a_daemon_rolled_back_keeps_the_pods_that_never_changed(world: World) -> None:
    daemon(world)
    before = {each["metadata"]["uid"] for each in world.list("pods")}
    made = {"metadata": {"annotations": {EXIT_CODE: "never"}}}
    never = {"spec": {"template": {**made, "spec": {"readinessGates": [{"conditionType": GATE}]}}}}
    world.patch("DaemonSet", "web", never)
    world.until_all(
        "pods",
        lambda pods: len({each["metadata"]["uid"] for each in pods if not deleting(each)} & before) == 1
        and any(each["spec"].get("readinessGates") for each in pods),
    )  # fmt: skip
    (kept,) = {each["metadata"]["uid"] for each in world.list("pods")} & before
    back = {"spec": {"template": {"metadata": {"annotations": None}, "spec": {"readinessGates": None}}}}  # fmt: skip
    world.patch("DaemonSet", "web", back)
    after = world.until_all(
        "pods",
        lambda pods: not any(each["spec"].get("readinessGates") for each in pods) and running_everywhere(pods),
    )  # fmt: skip
    assert kept in {each["metadata"]["uid"] for each in after}


def test_revisions_of_a_daemon_are_labelled_made_and_deleted(world: World) -> None:
    daemon(world)
    (first,) = world.list("ControllerRevision", "app=web")
    labels = {"metadata": {"labels": {"first": "yes"}}}
    patched = world.patch("ControllerRevision", name_of(first), labels)
    assert patched["metadata"]["labels"]["first"] == "yes"
    other = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": "by-hand",
            "labels": first["metadata"]["labels"],
            "ownerReferences": first["metadata"]["ownerReferences"],
        },
        "data": first["data"],
        "revision": first["revision"] + 1,
    }
    world.create(other)
    assert len(world.list("ControllerRevision", "app=web")) == 2
    world.delete("ControllerRevision", name_of(first))
    world.gone("ControllerRevision", name_of(first))
    world.change(world.get("ControllerRevision", "by-hand"), metadata__labels__b="c")
    assert [name_of(each) for each in world.list("ControllerRevision", "b=c")] == ["by-hand"]
    update(world, "DaemonSet")
    world.until_all(
        "ControllerRevision", lambda found: max((each["revision"] for each in found), default=0) == 3, "app=web"
    )  # fmt: skip
    world.delete_all("ControllerRevision", "b=c")
    (last,) = world.until_all(
        "ControllerRevision", lambda found: len(found) == 1 and found, "app=web"
    )
    assert last["revision"] == 3
