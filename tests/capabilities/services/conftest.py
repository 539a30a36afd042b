"""Pods with servers and clients in them, and Services in front."""

import os
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager

import msgspec
import pytest

from underway.capabilities.services.backend.packets import PacketRules
from underway.capabilities.services.model import SERVICE_NAME_LABEL, service_of, slice_of
from underway.capabilities.services.rules import packets
from underway.capabilities.services.rules.catalog import Backend, Catalog
from underway.linux.network import PodNetwork

SERVE_TCP = """
import socket, sys
server = socket.create_server(("", int(sys.argv[2])), backlog=64)
print("ready", flush=True)
while True:
    peer, address = server.accept()
    peer.sendall(f"{sys.argv[1]} {address[0]}".encode())
    peer.close()
"""
SERVE_UDP = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", int(sys.argv[2])))
print("ready", flush=True)
while True:
    data, address = server.recvfrom(2000)
    server.sendto(f"{sys.argv[1]} {address[0]}".encode(), address)
"""
FETCH = """
import socket, sys
found = []
for _ in range(int(sys.argv[3])):
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as peer:
            found.append(peer.recv(100).decode())
    except OSError as error:
        found.append(type(error).__name__)
print("\\n".join(found))
"""


def service(
    name="web", *, ip="10.127.0.10", ports=(("http", 80, 8080),), namespace="default", **spec
):
    protocol = spec.pop("protocol", "TCP")
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "clusterIP": ip,
            "ports": [
                {
                    "name": port[0],
                    "port": port[1],
                    "protocol": protocol,
                    "nodePort": port[3] if len(port) > 3 else 0,
                }
                for port in ports
            ],
            **spec,
        },
    }


def endpoint_slice(
    name="web",
    *,
    endpoints=(),
    ports=(("http", 8080),),
    namespace="default",
    protocol="TCP",
    suffix="1",
):
    return {
        "metadata": {
            "name": f"{name}-{suffix}",
            "namespace": namespace,
            "labels": {SERVICE_NAME_LABEL: name},
        },
        "addressType": "IPv4",
        "endpoints": [
            each if isinstance(each, dict) else {"addresses": [each]} for each in endpoints
        ],
        "ports": [{"name": port, "port": number, "protocol": protocol} for port, number in ports],
    }


def catalog_of(*objects):
    made = Catalog()
    for obj in objects:
        if "spec" in obj:
            made.put_service(service_of(msgspec.json.encode(obj)))
        else:
            made.put_slice(slice_of(msgspec.json.encode(obj)))
    return made


def ruleset_of(frame, *objects):
    catalog = catalog_of(*objects)
    parts = [packets.of_service(each, catalog, frame) for each in catalog.services.values()]
    return packets.merge([packets.of_local_targets(frame), *parts])


class Platform:
    """One platform's network and Services, without a cluster."""

    def __init__(self, service_cidr, api_port=6443):
        # A range of its own for each, also where several runs share the machine.
        self.net = PodNetwork(secrets.token_hex(3), f"10.243.{secrets.randbelow(256)}.0/24")
        self.frame = packets.Frame(
            table=f"{self.net.table}_services",
            bridge=self.net.bridge,
            gateway=self.net.gateway,
            service_cidr=service_cidr,
            node_name="node",
            local_targets={Backend(self.net.gateway, api_port): Backend("127.0.0.1", api_port)},
        )
        self.rules = PacketRules(self.net, self.frame)
        self.rules.prepare()
        self._servers = []

    def apply(self, *objects):
        self.rules.apply(ruleset_of(self.frame, *objects))

    def pod(self, uid):
        return self.net.attach(uid)

    def serve(self, pod, name, port=8080, code=SERVE_TCP):
        argv = ["ip", "netns", "exec", pod.netns.name, sys.executable, "-c", code, name, str(port)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self._servers.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    def fetch(self, pod, address, port, times=1):
        argv = [sys.executable, "-c", FETCH, address, str(port), str(times)]
        if pod is not None:
            argv = ["ip", "netns", "exec", pod.netns.name, *argv]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        found = done.stdout.split("\n")[:-1]
        return found[0] if times == 1 else found

    def close(self):
        for process in self._servers:
            process.kill()
            process.wait()
            process.stdout.close()
        self.net.remove()


@contextmanager
def platform_of(service_cidr="10.127.0.0/16", **options):
    made = Platform(service_cidr, **options)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def platform():
    if os.geteuid() != 0 or not shutil.which("nft"):
        pytest.skip("needs root and nftables")
    with platform_of() as made:
        yield made
