"""Deployments, ReplicaSets and ReplicationControllers ([sig-apps])."""

from __future__ import annotations

import pytest

from tests.conformance.world import World, condition, pod, workload
from underway.api.objects import annotations_of, controller_of, deleting
from underway.client import Patch

NEW = "registry.example.com/web:2"
NEVER_READY = {"readinessGates": [{"conditionType": "example.com/never"}]}


def image(template_: dict) -> str:
    return template_["spec"]["containers"][0]["image"]


def rolled_out(deployment: dict) -> bool:
    status, wanted = deployment.get("status") or {}, deployment["spec"]["replicas"]
    return (
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted == status.get("replicas", 0)
        and status.get("availableReplicas", 0) == wanted
    )


def update(world: World, new: str = NEW, **spec: object) -> dict:
    containers = [{"name": "web", "image": new}]
    body = {"spec": {"template": {"spec": {"containers": containers, **spec}}}}
    return world.patch("Deployment", "web", body, how=Patch.STRATEGIC)


def live(pods: list[dict]) -> list[dict]:
    return [each for each in pods if not deleting(each)]


@pytest.mark.parametrize("strategy", ["RollingUpdate", "Recreate"])
def test_an_update_replaces_the_old_pods(world: World, strategy: str) -> None:
    world.create(workload("Deployment", replicas=2, strategy={"type": strategy}))
    world.until("Deployment", "web", rolled_out)
    old = {each["metadata"]["uid"] for each in world.list("pods")}
    with world.watch("pods") as events:
        update(world)
        done = world.until("Deployment", "web", rolled_out)
        pods = world.until_all("pods", lambda pods: len(live(pods)) == 2 and live(pods))
        assert {image(each) for each in pods} == {NEW}
        assert not old & {each["metadata"]["uid"] for each in pods}
        if strategy == "Recreate":
            # The first thing to happen is that an old pod goes; a new one comes when all are gone.
            seen = [events.next() for _ in range(2 * len(old))]
            gone = [each.type for each in seen].index("DELETED")
            assert all(image(each.object) != NEW for each in seen[:gone])
    assert annotations_of(done)["deployment.kubernetes.io/revision"] == "2"
    sets = {image(each["spec"]["template"]): each for each in world.list("ReplicaSet")}
    assert [each["spec"]["replicas"] for _, each in sorted(sets.items())] == [0, 2]


def test_replicasets_beyond_the_history_limit_are_deleted(world: World) -> None:
    world.create(workload("Deployment", revisionHistoryLimit=0))
    world.until("Deployment", "web", rolled_out)
    update(world)
    world.until("Deployment", "web", rolled_out)
    world.until_all(
        "ReplicaSet",
        lambda sets: [image(each["spec"]["template"]) for each in sets] == [NEW],
    )


def test_a_rollout_that_is_overtaken_ends_at_the_newest_template(world: World) -> None:
    world.create(workload("Deployment", replicas=3))
    world.until("Deployment", "web", rolled_out)
    update(world, "registry.example.com/web:never", **NEVER_READY)
    world.until_all("ReplicaSet", lambda sets: len(sets) == 2)
    update(world, readinessGates=None)
    world.until("Deployment", "web", rolled_out)

    def only_newest(sets: list[dict]) -> bool:
        sizes = {image(each["spec"]["template"]): each["spec"]["replicas"] for each in sets}
        return len(sizes) == 3 and sizes.pop(NEW) == 3 and set(sizes.values()) == {0}

    world.until_all("ReplicaSet", only_newest)


def test_scaling_in_a_stuck_rollout_is_shared_in_proportion(world: World) -> None:
    rolling = {"maxSurge": 3, "maxUnavailable": 2}
    world.create(
        workload(
            "Deployment",
            replicas=10,
            strategy={"type": "RollingUpdate", "rollingUpdate": rolling},
        )
    )
    world.until("Deployment", "web", rolled_out)
    update(world, **NEVER_READY)

    def sizes(*wanted: int):
        return lambda sets: (
            sorted(each["spec"]["replicas"] for each in sets) == list(wanted) and sets
        )

    world.until_all("ReplicaSet", sizes(5, 8))  # 10 + 3 in all, 8 of them available
    world.change(world.get("Deployment", "web"), spec__replicas=30)
    # 33 in all: the 20 that are added are shared 8 to 5, which upstream names 20 and 13.
    sets = world.until_all("ReplicaSet", sizes(13, 20))
    assert {image(each["spec"]["template"]): each["spec"]["replicas"] for each in sets}[NEW] == 13


