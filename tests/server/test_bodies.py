"""Bodies that are too deep, too long, or of a type nobody reads."""

from __future__ import annotations

import json

import pytest
from tests.server.running import configmap, request, serve

from underway.api.resources import CONFIGMAPS, CUSTOMRESOURCEDEFINITIONS

OPEN = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {
        "group": "example.com",
        "names": {"plural": "things", "kind": "Thing"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}
THINGS = "/apis/example.com/v1/namespaces/default/things"
MAPS = "/api/v1/namespaces/default/configmaps"
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


def thing(name, depth):
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    head = b'{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"%s"},"spec":'
    return head % name.encode() + deep + b"}"


@pytest.mark.parametrize("depth", [500, 900, 5000, 100_000])
def test_deep_nesting_is_the_clients_fault_and_spoils_nothing(tmp_path, depth):
    async def scenario(server, admin):
        await admin.create(CUSTOMRESOURCEDEFINITIONS, OPEN)
        user = server.as_user("admin", ["system:masters"])

        async def send(method, path, body, media="application/json", query=""):
            answer = await user(request(method, path, query, body, content_type=media))
            return answer.status

        assert await send("POST", THINGS, thing("flat", 10)) == 201
        assert await send("POST", THINGS, thing("deep", depth)) == 400
        assert await send("PATCH", f"{THINGS}/flat", thing("flat", depth), MERGE) == 400
        forced = "fieldManager=x&force=true"
        assert await send("PATCH", f"{THINGS}/flat", thing("flat", depth), APPLY, forced) == 400
        listed = await user(request("GET", THINGS))
        assert [each["metadata"]["name"] for each in json.loads(listed.body)["items"]] == ["flat"]

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("method", "name", "media"),
    [
        ("POST", "", "application/json"),
        ("POST", "", "application/yaml"),
        ("POST", "", "application/vnd.kubernetes.protobuf"),
        ("PUT", "/a", "application/json"),
        ("PATCH", "/a", MERGE),
        ("PATCH", "/a", APPLY),
        ("DELETE", "/a", "application/json"),
    ],
)
def test_a_body_beyond_the_limit_is_413(tmp_path, method, name, media):
    async def scenario(server, _admin):
        user = server.as_user("admin", ["system:masters"])
        body = b" " * (3 * 1024 * 1024 + 1)
        answer = await user(request(method, MAPS + name, "", body, content_type=media))
        assert answer.status == 413
        assert json.loads(answer.body)["reason"] == "RequestEntityTooLarge"

    serve(tmp_path, scenario)


def test_types_nobody_reads_or_writes_are_415_and_406(tmp_path):
    async def scenario(server, _admin):
        user = server.as_user("admin", ["system:masters"])
        body = json.dumps(configmap("a")).encode()
        sent = await user(request("POST", MAPS, "", body, content_type="text/html"))
        assert (sent.status, json.loads(sent.body)["reason"]) == (415, "UnsupportedMediaType")
        patched = request("PATCH", f"{MAPS}/a", "", b"{}", content_type="application/json")
        assert (await user(patched)).status == 415
        got = await user(request("GET", MAPS, accept="text/html"))
        assert (got.status, json.loads(got.body)["reason"]) == (406, "NotAcceptable")

    serve(tmp_path, scenario)


def test_a_warning_is_a_header_of_its_own_form(tmp_path):
    async def scenario(server, admin):
        user = server.as_user("admin", ["system:masters"])
        body = json.dumps({**configmap("a"), "dada": 1}).encode()
        made = await user(request("POST", MAPS, "fieldValidation=Warn", body))
        assert made.headers["warning"] == '299 - "unknown field \\"dada\\""'
        assert await admin.get(CONFIGMAPS, "a", "default")

    serve(tmp_path, scenario)
