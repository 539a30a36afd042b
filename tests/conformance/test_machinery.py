"""Garbage collection, namespaces, watches, lists, discovery and field validation ([sig-api-machinery])."""

from __future__ import annotations

import base64
import json
import re

import pytest

from tests.conformance.world import World, configmap, pod, unique, workload
from underway.api.objects import controller_of, deleting, name_of
from underway.base.errors import Invalid, NotFound
from underway.client import Patch
from underway.wire.http import Request

# -- garbage collection --------------------------------------------------------------------------


def replicated(world: World, kind: str, replicas: int = 2) -> None:
    world.create(workload(kind, replicas=replicas))
    world.until(
        kind, "web", lambda each: (each.get("status") or {}).get("readyReplicas") == replicas
    )


@pytest.mark.parametrize("kind", ["Deployment", "ReplicationController"])
def test_what_is_owned_goes_in_the_background(world: World, kind: str) -> None:
    replicated(world, kind)
    world.delete(kind, "web", "Background")
    world.until_all("pods", lambda pods: not pods)
    world.until_all("ReplicaSet", lambda sets: not sets)


@pytest.mark.parametrize("kind", ["Deployment", "ReplicationController"])
def test_what_is_orphaned_stays(world: World, kind: str) -> None:
    replicated(world, kind)
    owned = "ReplicaSet" if kind == "Deployment" else "pods"
    before = {each["metadata"]["uid"] for each in world.list(owned)}
    world.delete(kind, "web", "Orphan")
    world.gone(kind, "web")
    orphans = world.until_all(owned, lambda all_: not any(map(controller_of, all_)) and all_)
    assert {each["metadata"]["uid"] for each in orphans} == before
    assert len(world.list("pods")) == 2


def test_in_the_foreground_the_owner_goes_after_its_pods(world: World) -> None:
    replicated(world, "ReplicationController", 10)
    held = name_of(world.list("pods")[0])
    world.patch("pods", held, {"metadata": {"finalizers": ["example.com/hold"]}})
    world.delete("ReplicationController", "web", "Foreground")
    world.until_all("pods", lambda pods: [name_of(each) for each in pods] == [held])
    assert deleting(world.get("ReplicationController", "web"))
    world.patch("pods", held, {"metadata": {"finalizers": None}})
    world.gone("ReplicationController", "web")


def test_a_circle_of_owners_does_not_stop_deletion(world: World) -> None:
    made = [world.create(pod(f"p{number}")) for number in range(3)]
    for number, each in enumerate(made):
        owner = made[number - 1]
        reference = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": name_of(owner),
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        world.patch("pods", name_of(each), {"metadata": {"ownerReferences": [reference]}})
    world.delete("pods", "p0", "Background")
    world.until_all("pods", lambda pods: not pods)


def test_dependents_with_another_owner_stay(world: World) -> None:
    replicated(world, "ReplicationController", 6)
    other = world.create(workload("ReplicationController", "other", 0))
    shared = {name_of(each) for each in world.list("pods")[:3]}
    for name in shared:
        references = world.get("pods", name)["metadata"]["ownerReferences"]
        second = {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "name": "other",
            "uid": other["metadata"]["uid"],
        }
        world.patch("pods", name, {"metadata": {"ownerReferences": [*references, second]}})
    world.delete("ReplicationController", "web", "Foreground")
    world.gone("ReplicationController", "web")
    left = world.until_all("pods", lambda pods: len(pods) == 3 and pods)
    assert {name_of(each) for each in left} == shared
    assert not any(map(deleting, left))


# -- namespaces ----------------------------------------------------------------------------------


def test_a_deleted_namespace_takes_pods_and_services(world: World) -> None:
    name = unique("doomed")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    world.create(namespace)
    inside = World(world.cluster, name)
    inside.create(pod("p"))
    inside.until("pods", "p", lambda each: (each.get("status") or {}).get("phase") == "Running")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}  # fmt: skip
    inside.create(service)
    world.delete("Namespace", name)
    world.gone("Namespace", name)
    world.create(namespace)
    assert inside.list("pods") == []
    assert inside.list("services") == []
    world.delete("Namespace", name)


def test_a_namespace_is_patched_updated_and_finalized(world: World) -> None:
    now = world.patch("Namespace", world.ns, {"metadata": {"labels": {"patched": "yes"}}})
    assert world.get("Namespace", world.ns)["metadata"]["labels"]["patched"] == "yes"
    world.change(now, metadata__labels__updated="yes")
    assert world.get("Namespace", world.ns)["metadata"]["labels"]["updated"] == "yes"
    finalizers = ["kubernetes", "example.com/held"]
    body = {**world.get("Namespace", world.ns), "spec": {"finalizers": finalizers}}
    path = f"/api/v1/namespaces/{world.ns}/finalize"
    assert world.raw("PUT", path, body)["spec"]["finalizers"] == finalizers
    body = {**world.get("Namespace", world.ns), "spec": {"finalizers": ["kubernetes"]}}
    assert world.raw("PUT", path, body)["spec"]["finalizers"] == ["kubernetes"]
    assert world.get("Namespace", world.ns)["spec"]["finalizers"] == ["kubernetes"]


