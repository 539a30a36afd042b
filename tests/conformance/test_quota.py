"""ResourceQuotas and LimitRanges ([sig-api-machinery], [sig-scheduling])."""

from __future__ import annotations

import pytest

from tests.conformance.world import World, configmap, pod, workload
from underway.base.errors import Forbidden, Invalid
from underway.client import Patch

SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "x"},
    "spec": {"ports": [{"port": 80}], "type": "NodePort"},
}
COUNTED = {
    "configmaps": configmap("x"),
    "secrets": SECRET,
    "services": SERVICE,
    "services.nodeports": SERVICE,
    "replicationcontrollers": workload("ReplicationController", "x", 0),
    "count/replicasets.apps": workload("ReplicaSet", "x", 0),
}


def quota(name: str = "q", hard: object = None, **spec: object) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": name},
        "spec": {"hard": hard, **spec},
    }


def used(world: World, name: str = "q", **amounts: str) -> dict:
    """Wait until the quota says that so much is used; ``_`` stands for ``.`` and ``/``."""
    return world.until(
        "ResourceQuota",
        name,
        lambda each: amounts.items() <= ((each.get("status") or {}).get("used") or {}).items(),
    )


@pytest.mark.parametrize("what", COUNTED)
def test_a_quota_counts_an_object_from_creation_to_deletion(world: World, what: str) -> None:
    kind = COUNTED[what]["kind"]
    had = len(world.list(kind)) if kind != "ConfigMap" else 1  # the root certificate's
    world.create(quota(hard={what: str(had + 1)}))
    found = used(world, **{what: str(had)})
    assert found["status"]["hard"] == {what: str(had + 1)}
    world.create(COUNTED[what])
    used(world, **{what: str(had + 1)})
    second = {**COUNTED[what], "metadata": {"name": "y"}}
    with pytest.raises(Forbidden, match="exceeded quota: q"):
        world.create(second)
    world.delete(kind, "x", "Background")
    used(world, **{what: str(had)})


def test_a_quota_counts_what_pods_ask_for(world: World) -> None:
    extended = "requests.example.com/dongle"
    world.create(quota(hard={"pods": "5", "cpu": "1", "memory": "500Mi", extended: "3"}))
    used(world, pods="0", cpu="0")
    made = pod("x", terminationGracePeriodSeconds=0)
    amounts = {"cpu": "500m", "memory": "252Mi", "example.com/dongle": "2"}
    made["spec"]["containers"][0]["resources"] = {"requests": amounts, "limits": amounts}
    world.create(made)
    used(world, pods="1", cpu="500m", memory="252Mi", **{extended: "2"})
    for name, less in (("cpu", "600m"), ("example.com/dongle", "2")):
        over = {"cpu": "100m", "memory": "100Mi", name: less}
        big = pod("y")
        big["spec"]["containers"][0]["resources"] = {"requests": over, "limits": over}
        with pytest.raises(Forbidden, match="exceeded quota"):
            world.create(big)
    more = [{"op": "replace", "path": "/spec/containers/0/resources/requests/cpu", "value": "100m"}]
    with pytest.raises((Invalid, Forbidden)):
        world.patch("pods", "x", more, how=Patch.JSON)
    world.delete("pods", "x")
    used(world, pods="0", cpu="0", memory="0", **{extended: "0"})


@pytest.mark.parametrize(
    ("scopes", "spec"),
    [
        (("NotBestEffort", "BestEffort"), {}),
        (("NotTerminating", "Terminating"), {"activeDeadlineSeconds": 3600}),
    ],
    ids=["best-effort", "terminating"],
)
def test_a_scope_chooses_the_pods_a_quota_counts(world: World, scopes: tuple, spec: dict) -> None:
    for scope in scopes:
        world.create(quota(scope.lower(), {"pods": "5"}, scopes=[scope]))
        used(world, scope.lower(), pods="0")
    plain = pod("plain", terminationGracePeriodSeconds=0)
    plain["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1m"}}
    other = pod("other", terminationGracePeriodSeconds=0, **spec)
    for made, mine, its in ((plain, scopes[0], scopes[1]), (other, scopes[1], scopes[0])):
        world.create(made)
        used(world, mine.lower(), pods="1")
        used(world, its.lower(), pods="0")
        world.delete("pods", made["metadata"]["name"])
        used(world, mine.lower(), pods="0")


def test_a_quota_is_updated_and_deleted(world: World) -> None:
    made = world.create(quota(hard={"cpu": "1", "memory": "500Mi"}))
    world.change(made, spec__hard={"cpu": "2", "memory": "1Gi"})
    found = world.until(
        "ResourceQuota", "q", lambda each: each["status"].get("hard", {}).get("cpu") == "2"
    )
    assert found["status"]["hard"]["memory"] == "1Gi"
    world.delete("ResourceQuota", "q")
    world.gone("ResourceQuota", "q")


def test_the_status_of_a_quota_is_written_apart_and_mended(world: World) -> None:
    made = world.create(quota(hard={"cpu": "1"}))
    world.until(
        "ResourceQuota", "q", lambda each: (each.get("status") or {}).get("hard") == {"cpu": "1"}
    )
    patched = world.patch("ResourceQuota", "q", {"status": {"hard": {"cpu": "7"}}}, "status")
    assert patched["status"]["hard"] == {"cpu": "7"}
    assert patched["spec"]["hard"] == {"cpu": "1"}
    world.until("ResourceQuota", "q", lambda each: each["status"]["hard"] == {"cpu": "1"})
    world.change(made, spec__hard={"cpu": "3"})
    world.until("ResourceQuota", "q", lambda each: each["status"]["hard"] == {"cpu": "3"})
    assert world.get("ResourceQuota", "q", "status")["spec"]["hard"] == {"cpu": "3"}


def test_pods_get_the_defaults_of_their_limit_range(world: World) -> None:
    limits = {
        "type": "Container",
        "defaultRequest": {"cpu": "100m", "memory": "200Mi"},
        "default": {"cpu": "500m", "memory": "500Mi"},
        "min": {"cpu": "50m"},
        "max": {"cpu": "1"},
    }
    made = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [limits]}}  # fmt: skip
    made = world.create(made)
    given = world.create(pod("plain"))["spec"]["containers"][0]["resources"]
    assert (given["requests"], given["limits"]) == (limits["defaultRequest"], limits["default"])
    partial = pod("partial")
    partial["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "300m"}}
    given = world.create(partial)["spec"]["containers"][0]["resources"]
    assert given["requests"] == {"cpu": "300m", "memory": "200Mi"}
    for name, cpu in (("small", "10m"), ("large", "2")):
        refused = pod(name)
        amounts = {"cpu": cpu}
        refused["spec"]["containers"][0]["resources"] = {"requests": amounts, "limits": amounts}
        with pytest.raises(Forbidden, match="cpu"):
            world.create(refused)
    world.change(made, spec__limits=[{**limits, "min": {"cpu": "5m"}}])
    small = pod("small")
    small["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "10m"}}
    world.create(small)
    world.delete("LimitRange", "l")
    world.create(pod("free"))
