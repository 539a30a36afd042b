"""Images pushed to the platform's registry, and bases that come from registries."""

import asyncio
import json
import os
import socket
import subprocess

import msgspec
import pytest

from underway.base.errors import UnderwayError
from underway.base.home import Settings
from underway.capabilities.registry.routes import app
from underway.kit.registry import Ports
from underway.transport import front, pki
from underway.transport.registry import RegistryClient, credentials

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def with_registry(yard, work):
    """Run ``work(host)`` in a thread while the platform's registry answers."""
    settings = msgspec.structs.replace(Settings(), registry_port=free_port())
    yard.home.save_settings(settings)
    pki.ensure_pki(yard.home, settings)

    async def main():
        tls = pki.server_context(yard.home.pki / "apiserver.crt", yard.home.pki / "apiserver.key")
        handler = app(yard.home, Ports([], yard.home))
        port = settings.registry_port
        async with await front.serve(handler, port=port, tls=tls):
            await asyncio.to_thread(work, f"127.0.0.1:{port}", settings)

    asyncio.run(main())


def test_a_tagged_image_is_pushed_and_can_be_built_upon(yard):
    def work(host, settings):
        made = yard.build("FROM busybox\nRUN echo 1 > /x\n", tag=f"{host}/demo/app:1", push=True)
        with RegistryClient.of_platform(yard.home, settings) as client:
            assert client.manifest("demo/app", "1").digest == made.digest
        short = yard.build("FROM busybox\nRUN echo 1 > /x\n", tag="app:2", push=True)
        with RegistryClient.of_platform(yard.home, settings) as client:
            assert client.manifest("docker.io/library/app", "2").digest == short.digest
        child = yard.build(
            f"FROM {host}/demo/app:1\nRUN cat /x > /y\n", tag=f"{host}/demo/child:1", push=True
        )
        assert [(b.origin, b.repository) for b in child.bases] == [("registry", "demo/app")]
        config = yard.home.registry / "auth.json"
        shown = subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", "--authfile", config,
             f"docker://{host}/demo/child:1"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["Digest"] == child.digest

    with_registry(yard, work)


def test_a_configured_registry_is_asked_before_a_stand_in_is_made(yard):
    def work(host, settings):
        made = yard.build(
            "FROM busybox\nRUN echo 1 > /x\n", tag=f"{host}/library/redis:7", push=True
        )
        username, password = credentials(yard.home.registry_auth, host)
        upstream = {
            "prefix": "docker.io", "url": f"https://{host}", "username": username,
            "password": password, "ca_file": str(yard.home.pki / "ca.crt"),
        }  # fmt: skip
        (yard.home.root / "registries.json").write_text(json.dumps([upstream]))
        child = yard.build("FROM redis:7\nRUN test -e /x\n")
        assert [(b.origin, b.digest) for b in child.bases] == [("registry", made.digest)]
        other = yard.build("FROM busybox\nRUN test ! -e /x\n", tag="other:1")
        assert other.bases[0].origin == "stand-in"
        upstream["url"] = "https://127.0.0.1:1"
        (yard.home.root / "registries.json").write_text(json.dumps([upstream]))
        yard.build("FROM busybox\nRUN true\n", tag="other:1")
        assert any("cannot be asked" in line for line in yard.told)

    with_registry(yard, work)


def test_a_registry_that_is_not_there_is_named(yard):
    port = free_port()
    settings = msgspec.structs.replace(Settings(), registry_port=port)
    yard.home.save_settings(settings)
    pki.ensure_pki(yard.home, settings)
    with pytest.raises(
        UnderwayError, match=rf"pushing docker.io/library/app:1: .*127\.0\.0\.1:{port}"
    ) as caught:
        yard.build("FROM busybox\n", tag="app:1", push=True)
    assert "underway status" in caught.value.hint
