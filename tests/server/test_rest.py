"""Verbs on resources, through the in-process client."""

import asyncio
import copy

import msgspec
import pytest
from tests.server.running import configmap, deployment, pod, request, running, serve

from underway.api.resources import (
    CONFIGMAPS,
    CUSTOMRESOURCEDEFINITIONS,
    DEPLOYMENTS,
    EVENTS,
    EVENTS_CORE,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)
from underway.base.clock import FakeClock
from underway.base.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    UnsupportedMediaType,
)
from underway.client import Patch

WIDGETS = Resource("example.com", "v1", "widgets", "Widget")
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [
            {
                "name": name,
                "served": True,
                "storage": name == "v1",
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "minimum": 1},
                                    "color": {"type": "string", "default": "red"},
                                },
                            },
                            "status": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            },
                        },
                    }
                },
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.n"},
                },
            }
            for name in ("v1", "v1beta1")
        ],
    },
}


def widget(name, **spec):
    metadata = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": metadata,
        "spec": spec,
    }


def test_errors_are_worded_as_kubernetes_words_them(tmp_path):
    async def scenario(_server, client):
        with pytest.raises(NotFound) as missing:
            await client.get(PODS, "x", "default")
        assert missing.value.message == 'pods "x" not found'
        assert missing.value.details == {"name": "x", "kind": "pods"}
        made = await client.create(DEPLOYMENTS, deployment("x"), "default")
        with pytest.raises(AlreadyExists) as taken:
            await client.create(DEPLOYMENTS, deployment("x"), "default")
        assert taken.value.message == 'deployments.apps "x" already exists'
        await client.patch(DEPLOYMENTS, "x", {"spec": {"replicas": 3}}, "default")
        with pytest.raises(Conflict) as stale:
            await client.replace(DEPLOYMENTS, made)
        assert stale.value.message == (
            'Operation cannot be fulfilled on deployments.apps "x": the object has been modified;'
            " please apply your changes to the latest version and try again"
        )
        with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
            await client.create(CONFIGMAPS, configmap("a"), "nowhere")
        with pytest.raises(NotFound, match="could not find the requested resource"):
            await client.request("GET", "/api/v1/things")
        with pytest.raises(MethodNotAllowed):
            await client.request("POST", "/api/v1/namespaces/default/pods/x", body={})

    serve(tmp_path, scenario)


def test_objects_survive_a_restart_and_the_start_changes_nothing_twice(tmp_path):
    async def main():
        async with running(tmp_path) as first:
            await first.admin.create(CONFIGMAPS, configmap("a", x="1"), "default")
            version = first.store.resource_version
        async with running(tmp_path) as second:
            assert second.store.resource_version == version
            assert (await second.admin.get(CONFIGMAPS, "a", "default"))["data"] == {"x": "1"}

    asyncio.run(main())


