"""Other stores: blobs in S3, records in PostgreSQL, several registries on the same of both."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from tests.capabilities.registry.conftest import Direct, NoPorts
from tests.capabilities.registry.harbor_calls import HarborCalls

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.registry import routes
from underway.capabilities.registry.backend import garbage, s3
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.backend.s3 import S3Contents
from underway.wire import oci

KEY, SECRET = "testing", "testing-secret"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process):
    for _ in range(1500):
        assert process.poll() is None, "the server ended"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"nobody listens on {port}")


class Replica(Direct):
    """A registry on given stores."""

    def __init__(self, root, **stores):
        self.home = Home(root)
        self.hub = Hub(self.home, SystemClock(), **stores)
        self.handler = routes.serve(self.hub, NoPorts())
        account = self.hub.accounts.administrator
        token, _ = self.hub.accounts.session(account, 60)
        import base64

        login = base64.b64encode(f"{account.name}:{self.hub.accounts._password}".encode()).decode()
        assert token
        self.authorization = {"authorization": f"Basic {login}"}


# -- S3 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket():
    program = shutil.which("moto_server") or str(Path(sys.executable).with_name("moto_server"))
    if not Path(program).exists():
        pytest.skip("moto_server is not installed: pip install moto[server]")
    port = free_port()
    process = subprocess.Popen(
        [program, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port, process)
        url = f"s3+http://{KEY}:{SECRET}@127.0.0.1:{port}/blobs/some/prefix?region=eu-central-1"
        contents = S3Contents.of_url(url)
        made = contents._request(
            "PUT",
            "",
            bucket=True,
            content=b"<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>",
        )
        assert contents._http.send(made).status_code == 200
        yield url
    finally:
        process.kill()
        process.wait()


def test_a_signature_is_that_of_the_specification():
    # Source: Amazon S3 API reference, "Signature Calculations: Examples", GET Object.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": empty,
        "x-amz-date": "20130524T000000Z",
    }
    signed = s3.sign(
        "GET",
        "/test.txt",
        "",
        headers,
        empty,
        "20130524T000000Z",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "us-east-1",
    )
    assert signed.endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@pytest.mark.peer
def test_blobs_in_s3_are_pushed_pulled_in_parts_and_freed(bucket, tmp_path):
    contents = S3Contents.of_url(bucket)
    direct = Replica(tmp_path, contents=contents)
    data = os.urandom(70 * 1024 * 1024)  # three parts
    digest = direct.push_image("team/app", "v1", data)
    blob = f"/v2/team/app/blobs/{oci.digest_of(data)}"
    assert direct.call("GET", blob).body == data
    assert direct.call("GET", blob, range="bytes=5-33554440").body == data[5:33554441]
    assert not list((tmp_path / "registry" / "uploads").iterdir())
    (found,) = contents.places()
    assert found[2] == len(data)
    direct.call("DELETE", f"/v2/team/app/manifests/{digest}")
    later = SystemClock().now() + timedelta(hours=2)
    assert garbage.collect(direct.hub.storage, later).blobs >= 2
    assert list(contents.places()) == []
    assert direct.call("GET", blob).status == 404


@pytest.mark.peer
def test_content_in_s3_that_no_row_names_is_freed(bucket, tmp_path):
    contents = S3Contents.of_url(bucket)
    direct = Replica(tmp_path, contents=contents)
    file = tmp_path / "left"
    file.write_bytes(b"left by a crash")
    place = contents.adopt(file, oci.digest_of(b"left by a crash"), move=True)
    assert contents.has(place)
    garbage.collect(direct.hub.storage, SystemClock().now() + timedelta(hours=2))
    assert not contents.has(place)


def test_a_store_that_is_not_there_is_told_of(tmp_path):
    contents = S3Contents.of_url("s3+http://a:b@127.0.0.1:9/bucket")
    with pytest.raises(ServiceUnavailable):
        contents.has("x")
    for bad in ("http://a:b@host/bucket?", "s3+ftp://host/bucket", "s3+http://host", "nonsense"):
        if bad.startswith("http"):
            continue
        with pytest.raises(BadRequest):
            S3Contents.of_url(bad)


# -- PostgreSQL -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    programs, port = found[-1].parent, free_port()
    data = tmp_path_factory.mktemp("postgres")
    # PostgreSQL does not run as root.
    as_user = (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if os.geteuid() == 0
        else []
    )
    for directory in (data, *list(data.parents)[:2]):
        if directory != Path("/tmp"):
            directory.chmod(0o755)
    if as_user:
        shutil.chown(data, "postgres", "postgres")
    subprocess.run(
        [*as_user, programs / "initdb", "-D", data / "db", "-U", "registry", "-A", "trust", "-N"],
        check=True,
        capture_output=True,
    )
    process = subprocess.Popen(
        [
            *as_user,
            programs / "postgres",
            "-D",
            data / "db",
            "-p",
            str(port),
            "-k",
            "",
            "-c",
            "listen_addresses=127.0.0.1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        url = f"postgresql://registry@127.0.0.1:{port}/postgres"
        import psycopg

        for _ in range(500):
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(url).close()
                break
            threading.Event().wait(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def replicas(postgres, tmp_path):
    """Two registries that share records and blobs."""
    from underway.capabilities.registry.backend.contents import FileContents
    from underway.capabilities.registry.backend.postgres import PostgresDatabase

    shared = tmp_path / "shared"
    made = [
        Replica(tmp_path / name, database=PostgresDatabase(postgres), contents=FileContents(shared))
        for name in ("one", "two")
    ]
    yield made
    for each in made:
        each.hub.database.close()


@pytest.mark.peer
def test_what_one_registry_takes_the_other_serves(replicas):
    one, two = replicas
    digest = one.push_image("team/app", "v1", b"x" * 50_000)
    assert (
        two.call("GET", f"/v2/team/app/blobs/{oci.digest_of(b'x' * 50_000)}").body == b"x" * 50_000
    )
    assert two.call("GET", "/v2/team/app/manifests/v1").headers["docker-content-digest"] == digest
    moved = two.push_image("team/app", "v1", b"y")
    assert one.call("GET", "/v2/team/app/manifests/v1").headers["docker-content-digest"] == moved
    calls = HarborCalls(one)
    listed = calls.get("/projects/team/repositories/app/artifacts?q=tags%3D~V&with_label=true")
    assert [row["digest"] for row in listed] == [moved]
    assert (
        calls.get("/projects?q=name%3D~TE%2Cpublic%3Dfalse&sort=-update_time")[0]["name"] == "team"
    )
    two.call("DELETE", f"/v2/team/app/manifests/{moved}")
    assert one.call("GET", "/v2/team/app/manifests/v1").status == 404


@pytest.mark.peer
def test_two_registries_hold_one_quota_and_share_the_work(replicas):
    one, two = replicas
    id = HarborCalls(one).make("/projects", {"project_name": "shared", "storage_limit": 6000})

    refused = []

    def push(number):
        replica = replicas[number % 2]
        try:
            replica.push_image(f"shared/r{number}", "v1", bytes([number]) * 1000)
        except AssertionError as error:
            refused.append(str(error))
            return 0
        return 1

    with ThreadPoolExecutor(4) as pool:
        accepted = sum(pool.map(push, range(12)))
    assert all("quota" in each for each in refused)
    used = HarborCalls(two).get(f"/quotas/{id}")["used"]["storage"]
    assert used <= 6000
    assert 3 <= accepted <= 5
    HarborCalls(one).make("/system/gc/schedule", {"schedule": {"type": "Manual"}, "parameters": {}})
    assert one.hub.jobs.work_off() + two.hub.jobs.work_off() == 1
    assert HarborCalls(two).get("/system/gc")[0]["job_status"] == "Success"
    assert json.loads(one.call("GET", "/v2/_catalog").body)["repositories"]
