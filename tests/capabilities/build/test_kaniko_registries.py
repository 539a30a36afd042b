"""kaniko's flags about registries and contexts, against Debian's docker-registry and an S3."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
import urllib.request

import pytest
from click.testing import CliRunner
from tests.capabilities.build.test_push import free_port

from underway.base.clock import SystemClock
from underway.capabilities.build.backend.contexts_remote import _signed
from underway.capabilities.build.cli_kaniko import kaniko

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.peer,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="no docker-registry"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry over plain http that asks for a password: its address."""
    port, folder = free_port(), tmp_path_factory.mktemp("registry")
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\nlog:\n  level: error\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
            break
        except OSError:
            time.sleep(0.05)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def execute(yard, *arguments, code=0, stdin=None, **environment):
    environment = {"UNDERWAY_HOME": str(yard.home.root), "DOCKER_CONFIG": "/none", **environment}
    done = CliRunner().invoke(kaniko, list(arguments), env=environment, input=stdin)
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def manifest(registry, name):
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry}/{name}"]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


def test_a_cache_repository_serves_another_machine_until_its_time_is_over(yard, registry, tmp_path):
    yard.put("Dockerfile", "FROM busybox\nRUN echo made-here > /x\nRUN echo said-now\n")
    arguments = [
        f"--context={yard.context}", f"-d={registry}/app:1", f"--insecure-registry={registry}",
        f"--cache-repo={registry}/app/cache", "--cache", f"--digest-file={tmp_path}/digest",
    ]  # fmt: skip
    assert "  said-now" in execute(yard, *arguments)
    digest = (tmp_path / "digest").read_text()
    other = type(yard)(type(yard.home)(tmp_path / "other"), yard.context)
    again = execute(other, *arguments)
    assert "  said-now" not in again
    assert again.count("(cached)") == 2
    assert (tmp_path / "digest").read_text() == digest
    third = type(yard)(type(yard.home)(tmp_path / "third"), yard.context)
    assert "  said-now" in execute(third, *arguments, "--cache-ttl=0s", "--no-push-cache")


def test_bases_come_from_mirrors_maps_and_registries_that_names_say(yard, registry, tmp_path):
    yard.put("Dockerfile", "FROM busybox\nRUN echo first > /mark\n")
    allow = f"--insecure-registry={registry}"
    context = f"--context={yard.context}"
    for name in ("library/own", "mirrored/library/own"):
        execute(yard, context, f"-d={registry}/{name}:1", allow, f"--label=at={name}")
    yard = type(yard)(type(yard.home)(tmp_path / "other"), yard.context)  # which built none of them
    yard.put("Dockerfile", f"FROM {registry}/library/own:1\nRUN cat /mark > /copy\n")
    assert f"from {registry}" in execute(yard, context, "--no-push", "--insecure-pull")
    yard.put("Dockerfile", f"FROM {registry}/library/other:1\n")
    assert "no registry" in execute(yard, context, "--no-push", code=1)
    yard.put("Dockerfile", "FROM own:1\nRUN cat /mark > /copy\n")
    execute(yard, context, "--no-push", code=1)
    for flag, label in (
        (f"--registry-mirror={registry}", "library/own"),
        (f"--registry-map=index.docker.io={registry}/mirrored", "mirrored/library/own"),
    ):
        execute(yard, context, "--no-push", "-d=out:1", allow, flag)
        assert yard.config("docker.io/library/out:1")["Labels"]["at"] == label


def test_layers_are_zstd_where_asked_for(yard, registry):
    yard.put("Dockerfile", "FROM busybox\nRUN echo z > /z\n")
    execute(
        yard, f"--context={yard.context}", f"-d={registry}/z:1", "--insecure",
        "--compression=zstd", "--compression-level=7",
    )  # fmt: skip
    assert manifest(registry, "z:1")["layers"][-1]["mediaType"].endswith("+zstd")


def test_images_are_pushed_later_by_their_files(yard, registry, tmp_path):
    yard.put("Dockerfile", "FROM busybox\nRUN echo p > /p\n")
    execute(
        yard, f"--context={yard.context}", "-d=p:1", "--no-push", f"--tar-path={tmp_path}/p.tar",
        f"--oci-layout-path={tmp_path}/p", f"--digest-file={tmp_path}/digest",
    )  # fmt: skip
    for form in ("p.tar", "p"):
        execute(yard, "push", f"{tmp_path}/{form}", "-d", f"{registry}/{form}:1", "--insecure")
        assert manifest(registry, f"{form}:1")["layers"]


