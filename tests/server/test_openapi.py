"""The OpenAPI documents as clients get them."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.peers import kubectl
from tests.server.cluster import Cluster
from tests.server.running import request, serve
from tests.server.test_conversion import definition

from underway.api.resources import CUSTOMRESOURCEDEFINITIONS

PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_v2_holds_every_group_and_resolves_all_references(tmp_path):
    async def scenario(server, admin):
        crd = definition({"url": "https://127.0.0.1:1/x"})
        await admin.create(CUSTOMRESOURCEDEFINITIONS, crd)
        user = server.as_user("admin", ["system:masters"])
        response = await user(request("GET", "/openapi/v2", accept="application/json"))
        document = json.loads(await response.read())
        assert document["swagger"] == "2.0"
        definitions = document["definitions"]
        wanted = set(references(document))
        assert wanted
        assert not {ref for ref in wanted if ref.removeprefix("#/definitions/") not in definitions}
        pods = document["paths"]["/api/v1/namespaces/{namespace}/pods"]
        body = pods["post"]["parameters"][0]
        assert body["schema"] == {"$ref": "#/definitions/io.k8s.api.core.v1.Pod"}
        assert all("schema" not in p or p["in"] == "body" for p in pods["post"]["parameters"])
        assert "com.example.v2.Host" in definitions
        assert definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["type"] == "string"
        etag = response.headers["etag"]
        again = await user(request("GET", "/openapi/v2", if_none_match=etag))
        assert again.status == 304
        crd["metadata"]["name"], crd["spec"]["names"]["plural"] = "guests.example.com", "guests"
        crd["spec"]["names"] |= {"kind": "Guest", "singular": "guest"}
        await admin.create(CUSTOMRESOURCEDEFINITIONS, crd)
        changed = await user(request("GET", "/openapi/v2", if_none_match=etag))
        assert "com.example.v2.Guest" in json.loads(await changed.read())["definitions"]

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (PROTOBUF, 406),
        (f"{PROTOBUF}, application/json", 200),
        ("*/*", 200),
        ("text/html", 406),
    ],
)
def test_v2_is_json_for_those_who_take_it(tmp_path, accept, status):
    async def scenario(server, _admin):
        user = server.as_user("admin", ["system:masters"])
        response = await user(request("GET", "/openapi/v2", accept=accept))
        assert response.status == status

    serve(tmp_path, scenario)


@pytest.mark.peer
@pytest.mark.parametrize("version", ["32", "37"])
def test_kubectl_explains_and_validates(tmp_path, version):
    with Cluster(tmp_path) as cluster:

        def run(*words, stdin=None):
            return subprocess.run(
                [str(kubectl(version)), *words],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={
                    **os.environ,
                    "KUBECONFIG": str(cluster.kubeconfig()),
                    "HOME": str(tmp_path),
                },
            )

        assert "replicas" in run("explain", "deployment.spec").stdout
        wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dada": {}}
        refused = run("apply", "--validate=strict", "-f", "-", stdin=json.dumps(wrong))
        assert 'unknown field "dada"' in refused.stderr
        raw = run("get", "--raw", "/openapi/v2")
        assert json.loads(raw.stdout)["swagger"] == "2.0", raw.stderr
