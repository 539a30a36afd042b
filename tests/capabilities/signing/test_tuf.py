"""TUF repositories made here; python-tuf's client judges them, beside ours."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from securesystemslib.signer import SSlibKey
from tests.peers import PEERS
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from underway.base.clock import FakeClock, SystemClock
from underway.base.errors import AlreadyExists, BadRequest, NotFound
from underway.base.home import Home
from underway.capabilities.signing.backend.keystore import FileKeys
from underway.capabilities.signing.backend.tuf_client import TufClient
from underway.capabilities.signing.backend.tuf_repository import TufRepository, check_path
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import keys


class Files(FetcherInterface):
    """Reads a repository's directory, or one an attacker made of it."""

    def __init__(self, directory):
        self.directory, self.asked = directory, []

    def _fetch(self, url):
        path = self.directory / unquote(urlsplit(url).path).lstrip("/")
        self.asked.append(path.name)
        if not path.exists():
            raise DownloadHTTPError("not there", 404)
        yield path.read_bytes()

    def ours(self, url):
        path = self.directory / unquote(urlsplit(url).path).lstrip("/")
        if not path.exists():
            raise NotFound(url)
        yield path.read_bytes()


class Clients:
    """python-tuf's client and ours, each with its own trusted metadata."""

    def __init__(self, repository, directory):
        self.files, self.directory = Files(repository.directory), directory
        (directory / "theirs").mkdir(parents=True)
        (directory / "theirs" / "root.json").write_bytes(repository.root())
        TufClient.init(directory / "ours", repository.root())

    def ours(self, clock=None):
        return TufClient(self.directory / "ours", "http://tuf/metadata", self.files.ours, clock)

    def theirs(self):
        return Updater(
            str(self.directory / "theirs"), "http://tuf/metadata", str(self.directory),
            "http://tuf/targets", fetcher=self.files, bootstrap=None,
        )  # fmt: skip

    def refresh(self):
        self.theirs().refresh()
        self.ours().refresh()

    def get(self, name):
        """The target's content as both see it, or None."""
        theirs = self.theirs()
        info = theirs.get_targetinfo(name)
        downloaded = theirs.download_target(info) if info else None
        try:
            got = self.ours().download(name, "http://tuf/targets", self.directory / "got")
        except NotFound:
            assert info is None
            return None
        content = Path(downloaded).read_bytes()
        assert got.read_bytes() == content
        return content

    def refused(self, why, name=""):
        with pytest.raises((RepositoryError, AssertionError)):
            self.theirs().get_targetinfo(name or "x")
        with pytest.raises(Unverified, match=why):
            self.ours().find(name or "x")


@pytest.fixture
def repository(tmp_path):
    made = TufRepository(Home(tmp_path / "home"))
    made.init()
    return made


@pytest.fixture
def clients(repository, tmp_path):
    return Clients(repository, tmp_path / "clients")


def file(tmp_path, text):
    path = tmp_path / "file"
    path.write_text(text)
    return path


def add(repository, tmp_path, name, text, **more):
    role = repository.add(name, file(tmp_path, text), **more)
    repository.publish()
    return role


def test_python_tufs_client_accepts_the_whole_life_cycle(repository, clients, tmp_path):
    clients.refresh()
    add(repository, tmp_path, "app.txt", "one")
    assert clients.get("app.txt") == b"one"
    add(repository, tmp_path, "app.txt", "two")
    add(repository, tmp_path, "deep/er/file", "three")
    assert clients.get("app.txt") == b"two"
    assert clients.get("deep/er/file") == b"three"
    repository.delegate("releases", ["releases/*"], keys=3, threshold=2, terminating=True)
    add(repository, tmp_path, "releases/app-1", "four", role="releases")
    assert clients.get("releases/app-1") == b"four"
    repository.delegate("nightly", ["releases/nightly-*"], parent="releases")
    add(repository, tmp_path, "releases/nightly-1", "five", role="nightly")
    assert clients.get("releases/nightly-1") == b"five"
    for role in ("timestamp", "snapshot", "targets", "root", "releases", "nightly", "root"):
        repository.rotate(role)
        assert clients.get("app.txt") == b"two"
        assert clients.get("releases/app-1") == b"four"
        assert clients.get("releases/nightly-1") == b"five"
    repository.remove("app.txt")
    repository.undelegate("releases")
    repository.publish()
    assert clients.get("app.txt") is None
    assert clients.get("releases/app-1") is None
    status = {each.name: each for each in repository.status()}
    assert status["root"].version == 6
    assert set(status) == {"root", "targets", "snapshot", "timestamp"}


def test_hash_bins_spread_targets_and_share_a_key(repository, clients, tmp_path):
    repository.delegate_bins(8)
    repository.publish()
    roles = {add(repository, tmp_path, f"f{n}", str(n)) for n in range(12)}
    assert len(roles) > 2
    for n in range(12):
        assert clients.get(f"f{n}") == str(n).encode()
    repository.rotate("bin")
    assert clients.get("f3") == b"3"
    repository.remove("f3")
    repository.publish()
    assert clients.get("f3") is None