def test_a_write_that_changes_nothing_keeps_the_version(tmp_path):
    async def scenario(_server, client):
        made = await client.create(DEPLOYMENTS, deployment("x"), "default")
        same = await client.replace(DEPLOYMENTS, made)
        assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        patched = await client.patch(DEPLOYMENTS, "x", {"spec": {"replicas": 1}}, "default")
        assert patched["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        assert patched["metadata"]["generation"] == 1

    serve(tmp_path, scenario)


def test_patches_without_a_version_never_conflict(tmp_path):
    async def scenario(_server, client):
        await client.create(CONFIGMAPS, configmap("a"), "default")
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                body = {"data": {f"k{number}": "v"}}
                tasks.create_task(client.patch(CONFIGMAPS, "a", body, "default"))
        found = await client.get(CONFIGMAPS, "a", "default")
        assert len(found["data"]) == 50

    serve(tmp_path, scenario)


def test_one_of_many_writers_of_a_version_wins(tmp_path):
    async def scenario(_server, client):
        made = await client.create(CONFIGMAPS, configmap("a"), "default")
        outcomes = []

        async def write(number):
            changed = {**made, "data": {"by": str(number)}}
            try:
                outcomes.append(await client.replace(CONFIGMAPS, changed))
            except Conflict as error:
                outcomes.append(error)

        async with asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(write(number))
        assert sum(isinstance(each, dict) for each in outcomes) == 1

    serve(tmp_path, scenario)


def test_a_generated_name_is_unique_and_a_dry_run_stores_nothing(tmp_path):
    async def scenario(server, client):
        body = {**configmap("x"), "metadata": {"generateName": "x-"}}
        names = {
            (await client.create(CONFIGMAPS, dict(body), "default"))["metadata"]["name"]
            for _ in range(20)
        }
        assert len(names) == 20
        before = server.store.resource_version
        answer = await client.request(
            "POST", CONFIGMAPS.path("default"), "dryRun=All", configmap("dry")
        )
        assert answer.status == 201
        assert server.store.resource_version == before
        with pytest.raises(BadRequest):
            await client.request(
                "POST", CONFIGMAPS.path("default"), "dryRun=Some", configmap("dry")
            )

    serve(tmp_path, scenario)


def test_unknown_and_doubled_fields_are_refused_warned_of_or_dropped(tmp_path):
    async def scenario(_server, client):
        path = DEPLOYMENTS.path("default")
        wrong = deployment("x", replcas=3)
        with pytest.raises(BadRequest, match=r'unknown field "spec\.replcas"'):
            await client.request("POST", path, "fieldValidation=Strict", wrong)
        answer = await client.request("POST", path, "fieldValidation=Warn", wrong)
        assert answer.headers["warning"] == r'299 - "unknown field \"spec.replcas\""'
        assert "replcas" not in (await client.get(DEPLOYMENTS, "x", "default"))["spec"]
        doubled = msgspec.json.encode(configmap("y")).replace(b'"data"', b'"data":{},"data"')
        with pytest.raises(BadRequest, match='duplicate field "data"'):
            await client.request(
                "POST", CONFIGMAPS.path("default"), "fieldValidation=Strict", doubled
            )

    serve(tmp_path, scenario)


def test_status_and_the_rest_are_written_apart(tmp_path):
    async def scenario(_server, client):
        await client.create(DEPLOYMENTS, deployment("x"), "default")
        both = {"spec": {"replicas": 7}, "status": {"replicas": 5}}
        await client.patch(DEPLOYMENTS, "x", both, "default", subresource="status")
        found = await client.get(DEPLOYMENTS, "x", "default")
        assert (found["spec"]["replicas"], found["status"]) == (1, {"replicas": 5})
        assert found["metadata"]["generation"] == 1
        await client.patch(DEPLOYMENTS, "x", {"spec": {"replicas": 7}, "status": {}}, "default")
        found = await client.get(DEPLOYMENTS, "x", "default")
        assert (found["spec"]["replicas"], found["status"]) == (7, {"replicas": 5})
        assert found["metadata"]["generation"] == 2

    serve(tmp_path, scenario)


def test_server_side_apply_creates_owns_and_conflicts(tmp_path):
    async def scenario(_server, client):
        first = await client.apply(
            CONFIGMAPS,
            {**configmap("a", x="1"), "metadata": {"name": "a", "namespace": "default"}},
            field_manager="one",
        )
        assert first["metadata"]["managedFields"][0]["manager"] == "one"
        other = {**configmap("a", x="2"), "metadata": {"name": "a", "namespace": "default"}}
        with pytest.raises(Conflict, match="conflict"):
            await client.apply(CONFIGMAPS, other, field_manager="two", force=False)
        forced = await client.apply(CONFIGMAPS, other, field_manager="two")
        assert forced["data"] == {"x": "2"}
        with pytest.raises(BadRequest, match="fieldManager"):
            await client.patch(CONFIGMAPS, "a", other, "default", how=Patch.APPLY)

    serve(tmp_path, scenario)


def test_every_patch_format_works_and_others_are_refused(tmp_path):
    async def scenario(_server, client):
        await client.create(DEPLOYMENTS, deployment("x"), "default")
        ops = [{"op": "replace", "path": "/spec/replicas", "value": 2}]
        found = await client.patch(DEPLOYMENTS, "x", ops, "default", how=Patch.JSON)
        assert found["spec"]["replicas"] == 2
        containers = [{"name": "main", "env": [{"name": "A", "value": "1"}]}]
        body = {"spec": {"template": {"spec": {"containers": containers}}}}
        found = await client.patch(DEPLOYMENTS, "x", body, "default", how=Patch.STRATEGIC)
        assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx"
        with pytest.raises(UnsupportedMediaType):
            await client.request("PATCH", DEPLOYMENTS.path("default", "x"), body={})

    serve(tmp_path, scenario)


def test_an_unscheduled_pod_vanishes_and_a_running_one_waits_for_its_node(tmp_path):
    async def scenario(_server, client):
        await client.create(PODS, pod("a"), "default")
        await client.delete(PODS, "a", "default")
        await client.create(PODS, pod("b"), "default")
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": "b"},
            "target": {"kind": "Node", "name": "n1"},
        }
        await client.create(PODS, binding, "default", name="b", subresource="binding")
        with pytest.raises(Conflict, match='already assigned to node "n1"'):
            await client.create(PODS, binding, "default", name="b", subresource="binding")
        going = await client.delete(PODS, "b", "default")
        assert going["metadata"]["deletionGracePeriodSeconds"] == 30
        again = await client.delete(PODS, "b", "default")
        assert again["metadata"]["resourceVersion"] == going["metadata"]["resourceVersion"]
        left = (await client.list(PODS, "default")).items
        assert [each["metadata"]["name"] for each in left] == ["b"]
        with pytest.raises(Conflict, match="UID in precondition"):
            await client.delete(PODS, "b", "default", uid="other")
        await client.delete(PODS, "b", "default", grace_period_s=0)
        assert (await client.list(PODS, "default")).items == []

    serve(tmp_path, scenario)


