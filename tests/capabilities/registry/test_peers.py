"""Real clients, over TLS with the platform's authority and credentials."""

import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.capabilities.registry.conftest import image

from underway.base.errors import NotFound, Unauthorized
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.rules import access, roles
from underway.transport.registry import RegistryClient
from underway.wire import oci

needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")
needs_buildah = pytest.mark.skipif(
    not shutil.which("buildah") or os.geteuid() != 0, reason="needs buildah and root"
)


def run(*argv, check=True):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def layout(directory, *layers):
    """An OCI image layout with real gzip layers, as skopeo reads it."""
    import gzip
    import io
    import tarfile

    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def store(data, kind):
        value = hashlib.sha256(data).hexdigest()
        (blobs / value).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{value}", "size": len(data)}

    stored, diff_ids = [], []
    for number, content in enumerate(layers):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        diff_ids.append(oci.digest_of(raw.getvalue()))
        stored.append(store(gzip.compress(raw.getvalue(), mtime=0), oci.LAYER_GZIP))
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/file0"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }  # fmt: skip
    described = store(json.dumps(config).encode(), oci.CONFIG)
    manifest = image(described, stored)
    manifest["layers"] = stored
    top = store(json.dumps(manifest).encode(), oci.MANIFEST)
    index = {
        "schemaVersion": 2,
        "manifests": [{**top, "annotations": {"org.opencontainers.image.ref.name": "latest"}}],
    }
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return top["digest"]


@pytest.mark.peer
@needs_skopeo
def test_skopeo_pushes_pulls_inspects_lists_and_deletes(served, tmp_path):
    digest = layout(tmp_path / "image", b"one" * 1000, os.urandom(3_000_000))
    auth = ["--authfile", str(served.home.registry_auth)]
    certs = ["--cert-dir", str(served.certs)]
    remote = f"docker://{served.host}/team/app"
    run(
        "skopeo",
        "copy",
        *auth,
        "--dest-cert-dir",
        str(served.certs),
        f"oci:{tmp_path}/image:latest",
        f"{remote}:v1",
    )
    told = json.loads(run("skopeo", "inspect", *auth, *certs, f"{remote}:v1").stdout)
    assert told["Digest"] == digest
    assert told["RepoTags"] == ["v1"]
    run(
        "skopeo",
        "copy",
        *auth,
        "--src-cert-dir",
        str(served.certs),
        "--dest-cert-dir",
        str(served.certs),
        f"{remote}:v1",
        f"docker://{served.host}/team/copy:v2",
    )
    run(
        "skopeo",
        "copy",
        *auth,
        "--src-cert-dir",
        str(served.certs),
        f"{remote}@{digest}",
        f"oci:{tmp_path}/back:latest",
    )
    pushed = {file.name for file in (tmp_path / "image/blobs/sha256").iterdir()}
    assert {file.name for file in (tmp_path / "back/blobs/sha256").iterdir()} == pushed
    listed = run("skopeo", "list-tags", *auth, *certs, remote).stdout
    assert json.loads(listed)["Tags"] == ["v1"]
    run("skopeo", "delete", *auth, *certs, f"{remote}:v1")
    assert run("skopeo", "inspect", *auth, *certs, f"{remote}:v1", check=False).returncode != 0


@pytest.mark.peer
@needs_skopeo
def test_skopeo_pushes_dockers_own_format_and_compressed_by_zstd(served, tmp_path):
    layout(tmp_path / "image", b"x" * 100_000)
    auth = ["--authfile", str(served.home.registry_auth), "--dest-cert-dir", str(served.certs)]
    for tag, more in (("v2s2", ["--format", "v2s2"]), ("zstd", ["--dest-compress-format", "zstd"])):
        run(
            "skopeo",
            "copy",
            *auth,
            *more,
            f"oci:{tmp_path}/image:latest",
            f"docker://{served.host}/formats:{tag}",
        )
    with served.client() as client:
        assert client.manifest("formats", "v2s2").media_type == oci.DOCKER_MANIFEST


@pytest.mark.peer
@needs_skopeo
def test_skopeo_without_or_with_wrong_credentials_is_turned_away(served, tmp_path):
    layout(tmp_path / "image", b"x")
    for more in (["--no-creds"], ["--creds", "admin:wrong"]):
        done = run(
            "skopeo",
            "inspect",
            *more,
            "--cert-dir",
            str(served.certs),
            f"docker://{served.host}/team/app:v1",
            check=False,
        )
        assert done.returncode != 0
        assert "unauthorized" in done.stderr.lower() or "authentication" in done.stderr.lower()


@pytest.mark.peer
@needs_skopeo
def test_skopeo_as_a_robot_is_kept_to_its_project(served, tmp_path):
    layout(tmp_path / "image", b"robot" * 1000)
    hub = Hub(served.home)
    hub.projects.create("robots")
    creds = {}
    for name, permission in (("reader", "pull"), ("writer", "push")):
        allowed = roles.image_permission("robots", access.permissions_of([permission]))
        _, secret = hub.robots.create(name, [allowed], project="robots")
        creds[name] = f"robot$robots+{name}:{secret}"
    image_file, certs = f"oci:{tmp_path}/image:latest", ["--dest-cert-dir", str(served.certs)]

    def push(who, repository):
        to = f"docker://{served.host}/{repository}:v1"
        return run(
            "skopeo", "copy", *certs, "--dest-creds", creds[who], image_file, to, check=False
        )

    assert push("writer", "robots/app").returncode == 0
    assert push("reader", "robots/app").returncode != 0
    assert push("writer", "elsewhere/app").returncode != 0
    for who in creds:
        where = ["--cert-dir", str(served.certs), "--creds", creds[who]]
        run("skopeo", "inspect", *where, f"docker://{served.host}/robots/app:v1")
    hub.robots.delete("robots", "reader")
    gone = ["--cert-dir", str(served.certs), "--creds", creds["reader"]]
    done = run("skopeo", "inspect", *gone, f"docker://{served.host}/robots/app:v1", check=False)
    assert done.returncode != 0


