"""Pods, nodes and accounts as the API keeps them ([sig-node], [sig-auth], [sig-architecture])."""

from __future__ import annotations

import pytest

from tests.conformance.world import World, condition, pod, unique
from underway.api.objects import deleting, name_of
from underway.base.errors import Forbidden
from underway.client import Patch


def phase(name: str):
    return lambda each: (each.get("status") or {}).get("phase") == name


def test_a_pod_lives_from_creation_to_deletion(world: World) -> None:
    with world.watch("pods", "time=now") as events:
        world.create(pod("p", {"time": "now"}, terminationGracePeriodSeconds=0))
        events.until("ADDED", "p")
        found = events.until("MODIFIED", "p", phase("Running"))
        assert found["status"]["hostIP"].startswith("192.0.2.")
        assert found["status"]["podIP"].startswith("10.")
        assert condition(found, "Ready")["status"] == "True"
        body = {"metadata": {"labels": {"patched": "yes"}}, "spec": {"containers": [{"name": "web", "image": "other"}]}}  # fmt: skip
        world.patch("pods", "p", body, how=Patch.STRATEGIC)
        seen = events.until("MODIFIED", "p", lambda each: each["metadata"]["labels"].get("patched"))
        assert seen["spec"]["containers"][0]["image"] == "other"
        world.patch("pods", "p", {"status": {"message": "patched", "reason": "Test"}}, "status")
        seen = events.until("MODIFIED", "p", lambda each: each["status"].get("message"))
        assert (seen["status"]["message"], seen["status"]["reason"]) == ("patched", "Test")
        world.change(seen, "status", status__message="updated")
        events.until("MODIFIED", "p", lambda each: each["status"].get("message") == "updated")
        world.change(seen, metadata__labels={"time": "now", "updated": "yes"})
        assert [name_of(each) for each in world.list("pods", "updated=yes")] == ["p"]
        world.delete("pods", "p", grace_s=30)
        events.until("MODIFIED", "p", deleting)
        events.until("DELETED", "p")
        assert world.list("pods", "time=now") == []


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "100m", "memory": "100Mi"}}, "Guaranteed"),
        ({"requests": {"cpu": "100m"}}, "Burstable"),
        ({}, "BestEffort"),
    ],
)  # fmt: skip
def test_a_pod_has_its_class_of_service(world: World, resources: dict, wanted: str) -> None:
    made = pod("p")
    made["spec"]["containers"][0]["resources"] = resources
    assert world.create(made)["status"]["qosClass"] == wanted


def test_ephemeral_containers_are_added_one_after_the_other(world: World) -> None:
    world.create(pod("p"))
    world.until("pods", "p", phase("Running"))
    for count, name in enumerate(("one", "two"), 1):
        body = {"spec": {"ephemeralContainers": [{"name": name, "image": "x"}]}}
        world.patch("pods", "p", body, "ephemeralcontainers", Patch.STRATEGIC)
        assert len(world.get("pods", "p")["spec"]["ephemeralContainers"]) == count


def test_two_nodes_take_any_pod(world: World) -> None:
    free = [
        each
        for each in world.list("nodes")
        if condition(each, "Ready").get("status") == "True" and not each["spec"].get("taints")
    ]
    assert len(free) >= 2


def test_a_node_lives_from_creation_to_deletion(world: World) -> None:
    name = unique("made")
    world.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    patched = world.patch("nodes", name, {"metadata": {"labels": {"mine": name}}})
    assert [name_of(each) for each in world.list("nodes", f"mine={name}")] == [name]
    world.change(patched, metadata__labels__updated="yes")
    assert world.get("nodes", name)["metadata"]["labels"]["updated"] == "yes"
    world.delete("nodes", name)
    world.gone("nodes", name)


# -- accounts ------------------------------------------------------------------------------------


def test_the_root_certificate_is_published_and_comes_back(world: World) -> None:
    name = "kube-root-ca.crt"
    first = world.until("configmaps", name, lambda each: each["data"]["ca.crt"])
    world.delete("configmaps", name)
    back = world.until(
        "configmaps", name, lambda each: each["metadata"]["uid"] != first["metadata"]["uid"]
    )
    assert back["data"] == first["data"]


@pytest.mark.parametrize("account", [None, True, False])
@pytest.mark.parametrize("own", [None, True, False])
def test_the_pod_says_whether_it_gets_a_token_before_its_account(
    world: World, account: object, own: object
) -> None:
    field = "automountServiceAccountToken"
    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    world.create(made if account is None else {**made, field: account})
    spec = {} if own is None else {field: own}
    created = world.create(pod("p", serviceAccountName="robot", **spec))
    mounts = created["spec"]["containers"][0].get("volumeMounts") or ()
    there = any(
        each["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" for each in mounts
    )
    assert there == (own if own is not None else account is not False)


def test_reviews_say_what_an_account_may_and_calls_agree(world: World) -> None:
    user = f"system:serviceaccount:{world.ns}:robot"
    world.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}})
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    }
    world.create(role)
    subject = {"kind": "ServiceAccount", "name": "robot", "namespace": world.ns}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    binding = {**role, "kind": "RoleBinding", "subjects": [subject], "roleRef": reference}
    binding.pop("rules")
    world.create(binding)
    robot = world.as_user(user)
    for resource, allowed in (("configmaps", True), ("secrets", False)):
        attributes = {"verb": "list", "resource": resource, "namespace": world.ns}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "spec": {"user": user, "resourceAttributes": attributes},
        }
        root = "/apis/authorization.k8s.io/v1"
        whole = world.raw(
            "POST", f"{root}/subjectaccessreviews", {**body, "kind": "SubjectAccessReview"}
        )
        local = world.raw(
            "POST",
            f"{root}/namespaces/{world.ns}/localsubjectaccessreviews",
            {**body, "kind": "LocalSubjectAccessReview", "metadata": {"namespace": world.ns}},
        )
        assert whole["status"]["allowed"] is local["status"]["allowed"] is allowed
        if allowed:
            robot.list(resource)
        else:
            with pytest.raises(Forbidden):
                robot.list(resource)