def test_finalizers_hold_an_object_until_they_are_gone(tmp_path):
    async def scenario(_server, client):
        made = configmap("a")
        made["metadata"]["finalizers"] = ["example.com/hold"]
        await client.create(CONFIGMAPS, made, "default")
        held = await client.delete(CONFIGMAPS, "a", "default")
        assert held["metadata"]["deletionTimestamp"]
        body = {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}
        with pytest.raises(Invalid, match="no new finalizers"):
            await client.patch(CONFIGMAPS, "a", body, "default")
        await client.patch(CONFIGMAPS, "a", {"metadata": {"finalizers": None}}, "default")
        with pytest.raises(NotFound):
            await client.get(CONFIGMAPS, "a", "default")
        for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
            await client.create(CONFIGMAPS, configmap("b"), "default")
            held = await client.delete(CONFIGMAPS, "b", "default", propagation=policy)
            assert held["metadata"]["finalizers"] == [finalizer]
            await client.patch(CONFIGMAPS, "b", {"metadata": {"finalizers": None}}, "default")

    serve(tmp_path, scenario)


def test_a_namespace_terminates_until_it_is_finalized(tmp_path):
    async def scenario(_server, client):
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}
        await client.create(NAMESPACES, space)
        going = await client.delete(NAMESPACES, "demo")
        assert going["status"]["phase"] == "Terminating"
        with pytest.raises(Forbidden, match="because it is being terminated") as error:
            await client.create(CONFIGMAPS, configmap("a"), "demo")
        assert error.value.causes[0].reason == "NamespaceTerminating"
        going["spec"]["finalizers"] = []
        await client.replace(NAMESPACES, going, subresource="finalize")
        with pytest.raises(NotFound):
            await client.get(NAMESPACES, "demo")
        with pytest.raises(Forbidden, match="this namespace may not be deleted"):
            await client.delete(NAMESPACES, "default")

    serve(tmp_path, scenario)