def test_staged_changes_are_invisible_until_published(repository, clients, tmp_path):
    repository.add("a", file(tmp_path, "a"))
    assert clients.get("a") is None
    assert [each.name for each in repository.status() if each.staged] == ["targets"]
    assert repository.publish() == ["targets"]
    assert clients.get("a") == b"a"
    assert repository.publish() == []


def test_a_publication_that_was_cut_off_goes_on(repository, clients, tmp_path, monkeypatch):
    repository.add("a", file(tmp_path, "a"))
    monkeypatch.setattr(
        repository, "_write_snapshot", lambda *_a, **_k: (_ for _ in ()).throw(OSError("power"))
    )
    with pytest.raises(OSError, match="power"):
        repository.publish()
    monkeypatch.undo()
    assert clients.get("a") is None
    repository.publish()
    assert clients.get("a") == b"a"


def test_timestamp_and_snapshot_are_signed_anew_before_they_end(tmp_path):
    clock = FakeClock(SystemClock().now())
    repository = TufRepository(Home(tmp_path / "home"), clock=clock)
    repository.init()
    assert not repository.renew()
    later = FakeClock(clock.now() + timedelta(hours=13))
    again = TufRepository(Home(tmp_path / "home"), clock=later)
    assert again.renew()
    assert not again.renew()
    versions = {each.name: each.version for each in again.status()}
    assert (versions["timestamp"], versions["snapshot"]) == (2, 1)
    week = FakeClock(clock.now() + timedelta(days=4))
    assert TufRepository(Home(tmp_path / "home"), clock=week).renew()
    versions = {each.name: each.version for each in again.status()}
    assert (versions["timestamp"], versions["snapshot"]) == (3, 2)


def test_a_role_vouches_only_for_the_paths_delegated_to_it(repository, tmp_path):
    repository.delegate("releases", ["releases/*"])
    with pytest.raises(BadRequest, match="no delegation lets releases vouch for other/x"):
        repository.add("other/x", file(tmp_path, "x"), role="releases")
    with pytest.raises(AlreadyExists):
        repository.delegate("releases", ["a"])
    with pytest.raises(NotFound):
        repository.rotate("nobody")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\\b", "a\nb", "a/./b", "x" * 2000]
)
def test_target_paths_that_leave_the_repository_are_refused(path):
    with pytest.raises(BadRequest):
        check_path(path)


# Attacks


def test_a_rolled_back_timestamp_and_snapshot_are_refused(repository, clients, tmp_path):
    old = tmp_path / "old"
    add(repository, tmp_path, "a", "1")
    shutil.copytree(repository.directory, old)
    add(repository, tmp_path, "a", "2")
    assert clients.get("a") == b"2"
    clients.files.directory = old
    clients.refused("timestamp rolled back from version 3 to 2")


def test_metadata_of_two_moments_does_not_mix(repository, clients, tmp_path):
    add(repository, tmp_path, "a", "1")
    mixed = tmp_path / "mixed"
    add(repository, tmp_path, "a", "2")
    shutil.copytree(repository.directory, mixed)
    # The newest snapshot, answered with an older one of the same repository.
    shutil.copy(mixed / "metadata" / "2.snapshot.json", mixed / "metadata" / "3.snapshot.json")
    clients.files.directory = mixed
    clients.refused("snapshot is version 2, not 3")


def test_targets_of_another_version_are_refused(repository, clients, tmp_path):
    add(repository, tmp_path, "a", "1")
    mixed = tmp_path / "mixed"
    shutil.copytree(repository.directory, mixed)
    shutil.copy(mixed / "metadata" / "1.targets.json", mixed / "metadata" / "2.targets.json")
    clients.files.directory = mixed
    clients.refused("targets is version 1, not 2")


def test_expired_metadata_is_refused(repository, clients):
    clients.refresh()
    future = FakeClock(SystemClock().now() + timedelta(days=2))
    with pytest.raises(Unverified, match="timestamp expired at"):
        clients.ours(future).refresh()
    year = FakeClock(SystemClock().now() + timedelta(days=400))
    with pytest.raises(Unverified, match="root expired at"):
        clients.ours(year).refresh()