def test_a_login_keeps_a_password_and_helpers_are_asked(yard, tmp_path, monkeypatch):
    config = tmp_path / "docker"
    execute(
        yard, "login", "-u", "me", "--password-stdin", "r.test:5000", stdin="word\n",
        DOCKER_CONFIG=str(config),
    )  # fmt: skip
    file = config / "config.json"
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    from underway.capabilities.build.backend.outputs import docker_credentials

    assert docker_credentials("r.test:5000") == ("me", "word")
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread host\necho "{\\"Username\\":\\"u\\",\\"Secret\\":\\"$host\\"}"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file.write_text(json.dumps({"credHelpers": {"h.test": "test"}}))
    assert docker_credentials("h.test") == ("u", "h.test")
    assert docker_credentials("other.test") == ("", "")


def test_the_warmer_fetches_what_stages_start_from(yard, registry, tmp_path):
    file = yard.put("Dockerfile", "ARG B=busybox\nFROM $B AS a\nFROM scratch\nCOPY --from=a / /\n")
    shown = execute(yard, "warmer", "--dockerfile", str(file), "-c", str(tmp_path / "warm"))
    assert "busybox@sha256:" in shown
    assert len(list((tmp_path / "warm").glob("sha256-*/oci-layout"))) == 1
    assert "no image to fetch" in str(CliRunner().invoke(kaniko, ["warmer"]).exception)


def archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            out.addfile(info, io.BytesIO(text))
    return packed.getvalue()


@pytest.mark.filterwarnings("ignore")  # the peer's own
def test_contexts_lie_in_object_storage(yard, monkeypatch):
    pytest.importorskip("flask", reason="moto[server] is not installed")
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    keys = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    port = free_port()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        store = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        store.create_bucket(Bucket="bucket")
        files = {"app/Dockerfile": b"FROM scratch\nCOPY f /f\n", "app/f": b"stored"}
        store.put_object(Bucket="bucket", Key="a dir/c.tar.gz", Body=archive(files))
        environment = {**keys, "S3_ENDPOINT": f"http://127.0.0.1:{port}"}
        execute(
            yard, "-c", "s3://bucket/a dir/c.tar.gz", "--context-sub-path=app", "--no-push", "-d", "s:1",
            **environment,
        )  # fmt: skip
        assert yard.read("/f", "docker.io/library/s:1") == "stored"
        lost = execute(yard, "-c", "s3://bucket/none", "--no-push", code=1, **environment)
        assert "there is no s3://bucket/none" in lost
    finally:
        server.stop()


def test_signatures_are_those_that_botocore_makes():
    boto = pytest.importorskip("botocore.auth")
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_SESSION_TOKEN": "T"}
    now = SystemClock().now()
    found = _signed("https://s3.test", "/b/a%20dir/c.tar", {**keys, "AWS_REGION": "eu-1"}, now)
    request = AWSRequest("GET", "https://s3.test/b/a%20dir/c.tar")
    request.context["timestamp"] = found["x-amz-date"]
    request.headers["x-amz-content-sha256"] = found["x-amz-content-sha256"]
    request.headers["X-Amz-Date"] = found["x-amz-date"]
    request.headers["X-Amz-Security-Token"] = "T"
    signer = boto.S3SigV4Auth(Credentials("AK", "SK", "T"), "s3", "eu-1")
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    assert found["authorization"].endswith(f"Signature={signature}")


def test_contexts_are_artifacts_of_a_registry(yard, registry, tmp_path):
    blob = archive({"Dockerfile": b"FROM scratch\nCOPY f /f\n", "f": b"from afar"})
    from underway.transport.registry import RegistryClient
    from underway.wire import oci

    with RegistryClient(f"http://{registry}") as client:
        layer = oci.Descriptor.of("application/vnd.oci.image.layer.v1.tar+gzip", blob)
        empty = oci.Descriptor.of(oci.EMPTY, b"{}")
        client.push_blob("src", layer.digest, blob, len(blob))
        client.push_blob("src", empty.digest, b"{}", 2)
        content = {
            "schemaVersion": 2, "mediaType": oci.MANIFEST, "config": empty.as_dict(),
            "layers": [layer.as_dict()],
        }  # fmt: skip
        client.push_manifest("src", "1", json.dumps(content).encode(), oci.MANIFEST)
    flags = ["--no-push", "-d", "o:1", "--insecure-pull"]
    execute(yard, "-c", f"oci://{registry}/src:1", *flags)
    assert yard.read("/f", "docker.io/library/o:1") == "from afar"
