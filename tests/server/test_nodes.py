"""Requests that happen on a node reach its kubelet API as the kubelet wants them."""

import pytest
from tests.server.running import pod, request, serve

from underway.api.resources import NODES, PODS
from underway.wire.http import Response

NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}


def two(name):
    made = pod(name, nodeName="n1")
    made["spec"]["containers"].append({"name": "side", "image": "busybox"})
    return made


class Kubelet:
    def __init__(self):
        self.seen = []

    async def __call__(self, node, sent):
        self.seen.append((node["metadata"]["name"], sent.method, sent.path, sent.query))
        return Response(200, {"content-type": "text/plain"}, b"from the node")


def run(tmp_path, scenario):
    kubelet = Kubelet()

    async def prepared(server, client):
        await client.create(NODES, NODE)
        await client.create(PODS, pod("one", nodeName="n1"), "default")
        await client.create(PODS, two("two"), "default")
        await client.create(PODS, pod("unplaced"), "default")
        handler = server.as_user("admin", ["system:masters"])

        async def call(method, path, query=""):
            answer = await handler(request(method, path, query, authorization="Bearer secret"))
            return answer.status, await answer.read()

        await scenario(call, client)

    serve(tmp_path, prepared, connector=kubelet)
    return kubelet.seen


BASE = "/api/v1/namespaces/default/pods"


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "one/log", "", ("/containerLogs/default/one/main", "")),
        (
            "GET",
            "one/log",
            "follow=true&tailLines=5&timestamps=false",
            ("/containerLogs/default/one/main", "follow=true&tailLines=5"),
        ),
        (
            "POST",
            "two/exec",
            "container=side&command=ls&command=-l&stdin=true&stdout=true&tty=true",
            ("/exec/default/two/side", "input=1&output=1&tty=1&command=ls&command=-l"),
        ),
        ("GET", "one/attach", "", ("/attach/default/one/main", "output=1&error=1")),
        ("POST", "one/portforward", "ports=80", ("/portForward/default/one", "ports=80")),
    ],
)
def test_pod_paths_become_kubelet_paths(tmp_path, method, path, query, expected):
    async def scenario(call, _client):
        assert await call(method, f"{BASE}/{path}", query) == (200, b"from the node")

    assert run(tmp_path, scenario) == [("n1", method, *expected)]


def test_a_node_is_reached_by_its_proxy(tmp_path):
    async def scenario(call, _client):
        await call("GET", "/api/v1/nodes/n1/proxy/healthz", "verbose=1")

    assert run(tmp_path, scenario) == [("n1", "GET", "/healthz", "verbose=1")]


def test_what_cannot_be_is_said_as_kubernetes_says_it(tmp_path):
    async def scenario(call, client):
        async def refusal(path, query=""):
            status, body = await call("GET", f"{BASE}/{path}", query)
            return status, body

        status, body = await refusal("two/log")
        assert status == 400
        text = b"a container name must be specified for pod two, choose one of: [main side]"
        assert text in body
        status, body = await refusal("one/log", "container=nope")
        assert (status, b"container nope is not valid for pod one" in body) == (400, True)
        status, body = await refusal("unplaced/exec", "command=ls&stdout=1")
        assert (status, b"pod unplaced does not have a host assigned" in body) == (400, True)
        assert (await refusal("none/log"))[0] == 404
        status, body = await refusal("one/exec", "stdout=1")
        assert b"at least 1 command" in body
        annotation = {"kubectl.kubernetes.io/default-container": "side"}
        await client.patch(PODS, "two", {"metadata": {"annotations": annotation}}, "default")
        assert (await refusal("two/log"))[0] == 200
        done = {"status": {"phase": "Succeeded"}}
        await client.patch(PODS, "one", done, "default", subresource="status")
        status, body = await refusal("one/exec", "command=ls&stdout=1")
        assert b"cannot exec a container in a completed pod" in body

    assert [path for _, _, path, _ in run(tmp_path, scenario)] == [
        "/containerLogs/default/two/side"
    ]


def test_credentials_stay_here(tmp_path):
    seen = {}

    async def kubelet(_node, sent):
        seen.update(sent.headers)
        return Response()

    async def scenario(server, client):
        await client.create(NODES, NODE)
        await client.create(PODS, pod("one", nodeName="n1"), "default")
        sent = request("GET", f"{BASE}/one/log", authorization="Bearer x", accept="text/plain")
        await server.as_user("admin", ["system:masters"])(sent)

    serve(tmp_path, scenario, connector=kubelet)
    assert "authorization" not in seen
    assert seen["accept"] == "text/plain"