def test_a_namespaces_status_is_patched_and_updated(world: World) -> None:
    seen = world.get("Namespace", world.ns, "status")
    assert seen["status"]["phase"] == "Active"
    one = {"type": "Marked", "status": "True", "reason": "Test", "message": "by hand"}
    patched = world.patch("Namespace", world.ns, {"status": {"conditions": [one]}}, "status")
    assert patched["status"]["conditions"][0]["message"] == "by hand"
    updated = world.change(seen, "status", status__conditions=[{**one, "reason": "Updated"}])
    assert updated["status"]["conditions"][0]["reason"] == "Updated"


# -- watches -------------------------------------------------------------------------------------


def test_watchers_see_what_their_selector_chooses(world: World) -> None:
    with (
        world.watch("configmaps", "watch=a") as a,
        world.watch("configmaps", "watch=b") as b,
        world.watch("configmaps", "watch in (a,b)") as both,
    ):
        for label in ("a", "b"):
            made = world.create(configmap(label, {"watch": label}, n="0"))
            world.change(made, data__n="1")
            world.delete("configmaps", label)
        kinds = ["ADDED", "MODIFIED", "DELETED"]
        for watch, names in ((a, "aaa"), (b, "bbb"), (both, "aaabbb")):
            seen = [watch.next() for _ in names]
            assert [each.type for each in seen] == kinds * (len(names) // 3)
            assert [name_of(each.object) for each in seen] == list(names)


def test_a_watch_begins_after_the_version_it_names(world: World) -> None:
    made = world.create(configmap("c", n="0"))
    first = world.change(made, data__n="1")
    second = world.change(made, data__n="2")
    world.delete("configmaps", "c")
    with world.watch("configmaps", version=first["metadata"]["resourceVersion"]) as events:
        seen = events.next()
        assert (seen.type, seen.object["data"]["n"]) == ("MODIFIED", "2")
        assert events.next().type == "DELETED"
    # Begun anew where the first one stood, another misses nothing in between.
    with world.watch("configmaps", version=second["metadata"]["resourceVersion"]) as events:
        assert events.next().type == "DELETED"


def test_an_object_that_leaves_the_selector_is_seen_to_go(world: World) -> None:
    made = world.create(configmap("c", {"watch": "yes"}))
    version = made["metadata"]["resourceVersion"]
    with world.watch("configmaps", "watch=yes", version) as events:
        world.change(made, metadata__labels={"watch": "no"})
        assert events.next().type == "DELETED"
        world.change(made, data={"unseen": "1"})
        back = world.change(made, metadata__labels={"watch": "yes"})
        seen = events.next()
        assert (seen.type, seen.object["data"]) == ("ADDED", {"unseen": "1"})
        assert seen.object["metadata"]["resourceVersion"] == back["metadata"]["resourceVersion"]


def test_watches_tell_the_same_in_the_same_order(world: World) -> None:
    with world.watch("configmaps") as first:
        for number in range(10):
            made = world.create(configmap(f"c{number}"))
            world.change(made, data={"n": str(number)})
            if number % 2:
                world.delete("configmaps", f"c{number}")
        seen = [first.next() for _ in range(25)]
    versions = [each.object["metadata"]["resourceVersion"] for each in seen]
    for start in range(0, 24, 3):
        with world.watch("configmaps", version=versions[start]) as other:
            following = [other.next() for _ in range(24 - start)]
        assert [each.object["metadata"]["resourceVersion"] for each in following] == versions[
            start + 1 :
        ]


# -- lists ---------------------------------------------------------------------------------------


def templates(world: World, count: int) -> str:
    for number in range(count):
        world.create(
            {
                "apiVersion": "v1",
                "kind": "PodTemplate",
                "metadata": {"name": f"t{number:02}"},
                "template": {"spec": {"containers": [{"name": "c", "image": "x"}]}},
            }
        )
    return world.resource("podtemplates").path(world.ns)


def test_a_list_comes_in_chunks_of_one_state(world: World) -> None:
    path = templates(world, 40)
    names, versions, token = [], set(), {}
    while True:
        page = world.raw("GET", path, limit=17, **token)
        names += [name_of(each) for each in page["items"]]
        versions.add(page["metadata"]["resourceVersion"])
        left = page["metadata"].get("remainingItemCount", 0)
        assert left == 40 - len(names)
        if not left:
            break
        token = {"continue": page["metadata"]["continue"]}
    assert names == [f"t{number:02}" for number in range(40)]
    assert len(versions) == 1
    assert "continue" not in page["metadata"]
    assert len(world.raw("GET", path)["items"]) == 40


def test_a_list_is_a_table_for_those_who_ask_for_one(world: World) -> None:
    world.create(configmap("c"))

    handler = world.client._handler
    path = world.resource("configmaps").path(world.ns)
    table = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}

    async def ask() -> dict:
        answer = await handler(Request("GET", path, "", table, b""))
        return json.loads(await answer.read())

    rows = world.run(ask())
    assert rows["kind"] == "Table"
    assert "c" in {each["cells"][0] for each in rows["rows"]}


