"""Custom resources of several versions, and the webhook that converts between them."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from contextlib import asynccontextmanager

import pytest
from tests.server.cluster import Cluster
from tests.server.running import request, serve
from tests.server.webhooks import certificate, configuration, hooked, patch

from underway.api.resources import (
    CUSTOMRESOURCEDEFINITIONS,
    MUTATINGWEBHOOKCONFIGURATIONS,
    Resource,
)
from underway.base.errors import Conflict, InternalError, Invalid
from underway.server.store import Key
from underway.transport import front
from underway.wire.http import json_response

GROUP = "example.com"
ONE = Resource(GROUP, "v1", "hosts", "Host", True, "host")
TWO = Resource(GROUP, "v2", "hosts", "Host", True, "host")
SPACE = "default"


def to_version(obj, target):
    """v1 says ``hostPort: host:port``, v2 ``host`` and ``port``."""
    spec = dict(obj.get("spec") or {})
    if target.endswith("v2") and "hostPort" in spec:
        host, colon, port = spec.pop("hostPort").partition(":")
        spec |= {"host": host, "port": port} if colon else {"host": host}
    elif target.endswith("v1") and "host" in spec:
        port = f":{spec.pop('port')}" if "port" in spec else ""
        spec["hostPort"] = spec.pop("host") + port
    return {**obj, "apiVersion": target, "spec": spec}


class Converter:
    """Answers conversion reviews, and remembers how many objects each had."""

    def __init__(self):
        self.sizes = []
        self.spoil = lambda response: response

    async def __call__(self, asked):
        review = json.loads(await asked.read())["request"]
        self.sizes.append(len(review["objects"]))
        done = [to_version(obj, review["desiredAPIVersion"]) for obj in review["objects"]]
        response = {
            "uid": review["uid"],
            "convertedObjects": done,
            "result": {"status": "Success"},
        }
        return json_response(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "ConversionReview",
                "response": self.spoil(response),
            }
        )


@asynccontextmanager
async def converting(directory):
    cert, key, pem = certificate(directory, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    converter = Converter()
    async with await front.serve(converter, tls=context) as server:
        converter.client = {
            "url": f"https://127.0.0.1:{server.port}/convert",
            "caBundle": base64.b64encode(pem).decode(),
        }
        try:
            yield converter
        finally:
            await server.close(grace_s=0.01)


def schema(*fields):
    texts = {field: {"type": "string"} for field in fields}
    properties = {
        "spec": {"type": "object", "properties": texts},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    }
    return {"openAPIV3Schema": {"type": "object", "properties": properties}}


def version(name, *fields, storage=False, **more):
    columns = [{"name": fields[0], "type": "string", "jsonPath": f".spec.{fields[0]}"}]
    return {
        "name": name,
        "served": True,
        "storage": storage,
        "schema": schema(*fields),
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        **more,
    }


def definition(client, stored="v1", **conversion):
    webhook = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
    two = version("v2", "host", "port", storage=stored == "v2")
    two["selectableFields"] = [{"jsonPath": ".spec.host"}]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"hosts.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {"plural": "hosts", "kind": "Host", "singular": "host"},
            "scope": "Namespaced",
            "versions": [version("v1", "hostPort", storage=stored == "v1"), two],
            "conversion": {"strategy": "Webhook", "webhook": webhook, **conversion},
        },
    }


def host(name, at="v1", **spec):
    return {
        "apiVersion": f"{GROUP}/{at}",
        "kind": "Host",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": spec,
    }


def scenario(tmp_path, body):
    async def run(server, admin):
        async with converting(tmp_path / "hook") as converter:
            await admin.create(CUSTOMRESOURCEDEFINITIONS, definition(converter.client))
            await body(server, admin, converter)

    serve(tmp_path / "home", run)


def stored(server, name):
    return server.store.get(Key(f"hosts.{GROUP}", SPACE, name)).decode()


async def store_as(admin, name):
    crd = await admin.get(CUSTOMRESOURCEDEFINITIONS, f"hosts.{GROUP}")
    for each in crd["spec"]["versions"]:
        each["storage"] = each["name"] == name
    return await admin.replace(CUSTOMRESOURCEDEFINITIONS, crd)


def test_each_version_shows_what_was_written_in_the_other(tmp_path):
    async def body(server, admin, _converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        shown = await admin.get(TWO, "a", SPACE)
        assert (shown["apiVersion"], shown["spec"]) == (
            f"{GROUP}/v2",
            {"host": "x", "port": "1"},
        )
        made = await admin.create(TWO, host("b", "v2", host="y", port="2"))
        assert made["spec"] == {"host": "y", "port": "2"}
        assert stored(server, "b")["apiVersion"] == f"{GROUP}/v1"
        assert (await admin.get(ONE, "b", SPACE))["spec"] == {"hostPort": "y:2"}

    scenario(tmp_path, body)


def test_a_list_is_converted_in_one_review(tmp_path):
    async def body(_server, admin, converter):
        for number in range(5):
            await admin.create(ONE, host(f"h{number}", hostPort=f"x:{number}"))
        converter.sizes.clear()
        shown = await admin.list(TWO, SPACE)
        assert [each["spec"]["port"] for each in shown.items] == list("01234")
        assert converter.sizes == [5]

    scenario(tmp_path, body)


def test_a_field_selector_looks_at_the_version_asked_for(tmp_path):
    async def body(_server, admin, _converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        await admin.create(ONE, host("b", hostPort="y:1"))
        shown = await admin.list(TWO, SPACE, fields="spec.host=y")
        assert [each["metadata"]["name"] for each in shown.items] == ["b"]

    scenario(tmp_path, body)


def test_a_watch_converts_what_is_there_and_what_comes(tmp_path):
    async def body(server, admin, _converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        path = f"/apis/{GROUP}/v2/namespaces/{SPACE}/hosts"
        user = server.as_user("admin", ["system:masters"])
        response = await user(request("GET", path, "watch=true"))
        first = json.loads(await anext(response.body))
        assert (first["type"], first["object"]["spec"]["host"]) == ("ADDED", "x")
        await admin.create(ONE, host("b", hostPort="y:2"))
        second = json.loads(await anext(response.body))
        assert (second["type"], second["object"]["spec"]["host"]) == ("ADDED", "y")
        await response.body.aclose()

    scenario(tmp_path, body)


def test_a_watch_whose_webhook_fails_ends_with_an_error(tmp_path):
    async def body(server, admin, converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        converter.spoil = lambda response: {
            **response,
            "result": {"status": "Failure", "message": "cannot"},
        }
        path = f"/apis/{GROUP}/v2/namespaces/{SPACE}/hosts"
        user = server.as_user("admin", ["system:masters"])
        response = await user(request("GET", path, "watch=true"))
        frames = [json.loads(frame) async for frame in response.body]
        assert [frame["type"] for frame in frames] == ["ERROR"]
        assert frames[0]["object"]["message"].endswith("Kind=Host failed: cannot")

    scenario(tmp_path, body)


def test_patch_apply_and_status_work_on_the_version_asked_for(tmp_path):
    async def body(server, admin, _converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        merged = await admin.patch(TWO, "a", {"spec": {"port": "9"}}, SPACE)
        assert merged["spec"] == {"host": "x", "port": "9"}
        assert stored(server, "a")["spec"] == {"hostPort": "x:9"}
        applied = await admin.apply(TWO, host("a", "v2", host="z"), field_manager="m", force=True)
        assert applied["spec"] == {"host": "z", "port": "9"}
        applied["status"] = {"ready": True}
        await admin.replace(TWO, applied, subresource="status")
        assert (await admin.get(ONE, "a", SPACE))["status"] == {"ready": True}
        assert stored(server, "a")["spec"] == {"hostPort": "z:9"}

    scenario(tmp_path, body)


def test_objects_of_an_older_storage_version_are_converted_and_move_when_written(tmp_path):
    async def body(server, admin, _converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        crd = await store_as(admin, "v2")
        assert crd["status"]["storedVersions"] == ["v1", "v2"]
        shown = await admin.get(TWO, "a", SPACE)
        assert shown["spec"] == {"host": "x", "port": "1"}
        assert stored(server, "a")["apiVersion"] == f"{GROUP}/v1"
        await admin.replace(TWO, shown)  # nothing changes but the form in which it lies
        assert stored(server, "a")["apiVersion"] == f"{GROUP}/v2"
        assert stored(server, "a")["spec"] == {"host": "x", "port": "1"}

    scenario(tmp_path, body)


def test_a_stored_version_stays_until_it_is_declared_gone(tmp_path):
    async def body(_server, admin, _converter):
        crd = await store_as(admin, "v2")
        crd["spec"]["versions"] = crd["spec"]["versions"][1:]
        with pytest.raises(Invalid, match=r"missing from spec\.versions; v1 was previously"):
            await admin.replace(CUSTOMRESOURCEDEFINITIONS, crd)
        crd["status"]["storedVersions"] = ["v2"]
        crd = await admin.replace(CUSTOMRESOURCEDEFINITIONS, crd, subresource="status")
        crd["spec"]["versions"] = [each for each in crd["spec"]["versions"] if each["storage"]]
        crd = await admin.replace(CUSTOMRESOURCEDEFINITIONS, crd)
        assert [each["name"] for each in crd["spec"]["versions"]] == ["v2"]

    scenario(tmp_path, body)


def _without_name(response):
    response["convertedObjects"][0]["metadata"]["name"] = "other"
    return response


def _wrong_version(response):
    response["convertedObjects"][0]["apiVersion"] = f"{GROUP}/v9"
    return response


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: {**r, "result": {"status": "Failure", "message": "no way"}}, "failed: no way"),
        (lambda r: {**r, "result": {}}, "response.result.status was '', not 'Success'"),
        (lambda r: {**r, "uid": "x"}, 'expected response.uid="'),
        (lambda r: {**r, "convertedObjects": []}, "returned 0 objects, expected 1"),
        (_without_name, "index 0: must have the same name: a != other"),
        (_wrong_version, "index 0: invalid groupVersion .expected example.com/v2, received"),
    ],
)
def test_a_webhook_that_answers_nonsense_is_an_error_and_spoils_nothing(tmp_path, spoil, words):
    async def body(server, admin, converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        before = stored(server, "a")
        converter.spoil = spoil
        with pytest.raises(InternalError, match=words):
            await admin.get(TWO, "a", SPACE)
        with pytest.raises(InternalError, match=r"conversion webhook for example\.com/v1, Kind="):
            await admin.patch(TWO, "a", {"spec": {"port": "9"}}, SPACE)
        assert stored(server, "a") == before
        assert (await admin.get(ONE, "a", SPACE))["spec"] == {"hostPort": "x:1"}

    scenario(tmp_path, body)


def test_a_webhook_cannot_change_metadata_but_labels_and_annotations(tmp_path):
    def spoil(response):
        metadata = response["convertedObjects"][0]["metadata"]
        metadata["labels"] = {"from": "hook"}
        metadata["finalizers"] = ["a.example.com/b"]
        metadata["ownerReferences"] = []
        return response

    async def body(_server, admin, converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        converter.spoil = spoil
        metadata = (await admin.get(TWO, "a", SPACE))["metadata"]
        assert metadata["labels"] == {"from": "hook"}
        assert "finalizers" not in metadata

    scenario(tmp_path, body)


def test_writes_that_meet_in_the_webhook_lose_nothing(tmp_path):
    async def body(server, admin, _converter):
        await admin.create(ONE, host("a", hostPort="x:1"))
        changes = [{"metadata": {"labels": {f"l{n}": "1"}}} for n in range(6)]
        await asyncio.gather(*(admin.patch(TWO, "a", change, SPACE) for change in changes))
        assert len(stored(server, "a")["metadata"]["labels"]) == 6
        old = await admin.get(TWO, "a", SPACE)
        await admin.patch(TWO, "a", {"spec": {"port": "2"}}, SPACE)
        with pytest.raises(Conflict):
            await admin.replace(TWO, old)

    scenario(tmp_path, body)


def test_an_admission_webhook_sees_and_changes_the_version_it_asked_for(tmp_path):
    async def body(server, admin, _converter):
        def decide(asked):
            assert asked["object"]["spec"]["host"] == "x"
            return patch({"op": "replace", "path": "/spec/host", "value": "hooked"})

        async with hooked(tmp_path / "admission", decide) as hook:
            rule = {
                "operations": ["CREATE"],
                "apiGroups": [GROUP],
                "apiVersions": ["v2"],
                "resources": ["hosts"],
            }
            webhook = {
                "name": "a.example.com",
                "clientConfig": hook.client,
                "rules": [rule],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
            await admin.create(
                MUTATINGWEBHOOKCONFIGURATIONS, configuration("Mutating", "m", webhook)
            )
            made = await admin.create(ONE, host("a", hostPort="x:1"))
            assert made["spec"] == {"hostPort": "hooked:1"}
            assert [asked["requestKind"]["version"] for asked in hook.seen] == ["v1"]

    scenario(tmp_path, body)


@pytest.mark.parametrize(
    ("conversion", "words"),
    [
        ({"strategy": "Magic", "webhook": None}, 'supported values: "None", "Webhook"'),
        ({"strategy": "None"}, "should not be set when strategy is not set to Webhook"),
        ({"webhook": {}}, "required when strategy is set to Webhook"),
        (
            {
                "webhook": {
                    "clientConfig": {"url": "http://a/b"},
                    "conversionReviewVersions": ["v1"],
                }
            },
            "'https' is the only allowed URL scheme",
        ),
        (
            {"webhook": {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v9"]}},
            "must include at least one of v1",
        ),
    ],
)
def test_a_conversion_that_cannot_work_is_refused(tmp_path, conversion, words):
    async def body(_server, admin):
        with pytest.raises(Invalid, match=words):
            await admin.create(CUSTOMRESOURCEDEFINITIONS, definition({}, **conversion))

    serve(tmp_path, body)


@pytest.mark.peer
def test_kubectl_reads_and_writes_both_versions(tmp_path):
    with Cluster(tmp_path / "home") as cluster:
        hook = converting(tmp_path / "hook")
        converter = cluster.call(hook.__aenter__())
        try:
            crd = json.dumps(definition(converter.client))
            cluster.kubectl("create", "-f", "-", stdin=crd)
            old = json.dumps(host("a", hostPort="x:1"))
            cluster.kubectl("apply", "-f", "-", stdin=old)
            new = json.dumps(host("b", "v2", host="y", port="2"))
            cluster.kubectl("apply", "--server-side", "-f", "-", stdin=new)
            rows = cluster.kubectl("get", "hosts.v1.example.com", "--no-headers")
            assert [row.split() for row in rows.splitlines()] == [["a", "x:1"], ["b", "y:2"]]
            rows = cluster.kubectl("get", "hosts.v2.example.com", "--no-headers")
            assert [row.split() for row in rows.splitlines()] == [["a", "x"], ["b", "y"]]
            cluster.kubectl(
                "patch", "hosts.v2.example.com", "a", "--type=merge", "-p", '{"spec":{"port":"7"}}'
            )
            port = cluster.kubectl(
                "get", "hosts.v1.example.com", "a", "-o", "jsonpath={.spec.hostPort}"
            )
            assert port == "x:7"
            cluster.kubectl("delete", "hosts.v2.example.com", "--all")
        finally:
            cluster.call(hook.__aexit__(None, None, None))


def owners(obj):
    return {
        (entry["manager"], entry["apiVersion"]): entry["fieldsV1"].get("f:spec")
        for entry in obj["metadata"]["managedFields"]
    }


def test_ownership_is_compared_in_the_version_it_was_recorded_in(tmp_path):
    async def body(_server, admin, _converter):
        await admin.apply(ONE, host("a", hostPort="x:1"), field_manager="one")
        with pytest.raises(Conflict, match=r'conflict with "one": \.spec\.hostPort'):
            await admin.apply(TWO, host("a", "v2", host="z"), field_manager="two", force=False)
        taken = await admin.apply(TWO, host("a", "v2", host="z"), field_manager="two")
        assert owners(taken) == {("two", "example.com/v2"): {"f:host": {}}}
        # The same values, said in the other version, are nobody's loss.
        same = await admin.apply(ONE, host("a", hostPort="z:1"), field_manager="three", force=False)
        assert owners(same) == {
            ("two", "example.com/v2"): {"f:host": {}},
            ("three", "example.com/v1"): {"f:hostPort": {}},
        }
        patched = await admin.patch(TWO, "a", {"spec": {"port": "5"}}, SPACE, field_manager="four")
        assert owners(patched) == {
            ("two", "example.com/v2"): {"f:host": {}},
            ("four", "example.com/v2"): {"f:port": {}},
        }

    scenario(tmp_path, body)


def test_what_was_applied_in_one_version_goes_when_another_no_longer_names_it(tmp_path):
    async def body(_server, admin, _converter):
        await admin.apply(ONE, host("a", hostPort="x:1"), field_manager="me")
        changed = await admin.apply(TWO, host("a", "v2", host="y", port="2"), field_manager="me")
        assert changed["spec"] == {"host": "y", "port": "2"}
        fewer = await admin.apply(TWO, host("a", "v2", host="y"), field_manager="me")
        assert fewer["spec"] == {"host": "y"}
        assert owners(fewer) == {("me", "example.com/v2"): {"f:host": {}}}

    scenario(tmp_path, body)


def test_built_in_kinds_record_ownership_in_the_version_asked_for(tmp_path):
    async def run(_server, admin):
        one = Resource("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
        two = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}

        def scaler(version, **more):
            return {
                "apiVersion": f"autoscaling/{version}",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "s", "namespace": SPACE},
                "spec": {"scaleTargetRef": target, "maxReplicas": 3, **more},
            }

        made = await admin.apply(
            one, scaler("v1", targetCPUUtilizationPercentage=50), field_manager="old"
        )
        assert "f:targetCPUUtilizationPercentage" in owners(made)["old", "autoscaling/v1"]
        cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}
        metrics = [{"type": "Resource", "resource": cpu}]
        with pytest.raises(Conflict, match="targetCPUUtilizationPercentage"):
            await admin.apply(two, scaler("v2", metrics=metrics), field_manager="new", force=False)
        forced = await admin.apply(two, scaler("v2", metrics=metrics), field_manager="new")
        left = owners(forced)
        assert "f:targetCPUUtilizationPercentage" not in left["old", "autoscaling/v1"]
        assert "f:metrics" in left["new", "autoscaling/v2"]

    serve(tmp_path, run)
