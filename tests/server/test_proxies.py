"""pods/proxy and services/proxy lead to pods, and nowhere else."""

import socket

import pytest
from tests.server.cluster import Cluster
from tests.server.running import pod, request, serve

from underway.api.resources import ENDPOINTSLICES, PODS, SERVICES
from underway.base.errors import BadRequest
from underway.server.proxies import Place, proxied_path, send, split_name
from underway.transport import front
from underway.wire.http import Response

BASE = "/api/v1/namespaces/default"


def service(name):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "web", "port": 80, "targetPort": 8080}],
        },
    }


def endpoints(name, *addresses, ready=True, port=8080):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": {"ready": ready}} for a in addresses],
        "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
    }


def run(tmp_path, scenario):
    """What was sent on: (place, method, path, query)."""
    seen = []

    async def forward(place, sent, path):
        seen.append((place, sent.method, path, sent.query))
        return Response(200, {}, b"from the pod")

    async def prepared(server, client):
        made = pod("web")
        made["spec"]["containers"][0]["ports"] = [{"containerPort": 3000}]
        await client.create(PODS, made, "default")
        await address(client, "web", "10.244.0.5")
        await client.create(SERVICES, service("shop"), "default")
        handler = server.as_user("admin", ["system:masters"])

        async def call(method, path, query=""):
            answer = await handler(request(method, f"{BASE}/{path}", query))
            return answer.status, await answer.read(), answer.headers

        await scenario(call, client)

    serve(tmp_path, prepared, forward=forward)
    return seen


async def address(client, name, ip):
    status = {"status": {"podIP": ip, "podIPs": [{"ip": ip}]}}
    await client.patch(PODS, name, status, "default", subresource="status")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("web", Place("http", "10.244.0.5", 3000)),
        ("web:9", Place("http", "10.244.0.5", 9)),
        ("https:web:9", Place("https", "10.244.0.5", 9)),
    ],
)
def test_a_pod_is_reached_at_the_port_named(tmp_path, name, place):
    async def scenario(call, _client):
        status, body, _ = await call("POST", f"pods/{name}/proxy/a%2Fb/", "x=1")
        assert (status, body) == (200, b"from the pod")

    assert run(tmp_path, scenario) == [(place, "POST", "/a%2Fb/", "x=1")]


@pytest.mark.parametrize("port", ["web", "80"])
def test_a_service_leads_to_a_ready_endpoint(tmp_path, port):
    async def scenario(call, client):
        await client.create(ENDPOINTSLICES, endpoints("shop", "10.244.0.7"), "default")
        assert (await call("GET", f"services/shop:{port}/proxy/"))[0] == 200

    assert run(tmp_path, scenario) == [(Place("http", "10.244.0.7", 8080), "GET", "/", "")]


def test_what_leads_nowhere_says_why(tmp_path):
    async def scenario(call, client):
        assert (await call("GET", "services/none/proxy/"))[0] == 404
        status, body, _ = await call("GET", "services/shop:81/proxy/")
        assert (status, b"no service port 81 found" in body) == (503, True)
        not_ready = endpoints("shop", "10.244.0.7", ready=False)
        await client.create(ENDPOINTSLICES, not_ready, "default")
        status, body, _ = await call("GET", "services/shop:web/proxy/")
        assert (status, b"no endpoints available for service" in body) == (503, True)
        assert (await call("GET", "pods/web:http/proxy/"))[0] == 400
        assert (await call("GET", "pods/ftp:web:1/proxy/"))[0] == 400

    assert run(tmp_path, scenario) == []


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "::ffff:127.0.0.1"]
)
def test_the_machine_itself_is_not_reached_through_a_pod(tmp_path, ip):
    async def scenario(call, client):
        await address(client, "web", ip)
        status, body, _ = await call("GET", "pods/web/proxy/")
        assert (status, b"address not allowed" in body) == (400, True)

    assert run(tmp_path, scenario) == []


def test_without_a_path_the_client_is_sent_to_its_root(tmp_path):
    async def scenario(call, _client):
        status, _, headers = await call("GET", "pods/web/proxy", "a=1")
        assert (status, headers["location"]) == (301, f"{BASE}/pods/web/proxy/?a=1")

    assert run(tmp_path, scenario) == []


def test_names_and_paths_are_read_as_written():
    assert split_name("https:a:http") == ("https", "a", "http")
    with pytest.raises(BadRequest):
        split_name("a:b:c:d")
    assert proxied_path("/api/v1/namespaces/proxy/pods/proxy/proxy/proxy/x") == "/proxy/x"
    assert proxied_path("/api/v1/nodes/n1/proxy//double") == "//double"


def own_address():
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks for the route
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


@pytest.mark.peer
def test_kubectl_reads_from_a_pod_through_the_server(tmp_path):
    seen = {}

    async def target(sent):
        seen.update(sent.headers)
        if sent.path == "/old":
            return Response(302, {"location": "/new"})
        return Response(200, {"content-type": "text/plain"}, f"{sent.path}?{sent.query}".encode())

    host = own_address()
    with Cluster(tmp_path) as cluster:
        server = cluster.call(front.serve(target, host=host))
        try:
            cluster.call(cluster.admin.create(PODS, pod("web"), "default"))
            cluster.call(address(cluster.admin, "web", host))
            cluster.call(cluster.admin.create(SERVICES, service("shop"), "default"))
            piece = endpoints("shop", host, port=server.port)
            cluster.call(cluster.admin.create(ENDPOINTSLICES, piece, "default"))
            path = f"{BASE}/pods/web:{server.port}/proxy"
            assert cluster.kubectl("get", "--raw", f"{path}/a/b?c=d") == "/a/b?c=d"
            assert cluster.kubectl("get", "--raw", f"{path}/old") == "/new?"
            shop = f"{BASE}/services/shop:web/proxy/index.html"
            assert cluster.kubectl("get", "--raw", shop) == "/index.html?"
            assert not {"authorization", "cookie"} & {*seen}
            assert seen["x-forwarded-uri"] == shop
            config = cluster.kubeconfig("node")
            refused = cluster.kubectl("get", "--raw", shop, check=False, config=config)
            assert "forbidden" in refused.stderr.lower()
        finally:
            cluster.call(server.close())


def test_send_keeps_foreign_redirects(tmp_path):
    async def target(_sent):
        return Response(302, {"location": "https://elsewhere.example/x"})

    async def scenario(_server, _client):
        async with await front.serve(target) as server:
            place = Place("http", "127.0.0.1", server.port)
            sent = request("GET", f"{BASE}/pods/web/proxy/x", impersonate_user="a")
            answer = await send(place, sent, "/x")
            assert answer.headers["location"] == "https://elsewhere.example/x"
            await answer.read()

    serve(tmp_path, scenario)