def test_one_stolen_key_does_not_reach_a_threshold_of_two(tmp_path):
    repository = TufRepository(Home(tmp_path / "home"))
    repository.init(keys={"root": 2, "targets": 2}, thresholds={"root": 2, "targets": 2})
    clients = Clients(repository, tmp_path / "clients")
    clients.refresh()
    # The thief has all that signs but one of the two keys of targets.
    stolen = tmp_path / "stolen"
    shutil.copytree(repository.directory, stolen)
    path = stolen / "metadata" / "1.targets.json"
    value = json.loads(path.read_bytes())
    kept = value["signatures"][0]
    for forged in ([kept], [kept, kept], []):
        value["signatures"] = forged
        path.write_text(json.dumps(value))
        fresh = Clients(repository, tmp_path / f"fresh{len(forged)}")
        fresh.files.directory = stolen
        with pytest.raises(Unverified):
            fresh.ours().refresh()
        with pytest.raises((RepositoryError, ValueError)):
            fresh.theirs().refresh()
    thief = TufRepository(Home(tmp_path / "home"))
    names = FileKeys(repository.directory / "keys").names()
    root = Metadata.from_bytes(repository.root()).signed
    lost = root.roles["targets"].keyids[0]
    (repository.directory / "keys" / f"{lost}.key").unlink()
    assert len(names) == 6
    thief.add("evil", file(tmp_path, "evil"))
    with pytest.raises(Exception, match="1/2"):
        thief.publish()


def test_a_target_that_was_exchanged_or_never_ends_is_refused(repository, clients, tmp_path):
    add(repository, tmp_path, "a", "good")
    (served,) = [p for p in repository.targets.iterdir() if p.name.endswith(".a")]
    served.write_text("evil")
    with pytest.raises(Unverified, match="target a"):
        clients.ours().download("a", "http://tuf/targets", tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []
    read = []

    def endless(url):
        if "targets/" not in url:
            yield from clients.files.ours(url)
            return
        while True:
            read.append(url)
            yield b"x" * 65_536

    client = TufClient(tmp_path / "clients" / "ours", "http://tuf/metadata", endless)
    with pytest.raises(Unverified, match="longer than 4 bytes"):
        client.download("a", "http://tuf/targets", tmp_path / "got")
    assert len(read) == 1
    assert list((tmp_path / "got").iterdir()) == []


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
def test_endless_metadata_is_refused(repository, clients, tmp_path, name):
    def endless(url):
        if not url.endswith(name):
            yield from clients.files.ours(url)
            return
        while True:
            yield b" " * 65_536

    client = TufClient(tmp_path / "clients" / "ours", "http://tuf/metadata", endless)
    with pytest.raises(Unverified, match="longer than"):
        client.refresh()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"signed":{}}', b"\xff\xfe"])
def test_metadata_that_is_cut_short_is_refused(repository, clients, tmp_path, data):
    broken = tmp_path / "broken"
    shutil.copytree(repository.directory, broken)
    (broken / "metadata" / "timestamp.json").write_bytes(data)
    clients.files.directory = broken
    with pytest.raises(Unverified, match="timestamp"):
        clients.ours().refresh()


def test_a_root_signed_by_the_new_keys_alone_is_refused(repository, clients, tmp_path):
    clients.refresh()
    thief = TufRepository(Home(tmp_path / "thief"))
    thief.init()
    thief.rotate("root")
    clients.files.directory = thief.directory
    clients.refused("root version 2")


def test_a_role_is_believed_only_as_far_as_the_delegator_that_led_to_it(
    repository, clients, tmp_path
):
    repository.delegate("a", ["a/*"])
    repository.delegate("b", ["b/*"])
    repository.delegate("release", ["a/*"], parent="a")
    # The other branch delegates to a role of that name too, and to another key.
    other = repository._targets_of("b")
    other.delegations = Delegations({}, {})
    other.delegations.roles["release"] = DelegatedRole("release", [], 1, False, ["b/*"])
    other.add_key(SSlibKey.from_crypto(keys.generate().public_key()), "release")
    repository._stage("b", other)
    repository.add("a/x", file(tmp_path, "good"), role="release")
    release = repository._targets_of("release")
    release.targets["b/x"] = TargetFile.from_data("b/x", b"evil")
    repository._stage("release", release)
    repository.publish()
    client = clients.ours()
    assert client.find("a/x") is not None
    with pytest.raises(Unverified, match="release"):
        client.find("b/x")
    with pytest.raises(Unverified, match="release"):  # from what is kept on disk, too
        clients.ours().find("b/x")


CONFORMANCE = PEERS / "tuf-conformance"


@pytest.mark.peer
@pytest.mark.skipif(not CONFORMANCE.exists(), reason="needs tuf-conformance among the peers")
def test_the_conformance_suite_passes_where_its_reference_client_fails(tmp_path):
    program = tmp_path / "client"
    program.write_text(
        f"#!{sys.executable}\n"
        "from underway.capabilities.signing.cli.tuf import tuf\n"
        "import sys\n"
        "tuf(['client', *sys.argv[1:]])\n"
    )
    program.chmod(0o755)
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--override-ini",
            "filterwarnings=default", "--entrypoint", str(program), "tuf_conformance",
            "-k", "cached_role",
        ],
        cwd=CONFORMANCE, capture_output=True, text=True, timeout=110, check=False,
        env={**os.environ, "PYTHONPATH": str(CONFORMANCE)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
