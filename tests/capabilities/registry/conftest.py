"""A registry called directly, and one behind TLS in a process of its own."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from underway.base.errors import NotFound
from underway.base.home import Home, Settings
from underway.capabilities.registry import routes
from underway.capabilities.registry.backend.hub import Hub
from underway.transport import pki
from underway.transport.registry import RegistryClient, credentials
from underway.wire import oci
from underway.wire.http import Request

SERVER = Path(__file__).with_name("server_process.py")


class NoPorts:
    """No other capability is installed."""

    def get(self, port):
        raise NotFound(f"no installed capability provides the port {port}")


class OnePort(NoPorts):
    """Only base images are provided."""

    def __init__(self, images):
        self._images = images

    def get(self, port):
        return self._images if port == "base-images" else super().get(port)


class Direct:
    """Calls the registry's handler, each time in an event loop of its own."""

    def __init__(self, home, ports=None, clock=None):
        self.home = home
        self.hub = Hub(home, clock)
        self.handler = routes.serve(self.hub, ports or NoPorts())
        settings = home.load_settings()
        host = f"{settings.bind_address}:{settings.registry_port}"
        self.login = credentials(home.registry_auth, host)
        token = base64.b64encode(":".join(self.login).encode()).decode()
        self.authorization = {"authorization": f"Basic {token}"}

    async def acall(self, method, path, body=b"", **headers):
        path, _, query = path.partition("?")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(method, path, query, {**self.authorization, **named}, body)
        response = await self.handler(request)
        response.body = await response.read()
        return response

    def call(self, method, path, body=b"", **headers):
        return asyncio.run(self.acall(method, path, body, **headers))

    def push_blob(self, repository, data):
        digest = oci.digest_of(data)
        made = self.call("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        assert made.status == 201, made.body
        return descriptor("application/octet-stream", data)

    def push_manifest(self, repository, reference, content, kind=oci.MANIFEST):
        data = msgspec.json.encode(content)
        made = self.call("PUT", f"/v2/{repository}/manifests/{reference}", data, content_type=kind)
        assert made.status == 201, made.body
        return oci.digest_of(data)

    def push_image(self, repository, reference, *layers, **more):
        config = self.push_blob(repository, b"{}")
        parts = [self.push_blob(repository, layer) for layer in layers]
        return self.push_manifest(repository, reference, image(config, parts, **more))


def descriptor(kind, data):
    return {"mediaType": kind, "digest": oci.digest_of(data), "size": len(data)}


def image(config, layers, **more):
    return {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": {**config, "mediaType": oci.CONFIG},
        "layers": [{**layer, "mediaType": oci.LAYER} for layer in layers],
        **more,
    }


@pytest.fixture
def direct(tmp_path):
    return Direct(Home(tmp_path))


class Served:
    """The registry behind TLS, in a process that can be killed."""

    def __init__(self, root):
        self.home = Home(root)
        self._process = None
        self.home.save_settings(Settings(registry_port=0))

    def start(self):
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), str(self.home.root)], stdout=subprocess.PIPE, text=True
        )
        told = self._process.stdout.readline()
        assert told, "the registry did not start"
        self.host = f"127.0.0.1:{json.loads(told)['port']}"
        self.certs = self.home.root / "certs"
        self.certs.mkdir(exist_ok=True)
        (self.certs / "ca.crt").write_bytes((self.home.pki / "ca.crt").read_bytes())
        return self

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    @property
    def files(self):
        blobs = self.home.registry / "blobs"
        return sorted(file for file in blobs.rglob("*") if file.is_file())

    def client(self):
        return RegistryClient.of_platform(self.home, self.home.load_settings())


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    pki.ensure_pki(Home(root), Settings())
    server = Served(root).start()
    yield server
    server.kill()


@contextlib.contextmanager
def environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
