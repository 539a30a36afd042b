"""The capability against the real API server, down to packets and DNS answers."""

import asyncio
import contextlib
import ipaddress
import os
import secrets
import shutil
import socket

import pytest
from tests.cluster import Cluster, make_home

from underway.api.resources import ENDPOINTSLICES, SERVICES
from underway.base.home import Settings
from underway.capabilities.services import controller
from underway.capabilities.services.backend.packets import teardown
from underway.capabilities.services.model import SERVICE_NAME_LABEL
from underway.capabilities.services.rules import own
from underway.linux import network, nft
from underway.linux.network import PodNetwork
from underway.reconcile.testenv import running
from underway.server.app import ApiServer
from underway.wire import dns
from underway.wire.dns import Message, Question, Type, name_from_text


def needs_root(test):
    missing = os.geteuid() != 0 or not shutil.which("nft")
    return pytest.mark.privileged(pytest.mark.skipif(missing, reason="needs root and nft")(test))


@contextlib.asynccontextmanager
async def cluster(root, settings, *factories):
    home = make_home(root)
    home.save_settings(settings)
    server = ApiServer(home, settings=settings)
    await server.start()
    try:
        environment = Cluster(server, home)
        await environment.add(*factories)
        async with running(environment):
            yield environment
        assert not environment.watched.refused
    finally:
        await server.stop()


def test_the_clusters_own_services_are_published_and_mended(tmp_path):
    settings = Settings(pod_cidr="10.244.9.0/24", api_port=7443)

    async def go():
        async with cluster(tmp_path, settings, controller.publish) as env:

            def complete(slices):
                found = slices.get("default/kubernetes", {}), slices.get("kube-system/kube-dns", {})
                addresses = [piece["endpoints"][0]["addresses"] for piece in found if piece]
                return found if addresses == [["10.244.9.1"]] * 2 else None

            api, names = await env.until(ENDPOINTSLICES, complete)
            assert api["ports"][0]["port"] == 7443
            assert {port["protocol"] for port in names["ports"]} == {"TCP", "UDP"}
            service = await env.client.get(SERVICES, "kube-dns", "kube-system")
            assert service["spec"]["clusterIP"] == "10.96.0.10"
            await env.client.delete(ENDPOINTSLICES, "kube-dns", "kube-system")
            await env.client.delete(SERVICES, "kube-dns", "kube-system")
            await env.until(ENDPOINTSLICES, complete)
            await env.until(SERVICES, lambda found: "kube-system/kube-dns" in found)

    asyncio.run(go())


def test_what_others_added_to_an_own_service_stays():
    service, piece = own.published(Settings())[0]
    changed = {**service, "spec": {**service["spec"], "ports": [], "clusterIP": "10.96.0.9"}}
    changed["metadata"] = {**service["metadata"], "annotations": {"a": "b"}}
    assert own.service_differs(changed, service)
    mended = own.mended(changed, service)
    assert not own.service_differs(mended, service)
    assert mended["spec"]["clusterIP"] == "10.96.0.9"
    assert mended["metadata"]["annotations"] == {"a": "b"}
    assert not own.slice_differs(piece, piece)


def service_object(name, **spec):
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"ports": ports, **spec}}


