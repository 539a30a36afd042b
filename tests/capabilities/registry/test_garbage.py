"""Freeing what no manifest needs, and nothing else."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import repeat

import pytest
from click.testing import CliRunner
from tests.capabilities.registry.conftest import environment, image

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.capabilities.registry import cli
from underway.capabilities.registry.backend import garbage
from underway.capabilities.registry.backend.storage import Storage
from underway.wire import oci

STEPS = 125  # of each of eight clients
LATER = timedelta(seconds=garbage.GRACE_S + 60)


def collect(direct, after=LATER, **options):
    return garbage.collect(Storage(direct.home.registry), SystemClock().now() + after, **options)


def contents(direct):
    return {row["digest"] for row in direct.hub.database.all("SELECT digest FROM contents")}


def test_what_a_manifest_needs_stays(direct):
    direct.push_image("app", "v1", b"a", b"b")
    before = contents(direct)
    assert len(before) == 4
    assert collect(direct) == garbage.Freed()
    assert contents(direct) == before
    assert direct.call("GET", "/v2/app/manifests/v1").status == 200


def test_what_no_manifest_needs_goes(direct):
    direct.push_image("app", "v1", b"a")
    kept = contents(direct)
    digest = direct.push_image("app", "v2", b"bb")
    direct.push_blob("app", b"never used")
    direct.call("DELETE", f"/v2/app/manifests/{digest}")
    freed = collect(direct)
    assert contents(direct) == kept
    assert (freed.blobs, freed.links) == (3, 2)
    assert freed.size_bytes > len(b"bb" + b"never used")
    assert direct.call("HEAD", f"/v2/app/blobs/{oci.digest_of(b'bb')}").status == 404


def test_untagged_manifests_and_the_members_of_an_index_stay(direct):
    child = direct.push_image("app", "v1", b"a")
    entry = {"mediaType": oci.MANIFEST, "digest": child, "size": 1}
    direct.push_manifest("app", "all", {"schemaVersion": 2, "manifests": [entry]}, oci.INDEX)
    for tag in ("v1", "all"):
        direct.call("DELETE", f"/v2/app/manifests/{tag}")
    before = contents(direct)
    assert collect(direct) == garbage.Freed()
    assert contents(direct) == before


def test_a_push_under_way_keeps_its_blobs(direct):
    direct.push_blob("app", b"just pushed")
    assert collect(direct, timedelta(0)) == garbage.Freed()
    assert collect(direct, timedelta(0), grace_s=-60).blobs == 1


def age(direct):
    """Make everything look as if nobody had used it for long."""
    for table in ("contents", "blob_links"):
        direct.hub.database.write(
            lambda cursor, table=table: cursor.run(f"UPDATE {table} SET used_s = 0")
        )


@pytest.mark.parametrize("use", ["head", "mount", "push", "push elsewhere", "manifest"])
def test_telling_a_client_that_it_need_not_upload_keeps_the_blob(direct, use):
    digest = direct.push_blob("app", b"old blob")["digest"]
    config = direct.push_blob("app", b"{}")
    age(direct)
    match use:
        case "head":
            direct.call("HEAD", f"/v2/app/blobs/{digest}")
        case "mount":
            direct.call("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=app")
        case "push":
            direct.push_blob("app", b"old blob")
        case "push elsewhere":
            direct.push_blob("other", b"old blob")
        case "manifest":
            content = image(config, [{"digest": digest, "size": 8}])
            direct.push_manifest("app", "v1", content)
    collect(direct, timedelta(0))
    assert digest in contents(direct)
    repository = "other" if use in ("mount", "push elsewhere") else "app"
    assert direct.call("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200


def test_collecting_beside_pushes_never_breaks_an_image(direct):
    stop = threading.Event()
    failures = []

    def keep_collecting():
        while not stop.is_set():
            try:
                collect(direct, timedelta(0))
            except UnderwayError as error:
                failures.append(error)

    thread = threading.Thread(target=keep_collecting)
    thread.start()
    try:
        for number in range(25):
            layer = f"layer {number % 3}".encode()
            digest = direct.push_image("app", f"v{number}", layer)
            if number % 4 == 0:
                direct.call("DELETE", f"/v2/app/manifests/{digest}")
                age(direct)
    finally:
        stop.set()
        thread.join()
    collect(direct)
    for tag in json.loads(direct.call("GET", "/v2/app/tags/list").body)["tags"]:
        manifest = json.loads(direct.call("GET", f"/v2/app/manifests/{tag}").body)
        for part in [manifest["config"], *manifest["layers"]]:
            assert direct.call("GET", f"/v2/app/blobs/{part['digest']}").status == 200
    assert failures == []


def test_uploads_nobody_went_on_with_are_thrown_away(direct):
    location = direct.call("POST", "/v2/app/blobs/uploads/").headers["location"]
    assert collect(direct, timedelta(hours=23)).uploads == 0
    assert collect(direct, timedelta(hours=25)).uploads == 1
    assert direct.call("GET", location).status == 404


def test_files_left_aside_by_a_crash_go(direct):
    digest = direct.push_blob("app", b"x" * 20_000)["digest"]
    folder = direct.home.registry / "blobs" / "sha256" / digest[7:9]
    left = [folder / ".left.1234", folder / f"{digest[7:]}.0badf00d"]
    for file in left:
        file.write_bytes(b"half")
    collect(direct, timedelta(minutes=1))
    assert all(file.exists() for file in left)
    direct.push_image("app", "v1", b"x" * 20_000)
    collect(direct)
    assert not any(file.exists() for file in left)
    assert direct.call("GET", f"/v2/app/blobs/{digest}").body == b"x" * 20_000


def test_a_trial_counts_and_frees_nothing(direct):
    direct.push_image("app", "v1", b"a")
    direct.push_blob("app", b"never used")
    before = contents(direct)
    told = collect(direct, dry_run=True)
    assert (told.blobs, told.size_bytes) == (1, len(b"never used"))
    assert contents(direct) == before


def test_manifests_without_a_tag_go_only_if_asked(direct):
    digest = direct.push_image("app", "v1", b"a")
    direct.push_image("app", "v1", b"b")
    assert collect(direct).manifests == 0
    assert direct.call("GET", f"/v2/app/manifests/{digest}").status == 200
    assert collect(direct, untagged=True).manifests == 1
    assert direct.call("GET", f"/v2/app/manifests/{digest}").status == 404
    assert direct.call("GET", "/v2/app/manifests/v1").status == 200


def invoke(direct, *args):
    with environment(UNDERWAY_HOME=str(direct.home.root)):
        return CliRunner().invoke(cli.registry, args)


def test_the_command_lists_images(direct):
    assert "No images" in invoke(direct, "list").output
    digest = direct.push_image("team/app", "v1", b"x" * 2000)
    direct.push_image("other", "v1", b"y")
    shown = invoke(direct, "list").output.splitlines()
    assert [line.split()[0] for line in shown] == ["other:v1", "team/app:v1"]
    (row,) = json.loads(invoke(direct, "list", "team/app", "-o", "json").output)
    assert (row["digest"], row["sizeBytes"]) == (digest, 2002)
    assert isinstance(invoke(direct, "list", "../..").exception, BadRequest)
    assert isinstance(invoke(direct, "list", "none").exception, UnderwayError)


def test_the_command_collects_garbage(direct):
    direct.push_blob("app", b"x" * 2048)
    assert "0 blobs" in invoke(direct, "gc").output
    age(direct)
    assert "Freed 2.0 KiB: 1 blobs" in invoke(direct, "gc").output


def test_the_command_says_where_there_is_no_registry(tmp_path):
    with environment(UNDERWAY_HOME=str(tmp_path)):
        assert isinstance(CliRunner().invoke(cli.registry, ["gc"]).exception, NotFound)
    assert list(tmp_path.iterdir()) == []


def race(direct, number, steps, acknowledged):
    """One client's pushes, mounts and deletes under tags of its own; repeats what is refused."""
    chance = random.Random(number)
    for step in range(steps):
        repository = f"race/app{chance.randrange(4)}"
        path = f"/v2/{repository}/manifests/c{number}-{chance.randrange(6)}"
        if chance.random() < 0.3:
            if data := acknowledged.pop(path, b""):
                manifest = f"/v2/{repository}/manifests/{oci.digest_of(data)}"
                assert direct.call("DELETE", manifest).status == 202
            continue
        shared = f"shared {chance.randrange(5)}".encode()
        status = 404
        while status == 404:
            mount = f"mount={oci.digest_of(shared)}&from=race/app{chance.randrange(4)}"
            direct.call("POST", f"/v2/{repository}/blobs/uploads/?{mount}")
            parts = [direct.push_blob(repository, f"{number}/{step}".encode())]
            parts.append({"digest": oci.digest_of(shared), "size": len(shared)})
            if direct.call("HEAD", f"/v2/{repository}/blobs/{parts[1]['digest']}").status == 404:
                direct.push_blob(repository, shared)
            config = direct.push_blob(repository, b"{}")
            data = json.dumps(image(config, parts)).encode()
            status = direct.call("PUT", path, data, content_type=oci.MANIFEST).status
        assert status == 201
        acknowledged[path] = data


def test_concurrent_pushes_mounts_and_deletes_beside_collection_lose_nothing(direct):
    stop, freed = threading.Event(), []
    acknowledged = [{} for _ in range(8)]

    def keep_collecting():
        storage = Storage(direct.home.registry)
        while not stop.is_set():
            freed.append(garbage.collect(storage, SystemClock().now(), grace_s=0))

    with ThreadPoolExecutor(9) as pool:
        collecting = pool.submit(keep_collecting)
        try:
            list(pool.map(partial(race, direct), range(8), repeat(STEPS), acknowledged))
        finally:
            stop.set()
        collecting.result()
    assert sum(each.links for each in freed) > 0
    kept = {path: data for each in acknowledged for path, data in each.items()}
    assert kept
    for path, data in kept.items():
        assert direct.call("GET", path).body == data
        manifest = json.loads(data)
        for part in [manifest["config"], *manifest["layers"]]:
            blob = f"{path.partition('/manifests/')[0]}/blobs/{part['digest']}"
            assert oci.digest_of(direct.call("GET", blob).body) == part["digest"]
