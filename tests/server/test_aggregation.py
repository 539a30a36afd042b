"""API groups served by other servers, through APIServices."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from contextlib import asynccontextmanager, suppress

import pytest
from tests.server.cluster import Cluster
from tests.server.running import configmap, request, serve
from tests.server.test_proxies import endpoints, service
from tests.server.webhooks import certificate

from underway.api.resources import APISERVICES, CONFIGMAPS, ENDPOINTSLICES, SERVICES
from underway.base.errors import NotFound, ServiceUnavailable
from underway.base.home import Home, Settings
from underway.transport import front, pki
from underway.wire.http import Response, json_response

GROUP = "wardle.example.com"
PATH = f"/apis/{GROUP}/v1alpha1"
NAME = f"v1alpha1.{GROUP}"
FLUNDER = {
    "apiVersion": f"{GROUP}/v1alpha1",
    "kind": "Flunder",
    "metadata": {"name": "one", "namespace": "default", "resourceVersion": "1", "uid": "u1"},
}
DOCUMENT = {"openapi": "3.0.0", "info": {"title": "w", "version": "1"}, "paths": {}}


class Extension:
    """A small extension API server; it remembers what it was asked, and as whom."""

    def __init__(self):
        self.seen = []

    async def __call__(self, asked):
        self.seen.append(asked)
        listed = {"metadata": {"resourceVersion": "1"}, "items": [FLUNDER]}
        match asked.path:
            case "/openapi/v3":
                url = f"/openapi/v3{PATH}?hash=ABC"
                return json_response({"paths": {PATH.lstrip("/"): {"serverRelativeURL": url}}})
            case path if path == f"/openapi/v3{PATH}":
                return json_response(DOCUMENT)
            case path if path == PATH:
                return json_response(_discovery())
            case path if path.endswith("/flunders") and "watch=" in asked.query:
                return Response(200, {"content-type": "application/json"}, _events())
            case path if path.endswith("/flunders"):
                return json_response(
                    {"apiVersion": f"{GROUP}/v1alpha1", "kind": "FlunderList", **listed}
                )
            case path if path.endswith("/flunders/one") and asked.method == "GET":
                return json_response(FLUNDER)
            case path if path.endswith("/flunders/one/shell"):
                return Response(101, {"upgrade": "echo"}, upgrade=_echo)
        return Response(404, {}, b"no")


def _discovery():
    flunders = {
        "name": "flunders",
        "singularName": "flunder",
        "namespaced": True,
        "kind": "Flunder",
        "verbs": ["get", "list", "watch"],
        "shortNames": ["fl"],
    }
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/v1alpha1",
        "resources": [flunders],
    }


async def _events():
    yield json.dumps({"type": "ADDED", "object": FLUNDER}).encode() + b"\n"


async def _echo(stream):
    await stream.write(b"you said " + await stream.read())
    stream.close()


def own_address():
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


@asynccontextmanager
async def extension(directory, authority, host="127.0.0.1"):
    """An extension server that believes whoever shows a certificate of ``authority``."""
    cert, key, pem = certificate(directory, "wardle.default.svc")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    served = Extension()
    async with await front.serve(served, host=host, tls=context) as server:
        served.host, served.port, served.bundle = host, server.port, base64.b64encode(pem).decode()
        try:
            yield served
        finally:
            await server.close(grace_s=0.01)


def api_service(bundle="", name=NAME, **more):
    version, _, group = name.partition(".")
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": "default", "name": "wardle"},
            **({"caBundle": bundle} if bundle else {}),
            **more,
        },
    }


def wardle(port):
    made = service("wardle")
    made["spec"] = {"ports": [{"name": "web", "port": 443, "targetPort": port}]}
    return made


async def judged(admin, status, name=NAME):
    """The condition Available once it has this status."""
    async with asyncio.timeout(20):
        while True:
            with suppress(NotFound):
                found = await admin.get(APISERVICES, name)
                for each in (found.get("status") or {}).get("conditions") or ():
                    if each["status"] == status:
                        return each
            await asyncio.sleep(0.02)


def scenario(tmp_path, body, *, reachable=True):
    home = Home(tmp_path / "home")
    pki.ensure_pki(home, Settings())

    async def run(server, admin):
        authority = home.pki / "front-proxy-ca.crt"
        async with extension(tmp_path / "ext", authority, own_address()) as served:
            if reachable:
                await admin.create(SERVICES, wardle(served.port), "default")
                slices = endpoints("wardle", served.host, port=served.port)
                await admin.create(ENDPOINTSLICES, slices, "default")
            await body(server, admin, served)

    serve(home.root, run)


class Client:
    """A byte stream that says one thing and ends once it got another."""

    def __init__(self, says, wants):
        self.says, self.wants, self.got = says, wants, b""
        self.done = asyncio.Event()

    async def read(self):
        if self.says:
            said, self.says = self.says, b""
            return said
        await self.done.wait()
        return b""

    async def write(self, data):
        self.got += data
        if self.got == self.wants:
            self.done.set()

    def write_eof(self):
        self.done.set()

    close = write_eof


def as_admin(server):
    return server.as_user("jane", ["system:masters", "dev team"])


def test_our_own_groups_are_listed_as_local(tmp_path):
    async def body(_server, admin):
        found = await judged(admin, "True", "v1.apps")
        assert found["reason"] == "Local"
        apps = await admin.get(APISERVICES, "v1.apps")
        assert apps["spec"] == {
            "group": "apps",
            "version": "v1",
            "groupPriorityMinimum": 17800,
            "versionPriority": 15,
        }
        core = await admin.get(APISERVICES, "v1.")
        assert core["metadata"]["labels"] == {
            "kube-aggregator.kubernetes.io/automanaged": "onstart"
        }

    serve(tmp_path, body)


def test_requests_go_to_the_service_in_the_users_name(tmp_path):
    async def body(server, admin, served):
        await admin.create(APISERVICES, api_service(served.bundle))
        assert (await judged(admin, "True"))["reason"] == "Passed"
        sent = request(
            "GET",
            f"{PATH}/namespaces/default/flunders",
            x_remote_user="system:admin",
            x_remote_group="system:masters",
            authorization="Bearer secret",
        )
        response = await as_admin(server)(sent)
        assert json.loads(await response.read())["items"] == [FLUNDER]
        got = served.seen[-1]
        assert got.peer.common_name == "front-proxy-client"
        assert got.headers["x-remote-user"] == "jane"
        groups = [each.strip() for each in got.headers["x-remote-group"].split(",")]
        assert groups == ["system:masters", "dev team", "system:authenticated"]
        assert "authorization" not in got.headers

    scenario(tmp_path, body)


def test_who_may_not_is_refused_here(tmp_path):
    async def body(server, admin, served):
        await admin.create(APISERVICES, api_service(served.bundle))
        await judged(admin, "True")
        response = await server.as_user("nobody")(request("GET", f"{PATH}/flunders"))
        assert response.status == 403
        assert not [asked for asked in served.seen if asked.path.endswith("/flunders")]

    scenario(tmp_path, body)


def test_discovery_and_openapi_are_merged(tmp_path):
    async def body(server, admin, served):
        await admin.create(APISERVICES, api_service(served.bundle))
        await judged(admin, "True")
        user = as_admin(server)

        async def get(path, accept="application/json", query=""):
            return json.loads(await (await user(request("GET", path, query, accept=accept))).read())

        groups = [each["name"] for each in (await get("/apis"))["groups"]]
        assert groups[-1] == GROUP
        assert (await get(f"/apis/{GROUP}"))["preferredVersion"]["version"] == "v1alpha1"
        assert (await get(PATH))["resources"][0]["name"] == "flunders"
        aggregated = await get(
            "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        )
        (version,) = aggregated["items"][-1]["versions"]
        assert version["freshness"] == "Current"
        assert version["resources"][0]["responseKind"]["kind"] == "Flunder"
        paths = (await get("/openapi/v3"))["paths"]
        assert paths[PATH.lstrip("/")]["serverRelativeURL"] == f"/openapi/v3{PATH}?hash=ABC"
        assert await get(f"/openapi/v3{PATH}", query="hash=ABC") == DOCUMENT

    scenario(tmp_path, body)


def test_watches_and_upgrades_pass_through(tmp_path):
    async def body(server, admin, served):
        await admin.create(APISERVICES, api_service(served.bundle))
        await judged(admin, "True")
        user = as_admin(server)
        watched = await user(request("GET", f"{PATH}/flunders", "watch=true"))
        assert json.loads(await anext(watched.body))["type"] == "ADDED"
        await watched.body.aclose()
        path = f"{PATH}/namespaces/default/flunders/one/shell"
        upgraded = await user(request("GET", path, connection="Upgrade", upgrade="echo"))
        assert upgraded.status == 101

        client = Client(b"hello", b"you said hello")
        await upgraded.upgrade(client)
        assert client.got == b"you said hello"

    scenario(tmp_path, body)


def test_one_that_cannot_be_reached_is_unavailable_and_says_why(tmp_path):
    async def body(server, admin, served):
        await admin.create(APISERVICES, api_service(served.bundle))
        found = await judged(admin, "False")
        assert (found["reason"], found["message"]) == (
            "ServiceNotFound",
            'service/wardle in "default" is not present',
        )
        response = await as_admin(server)(request("GET", f"{PATH}/flunders"))
        assert (response.status, await response.read()) == (503, b"service unavailable\n")
        # It comes up: that is noticed by itself.
        await admin.create(SERVICES, wardle(served.port), "default")
        slices = endpoints("wardle", served.host, port=served.port)
        await admin.create(ENDPOINTSLICES, slices, "default")
        await judged(admin, "True")
        response = await as_admin(server)(request("GET", f"{PATH}/flunders"))
        assert response.status == 200

    scenario(tmp_path, body, reachable=False)


def test_a_certificate_of_another_authority_is_not_taken(tmp_path):
    async def body(_server, admin, served):
        _, _, other = certificate(tmp_path / "other", "wardle.default.svc")
        await admin.create(APISERVICES, api_service(base64.b64encode(other).decode()))
        found = await judged(admin, "False")
        assert found["reason"] == "FailedDiscoveryCheck"
        assert "CERTIFICATE_VERIFY_FAILED" in found["message"]
        insecure = api_service(insecureSkipTLSVerify=True)
        insecure["metadata"] = (await admin.get(APISERVICES, NAME))["metadata"]
        await admin.replace(APISERVICES, insecure)
        await judged(admin, "True")

    scenario(tmp_path, body)


def test_a_handler_of_this_process_can_be_the_service(tmp_path):
    async def body(server, admin):
        served = Extension()
        server.serve_here("default", "wardle", served)
        await admin.create(APISERVICES, api_service())
        await judged(admin, "True")
        response = await as_admin(server)(request("GET", f"{PATH}/flunders"))
        assert response.status == 200
        # The server itself looks from time to time whether the service is there.
        (asked,) = (each for each in served.seen if each.path == f"{PATH}/flunders")
        assert asked.context["user"].name == "jane"

    serve(tmp_path, body)


def test_extension_servers_are_told_whom_to_believe(tmp_path):
    async def body(_server, admin, _served):
        told = await admin.get(CONFIGMAPS, "extension-apiserver-authentication", "kube-system")
        assert told["data"]["requestheader-allowed-names"] == '["front-proxy-client"]'
        assert "BEGIN CERTIFICATE" in told["data"]["requestheader-client-ca-file"]
        assert told["data"]["requestheader-client-ca-file"] != told["data"]["client-ca-file"]

    scenario(tmp_path, body)


def test_a_backend_that_breaks_off_is_503(tmp_path):
    async def body(server, admin):
        async def broken(asked):
            if asked.path == PATH:
                return json_response(_discovery())
            raise ServiceUnavailable("gone")

        server.serve_here("default", "wardle", broken)
        made = await admin.create(APISERVICES, api_service())
        assert made["spec"]["service"]["port"] == 443
        await judged(admin, "False")
        await admin.create(CONFIGMAPS, configmap("others-go-on"), "default")

    serve(tmp_path, body)


@pytest.mark.peer
def test_kubectl_finds_reads_and_watches_the_resources(tmp_path):
    with Cluster(tmp_path / "home") as cluster:
        authority = cluster.home.pki / "front-proxy-ca.crt"
        opened = extension(tmp_path / "ext", authority, own_address())
        served = cluster.call(opened.__aenter__())
        try:
            for obj in (
                wardle(served.port),
                endpoints("wardle", served.host, port=served.port),
                api_service(served.bundle),
            ):
                cluster.kubectl("create", "-f", "-", stdin=json.dumps(obj))
            cluster.kubectl("wait", "--for=condition=Available", f"apiservice/{NAME}")
            assert "flunders" in cluster.kubectl("api-resources", f"--api-group={GROUP}")
            assert json.loads(cluster.kubectl("get", "--raw", f"{PATH}/flunders"))["items"]
            assert cluster.kubectl("get", "fl", "-o", "name") == f"flunder.{GROUP}/one\n"
            assert "one" in cluster.kubectl("get", "flunders", "-w", "--request-timeout=2s")
            rows = cluster.kubectl("get", "apiservices", "--no-headers").splitlines()
            table = {row.split()[0]: row.split()[1:3] for row in rows}
            assert table[NAME] == ["default/wardle", "True"]
            assert table["v1.apps"] == ["Local", "True"]
        finally:
            cluster.call(opened.__aexit__(None, None, None))