def slice_object(name, *addresses, port=8080):
    return {
        "metadata": {
            "name": f"{name}-1", "namespace": "default", "labels": {SERVICE_NAME_LABEL: name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in addresses],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }  # fmt: skip


def attempt(address, port):
    try:
        with socket.create_connection((address, port), timeout=5) as peer:
            return peer.recv(100).decode()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return ""


async def eventually(check, *args):
    """What ``check`` gives once it is true; rules follow the cluster within a moment."""
    async with asyncio.timeout(15):
        while True:
            if found := await asyncio.to_thread(check, *args):
                return found
            await asyncio.sleep(0.02)


def ask(server, text, kind=Type.A):
    query = Message(id=1, questions=(Question(name_from_text(text), kind),))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        try:
            client.connect((server, 53))
            client.send(dns.serialize(query))
            reply = dns.parse(client.recv(65535))
        except OSError:
            return None
    # Until the bridge is there, the machine's own network may answer in its place.
    return reply if reply.authoritative else None


class Greeter:
    """A server on an address of its own, saying its name."""

    def __init__(self, address, port, name):
        self._args = (address, port, name)

    async def __aenter__(self):
        address, port, name = self._args

        async def greet(_, writer):
            writer.write(name.encode())
            writer.close()

        self._server = await asyncio.start_server(greet, address, port)
        return self

    async def __aexit__(self, *_):
        self._server.close()


@pytest.fixture
def settings():
    pods = f"10.243.{secrets.randbelow(256)}.0/24"
    return Settings(pod_cidr=pods, service_cidr=network.free_service_cidr(["10.96.0.0/12"]))


@needs_root
def test_rules_follow_the_cluster_and_come_back_after_a_flush(tmp_path, settings):
    home = make_home(tmp_path)
    gateway = PodNetwork(home.id, settings.pod_cidr).gateway
    table = f"underway_{home.id}_services"

    async def go():
        async with cluster(tmp_path, settings, controller.publish, controller.serve) as env:
            made = await env.client.create(SERVICES, service_object("web"))
            address = made["spec"]["clusterIP"]
            # The bridge's address stands for an endpoint; a pod is not needed to see the way.
            await eventually(lambda: table in nft.tables())
            async with Greeter(gateway, 8080, "one"), Greeter(gateway, 8081, "two"):
                await eventually(lambda: attempt(address, 80) == "refused")
                piece = await env.client.create(ENDPOINTSLICES, slice_object("web", gateway))
                await eventually(lambda: attempt(address, 80) == "one")
                piece["ports"][0]["port"] = 8081
                await env.client.replace(ENDPOINTSLICES, piece)
                await eventually(lambda: attempt(address, 80) == "two")
                nft.delete_tables([table, table.removesuffix("_services")])
                await eventually(lambda: attempt(address, 80) == "two")
                assert table.removesuffix("_services") in nft.tables()
                await env.client.delete(SERVICES, "web", "default")
                await eventually(lambda: attempt(address, 80) == "refused")

    try:
        asyncio.run(go())
    finally:
        teardown(home)
    assert table not in nft.tables()


@needs_root
def test_names_follow_the_cluster(tmp_path, settings):
    home = make_home(tmp_path)
    gateway = PodNetwork(home.id, settings.pod_cidr).gateway
    api_address = str(ipaddress.ip_network(settings.service_cidr)[1])

    async def go():
        async with cluster(tmp_path, settings, controller.publish, controller.serve) as env:
            found = await eventually(ask, gateway, "kubernetes.default.svc.cluster.local")
            assert found.answers[0].data == socket.inet_aton(api_address)
            await env.client.create(SERVICES, service_object("db", clusterIP="None"))
            await env.client.create(ENDPOINTSLICES, slice_object("db", "10.243.250.2"))

            def db():
                reply = ask(gateway, "db.default.svc.cluster.local")
                return reply and reply.answers

            (record,) = await eventually(db)
            assert record.data == socket.inet_aton("10.243.250.2")

    try:
        asyncio.run(go())
    finally:
        teardown(home)


@needs_root
def test_a_burst_of_services_is_one_change_and_all_of_them_work(tmp_path, settings):
    home = make_home(tmp_path)
    gateway = PodNetwork(home.id, settings.pod_cidr).gateway
    applied = []

    async def go():
        async with cluster(tmp_path, settings, controller.publish, controller.serve) as env:
            await eventually(ask, gateway, "kubernetes.default.svc.cluster.local")
            original = nft.apply
            nft.apply = lambda script: applied.append(script) or original(script)
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(100):
                        name = f"s{number}"
                        group.create_task(env.client.create(SERVICES, service_object(name)))
                        group.create_task(
                            env.client.create(ENDPOINTSLICES, slice_object(name, gateway))
                        )
                async with Greeter(gateway, 8080, "here"):
                    listed = await env.client.list(SERVICES, "default")
                    addresses = [each["spec"]["clusterIP"] for each in listed.items]
                    last = addresses[-1]
                    await eventually(lambda: attempt(last, 80) == "here")
                    others = [each for each in listed.items if each["metadata"]["name"][0] == "s"]
                    assert len(others) == 100
                    for each in others:
                        address = each["spec"]["clusterIP"]
                        await eventually(lambda to=address: attempt(to, 80) == "here")
            finally:
                nft.apply = original

    try:
        asyncio.run(go())
    finally:
        teardown(home)
    assert 0 < len(applied) < 40
