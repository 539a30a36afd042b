"""The OpenAPI v3 documents, by their own rules and by what real kubectl makes of them."""

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import peers
from tests.api.toy_server import WIDGET_SCHEMA, WIDGETS, toy_server

from underway.api import openapi
from underway.api.resources import BUILTIN, Resource

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web:%d
        ports: [{containerPort: 80}]
"""
WIDGET = """
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
spec: {size: %d, parts: [{name: a, price: 1}]}
"""


def by_group_version() -> dict[tuple[str, str], list[Resource]]:
    found = defaultdict(list)
    for resource in (*BUILTIN, WIDGETS):
        found[resource.group, resource.version].append(resource)
    return found


def documents() -> Iterator[tuple[list[Resource], dict]]:
    for (group, version), served in by_group_version().items():
        made = openapi.document(group, version, served, {"Widget": WIDGET_SCHEMA})
        yield served, json.loads(made)


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                assert len(node) == 1, "nothing may stand beside $ref"
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_resolves_within_its_document() -> None:
    for _, doc in documents():
        known = {openapi.REF_PREFIX + name for name in doc["components"]["schemas"]}
        assert set(references(doc)) <= known


def test_every_patch_tells_its_kind_and_takes_field_validation() -> None:
    for served, doc in documents():
        for resource in served:
            gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
            patches = [
                path["patch"]
                for path in doc["paths"].values()
                if "patch" in path and path["patch"]["x-kubernetes-group-version-kind"] == gvk
            ]
            assert bool(patches) == ("patch" in resource.verbs)
            for patch in patches:
                names = {p["name"] for p in patch["parameters"]}
                assert {"fieldValidation", "dryRun", "fieldManager", "force"} <= names
                strategic = "application/strategic-merge-patch+json"
                content = patch["requestBody"]["content"]
                assert (strategic in content) == (resource is not WIDGETS)
            kinds = [
                s["x-kubernetes-group-version-kind"]
                for s in doc["components"]["schemas"].values()
                if "x-kubernetes-group-version-kind" in s
            ]
            assert any(gvk in found for found in kinds)


def test_subresources_tell_what_they_take() -> None:
    served = by_group_version()["", "v1"]
    doc = json.loads(openapi.document("", "v1", served, {}))
    space = "/api/v1/namespaces/{namespace}"
    for path, method, kind in (
        (f"{space}/pods/{{name}}/eviction", "post", "io.k8s.api.policy.v1.Eviction"),
        (f"{space}/pods/{{name}}/binding", "post", "io.k8s.api.core.v1.Binding"),
        (f"{space}/pods/{{name}}/resize", "patch", "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"),
        (f"{space}/pods/{{name}}/ephemeralcontainers", "put", "io.k8s.api.core.v1.Pod"),
        (
            f"{space}/serviceaccounts/{{name}}/token",
            "post",
            "io.k8s.api.authentication.v1.TokenRequest",
        ),
        ("/api/v1/namespaces/{name}/finalize", "put", "io.k8s.api.core.v1.Namespace"),
    ):
        body = doc["paths"][path][method]["requestBody"]["content"]
        assert {each["schema"]["$ref"] for each in body.values()} == {openapi.REF_PREFIX + kind}
        assert kind in doc["components"]["schemas"]
    eviction = doc["paths"][f"{space}/pods/{{name}}/eviction"]["post"]
    gvk = {"group": "policy", "kind": "Eviction", "version": "v1"}
    assert eviction["x-kubernetes-group-version-kind"] == gvk


def test_the_hash_follows_the_content() -> None:
    served = by_group_version()["example.com", "v1"]
    first = openapi.document_hash(served, {"Widget": WIDGET_SCHEMA})
    assert first == openapi.document_hash(served, {"Widget": dict(WIDGET_SCHEMA)})
    assert first != openapi.document_hash(served, {"Widget": {"type": "object"}})
    assert first != openapi.document_hash([], {"Widget": WIDGET_SCHEMA})
    assert json.loads(openapi.index({"api/v1": "AB"})) == {
        "paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=AB"}}
    }


Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["32", "37"])
def kubectl(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    program = peers.kubectl(request.param)
    with toy_server() as (url, _):

        def run(*arguments: str, stdin: str = "", ok: bool = True):
            result = subprocess.run(
                [program, "--server", url, "--namespace", "default", *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={
                    "HOME": str(tmp_path),
                    "PATH": os.environ["PATH"],
                    "KUBECTL_EXTERNAL_DIFF": "diff -u",
                },
            )
            assert (result.returncode == 0) == ok, result.stdout + result.stderr
            return result

        yield run


@pytest.mark.peer
def test_kubectl_explains_built_in_and_custom_kinds(kubectl: Kubectl) -> None:
    found = kubectl("explain", "deployment.spec.strategy").stdout
    assert "FIELD: strategy <DeploymentStrategy>" in found
    assert "rollingUpdate\t<RollingUpdateDeployment>" in found
    assert "replace existing pods with new ones" in found
    assert "containers\t<[]Container> -required-" in kubectl("explain", "pod.spec").stdout
    found = kubectl("explain", "widgets.spec").stdout
    assert "size\t<integer>" in found
    assert "How large it is." in found


@pytest.mark.peer
def test_kubectl_creates_applies_and_diffs(kubectl: Kubectl) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=WEB % (1, 1)).stdout
    assert "configured" in kubectl("apply", "-f", "-", stdin=WEB % (2, 2)).stdout
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=WEB % (2, 2)).stdout
    diff = kubectl("diff", "-f", "-", stdin=WEB % (3, 2), ok=False)
    assert "+  replicas: 3" in diff.stdout
    assert "web:2" not in "".join(s for s in diff.stdout.splitlines() if s[:1] in "+-")
    misspelt = WEB.replace("replicas", "replica") % (1, 1)
    refused = kubectl("apply", "-f", "-", stdin=misspelt, ok=False)
    assert "spec.replica" in refused.stderr
    kubectl("set", "image", "deploy/web", "web=other")
    found = kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers}")
    assert json.loads(found.stdout) == [
        {"name": "web", "image": "other", "ports": [{"containerPort": 80}]}
    ]


@pytest.mark.peer
def test_kubectl_moves_to_server_side_apply_and_meets_conflicts(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=WEB % (1, 1))
    applied = kubectl("apply", "--server-side", "-f", "-", stdin=WEB % (2, 2))
    assert "serverside-applied" in applied.stdout
    other = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    refused = kubectl(*other, stdin=WEB % (3, 2), ok=False)
    assert 'conflict with "kubectl": .spec.replicas' in refused.stderr
    kubectl(*other, "--force-conflicts", stdin=WEB % (3, 2))
    found = kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}").stdout
    assert found == "3"


@pytest.mark.peer
def test_kubectl_applies_custom_resources(kubectl: Kubectl) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=WIDGET % 1).stdout
    assert "configured" in kubectl("apply", "-f", "-", stdin=WIDGET % 2).stdout
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=WIDGET % 3)
    assert kubectl("get", "widget", "w", "-o", "jsonpath={.spec.size}").stdout == "3"


@pytest.mark.peer
def test_kubectl_creates_by_protobuf(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "web", "--image=nginx", "--port=80", "--replicas=2")
    found = json.loads(kubectl("get", "deploy", "web", "-o", "json").stdout)
    assert found["spec"]["replicas"] == 2
    assert found["spec"]["template"]["spec"] == {
        "containers": [{"image": "nginx", "name": "nginx", "ports": [{"containerPort": 80}]}]
    }
    kubectl("create", "configmap", "c", "--from-literal=a=b")
    assert kubectl("get", "configmap", "c", "-o", "jsonpath={.data}").stdout == '{"a":"b"}'