# -- discovery -----------------------------------------------------------------------------------


def test_every_group_has_a_preferred_version_and_resources(world: World) -> None:
    groups = world.raw("GET", "/apis")["groups"]
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= {each["name"] for each in groups}
    for group in groups:
        versions = {each["groupVersion"] for each in group["versions"]}
        assert group["preferredVersion"]["groupVersion"] in versions
        assert world.raw("GET", f"/apis/{group['name']}")["preferredVersion"] in group["versions"]
        for version in versions:
            found = world.raw("GET", f"/apis/{version}")
            assert found["groupVersion"] == version
            assert found["resources"]
            assert all(each["kind"] and each["verbs"] for each in found["resources"])


@pytest.mark.parametrize("root", ["/api", "/apis"])
def test_discovery_comes_in_one_document_for_those_who_ask(world: World, root: str) -> None:
    """Every version of every group, with the resources that each one's own document lists."""
    handler = world.client._handler
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

    async def ask() -> dict:
        answer = await handler(Request("GET", root, "", {"accept": accept}, b""))
        assert answer.headers["content-type"].startswith(accept)
        return json.loads(await answer.read())

    found = world.run(ask())
    assert (found["kind"], found["apiVersion"]) == (
        "APIGroupDiscoveryList",
        "apidiscovery.k8s.io/v2",
    )
    assert found["items"]
    for group in found["items"]:
        for version in group["versions"]:
            name = group["metadata"].get("name")
            path = f"{root}/{name}/{version['version']}" if name else f"{root}/{version['version']}"
            alone = world.raw("GET", path)["resources"]
            assert {each["resource"] for each in version["resources"]} == {
                each["name"] for each in alone if "/" not in each["name"]
            }


def test_the_version_of_the_server_is_told(world: World) -> None:
    version = world.raw("GET", "/version")
    assert version["major"].isdigit()
    assert version["minor"].isdigit()


# -- field validation ----------------------------------------------------------------------------


def strictly(world: World, text: str, plural: str, method: str = "POST", name: str = "") -> dict:
    """Send JSON text as it stands, with strict field validation."""
    type_ = "application/json" if method == "POST" else Patch.APPLY.value
    query = "fieldValidation=Strict" + ("" if method == "POST" else "&fieldManager=test")
    path = world.resource(plural).path(world.ns, name)
    handler = world.client._handler

    async def ask() -> dict:
        request = Request(method, path, query, {"content-type": type_}, text.encode())
        answer = await handler(request)
        return {**json.loads(await answer.read()), "http": answer.status}

    return world.run(ask())


def test_unknown_and_doubled_fields_of_a_typed_object_are_refused(world: World) -> None:
    text = json.dumps(workload("Deployment"))
    odd = text.replace('"replicas": 1', '"replicas": 1, "replicas": 2, "odd": true')
    answer = strictly(world, odd, "deployments")
    assert answer["http"] == 400
    assert 'unknown field "spec.odd"' in answer["message"]
    assert re.search(r'duplicate field "[a-z.]*replicas"', answer["message"])
    odd = text.replace('"name": "web", "labels"', '"name": "web", "odd": 1, "labels"', 1)
    answer = strictly(world, odd, "deployments")
    assert answer["http"] == 400
    assert 'unknown field "metadata.odd"' in answer["message"]
    with pytest.raises(NotFound):
        world.get("Deployment", "web")


def test_an_empty_key_is_refused(world: World) -> None:
    for kind, data in (("ConfigMap", {"": "v"}), ("Secret", {"": base64.b64encode(b"v").decode()})):
        answer = strictly(
            world,
            json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "data": data}),
            kind,
        )
        assert answer["http"] == 422, answer
        assert "data" in answer["message"]


@pytest.mark.parametrize("kind", ["ConfigMap", "Secret"])
def test_what_is_immutable_keeps_its_data(world: World, kind: str) -> None:
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "data": {"a": "MQ=="}}
    world.create(made)
    world.patch(kind, "x", {"data": {"a": "Mg=="}})
    world.patch(kind, "x", {"immutable": True})
    for body in ({"data": {"a": "MQ=="}}, {"immutable": False}, {"immutable": None}):
        with pytest.raises(Invalid, match="immutable"):
            world.patch(kind, "x", body)
    world.patch(kind, "x", {"metadata": {"labels": {"a": "b"}}})
    world.delete(kind, "x")
    world.gone(kind, "x")
