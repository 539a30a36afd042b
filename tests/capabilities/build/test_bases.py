"""Stand-ins assembled from Debian packages, and Dockerfiles as people write them against them."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from underway.base.errors import BadRequest
from underway.base.home import Home
from underway.capabilities.build.backend.bases import (
    PACKAGES,
    SBOM_MEDIA_TYPE,
    STAND_IN,
    base_images,
    chain_of,
    shipped,
)
from underway.capabilities.build.backend.debian.archives import archives
from underway.capabilities.build.backend.machine import ca_bundle
from underway.capabilities.build.backend.origins import upstreams
from underway.capabilities.build.cli_base import base
from underway.transport.registry import RegistryClient
from underway.wire.dockerfile import parse

from .test_push import with_registry

root_only = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]


WAIT = "for i in $(seq 50); do sleep 0.1; {} && break; done"
SERVERS = {
    "redis:7": (
        "(docker-entrypoint.sh --port 16379 --daemonize yes)\n"
        + WAIT.format("redis-cli -p 16379 ping")
        + "\nredis-cli -p 16379 config get protected-mode | grep no\n"
        "redis-cli -p 16379 config get dir | grep /data\n"
        "grep '^Uid:.999' /proc/[0-9]*/status"
    ),
    "nginx": (
        "sed -i 's/80;/18080;/' /etc/nginx/conf.d/default.conf\n"
        "echo kept > /usr/share/nginx/html/index.html\n"
        "/docker-entrypoint.sh nginx\n"
        + WAIT.format("curl -sf http://127.0.0.1:18080/")
        + "\ncurl -sf http://127.0.0.1:18080/ | grep kept"
    ),
    "postgres:15": (
        "echo 'create table t as select 42 as a' > /docker-entrypoint-initdb.d/a.sql\n"
        "export POSTGRES_PASSWORD=pw POSTGRES_DB=app POSTGRES_USER=me PGPASSWORD=pw\n"
        "(docker-entrypoint.sh -p 15432 > /tmp/log 2>&1 &)\n"
        + WAIT.format("pg_isready -h 127.0.0.1 -p 15432 -U me")
        + "\npsql -h 127.0.0.1 -p 15432 -U me app -tc 'select a from t' | grep 42\n"
        "! POSTGRES_PASSWORD= PGDATA=/tmp/new docker-entrypoint.sh postgres"
    ),
    "node:18-slim": (
        "docker-entrypoint.sh -e 'console.log(process.version)' | grep v18\n"
        "npm --version && npx --version && id node | grep 1000\n"
        "command -v node | grep /usr/local/bin/node"
    ),
}


def offered(reference):
    return base_images(Home(Path("/nowhere"))).offers(reference)


@pytest.mark.parametrize(
    "name",
    [
        "debian", "debian:bookworm", "debian:bookworm-slim", "debian:12", "debian:12-slim",
        "python", "python:3", "python:3.11", "python:3.11-slim", "python:3.11-slim-bookworm",
        "python:3.11.9-slim", "python:3-slim", "node:18", "node:18-slim", "node:18-bookworm",
        "node:18.20-bookworm-slim", "node:lts", "nginx", "nginx:stable", "nginx:latest", "redis",
        "redis:7", "redis:7.0", "postgres:15", "postgres:15.4-bookworm", "busybox", "busybox:1.35",
        "docker.io/library/redis:7", "rust:1-slim-bookworm", "golang:1.19", "eclipse-temurin:17-jre",
        "maven:3-eclipse-temurin-17", "php:8.2-apache", "composer:2", "ruby:3.1",
    ],
)  # fmt: skip
def test_a_stand_in_is_offered(name):
    assert offered(name)


@pytest.mark.parametrize(
    "name",
    [
        "python:3.12", "python:3.11-alpine", "node:20", "redis:6", "postgres:16", "ubuntu",
        "debian:bullseye", "me/python:3.11", "quay.io/library/redis:7", "redis:7@sha256:" + "0" * 64,
    ],
)  # fmt: skip
def test_what_debian_cannot_stand_in_for_is_not_offered(name):
    assert not offered(name)


def test_every_shipped_declaration_is_well_formed():
    for name, document in shipped().items():
        for variant in document.variants:
            re.compile(variant.tags)
            for each in chain_of(f"{name}#{variant.name}"):
                parse(f"FROM scratch\n{each.spec.steps}")
                assert each.spec.packages or each.spec.steps


def test_archives_are_read_from_both_formats():
    text = (
        "deb [signed-by=/k] http://m/debian bookworm main contrib\n"
        "deb-src http://m/debian bookworm main\ndeb http://other/x stable main\n"
    )
    assert archives(text, "bookworm") == {"bookworm": "http://m/debian"}
    text = (
        "Types: deb\n# comment\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\n\nTypes: deb\nURIs: http://a/sec\nSuites: bookworm-security\n"
        "Components: main\n\nEnabled: no\nURIs: http://b\nSuites: bookworm\nComponents: main\n"
    )
    assert archives(text, "bookworm") == {
        "bookworm": "http://a/debian",
        "bookworm-security": "http://a/sec",
    }


def test_upstream_registries_are_checked(tmp_path):
    file = tmp_path / "registries.json"
    assert upstreams(file) == []
    file.write_text('[{"prefix": "docker.io", "url": "https://mirror"}]')
    assert upstreams(file)[0].prefix == "docker.io"
    for bad in ("{", '[{"prefix": "x"}]', '[{"prefix": "x", "url": "http://x"}]'):
        file.write_text(bad)
        with pytest.raises(BadRequest, match=r"registries\.json"):
            upstreams(file)


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root")
def test_a_base_is_pushed_with_its_bill_of_materials_as_a_referrer(yard, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERWAY_HOME", str(yard.home.root))
    file = tmp_path / "app.yaml"
    file.write_text(
        "apiVersion: base.underway.dev/v1alpha1\nkind: BaseImage\nmetadata: {name: app}\n"
        "base: busybox\nspec: {paths: [{path: /hello, content: hi}], cmd: [cat, /hello]}\n"
    )

    def work(host, settings):
        name = f"{host}/demo/base:1"
        done = CliRunner().invoke(base, ["push", str(file), name], catch_exceptions=False)
        digest = done.stdout.strip().splitlines()[-1]
        with RegistryClient.of_platform(yard.home, settings) as client:
            assert client.manifest("demo/base", "1").digest == digest
            attached = client.referrers("demo/base", digest)
            assert [each["artifactType"] for each in attached] == [SBOM_MEDIA_TYPE]
            manifest = client.manifest("demo/base", attached[0]["digest"]).decode()
            sbom = json.loads(b"".join(client.blob("demo/base", manifest["layers"][0]["digest"])))
        assert "busybox-static" in {each["name"] for each in sbom["components"]}
        yard.build(f"FROM {name}\nRUN cat /hello > /seen\n")
        assert yard.read("/seen") == "hi"

    with_registry(yard, work)


class TestAssembled:
    pytestmark = root_only

    def test_a_stand_in_is_a_layout_that_says_what_it_is_made_of(self, yard, tmp_path):
        out = tmp_path / "layout"
        base = base_images(yard.home).provide(
            "docker.io/library/busybox:1.35", out, yard.told.append
        )
        assert (base.origin, base.repository) == ("stand-in", "docker.io/library/busybox")
        manifest = (out / "blobs/sha256" / base.digest.removeprefix("sha256:")).read_bytes()
        assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == base.digest
        annotations = json.loads(manifest)["annotations"]
        assert annotations[STAND_IN] == "true"
        assert annotations[PACKAGES].startswith("sha256:")
        again = base_images(yard.home).provide("busybox:1.35", tmp_path / "again", yard.told.append)
        assert again.digest == base.digest

    @pytest.mark.timeout(420)
    def test_pip_and_apt_work_in_a_python_stand_in_and_leave_no_certificates(self, shared_yard):
        shared_yard.put(
            "app.py", "import itsdangerous, sys; print(itsdangerous.__name__, sys.prefix)"
        )
        shared_yard.build(
            "FROM python:3.11-slim AS build\n"
            "RUN pip install --no-cache-dir --prefix=/install itsdangerous\n"
            "FROM python:3.11-slim\n"
            "COPY --from=build /install /usr/local\n"
            "RUN apt-get update && apt-get install -y --no-install-recommends tree"
            " && rm -rf /var/lib/apt/lists/*\n"
            "RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir six\n"
            "RUN useradd --create-home app\nWORKDIR /app\nCOPY app.py .\nUSER app\n"
            "RUN python app.py > /tmp/out && tree --version && pip --version && python3 -V\n"
        )
        assert shared_yard.read("/tmp/out") == "itsdangerous /usr/local\n"
        assert "PYTHON_VERSION=3.11.2" in shared_yard.config()["Env"]
        assert not [e for e in shared_yard.config()["Env"] if "CERT" in e or "APT" in e]
        bundle = ca_bundle().read_bytes()

        def traces(root):
            found = []
            for path in root.rglob("*"):
                if path.is_file() and not path.is_symlink() and path.stat().st_size == len(bundle):
                    found += [str(path)] * (path.read_bytes() == bundle)
            assert (
                not (root / "etc/resolv.conf").exists()
                or not (root / "etc/resolv.conf").read_text()
            )
            return found, (root / "dev/underway").exists()

        assert shared_yard.look(traces) == ([], False)
        stale = shared_yard.look(
            lambda root: [
                p.name
                for p in (root / "venv/lib/python3.11/site-packages/__pycache__").glob("six*.pyc")
                if p.read_bytes()[4] != 3  # PEP 552: checked by the source's hash, not its time
            ]
        )
        assert stale == []

    @pytest.mark.timeout(420)
    @pytest.mark.parametrize("name", SERVERS)
    def test_a_server_stand_in_starts_as_the_official_image_does(self, shared_yard, name):
        shared_yard.build(f"FROM {name}\nRUN <<EOF\nset -eux\n{SERVERS[name]}\nEOF\n")
        config = shared_yard.config()
        assert config["Entrypoint"]
        assert config["Cmd"]
