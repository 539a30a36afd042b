"""``underway api``: decode, encode, diff-compat."""

from __future__ import annotations

import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from tests.server.cluster import Cluster

from underway.dist.main import main

KUBERNETES = next(
    Path(kubernetes_validate.__file__).parent.glob(
        "kubernetes-json-schema/v1.37.0-local/_def*.json"
    )
)
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: nginx, resources: {limits: {cpu: 500m}}}]}
"""


def run(*words: object, stdin: bytes | str | None = None):
    return CliRunner().invoke(main, ["api", *map(str, words)], input=stdin)


def test_yaml_becomes_protobuf_and_comes_back(tmp_path):
    source = tmp_path / "web.yaml"
    source.write_text(DEPLOYMENT)
    encoded = run("encode", source)
    assert encoded.exit_code == 0
    assert encoded.stdout_bytes.startswith(b"k8s\0")
    decoded = run("decode", "-o", "yaml", stdin=encoded.stdout_bytes)
    wanted, found = yaml.safe_load(DEPLOYMENT), yaml.safe_load(decoded.output)
    assert found["spec"]["template"]["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "500m"}
    }
    assert (found["kind"], found["metadata"]["labels"]) == (
        wanted["kind"],
        wanted["metadata"]["labels"],
    )
    again = run("encode", stdin=run("decode", stdin=encoded.stdout_bytes).stdout_bytes)
    assert again.stdout_bytes == encoded.stdout_bytes


def test_watch_events_become_a_watch_stream_and_come_back():
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} for name in "ab"]
    events = "\n".join(json.dumps({"type": "ADDED", "object": pod}) for pod in pods)
    encoded = run("encode", stdin=events)
    assert encoded.exit_code == 0, encoded.output
    found = list(yaml.safe_load_all(run("decode", "-o", "yaml", stdin=encoded.stdout_bytes).output))
    assert [(each["type"], each["object"]["metadata"]["name"]) for each in found] == [
        ("ADDED", "a"),
        ("ADDED", "b"),
    ]


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("decode", b"\xff\xff\xff\xffnonsense", "neither JSON nor"),
        ("decode", b"", "nothing to decode"),
        ("encode", b"apiVersion: v1\nkind: Pod\nspec: {containers: [{imagee: x}]}", "no field"),
        ("encode", b"apiVersion: example.com/v1\nkind: Thing", "no protobuf encoding"),
        ("encode", b"apiVersion: v1\nkind: Pod\nspec: {containers: 7}", "containers"),
        ("encode", b"a: [", "malformed YAML"),
        ("encode", b"", "nothing to encode"),
        ("encode", b"- 1", "no object"),
    ],
)
def test_errors_are_one_clear_message(command, text, message):
    done = run(command, stdin=text)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output


def test_nothing_of_the_published_kinds_is_missing_but_those_listed(tmp_path):
    file = tmp_path / "swagger.json"
    file.write_text(json.dumps({"definitions": json.loads(KUBERNETES.read_text())["$defs"]}))
    done = run("diff-compat", file, "-o", "json")
    found = json.loads(done.output)
    assert done.exit_code == (1 if any(found.values()) else 0)
    # Types nobody can send to a server, or alpha and beta groups behind gates.
    stable = [group for group in found["groups"] if "alpha" not in group and "beta" not in group]
    assert stable == []
    assert found["fields"] == []
    discovery = {"APIGroup", "APIGroupList", "APIResourceList", "APIVersions"}
    others = {"ComponentStatus", "ComponentStatusList", "Eviction", "TokenRequest"}
    assert {kind.split()[-1] for kind in found["kinds"]} <= discovery | others


def test_what_an_upstream_has_more_is_listed(tmp_path):
    upstream = {
        "paths": {
            "/api/v1/namespaces/{namespace}/pods/{name}": {
                "get": {},
                "trace": {},
                "parameters": [],
            },
            "/api/v1/namespaces/{namespace}/pods/{name}/teleport": {"post": {}},
            "/apis/future.k8s.io/v1/things": {"get": {}},
        },
        "components": {
            "schemas": {
                "io.k8s.api.core.v1.Pod": {
                    "properties": {
                        "spec": {"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}
                    },
                    "x-kubernetes-group-version-kind": [
                        {"group": "", "version": "v1", "kind": "Pod"}
                    ],
                },
                "io.k8s.api.core.v1.PodSpec": {"properties": {"containers": {}, "warpDrive": {}}},
                "io.k8s.api.core.v1.Starship": {
                    "x-kubernetes-group-version-kind": [
                        {"group": "", "version": "v1", "kind": "Starship"}
                    ],
                },
            }
        },
    }
    (tmp_path / "v3").mkdir()
    (tmp_path / "v3" / "api__v1_openapi.json").write_text(json.dumps(upstream))
    done = run("diff-compat", tmp_path / "v3", "-o", "json")
    assert done.exit_code == 1
    assert json.loads(done.output) == {
        "groups": ["future.k8s.io/v1"],
        "kinds": ["v1 Starship"],
        "fields": ["io.k8s.api.core.v1.PodSpec.warpDrive"],
        "operations": ["POST /api/v1/namespaces/{}/pods/{}/teleport"],
    }
    assert "warpDrive" in run("diff-compat", tmp_path / "v3").output


def test_a_running_cluster_of_ours_lacks_nothing_of_itself(tmp_path):
    with Cluster(tmp_path / "home") as cluster:
        done = run("diff-compat", cluster.kubeconfig())
    assert (done.exit_code, "Nothing is missing" in done.output) == (0, True), done.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "no JSON"),
        ("{}", "describes no"),
        ("kind: Other", "no kubeconfig"),
    ],
)
def test_what_is_no_openapi_is_said(content, message, tmp_path):
    file = tmp_path / "given"
    if content is not None:
        file.write_text(content)
    done = run("diff-compat", file)
    assert done.exit_code == 1
    assert message in done.output