def test_a_deployment_lives_from_creation_to_deletion(world: World) -> None:
    with world.watch("Deployment") as events:
        world.create(workload("Deployment"))
        events.until("ADDED", "web")
        world.until("Deployment", "web", lambda each: condition(each, "Available"))
        patched = world.patch("Deployment", "web", {"metadata": {"labels": {"patched": "yes"}}})
        assert patched["metadata"]["labels"]["patched"] == "yes"
        scale = {"spec": {"replicas": 2}}
        assert world.patch("Deployment", "web", scale, "scale")["spec"]["replicas"] == 2
        world.until("Deployment", "web", rolled_out)
        assert [each["metadata"]["name"] for each in world.list("Deployment", "patched=yes")] == [
            "web"
        ]
        status = {"status": {"readyReplicas": 0}}
        assert world.patch("Deployment", "web", status, "status")["status"]
        world.until("Deployment", "web", lambda each: each["status"].get("readyReplicas") == 2)
        world.delete("Deployment", "web")
        events.until("DELETED", "web")


@pytest.mark.parametrize(
    "kind", ["Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"]
)
def test_the_scale_is_read_updated_and_patched(world: World, kind: str) -> None:
    world.create(workload(kind))
    scale = world.get(kind, "web", "scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 1)
    scale["spec"]["replicas"] = 2
    path = world.resource(kind).path(world.ns, "web", "scale")
    scale["metadata"].pop("resourceVersion")
    assert world.raw("PUT", path, scale)["spec"]["replicas"] == 2
    world.until(kind, "web", lambda each: (each.get("status") or {}).get("replicas") == 2)
    assert world.get(kind, "web", "scale")["status"]["replicas"] == 2
    patched = world.patch(kind, "web", {"spec": {"replicas": 4}}, "scale")
    assert patched["spec"]["replicas"] == 4
    world.until(kind, "web", lambda each: each["status"].get("replicas") == 4)
    assert world.get(kind, "web")["spec"]["replicas"] == 4


@pytest.mark.parametrize("kind", ["ReplicaSet", "ReplicationController"])
def test_matching_pods_are_adopted_and_strays_released(world: World, kind: str) -> None:
    world.create(pod("orphan", {"app": "web"}))
    world.create(workload(kind))
    adopted = world.until("pods", "orphan", controller_of)
    assert (controller_of(adopted)["kind"], controller_of(adopted)["name"]) == (kind, "web")
    world.until(kind, "web", lambda each: (each.get("status") or {}).get("replicas") == 1)
    assert len(world.list("pods")) == 1
    world.patch("pods", "orphan", {"metadata": {"labels": {"app": "other"}}})
    world.until("pods", "orphan", lambda each: controller_of(each) is None)
    world.until_all("pods", lambda pods: len(pods) == 2)


def test_a_replicaset_is_scaled_by_update_and_changed_by_patch(world: World) -> None:
    made = world.create(workload("ReplicaSet"))
    world.until("ReplicaSet", "web", lambda each: each["status"].get("availableReplicas") == 1)
    world.change(made, spec__replicas=2)
    world.until("ReplicaSet", "web", lambda each: each["status"].get("availableReplicas") == 2)
    body = {"metadata": {"labels": {"patched": "yes"}}, "spec": {"replicas": 3}}
    patched = world.patch("ReplicaSet", "web", body)
    assert patched["metadata"]["labels"]["patched"] == "yes"
    world.until("ReplicaSet", "web", lambda each: each["status"].get("availableReplicas") == 3)


def test_a_controller_over_quota_says_so_until_it_fits(world: World) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "two"},
        "spec": {"hard": {"pods": "2"}},
    }
    world.create(quota)
    world.until("ResourceQuota", "two", lambda each: each["status"].get("hard"))
    made = world.create(workload("ReplicationController", replicas=3))
    failed = world.until(
        "ReplicationController", "web", lambda each: condition(each, "ReplicaFailure")
    )
    assert condition(failed, "ReplicaFailure")["status"] == "True"
    assert "exceeded quota: two" in condition(failed, "ReplicaFailure")["message"]
    world.change(made, spec__replicas=2)
    world.until(
        "ReplicationController",
        "web",
        lambda each: (
            not condition(each, "ReplicaFailure") and each["status"].get("readyReplicas") == 2
        ),
    )


def test_a_replicationcontroller_lives_from_creation_to_deletion(world: World) -> None:
    with world.watch("ReplicationController") as events:
        world.create(workload("ReplicationController"))
        events.until("ADDED", "web")
        world.until(
            "ReplicationController", "web", lambda each: each["status"].get("readyReplicas")
        )
        world.patch("ReplicationController", "web", {"metadata": {"labels": {"patched": "yes"}}})
        body = {"status": {"readyReplicas": 0}}
        world.patch("ReplicationController", "web", body, "status")
        world.patch("ReplicationController", "web", {"spec": {"replicas": 2}}, "scale")
        world.until(
            "ReplicationController", "web", lambda each: each["status"].get("readyReplicas") == 2
        )
        (found,) = world.list("ReplicationController", "patched=yes", everywhere=True)
        assert found["spec"]["replicas"] == 2
        world.delete_all("ReplicationController", "patched=yes")
        events.until("DELETED", "web")