@pytest.mark.peer
@pytest.mark.privileged
@needs_buildah
def test_buildah_pushes_and_pulls(served, tmp_path):
    store = [
        "--root",
        str(tmp_path / "store"),
        "--runroot",
        str(tmp_path / "run"),
        "--storage-driver",
        "vfs",
    ]
    auth = ["--authfile", str(served.home.registry_auth), "--cert-dir", str(served.certs)]
    reference = f"{served.host}/built/app:v1"
    (tmp_path / "hello").write_text("hello\n")
    container = run("buildah", *store, "from", "scratch").stdout.strip()
    run("buildah", *store, "copy", container, str(tmp_path / "hello"), "/hello")
    run("buildah", *store, "config", "--cmd", "/hello", container)
    run("buildah", *store, "commit", container, reference)
    run("buildah", *store, "push", *auth, reference)
    run("buildah", *store, "rmi", "--all", "--force")
    run("buildah", *store, "pull", *auth, f"docker://{reference}")
    assert reference in run("buildah", *store, "images", "--format", "{{.Name}}:{{.Tag}}").stdout
    run("buildah", *store, "rmi", "--all", "--force")


def test_our_own_client_pushes_mounts_and_pulls(served, tmp_path):
    data = os.urandom(5_000_000)
    digest = oci.digest_of(data)
    file = tmp_path / "layer"
    file.write_bytes(data)
    with served.client() as client:
        assert not client.blob_exists("own/app", digest)
        client.push_blob("own/app", digest, file, len(data))
        assert b"".join(client.blob("own/app", digest)) == data
        assert client.mount_blob("own/copy", digest, "own/app")
        assert not client.mount_blob("own/copy", "sha256:" + "0" * 64, "own/app")
        config = b'{"a":"' + b"x" * 300_000 + b'"}'  # large enough to be compressed on the way
        client.push_blob("own/app", oci.digest_of(config), config, len(config))
        assert b"".join(client.blob("own/app", oci.digest_of(config))) == config
        parts = [{"digest": digest, "size": len(data)}]
        manifest = json.dumps(
            image({"digest": oci.digest_of(config), "size": len(config)}, parts)
        ).encode()
        pushed = client.push_manifest("own/app", "v1", manifest, oci.MANIFEST)
        assert client.manifest("own/app", "v1").data == manifest
        assert client.manifest("own/app", pushed).digest == pushed
        with pytest.raises(NotFound, match="MANIFEST_UNKNOWN"):
            client.manifest("own/app", "v2")
    stranger = RegistryClient(f"https://{served.host}", ca_file=served.home.pki / "ca.crt")
    with stranger, pytest.raises(Unauthorized):
        stranger.manifest("own/app", "v1")


def test_many_pushes_of_the_same_blob_at_once(served):
    data = os.urandom(2_000_000)
    digest = oci.digest_of(data)

    def push(number):
        with served.client() as client:
            client.push_blob(f"many/app{number % 3}", digest, data, len(data))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(push, range(12)))
    with served.client() as client:
        assert b"".join(client.blob("many/app0", digest)) == data
    value = digest.partition(":")[2]
    assert len([file for file in served.files if value in file.name]) == 1


def begin_upload(served, size):
    """A raw connection that has sent the head of an upload and none of its ``size`` bytes."""
    import base64

    import httpx

    from underway.transport.registry import credentials

    login = credentials(served.home.registry_auth, served.host)
    token = base64.b64encode(":".join(login).encode()).decode()
    context = ssl.create_default_context(cafile=str(served.home.pki / "ca.crt"))
    headers = {"authorization": f"Basic {token}"}
    started = httpx.post(
        f"https://{served.host}/v2/half/app/blobs/uploads/",
        verify=context,
        headers=headers,
        trust_env=False,
    )
    path = started.headers["location"]
    host, _, port = served.host.partition(":")
    raw = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
    raw.sendall(
        f"PATCH {path} HTTP/1.1\r\nHost: {served.host}\r\nAuthorization: Basic {token}\r\n"
        f"Content-Length: {size}\r\n\r\n".encode()
    )
    return raw, path.rpartition("/")[2]


def test_killed_in_the_middle_of_an_upload_leaves_no_half_blob(served, tmp_path):
    data = os.urandom(8_000_000)
    digest = oci.digest_of(data)
    before = served.files
    raw, upload = begin_upload(served, len(data))
    with raw:
        raw.sendall(data[: len(data) // 2])
        arrived = served.home.registry / "uploads" / upload
        for _ in range(500):
            if arrived.stat().st_size:
                break
            subprocess.run(["sleep", "0.02"], check=True)
        served.kill()
    assert 0 < arrived.stat().st_size < len(data)
    assert served.files == before
    served.start()
    with served.client() as client:
        assert not client.blob_exists("half/app", digest)
        client.push_blob("half/app", digest, data, len(data))
        assert hashlib.sha256(b"".join(client.blob("half/app", digest))).hexdigest() == digest[7:]
    for file in served.files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stem
