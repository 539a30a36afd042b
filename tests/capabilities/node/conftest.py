"""A node agent on the real embedded API server, with an image made of a static busybox."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))  # for tests.peers

from underway.api.objects import Object
from underway.api.resources import EVENTS_CORE, PODS
from underway.base.home import Home, Settings
from underway.capabilities.node.backend.kubelet_api import KubeletApi
from underway.capabilities.node.backend.teardown import teardown
from underway.capabilities.node.controller.agent import Agent
from underway.capabilities.node.controller.setup import build
from underway.capabilities.node.probe import probe
from underway.client import Client
from underway.kit import Ready
from underway.linux import mounts
from underway.linux.images import ImageStore
from underway.linux.layers import LayerStore
from underway.linux.network import free_pod_cidr
from underway.reconcile.manager import Manager
from underway.reconcile.testenv import Environment
from underway.server.app import ApiServer
from underway.server.nodes import NodeConnector, no_nodes
from underway.transport import pki
from underway.wire.http import Peer, Request, Response

IMAGE = "docker.io/library/box:1"
BUSYBOX = Path("/bin/busybox")
TAR = "application/vnd.oci.image.layer.v1.tar"
APPLETS = [
    "cat",
    "echo",
    "env",
    "grep",
    "head",
    "httpd",
    "id",
    "kill",
    "ls",
    "mkdir",
    "nc",
    "rm",
    "sh",
    "sleep",
    "stat",
    "stty",
    "tail",
    "test",
    "touch",
    "tr",
    "true",
    "wc",
    "wget",
]


def add_image(home: Home, reference: str = IMAGE, **config: object) -> None:
    """Put an image of one layer into the node's stores, as a pull would."""
    data = _layer()
    diff_id = f"sha256:{hashlib.sha256(data).hexdigest()}"
    layers = LayerStore(home.layers)
    layers.unpack(diff_id, [data], TAR)
    settings = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], **config},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    encoded = msgspec.json.encode(settings)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": f"sha256:{hashlib.sha256(encoded).hexdigest()}",
            "size": len(encoded),
        },
        "layers": [{"mediaType": TAR, "digest": diff_id, "size": len(data)}],
    }
    store = ImageStore(home.layers / "images", layers)
    store.add(reference, msgspec.json.encode(manifest), encoded)


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "www"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        archive.add(BUSYBOX, "bin/busybox", filter=_plain)
        for name in APPLETS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
        for name, text in (
            (
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1235:app:/home/app:/bin/sh\n",
            ),
            ("etc/group", "root:x:0:\napp:x:1235:\nextra:x:1300:app\n"),
            ("www/index.html", "hello from the pod\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime, entry.mode = 0, 0o755
    return entry


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A platform's state directory; whatever is still running in it is ended afterwards."""
    ready = probe()
    if not isinstance(ready, Ready):
        pytest.skip(f"cannot run pods here: {ready}")
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    home = Home(tmp_path_factory.mktemp("node"))
    settings = Settings(node_name="testnode", pod_cidr=free_pod_cidr(), node_port=0)
    home.save_settings(settings)
    pki.ensure_pki(home, settings)
    add_image(home)
    try:
        yield home
    finally:
        teardown(home, grace_s=0.2)
        assert not mounts.mounts_below(home.root)
        shutil.rmtree(home.root, ignore_errors=True)


ADMINISTRATOR = Peer("127.0.0.1", "kube-apiserver-kubelet-client", ("system:masters",))
NAMESPACE = "default"


def shell(name: str, script: str, **fields: object) -> Object:
    """A container that runs a shell script."""
    return {"name": name, "image": IMAGE, "command": ["/bin/sh", "-c", script], **fields}


def pod_of(name: str, *containers: Object, **spec: object) -> Object:
    """A pod bound to the test's node, with a short grace period."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "nodeName": "testnode",
            "terminationGracePeriodSeconds": 1,
            "containers": list(containers),
            **spec,
        },
    }


def state_of(pod: Object, container: str | None = None) -> Object:
    """The status of a container, or of the only one."""
    statuses = [
        *(pod.get("status", {}).get("initContainerStatuses") or ()),
        *(pod.get("status", {}).get("containerStatuses") or ()),
    ]
    if container is None:
        return statuses[0] if statuses else {}
    return next((each for each in statuses if each["name"] == container), {})


def condition(pod: Object, kind: str) -> str:
    """The status of a pod's condition."""
    for each in pod.get("status", {}).get("conditions") or ():
        if each["type"] == kind:
            return str(each["status"])
    return ""


@dataclass
class Node:
    """A running node agent, and a client that may do everything."""

    home: Home
    environment: Environment
    agent: Agent
    api: KubeletApi
    server: ApiServer

    @property
    def client(self) -> Client:
        return self.environment.client

    async def create(self, pod: Object) -> Object:
        return await self.client.create(PODS, pod)

    async def until(self, name: str, holds: Callable[[Object], object]) -> Object:
        """Wait until something holds for a pod; returns the pod."""
        key = f"{NAMESPACE}/{name}"

        def check(pods: dict[str, Object]) -> Object | None:
            return pods[key] if key in pods and holds(pods[key]) else None

        found: Object = await self.environment.until(PODS, check, NAMESPACE)
        return found

    async def until_phase(self, name: str, phase: str) -> Object:
        return await self.until(name, lambda pod: pod.get("status", {}).get("phase") == phase)

    async def delete(self, name: str) -> None:
        """Delete a pod and wait until it is gone."""
        await self.client.delete(PODS, name, NAMESPACE)
        key = f"{NAMESPACE}/{name}"
        await self.environment.until(PODS, lambda pods: key not in pods, NAMESPACE)

    async def get(self, path: str, query: str = "") -> Response:
        """Ask the kubelet API."""
        return await self.api.handle(Request("GET", path, query, peer=ADMINISTRATOR))

    async def log(self, pod: str, container: str = "c", query: str = "") -> str:
        answer = await self.get(f"/containerLogs/{NAMESPACE}/{pod}/{container}", query)
        return (await answer.read()).decode()

    async def until_event(self, reason: str, words: str = "") -> Object:
        def check(events: dict[str, Object]) -> Object | None:
            fitting = (e for e in events.values() if e["reason"] == reason)
            return next((e for e in fitting if words in e["message"]), None)

        found: Object = await self.environment.until(EVENTS_CORE, check, NAMESPACE)
        return found


@contextlib.asynccontextmanager
async def running_node(home: Home, connector: NodeConnector = no_nodes) -> AsyncIterator[Node]:
    """The API server and a node agent on ``home``; at the end, the agent is just gone."""
    server = ApiServer(home, connector=connector)
    await server.start()
    try:
        environment = Environment(server.as_user("admin", ["system:masters"]))
        user = server.as_user("system:node:testnode", ["system:nodes"])
        environment.manager = Manager(Client(user), environment.clock)
        agent, api = build(environment.manager, home)
        environment.manager.add_runnable(agent.run, "agent")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(environment.manager.run())
            try:
                yield Node(home, environment, agent, api, server)
            finally:
                task.cancel()
    finally:
        await server.stop()