def test_a_collection_is_deleted_by_selector(tmp_path):
    async def scenario(_server, client):
        for number in range(4):
            labels = {"odd": str(number % 2)}
            await client.create(CONFIGMAPS, configmap(f"m{number}", labels), "default")
        await client.request("DELETE", CONFIGMAPS.path("default"), "labelSelector=odd%3D1")
        left = (await client.list(CONFIGMAPS, "default")).items
        assert [each["metadata"]["name"] for each in left] == ["m0", "m2"]

    serve(tmp_path, scenario)


def test_services_get_addresses_that_nobody_else_has(tmp_path):
    async def scenario(_server, client):
        async def make(name, **spec):
            body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}
            body["spec"] = {"ports": [{"port": 80}], **spec}
            return (await client.create(SERVICES, body, "default"))["spec"]

        seen = {(await make(f"s{number}"))["clusterIP"] for number in range(20)}
        assert len(seen) == 20
        assert "10.96.0.1" not in seen
        with pytest.raises(Invalid, match="provided IP is already allocated"):
            await make("taken", clusterIP="10.96.0.1")
        with pytest.raises(Invalid, match="does not match the current range"):
            await make("outside", clusterIP="192.168.1.1")
        assert (await make("headless", clusterIP="None"))["clusterIPs"] == ["None"]
        external = await make("ext", type="ExternalName", externalName="example.com", ports=[])
        assert "clusterIP" not in external
        port = (await make("np", type="NodePort"))["ports"][0]["nodePort"]
        with pytest.raises(Invalid, match="provided port is already allocated"):
            await make("np2", type="NodePort", ports=[{"port": 80, "nodePort": port}])
        await client.delete(SERVICES, "np", "default")
        again = await make("np2", type="NodePort", ports=[{"port": 80, "nodePort": port}])
        assert again["ports"][0]["nodePort"] == port
        body = {"spec": {"type": "ClusterIP"}}
        found = await client.patch(SERVICES, "np2", body, "default")
        assert "nodePort" not in found["spec"]["ports"][0]
        assert found["spec"]["clusterIP"] == again["clusterIP"]

    serve(tmp_path, scenario)


def test_a_pod_gets_a_service_account_a_token_volume_and_tolerations(tmp_path):
    async def scenario(_server, client):
        made = (await client.create(PODS, pod("a"), "default"))["spec"]
        assert made["serviceAccountName"] == "default"
        (volume,) = made["volumes"]
        assert volume["name"].startswith("kube-api-access-")
        (mount,) = made["containers"][0]["volumeMounts"]
        assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
        assert {t["key"] for t in made["tolerations"]} == {
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
        }
        bare = pod(
            "b", automountServiceAccountToken=False, priorityClassName="system-node-critical"
        )
        made = (await client.create(PODS, bare, "default"))["spec"]
        assert "volumes" not in made
        assert made["priority"] == 2000001000
        with pytest.raises(Forbidden, match='serviceaccount "nobody" not found'):
            await client.create(PODS, pod("c", serviceAccountName="nobody"), "default")

    serve(tmp_path, scenario)


def test_a_put_creates_only_where_kubernetes_lets_it(tmp_path):
    async def scenario(_server, client):
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "l", "namespace": "default"},
            "spec": {"holderIdentity": "me"},
        }
        assert (await client.replace(LEASES, lease))["metadata"]["uid"]
        missing = configmap("m")
        missing["metadata"]["namespace"] = "default"
        with pytest.raises(NotFound):
            await client.replace(CONFIGMAPS, missing)

    serve(tmp_path, scenario)


def test_events_are_one_storage_under_two_apis(tmp_path):
    async def scenario(_server, client):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "e", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "reason": "Scheduled",
            "message": "it is placed",
            "type": "Normal",
        }
        await client.create(EVENTS_CORE, event, "default")
        new = await client.get(EVENTS, "e", "default")
        assert new["apiVersion"] == "events.k8s.io/v1"
        assert (new["note"], new["regarding"]["name"]) == ("it is placed", "p")
        await client.patch(EVENTS, "e", {"note": "changed"}, "default")
        assert (await client.get(EVENTS_CORE, "e", "default"))["message"] == "changed"
        found = await client.list(EVENTS_CORE, "default", fields="involvedObject.name=p")
        assert len(found.items) == 1

    serve(tmp_path, scenario)


