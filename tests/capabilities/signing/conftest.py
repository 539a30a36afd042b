"""A registry over TLS in a process of its own, with an image, and a signer of a fresh home."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.capabilities.registry.conftest import Served
from tests.peers import PEERS

from underway.base.home import Home, Settings
from underway.capabilities.signing.backend.signer import Signer
from underway.transport import pki
from underway.transport.registry import RegistryClient
from underway.wire import oci


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """The platform's registry, for every test."""
    root = tmp_path_factory.mktemp("signing")
    pki.ensure_pki(Home(root), Settings())
    server = Served(root).start()
    yield server
    server.kill()


_numbers = iter(range(10**6))


@dataclass
class World:
    """A registry's home and a repository of its own with one image."""

    home: object
    host: str
    repository: str
    digest: str

    @property
    def reference(self):
        return f"{self.host}/{self.repository}@{self.digest}"

    @property
    def name(self):
        return f"{self.host}/{self.repository}"

    def signer(self, **more):
        return Signer(self.home, **more)

    def client(self):
        return RegistryClient.of_platform(self.home, self.home.load_settings())

    def push(self, tag, text=b"{}"):
        with self.client() as client:
            config = oci.digest_of(text)
            client.push_blob(self.repository, config, text, len(text))
            data = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": oci.MANIFEST,
                    "config": {"mediaType": oci.CONFIG, "digest": config, "size": len(text)},
                    "layers": [],
                }
            ).encode()
            return client.push_manifest(self.repository, tag, data, oci.MANIFEST)

    def environment(self, directory):
        """What a foreign client needs: the authority, and the login as a docker config."""
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_bytes(self.home.registry_auth.read_bytes())
        ca = str(self.home.pki / "ca.crt")
        return {
            **os.environ, "DOCKER_CONFIG": str(directory), "SSL_CERT_FILE": ca,
            "COSIGN_PASSWORD": "", "HOME": str(directory), "XDG_CONFIG_HOME": str(directory),
        }  # fmt: skip


@pytest.fixture
def world(registry):
    home = registry.home
    host = f"127.0.0.1:{home.load_settings().registry_port}"
    made = World(home, host, f"signing/app{next(_numbers)}", "")
    made.digest = made.push("v1")
    return made


@pytest.fixture(scope="session")
def cosign():
    program = PEERS / "cosign"
    if not program.exists():
        pytest.skip("cosign is not there: build it from Go and put it among the peers")
    return program


@pytest.fixture(scope="session")
def notation():
    program = PEERS / "notation"
    if not program.exists():
        pytest.skip("notation is not there: build it from Go and put it among the peers")
    return program


def run(*argv, check=True, timeout=60, **more):
    done = subprocess.run(
        [str(each) for each in argv], capture_output=True, text=True, timeout=timeout,
        check=False, **more,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def write(path: Path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path
