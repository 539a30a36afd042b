"""Images nobody pushed are made when they are first asked for."""

import asyncio
import hashlib
import json
import threading

import pytest
from tests.capabilities.registry.conftest import Direct, OnePort, image

from underway.base.errors import InternalError
from underway.base.home import Home
from underway.capabilities.registry.backend.storage import Storage
from underway.kit.ports import BaseImage
from underway.wire import oci

REDIS = "docker.io/library/redis"


class Images:
    """The port ``base-images``, making a tiny image."""

    def __init__(self):
        self.made = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.spoil = ""

    def offers(self, reference):
        return reference.startswith(f"{REDIS}:")

    def provide(self, reference, layout, progress):
        self.made.append(reference)
        self.begun.set()
        assert self.go.wait(20)
        if self.spoil == "fail":
            raise InternalError("mmdebstrap failed: no network", hint="look at the network")
        progress("assembled")
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        parts = []
        for data in (b"{}", b"layer"):
            value = hashlib.sha256(data).hexdigest()
            (blobs / value).write_bytes(b"other" if self.spoil == "content" else data)
            parts.append({"digest": f"sha256:{value}", "size": len(data)})
        manifest = json.dumps(image(parts[0], parts[1:])).encode()
        digest = oci.digest_of(manifest)
        (blobs / digest[7:]).write_bytes(manifest)
        return BaseImage(reference, REDIS, digest, "stand-in")


@pytest.fixture
def images():
    return Images()


@pytest.fixture
def registry(tmp_path, images):
    return Direct(Home(tmp_path), OnePort(images))


def test_an_image_is_made_at_the_first_request_and_kept(registry, images):
    for method in ("HEAD", "GET", "GET"):
        assert registry.call(method, f"/v2/{REDIS}/manifests/7").status == 200
    assert images.made == [f"{REDIS}:7"]
    manifest = json.loads(registry.call("GET", f"/v2/{REDIS}/manifests/7").body)
    layer = manifest["layers"][0]["digest"]
    assert registry.call("GET", f"/v2/{REDIS}/blobs/{layer}").body == b"layer"
    assert not list((registry.home.registry / "making").iterdir())


def test_an_image_somebody_pushed_is_not_made(registry, images):
    registry.push_image(REDIS, "7", b"mine")
    registry.call("GET", f"/v2/{REDIS}/manifests/7")
    assert images.made == []


def test_what_is_not_offered_stays_unknown(registry, images):
    for path in ("docker.io/library/other/manifests/1", f"{REDIS}/manifests/sha256:{'0' * 64}"):
        assert registry.call("GET", f"/v2/{path}").status == 404
    assert images.made == []


def test_many_who_ask_at_once_wait_for_one_job(registry, images):
    images.go.clear()

    async def go():
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(registry.acall("GET", f"/v2/{REDIS}/manifests/7"))
                for _ in range(10)
            ]
            await asyncio.to_thread(images.begun.wait, 20)
            images.go.set()
        return [each.result().status for each in asked]

    assert asyncio.run(go()) == [200] * 10
    assert images.made == [f"{REDIS}:7"]


def test_one_who_gives_up_does_not_make_the_next_start_over(registry, images):
    images.go.clear()

    async def go():
        async with asyncio.TaskGroup() as group:
            first = group.create_task(registry.acall("GET", f"/v2/{REDIS}/manifests/7"))
            await asyncio.to_thread(images.begun.wait, 20)
            first.cancel()
            second = group.create_task(registry.acall("GET", f"/v2/{REDIS}/manifests/7"))
            await asyncio.sleep(0)
            images.go.set()
        return second.result().status

    assert asyncio.run(go()) == 200
    assert images.made == [f"{REDIS}:7"]


def test_an_image_that_cannot_be_made_says_why_and_is_tried_again(registry, images):
    images.spoil = "fail"
    answer = registry.call("GET", f"/v2/{REDIS}/manifests/7")
    (error,) = json.loads(answer.body)["errors"]
    assert (answer.status, error["code"]) == (500, "UNKNOWN")
    assert "no network" in error["message"]
    images.spoil = ""
    assert registry.call("GET", f"/v2/{REDIS}/manifests/7").status == 200


def test_content_that_is_not_what_it_says_does_not_get_in(registry, images):
    images.spoil = "content"
    assert registry.call("GET", f"/v2/{REDIS}/manifests/7").status == 400
    storage = Storage(registry.home.registry)
    assert storage.database.all("SELECT digest FROM contents") == []
    assert not list((registry.home.registry / "blobs").rglob(".*"))


def test_without_a_maker_of_images_the_registry_serves_what_was_pushed(direct):
    assert direct.call("GET", f"/v2/{REDIS}/manifests/7").status == 404
