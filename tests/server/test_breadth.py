"""Everything that is generally available in Kubernetes is served here."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.server.running import pod, request, serve

from underway.api.resources import (
    BUILTIN,
    HORIZONTALPODAUTOSCALERS,
    HORIZONTALPODAUTOSCALERS_V1,
    PODS,
)
from underway.base.errors import UnderwayError

# Deprecated since 1.19: it tells the health of components that are not programs here.
NOT_SERVED = {("", "v1", "componentstatuses", "")}
# What lightkube leaves out because its client cannot use it.
VERBS = {"post": "create", "put": "update", "global_list": "list", "global_watch": "watch"}


def upstream():
    """(group, version, plural, subresource) -> (kind, namespaced, verbs), as lightkube has them."""
    models = find_spec("lightkube.models")
    if models is None or models.origin is None:
        pytest.skip("lightkube-models is not installed")
    found = {}
    for file in sorted((Path(models.origin).parents[1] / "resources").glob("*_v*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            (base, *_) = (ast.unparse(each).removeprefix("res.") for each in node.bases)
            for line in node.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "_api_info":
                    given = {word.arg: word.value for word in line.value.keywords}
                    owner = given.get("parent", given["resource"])
                    group, version, kind = (ast.literal_eval(each) for each in owner.args)
                    plural = ast.literal_eval(given["plural"])
                    action = ast.literal_eval(given["action"]) if "action" in given else ""
                    verbs = {VERBS.get(v, v) for v in ast.literal_eval(given["verbs"])}
                    key = (group, version, plural, action)
                    found[key] = (kind, base.startswith("Namespaced"), verbs)
    return {key: value for key, value in found.items() if not {"a", "b"} & set(key[1][2:])}


def test_every_resource_of_the_ga_groups_is_there_with_its_verbs_and_scope():
    served = {}
    for each in BUILTIN:
        key = (each.group, each.version, each.plural)
        served[*key, ""] = (each.kind, each.namespaced, set(each.verbs))
        for name in each.subresources:
            served[*key, name] = (each.kind, each.namespaced, None)
    wanted = upstream()
    assert {*wanted} - {*served} == NOT_SERVED
    wrong = {
        key: (value, served[key])
        for key, value in wanted.items()
        if key in served
        and (value[:2] != served[key][:2] or (served[key][2] is not None and value != served[key]))
    }
    assert wrong == {}


MINIMAL = {
    "APIService": {
        "metadata": {"name": "v1.example.com"},
        "spec": {"groupPriorityMinimum": 1, "versionPriority": 1, "group": "example.com"},
    },
    "FlowSchema": {"spec": {"priorityLevelConfiguration": {"name": "x"}}},
    "PriorityLevelConfiguration": {"spec": {"type": "Exempt"}},
    "IPAddress": {
        "metadata": {"name": "10.96.0.9"},
        "spec": {"parentRef": {"resource": "services", "name": "x", "namespace": "default"}},
    },
    "ServiceCIDR": {"spec": {"cidrs": ["10.0.0.0/24"]}},
    "ClusterTrustBundle": {"spec": {"trustBundle": "x"}},
    "DeviceClass": {"spec": {}},
    "ResourceClaim": {"spec": {}},
    "ResourceClaimTemplate": {"spec": {"spec": {}}},
    "CSIDriver": {"spec": {}},
    "CSINode": {"spec": {"drivers": []}},
    "CSIStorageCapacity": {"storageClassName": "x"},
    "VolumeAttachment": {
        "spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}
    },
    "VolumeAttributesClass": {"driverName": "x"},
    "ValidatingAdmissionPolicyBinding": {
        "spec": {"policyName": "p", "validationActions": ["Deny"]}
    },
    "PodTemplate": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Kind -> what became of a minimal object: created, read, listed, deleted."""
    found = {}

    async def scenario(_server, client):
        for resource in BUILTIN:
            if resource.kind not in MINIMAL:
                continue
            wanted = {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": {"name": "one"},
                **MINIMAL[resource.kind],
            }
            namespace = "default" if resource.namespaced else ""
            name = wanted["metadata"]["name"]
            try:
                made = await client.create(resource, wanted, namespace)
                read = await client.get(resource, name, namespace)
                await client.delete(resource, name, namespace)
                found[resource.kind] = (made, read)
            except UnderwayError as error:
                found[resource.kind] = error

    serve(tmp_path_factory.mktemp("breadth"), scenario)
    return found