def test_a_definition_is_served_pruned_defaulted_checked_and_cleared_away(tmp_path):
    async def scenario(_server, client):
        made = await client.create(CUSTOMRESOURCEDEFINITIONS, CRD)
        conditions = {c["type"]: c["status"] for c in made["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}
        one = await client.create(WIDGETS, {**widget("one", size=2, junk=1), "status": {"n": 9}})
        assert one["spec"] == {"size": 2, "color": "red"}
        assert "status" not in one
        with pytest.raises(Invalid, match=r"spec\.size"):
            await client.create(WIDGETS, widget("two", size=0))
        with pytest.raises(UnsupportedMediaType):
            await client.patch(WIDGETS, "one", {}, "default", how=Patch.STRATEGIC)
        await client.patch(WIDGETS, "one", {"status": {"n": 4}}, "default", subresource="status")
        scale = await client.get(WIDGETS, "one", "default", subresource="scale")
        assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 4})
        scale["spec"]["replicas"] = 6
        await client.request("PUT", WIDGETS.path("default", "one", "scale"), body=scale)
        found = await client.get(WIDGETS, "one", "default")
        assert found["spec"]["size"] == 6
        assert found["metadata"]["generation"] == 2
        beta = Resource("example.com", "v1beta1", "widgets", "Widget")
        assert (await client.get(beta, "one", "default"))["apiVersion"] == "example.com/v1beta1"
        groups = (await client.request("GET", "/apis")).json()["groups"]
        (group,) = (each for each in groups if each["name"] == "example.com")
        assert [v["version"] for v in group["versions"]] == ["v1", "v1beta1"]
        events = client.watch(CUSTOMRESOURCEDEFINITIONS)
        await anext(events)
        await client.delete(CUSTOMRESOURCEDEFINITIONS, "widgets.example.com")
        async with asyncio.timeout(10):
            async for event in events:
                if event.type == "DELETED":
                    break
        await events.aclose()
        with pytest.raises(NotFound):
            await client.list(WIDGETS, "default")

    serve(tmp_path, scenario)


def test_a_definition_that_cannot_work_is_refused(tmp_path):
    async def scenario(_server, client):
        nameless = copy.deepcopy(CRD)
        del nameless["spec"]["versions"][1]["name"]
        with pytest.raises(Invalid, match="Required value: a version"):
            await client.create(CUSTOMRESOURCEDEFINITIONS, nameless)
        wrong = {**CRD, "metadata": {"name": "gadgets.example.com"}}
        with pytest.raises(Invalid, match=r"spec\.names\.plural"):
            await client.create(CUSTOMRESOURCEDEFINITIONS, wrong)

    serve(tmp_path, scenario)


def test_bodies_in_yaml_are_read_and_bombs_are_not(tmp_path):
    async def scenario(_server, client):
        text = b"apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n"
        answer = await client.request(
            "POST", SECRETS.path("default"), body=text, content_type="application/yaml"
        )
        assert answer.json()["data"] == {"a": "Yg=="}
        bomb = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
            b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
        )
        with pytest.raises(BadRequest, match="too large"):
            await client.request(
                "POST", SECRETS.path("default"), body=bomb, content_type="application/yaml"
            )
        with pytest.raises(UnsupportedMediaType):
            await client.request(
                "POST", SECRETS.path("default"), body=b"x", content_type="application/cbor"
            )

    serve(tmp_path, scenario)


