"""Whatever is sent, the answer is the sender's fault or a success, never a failure of the server."""

import asyncio
import copy

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.server.running import configmap, deployment, pod, request, running
from tests.server.test_rest import CRD

from underway.api.resources import (
    CONFIGMAPS,
    CUSTOMRESOURCEDEFINITIONS,
    DEPLOYMENTS,
    PODS,
    ROLEBINDINGS,
    SERVICES,
)

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "s"},
    "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "clusterIP": ""},
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "RoleBinding",
    "metadata": {"name": "b"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
    "subjects": [{"kind": "User", "name": "jane"}],
}
SEEDS = [
    (CONFIGMAPS, configmap("c", {"a": "b"}, x="y")),
    (DEPLOYMENTS, deployment("d", replicas=2)),
    (PODS, pod("p", nodeName="n")),
    (SERVICES, SERVICE),
    (ROLEBINDINGS, BINDING),
    (CUSTOMRESOURCEDEFINITIONS, CRD),
]
JUNK = st.sampled_from(
    [None, True, 0, -1, 1.5, 10**30, "", "x", "\u0000", "a" * 300, [], [None], [[]], {}, {"x": 1}]
)


def places(value, at=()):
    """The paths to every value inside a document."""
    if at:
        yield at
    if isinstance(value, dict):
        for name, child in value.items():
            yield from places(child, (*at, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from places(child, (*at, index))


def replaced(document, at, value):
    changed = copy.deepcopy(document)
    target = changed
    for step in at[:-1]:
        target = target[step]
    target[at[-1]] = value
    return changed


@st.composite
def mutated(draw):
    resource, seed = draw(st.sampled_from(SEEDS))
    at = draw(st.sampled_from(list(places(seed))))
    return resource, seed, replaced(seed, at, draw(JUNK))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=st.lists(mutated(), min_size=10, max_size=30))
def test_mangled_objects_are_refused_or_stored(cases, tmp_path_factory):
    async def main():
        async with running(tmp_path_factory.mktemp("home")) as server:
            handler = server.as_user("admin", ["system:masters"])
            for resource, seed, body in cases:
                path = resource.path("default")
                data = msgspec.json.encode(body)
                for method, target, kind, payload in [
                    ("POST", path, "application/json", data),
                    ("POST", path, "application/json", msgspec.json.encode(seed)),
                    ("PUT", f"{path}/{seed['metadata']['name']}", "application/json", data),
                    *(
                        ("PATCH", f"{path}/{seed['metadata']['name']}", media, data)
                        for media in (
                            "application/merge-patch+json",
                            "application/strategic-merge-patch+json",
                            "application/json-patch+json",
                            "application/apply-patch+yaml",
                        )
                    ),
                ]:
                    sent = request(method, target, "fieldManager=m&force=true", payload)
                    sent.headers["content-type"] = kind
                    answer = await handler(sent)
                    assert answer.status < 500, (method, target, kind, body, answer.body)
                for accept in ("application/json", "application/json;as=Table;g=meta.k8s.io;v=v1"):
                    answer = await handler(request("GET", path, accept=accept))
                    assert answer.status == 200, (body, answer.body)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/v1/namespaces//pods", ""),
        ("/api/v1/pods/../secrets", ""),
        ("/api/v1/namespaces/default/pods/%2e%2e/log", ""),
        ("/api/v1/namespaces/default/pods", "limit=x"),
        ("/api/v1/namespaces/default/pods", "continue=%00"),
        ("/api/v1/namespaces/default/pods", "continue=e30"),
        ("/api/v1/namespaces/default/pods", "labelSelector=%3D%3D"),
        ("/api/v1/namespaces/default/pods", "fieldSelector=%5C"),
        ("/api/v1/namespaces/default/pods", "resourceVersion=" + "9" * 5000),
        ("/api/v1/namespaces/default/pods", "watch=1&resourceVersion=-1"),
        ("/api/v1/namespaces/default/pods", "watch=1&timeoutSeconds=1e9"),
        ("/api/v1/namespaces/default/pods", "watch=1&resourceVersionMatch=Exact"),
        ("/apis/apps/v1/namespaces/default/deployments/x/scale/y", ""),
        ("/openapi/v3/apis/x", ""),
        ("/readyz/nothing", ""),
    ],
)
def test_odd_paths_and_queries_are_the_clients_fault(tmp_path, path, query):
    async def main():
        async with running(tmp_path) as server:
            handler = server.as_user("admin", ["system:masters"])
            answer = await handler(request("GET", path, query))
            assert 400 <= answer.status < 500, (answer.status, answer.body)

    asyncio.run(main())
