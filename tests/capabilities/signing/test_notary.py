"""The Notary service; Debian's notary client judges it through a collection's whole life."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tests.capabilities.signing.conftest import run

from underway.base.clock import FakeClock, SystemClock
from underway.base.files import write_atomic
from underway.base.home import Home, Settings
from underway.capabilities.signing.backend.notary_store import NotaryStore
from underway.capabilities.signing.routes import notary as service
from underway.capabilities.signing.rules import keys, notary
from underway.transport import pki
from underway.wire.http import Request

PROCESS = Path(__file__).with_name("notary_process.py")
LOGIN = base64.b64encode(b"admin:secret").decode()
GUN = "registry.example/team/app"

needs_notary = pytest.mark.skipif(not shutil.which("notary"), reason="needs Debian's notary")


def home_at(path):
    home = Home(path)
    pki.ensure_pki(home, Settings())
    home.registry.mkdir(parents=True, exist_ok=True)
    auths = {"auths": {"127.0.0.1:5000": {"auth": LOGIN}}}
    write_atomic(home.registry_auth, json.dumps(auths))
    return home


@contextlib.contextmanager
def serving(home):
    process = subprocess.Popen(
        [sys.executable, str(PROCESS), str(home.root)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, json.loads(process.stdout.readline())["port"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Client:
    """The real client, with its own trust directory."""

    def __init__(self, home, port, directory):
        self._argv = [
            "notary", "-s", f"https://127.0.0.1:{port}", "-d", directory,
            "--tlscacert", home.pki / "ca.crt",
        ]  # fmt: skip
        roles = ("ROOT", "TARGETS", "SNAPSHOT", "DELEGATION")
        self.environment = {
            **os.environ, "NOTARY_AUTH": LOGIN,
            **{f"NOTARY_{role}_PASSPHRASE": "passphrase" for role in roles},
        }  # fmt: skip

    def __call__(self, *argv, check=True):
        return run(*self._argv, *argv, env=self.environment, check=check)

    def list(self, *more):
        lines = self("list", GUN, *more).stdout.splitlines()
        return {line.split()[0] for line in lines[2:] if line.strip()}


@needs_notary
@pytest.mark.peer
@pytest.mark.timeout(240)
def test_the_real_client_goes_through_a_collections_whole_life(tmp_path):
    home = home_at(tmp_path / "home")
    target = tmp_path / "v1"
    target.write_text("content")
    with serving(home) as (_, port):
        writer = Client(home, port, tmp_path / "writer")
        assert writer("list", GUN, check=False).returncode != 0
        writer("init", GUN, "--publish")
        writer("add", GUN, "v1", target, "--publish")
        reader = Client(home, port, tmp_path / "reader")
        assert reader.list() == {"v1"}
        assert (
            "content"
            in run(*reader._argv, "verify", GUN, "v1", "-i", target, env=reader.environment).stdout
        )
        # delegation: its key is a certificate; the delegate publishes with it
        key, crt = tmp_path / "d.key", tmp_path / "d.crt"
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", key, "-out", crt, "-subj", "/CN=delegate", "-days", "30",
        )  # fmt: skip
        writer("delegation", "add", GUN, "targets/releases", crt, "--all-paths", "--publish")
        assert "targets/releases" in writer("delegation", "list", GUN).stdout
        # rotation to the server's snapshot key, which a delegate needs, and of the others
        writer("key", "rotate", GUN, "snapshot", "-r")
        writer("key", "import", key, "--role", "user")
        writer("add", GUN, "v2", target, "-r", "targets/releases", "--publish")
        assert reader.list() == {"v1", "v2"}
        writer("key", "rotate", GUN, "timestamp", "-r")
        writer("key", "rotate", GUN, "targets")
        assert reader.list() == {"v1", "v2"}
        writer("add", GUN, "v3", target, "--publish")
        writer("key", "rotate", GUN, "snapshot")
        writer("add", GUN, "v4", target, "--publish")
        assert reader.list() == {"v1", "v2", "v3", "v4"}
        writer("remove", GUN, "v3", "--publish")
        writer("delegation", "remove", GUN, "targets/releases", "-y", "--publish")
        assert reader.list() == {"v1", "v4"}
        writer("delete", GUN, "--remote")
        gone = Client(home, port, tmp_path / "late")("list", GUN, check=False)
        assert gone.returncode != 0
        assert "does not have trust data" in gone.stdout + gone.stderr


@needs_notary
@pytest.mark.peer
def test_a_published_collection_outlives_a_killed_server(tmp_path):
    home = home_at(tmp_path / "home")
    target = tmp_path / "v1"
    target.write_text("content")
    with serving(home) as (process, port):
        Client(home, port, tmp_path / "writer")("init", GUN, "--publish")
        writer = Client(home, port, tmp_path / "writer")
        writer("add", GUN, "v1", target, "--publish")
        process.kill()
    with serving(home) as (_, port):
        assert Client(home, port, tmp_path / "reader").list() == {"v1"}


@needs_notary
@pytest.mark.peer
def test_without_the_login_the_client_gets_nothing(tmp_path):
    home = home_at(tmp_path / "home")
    with serving(home) as (_, port):
        client = Client(home, port, tmp_path / "client")
        client.environment["NOTARY_AUTH"] = base64.b64encode(b"admin:wrong").decode()
        assert client("init", GUN, "--publish", check=False).returncode != 0
        assert client("list", GUN, check=False).returncode != 0
    assert NotaryStore(home).changes("", 0, 10) == []


# Without the client: what it would never send.


class Owner:
    """Somebody with keys of their own who writes metadata by hand."""

    def __init__(self, store, clock, threshold=1, count=1):
        self.clock, self.store = clock, store
        self.keys = {role: [keys.generate() for _ in range(count)] for role in ("root", "targets")}
        self.threshold = threshold

    def public(self, role):
        return {
            notary.key_id(p): p
            for p in (notary.public_key(k.public_key()) for k in self.keys[role])
        }

    def server(self, role):
        key = json.loads(self.store.key(GUN, role))
        return {notary.key_id(key): key}

    def write(self, role, version, days=30, signers=None, **parts):
        ends = notary.rfc3339(self.clock.now() + timedelta(days=days))
        signed = {"_type": role.capitalize(), "version": version, "expires": ends, **parts}
        signatures = []
        for key in self.keys[role] if signers is None else signers:
            (one,) = notary.sign(role, signed, key).signatures
            signatures.append(one)
        return notary.canonical({"signed": signed, "signatures": signatures})

    def root(self, version=1, **more):
        names = {
            **{r: self.public(r) for r in ("root", "targets")},
            **{r: self.server(r) for r in ("snapshot", "timestamp")},
        }
        held = {key_id: key for each in names.values() for key_id, key in each.items()}
        roles = {
            name: {"keyids": list(each), "threshold": self.threshold if name in self.keys else 1}
            for name, each in names.items()
        }
        return self.write(
            "root", version, keys=held, roles=roles, consistent_snapshot=False, **more
        )

    def targets(self, version=1, **more):
        parts = {"targets": {}, "delegations": {"keys": {}, "roles": []}, **more}
        return self.write("targets", version, **parts)


@pytest.fixture
def store(tmp_path):
    return NotaryStore(Home(tmp_path), FakeClock(SystemClock().now()))


@pytest.fixture
def owner(store):
    made = Owner(store, store._clock)
    store.update(GUN, {"root": made.root(), "targets": made.targets()})
    return made


def versions(store):
    return {r: json.loads(store.read(GUN, r))["signed"]["version"] for r in notary.BASE_ROLES}


def refused(store, why, **files):
    before = versions(store)
    with pytest.raises((notary.Refused, notary.OldVersion), match=why):
        store.update(GUN, {name.replace("_", "/"): data for name, data in files.items()})
    assert versions(store) == before


def test_an_update_makes_snapshot_and_timestamp_and_feeds_changes(store, owner):
    store.update(GUN, {"targets": owner.targets(2)})
    assert versions(store) == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}
    snapshot = json.loads(store.read(GUN, "snapshot"))["signed"]["meta"]
    assert snapshot["targets"]["length"] == len(store.read(GUN, "targets"))
    feed = store.changes("", 0, 10)
    assert [(each["GUN"], each["Version"], each["Category"]) for each in feed] == [
        (GUN, 1, "update"), (GUN, 2, "update"),
    ]  # fmt: skip
    assert store.changes(GUN, int(feed[0]["ID"]), 10) == feed[1:]
    assert store.changes(GUN, 0, -1) == feed[1:]


def test_a_rolled_back_or_expired_role_is_refused_and_nothing_changes(store, owner):
    store.update(GUN, {"targets": owner.targets(5)})
    refused(store, "version 5 is not newer than 5", targets=owner.targets(5))
    refused(store, "version 3 is not newer than 5", targets=owner.targets(3))
    refused(store, "targets expired", targets=owner.targets(6, days=-1))
    refused(store, "does not follow", root=owner.root(3), targets=owner.targets(6))


def test_foreign_keys_and_a_root_signed_by_new_keys_alone_are_refused(store, owner):
    thief = Owner(store, owner.clock)
    refused(store, "0 valid signatures of the 1", targets=thief.targets(2))
    refused(store, "that the old root wants", root=thief.root(2), targets=thief.targets(2))


def test_one_stolen_key_under_a_threshold_of_two_is_refused(tmp_path):
    clock = FakeClock(SystemClock().now())
    store = NotaryStore(Home(tmp_path), clock)
    owner = Owner(store, clock, threshold=2, count=2)
    store.update(GUN, {"root": owner.root(), "targets": owner.targets()})
    one = owner.keys["targets"][:1]
    refused(store, "1 valid signatures of the 2", targets=owner.targets(2, signers=one))
    refused(store, "1 valid signatures of the 2", targets=owner.targets(2, signers=one * 2))
    store.update(GUN, {"targets": owner.targets(2)})


def test_a_root_with_a_timestamp_key_of_somebody_else_is_refused(store, owner):
    value = json.loads(owner.root(2))["signed"]
    value["roles"]["timestamp"]["keyids"] = list(owner.public("root"))
    signatures = [notary.sign("root", value, k).signatures[0] for k in owner.keys["root"]]
    data = notary.canonical({"signed": value, "signatures": signatures})
    refused(store, "timestamp key is not the server's", root=data)


def test_a_snapshot_of_another_moment_and_unasked_delegations_are_refused(store, owner):
    old = store.read(GUN, "snapshot")
    store.update(GUN, {"targets": owner.targets(2)})
    value = json.loads(old)["signed"]
    value["version"] = 9
    key = store._keys.private(next(iter(owner.server("snapshot"))))
    mixed = notary.sign("snapshot", value, key).data
    refused(store, "another targets than stands", snapshot=mixed)
    refused(store, "made by the server", timestamp=store.read(GUN, "timestamp"))
    data = owner.targets(1)
    refused(store, "nobody delegates", targets_evil=data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"signed":{},"signatures":[]}', b"[" * 100_000]
)
def test_metadata_that_is_none_is_refused(store, owner, data):
    refused(store, "is no metadata", targets=data)


def test_timestamp_and_snapshot_are_signed_anew_before_they_end(tmp_path):
    clock = FakeClock(SystemClock().now())
    store = NotaryStore(Home(tmp_path), clock)
    owner = Owner(store, clock)
    store.update(GUN, {"root": owner.root(), "targets": owner.targets()})
    later = NotaryStore(Home(tmp_path), FakeClock(clock.now() + timedelta(days=8)))
    assert json.loads(later.read(GUN, "timestamp"))["signed"]["version"] == 2
    assert json.loads(later.read(GUN, "snapshot"))["signed"]["version"] == 1
    much = NotaryStore(Home(tmp_path), FakeClock(clock.now() + timedelta(days=600)))
    assert json.loads(much.read(GUN, "timestamp"))["signed"]["version"] == 3
    assert json.loads(much.read(GUN, "snapshot"))["signed"]["version"] == 2
    assert versions(much)["timestamp"] == 3


def call(home, method, path, body=b"", **headers):
    handler = service.app(home, None)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(method, path, "", {"authorization": f"Basic {LOGIN}", **named}, body)
    return asyncio.run(handler(request))


def test_uploads_that_are_cut_short_or_name_other_things_are_refused(tmp_path):
    home = home_at(tmp_path)
    kind = "multipart/form-data; boundary=xyz"
    head = b'--xyz\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n{}\r\n'
    for body in (
        b"",
        head % b"root",
        head % b"../etc" + b"--xyz--",
        head % b"root" * 2 + b"--xyz--",
    ):
        answer = call(home, "POST", f"/v2/{GUN}/_trust/tuf/", body, content_type=kind)
        assert answer.status == 400, answer.body
    assert call(home, "GET", f"/v2/{GUN}/_trust/tuf/root.json").status == 404
    assert call(home, "GET", f"/v2/{GUN}/_trust/tuf/root.key").status == 400
    assert call(home, "GET", "/v2/../_trust/tuf/root.json").status == 400
    assert call(home, "GET", "/v2/_trust/changefeed").json() == {"count": 0, "records": []}
    unknown = call(home, "GET", "/v2/", authorization="Basic bm9ib2R5Om5vdGhpbmc=")
    assert unknown.status == 401
    assert "Bearer realm" in unknown.headers["www-authenticate"]