def test_answers_come_in_the_form_accepted(tmp_path):
    async def scenario(server, client):
        handler = server.as_user("a", ["system:masters"])
        await client.create(PODS, pod("a"), "default")

        async def get(accept, name=""):
            return await handler(request("GET", PODS.path("default", name), accept=accept))

        table = (await get("application/json;as=Table;v=v1;g=meta.k8s.io,application/json")).json()
        assert table["kind"] == "Table"
        assert table["rows"][0]["cells"][0] == "a"
        partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
        found = (await get(partial)).json()
        assert found["kind"] == "PartialObjectMetadataList"
        assert "spec" not in found["items"][0]
        assert b"kind: Pod" in (await get("application/yaml", "a")).body
        assert (await get("application/vnd.kubernetes.protobuf, application/json")).status == 200
        assert (await get("application/vnd.kubernetes.protobuf")).status == 406
        assert (await get("*/*")).status == 200

    serve(tmp_path, scenario)


def test_field_selectors_pick_pods_by_node(tmp_path):
    async def scenario(_server, client):
        await client.create(PODS, pod("a", nodeName="n1"), "default")
        await client.create(PODS, pod("b"), "default")
        found = await client.list(PODS, fields="spec.nodeName=n1")
        assert [each["metadata"]["name"] for each in found.items] == ["a"]
        with pytest.raises(BadRequest, match="field label not supported"):
            await client.list(PODS, fields="spec.nonsense=1")

    serve(tmp_path, scenario)


def test_a_node_is_registered_with_its_status(tmp_path):
    async def scenario(_server, client):
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n1"},
            "status": {"capacity": {"cpu": "2"}},
        }
        assert (await client.create(NODES, node))["status"]["capacity"] == {"cpu": "2"}

    serve(tmp_path, scenario)


def test_what_every_namespace_has_comes_back_when_it_is_deleted(tmp_path):
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.crt").write_text("the authority")

    async def scenario(_server, client):
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}
        await client.create(NAMESPACES, space)
        bundle = await client.get(CONFIGMAPS, "kube-root-ca.crt", "demo")
        assert bundle["data"] == {"ca.crt": "the authority"}
        version = bundle["metadata"]["resourceVersion"]
        events = client.watch(CONFIGMAPS, "demo", resource_version=version)
        await client.delete(CONFIGMAPS, "kube-root-ca.crt", "demo")
        async with asyncio.timeout(10):
            found = [(await anext(events)).type for _ in range(2)]
        await events.aclose()
        assert found == ["DELETED", "ADDED"]

    serve(tmp_path, scenario)


def test_events_go_after_an_hour(tmp_path):
    clock = FakeClock()

    async def scenario(_server, client):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        }
        await client.create(EVENTS_CORE, event, "default")
        events = client.watch(EVENTS_CORE, "default")
        assert (await anext(events)).type == "ADDED"
        await clock.advance(3000)
        assert len((await client.list(EVENTS_CORE, "default")).items) == 1
        await clock.advance(1200)
        async with asyncio.timeout(10):
            assert (await anext(events)).type == "DELETED"
        await events.aclose()

    serve(tmp_path, scenario, clock=clock)


def test_a_namespace_made_by_apply_is_furnished_like_any_other(tmp_path):
    async def scenario(_server, client):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "applied"}}
        await client.apply(NAMESPACES, namespace, field_manager="helm")
        account = await client.get(SERVICEACCOUNTS, "default", "applied")
        assert account["metadata"]["namespace"] == "applied"

    serve(tmp_path, scenario)


def test_whoever_tries_again_after_a_conflict_lets_the_write_happen(tmp_path):
    async def count(client, times):
        for _ in range(times):
            while True:
                current = await client.get(CONFIGMAPS, "a", "default")
                current["data"]["n"] = str(int(current["data"]["n"]) + 1)
                try:
                    await client.replace(CONFIGMAPS, current)
                    break
                except Conflict:
                    continue

    async def scenario(_server, client):
        await client.create(CONFIGMAPS, configmap("a", n="0"), "default")
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(count(client, 10))
        found = await client.get(CONFIGMAPS, "a", "default")
        assert found["data"]["n"] == "50"

    serve(tmp_path, scenario)