@pytest.mark.parametrize("kind", MINIMAL)
def test_a_minimal_object_of_the_kind_is_kept(seen, kind):
    assert isinstance(seen[kind], tuple), seen[kind]
    made, read = seen[kind]
    assert made == read
    assert made["kind"] == kind


def test_drivers_and_priority_levels_get_their_defaults(seen):
    assert seen["CSIDriver"][0]["spec"]["attachRequired"] is True
    assert seen["PriorityLevelConfiguration"][0]["spec"]["exempt"] == {
        "nominalConcurrencyShares": 0,
        "lendablePercent": 0,
    }


def test_an_autoscaler_is_one_object_under_both_versions(tmp_path):
    async def scenario(_server, client):
        target = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
        old = {
            "apiVersion": "autoscaling/v1",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web"},
            "spec": {
                "scaleTargetRef": target,
                "maxReplicas": 5,
                "targetCPUUtilizationPercentage": 60,
            },
        }
        made = await client.create(HORIZONTALPODAUTOSCALERS_V1, old, "default")
        assert made["apiVersion"] == "autoscaling/v1"
        assert made["spec"]["targetCPUUtilizationPercentage"] == 60
        new = await client.get(HORIZONTALPODAUTOSCALERS, "web", "default")
        cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}
        assert new["spec"]["metrics"] == [{"type": "Resource", "resource": cpu}]
        memory = {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}}
        new["spec"]["metrics"].append({"type": "Resource", "resource": memory})
        await client.replace(HORIZONTALPODAUTOSCALERS, new)
        shown = await client.get(HORIZONTALPODAUTOSCALERS_V1, "web", "default")
        shown["spec"]["maxReplicas"] = 7
        await client.replace(HORIZONTALPODAUTOSCALERS_V1, shown)
        new = await client.get(HORIZONTALPODAUTOSCALERS, "web", "default")
        assert new["spec"]["maxReplicas"] == 7
        assert [m["resource"]["name"] for m in new["spec"]["metrics"]] == ["cpu", "memory"]
        assert "annotations" not in new["metadata"]

    serve(tmp_path, scenario)


def test_a_binding_puts_a_pod_on_a_node(tmp_path):
    async def scenario(server, client):
        await client.create(PODS, pod("web"), "default")
        binding = (
            b'{"apiVersion":"v1","kind":"Binding","metadata":{"name":"web"},'
            b'"target":{"kind":"Node","name":"n1"}}'
        )
        path = "/api/v1/namespaces/default/bindings"
        handler = server.as_user("admin", ["system:masters"])
        sent = request("POST", path, body=binding, content_type="application/json")
        assert (await handler(sent)).status == 201
        bound = await client.get(PODS, "web", "default")
        assert bound["spec"]["nodeName"] == "n1"

    serve(tmp_path, scenario)


def test_a_local_review_stays_in_its_namespace(tmp_path):
    async def scenario(server, _client):
        handler = server.as_user("admin", ["system:masters"])

        async def ask(namespace):
            body = (
                b'{"apiVersion":"authorization.k8s.io/v1","kind":"LocalSubjectAccessReview","spec":'
                b'{"user":"a","groups":["system:masters"],"resourceAttributes":{"verb":"get",'
                b'"resource":"pods","namespace":"%s"}}}' % namespace
            )
            path = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"
            answer = await handler(
                request("POST", path, body=body, content_type="application/json")
            )
            return answer.status, answer.json()

        status, review = await ask(b"default")
        assert (status, review["status"]["allowed"]) == (201, True)
        assert (await ask(b"kube-system"))[0] == 400

    serve(tmp_path, scenario)
