"""ImageBuild objects: built once a generation, with a status that says what came of it."""

import asyncio
import os
from importlib import resources
from pathlib import Path

import msgspec
import pytest
import yaml
from tests.capabilities.build.test_push import free_port
from tests.cluster import cluster

from underway.api.resources import CONFIGMAPS
from underway.base.errors import BadRequest, Invalid, NotFound
from underway.base.home import Home, Settings
from underway.capabilities.build import controller
from underway.capabilities.build.backend.bases import CACHE_VARIABLE
from underway.capabilities.build.rules import imagebuilds as rules
from underway.capabilities.build.rules.imagebuilds import IMAGEBUILDS
from underway.capabilities.registry.routes import app
from underway.dist.assembly import install_crd
from underway.kit.registry import Ports
from underway.transport import front, pki
from underway.transport.registry import RegistryClient

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root")


def imagebuild(name, **spec):
    return {
        "apiVersion": IMAGEBUILDS.api_version,
        "kind": "ImageBuild",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"source": {"configMap": {"name": "context"}}, "tags": ["team/app:1"], **spec},
    }


def configmap(**data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "context", "namespace": "default"},
        "data": data,
    }


def run(tmp_path, main):
    """Run ``main(client, home)`` beside a cluster, the controller and the home's registry."""
    home = Home(tmp_path)
    settings = msgspec.structs.replace(Settings(), registry_port=free_port())
    home.save_settings(settings)
    pki.ensure_pki(home, settings)

    async def whole():
        tls = pki.server_context(home.pki / "apiserver.crt", home.pki / "apiserver.key")
        async with (
            cluster(tmp_path) as env,
            await front.serve(app(home, Ports([], home)), port=settings.registry_port, tls=tls),
        ):
            text = resources.files("underway.capabilities.build.crds") / "imagebuilds.yaml"
            await install_crd(env.client, yaml.safe_load(text.read_text()))
            await env.add(controller.add)
            async with asyncio.timeout(80):
                await main(env.client, home)

    asyncio.run(whole())


async def ended(client, name, generation=1):
    while True:
        found = await client.get(IMAGEBUILDS, name, "default")
        status = found.get("status") or {}
        if status.get("observedGeneration") == generation and status["phase"] != "Running":
            return status
        await asyncio.sleep(0.05)


@pytest.mark.privileged
@needs_root
def test_builds_are_pushed_and_failures_told(tmp_path):
    async def main(client, home):
        text = "FROM scratch\nARG V\nLABEL v=$V\nCOPY note /note\n"
        await client.create(CONFIGMAPS, configmap(Dockerfile=text, note="hello"))
        await client.create(IMAGEBUILDS, imagebuild("app", buildArgs={"V": "1"}))
        status = await ended(client, "app")
        assert status["phase"] == "Succeeded", status
        assert any("COPY note /note" in line for line in status["log"])
        settings = home.load_settings()
        with RegistryClient.of_platform(home, settings) as registry:
            found = await asyncio.to_thread(registry.digest, "docker.io/team/app", "1")
        assert found == status["digest"]

        again = await client.get(IMAGEBUILDS, "app", "default")
        again["spec"]["target"] = "none"
        await client.replace(IMAGEBUILDS, again)
        failed = await ended(client, "app", 2)
        assert failed["phase"] == "Failed"
        assert "no stage 'none'" in failed["message"]
        assert failed["conditions"][0]["reason"] == "BuildFailed"

        lost = imagebuild("lost", source={"configMap": {"name": "none"}})
        await client.create(IMAGEBUILDS, lost)
        assert "no ConfigMap none" in (await ended(client, "lost"))["message"]
        with pytest.raises(Invalid, match="exactly one"):
            await client.create(IMAGEBUILDS, imagebuild("two", source={}))
        source = {"git": {"url": "file:///etc"}}
        with pytest.raises(Invalid, match="url"):
            await client.create(IMAGEBUILDS, imagebuild("files", source=source))

    run(tmp_path, main)


@pytest.mark.privileged
@needs_root
def test_a_build_that_nobody_wants_any_more_is_ended(tmp_path, monkeypatch):
    if CACHE_VARIABLE not in os.environ:
        monkeypatch.setenv(CACHE_VARIABLE, "/var/cache/underway/bases")

    async def main(client, home):
        text = "FROM busybox\nRUN sleep 9876\n"
        await client.create(CONFIGMAPS, configmap(Dockerfile=text))
        await client.create(IMAGEBUILDS, imagebuild("app"))
        await until(lambda: _running(b"9876"))
        await client.delete(IMAGEBUILDS, "app", "default")
        await until(lambda: not _running(b"9876"))
        with pytest.raises(NotFound):
            await client.get(IMAGEBUILDS, "app", "default")

    run(tmp_path, main)


async def until(holds):
    while not holds():  # noqa: ASYNC110  # processes tell nobody
        await asyncio.sleep(0.05)


def _running(word):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if word in line and b"sleep" in line:
            found.append(path)
    return found


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"dockerfile": "../Dockerfile"}, "leads out"),
        ({"dockerfile": "/etc/passwd"}, "leads out"),
        ({"buildArgs": {"a=b": "c"}}, "is no name"),
    ],
)
def test_paths_and_names_are_checked(spec, message):
    with pytest.raises(BadRequest, match=message):
        rules.arguments({"tags": ["a"], **spec}, "/context", "/out")


def test_values_are_never_read_as_options():
    spec = {"tags": ["-o"], "target": "--push", "platforms": ["-q"], "buildArgs": {"-f": "-x"}}
    argv = rules.arguments(spec, "/context", "/out")
    assert argv[argv.index("--") + 1 :] == ["/context"]
    words = argv[2 : argv.index("--")]
    assert all(word.startswith("--") for word in words)
    with pytest.raises(BadRequest, match="no https"):
        rules.git_url({"source": {"git": {"url": "ext::sh -c id"}}})
