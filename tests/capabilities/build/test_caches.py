"""The cache beyond one machine: what is shared, what never is, and what is not believed."""

import json
import os
import shutil
import subprocess
import time
import urllib.request

import pytest
from tests.capabilities.build.test_push import free_port

from underway.base.clock import SystemClock
from underway.base.errors import UnderwayError
from underway.base.home import Home
from underway.capabilities.build.backend.builder import Builder, Extras
from underway.capabilities.build.backend.caches import (
    CacheSource,
    CacheSpec,
    LayerRepository,
    export,
)
from underway.capabilities.build.backend.digests import Digests
from underway.capabilities.build.backend.kaniko_registries import opener
from underway.capabilities.build.backend.outputs import Access
from underway.kit.ports import BuildRequest
from underway.wire.oci import Reference

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]

TEXT = (
    "FROM busybox AS one\nARG V=1\nCOPY a /a\nRUN echo $V; date +%N > /random\n"
    "FROM busybox\nCOPY --from=one /random /\nWORKDIR /w\nRUN echo ran > x\n"
)


def make(home, context, extras=None, text=TEXT, **options):
    file = context.parent / "Dockerfile"
    file.write_text(text)
    request = BuildRequest(context=context, dockerfile=file, tag="t:1", push=False, **options)
    told = []
    result, made = Builder(home).make(request, told.append, extras or Extras())
    return result, made, told


@pytest.fixture
def registry(tmp_path):
    """Debian's docker-registry, over plain http: its address."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed")
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {tmp_path}/registry\n"
        f"http:\n  addr: 127.0.0.1:{port}\nlog:\n  level: error\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
            break
        except OSError:
            time.sleep(0.05)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def open_plain(home, host):
    return opener(home, Access(insecure=frozenset({host})))


@pytest.mark.parametrize("kind", ["registry", "local", "inline", "kaniko"])
def test_a_second_machine_takes_every_step_from_the_first(yard, tmp_path, registry, kind):
    yard.put("a", "1")
    first, made, _ = make(yard.home, yard.context, Extras(inline_cache=kind == "inline"))
    other = Home(tmp_path / "other")
    name = f"{registry}/team/cache:c"
    opening = open_plain(yard.home, registry)
    if kind == "kaniko":
        lender = LayerRepository(Reference.parse(name), opening, SystemClock(), 60.0)
        lender.keep(made.keys, made.shelf, pytest.fail)
        lender.keep(made.keys, made.shelf, pytest.fail)
    elif kind == "inline":
        from underway.capabilities.build.backend.origins import push

        with opening(Reference.parse(name)) as (client, repository):
            push(client, repository, "c", made.documents, made.image, made.shelf)
        lender = CacheSource(CacheSpec("registry", name), opening)
    else:
        spec = CacheSpec(kind, name if kind == "registry" else str(tmp_path / "c"), everything=True)
        export(spec, made.keys, made.shelf, opening)
        lender = CacheSource(spec, opening)
    extras = Extras(lenders=[lender], inline_cache=kind == "inline")
    again, _, told = make(other, yard.context, extras)
    if kind == "inline":  # it keeps the last stage's steps only
        assert again.steps_cached == 0 or again.digest == first.digest
        assert any("COPY a /a" in line and "(cached)" not in line for line in told)
        return
    assert again.steps_cached == 5, told
    assert again.digest == first.digest
    third, _, _ = make(other, yard.context)
    assert third.steps_cached == 5


def test_an_entry_that_is_not_what_it_says_is_run_anew(yard, tmp_path):
    yard.put("a", "1")
    _, made, _ = make(yard.home, yard.context)
    folder = tmp_path / "c"
    spec = CacheSpec("local", str(folder), everything=True)
    export(spec, made.keys, made.shelf, open_plain(yard.home, "x"))
    index = json.loads((folder / "index.json").read_text())
    manifest = json.loads(
        (folder / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text()
    )
    for layer in manifest["layers"]:
        blob = folder / "blobs/sha256" / layer["digest"][7:]
        data = bytearray(blob.read_bytes())
        blob.unlink()
        data[-5] ^= 1
        blob.write_bytes(data)
    other = Home(tmp_path / "other")
    lender = CacheSource(spec, open_plain(other, "x"))
    result, _, told = make(other, yard.context, Extras(lenders=[lender]))
    assert result.steps_cached == 1  # its layer, the one RUN makes, is here by now
    assert sum("is in truth" in line for line in told) >= 3
    lost = CacheSource(CacheSpec("local", str(tmp_path / "none")), open_plain(other, "x"))
    _, _, told = make(other, yard.context, Extras(lenders=[lost]), no_cache=False)
    garbage = tmp_path / "garbage"
    (garbage / "blobs/sha256").mkdir(parents=True)
    (garbage / "index.json").write_text("{}")
    broken = CacheSource(CacheSpec("local", str(garbage)), open_plain(other, "x"))
    with pytest.raises((UnderwayError, KeyError)):
        broken._read()


def test_a_damaged_blob_of_this_machines_is_noticed(yard):
    yard.put("a", "1")
    _, made, _ = make(yard.home, yard.context)
    layer = made.image.layers[-1]
    blob = made.shelf.blob(layer.digest)
    data = bytearray(blob.read_bytes())
    data[-5] ^= 1
    status = blob.stat()
    blob.write_bytes(data)
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))  # a change time cannot be set back
    again, remade, _ = make(yard.home, yard.context)
    assert again.steps_cached == 4
    assert remade.shelf.has(remade.image.layers[-1])


BASE = {
    "text": TEXT, "args": {}, "a": "1", "mode": 0o644, "ignore": "", "epoch": "", "name": "a",
}  # fmt: skip
CHANGES = [
    {"text": TEXT.replace("echo ran", "echo Ran")},
    {"text": TEXT.replace("COPY a /a", "COPY --chmod=600 a /a")},
    {"text": TEXT.replace("COPY a /a", "COPY --chown=1 a /a")},
    {"text": TEXT.replace("COPY a /a", "COPY a /b")},
    {"text": TEXT.replace("/w\n", "/v\n")},
    {"text": TEXT.replace("ARG V=1", "ARG V=2")},
    {"text": TEXT.replace("ARG V=1", "ENV W=1")},
    {"text": TEXT.replace("RUN echo ran", "USER 0:5\nRUN echo ran")},
    {"text": TEXT.replace("RUN echo ran > x", "RUN <<E\necho ran > x\nE")},
    {"text": TEXT.replace("RUN echo ran > x", "RUN --network=none echo ran > x")},
    {"args": {"V": "3"}},
    {"args": {"SOURCE_DATE_EPOCH": "1000"}},
    {"a": "2"},
    {"a": "1\n"},
    {"mode": 0o755},
]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_any_single_input_changes_a_key_and_none_runs_nothing(shared_yard, change):
    yard = shared_yard

    def keys(**inputs):
        wanted = {**BASE, **inputs}
        yard.put("a", wanted["a"], wanted["mode"])
        # The random step makes keys after it depend on what ran: all come from one cache.
        result, made, _ = make(
            yard.home, yard.context, text=wanted["text"], build_args=wanted["args"]
        )
        return result, {key for key, _ in made.keys}

    _, before = keys()
    unchanged, again = keys()
    assert unchanged.steps_cached == 5
    assert again == before
    _, after = keys(**change)
    assert after != before


def test_digests_are_remembered_only_for_files_that_stayed_as_they_were(tmp_path):
    file, memory = tmp_path / "f", tmp_path / "memory"
    file.write_text("one")
    long_ago = time.time_ns() - 10 * 10**9
    first = Digests(memory)
    wrong = "0" * 64
    first.note(file, wrong)  # only so can a hit be told from reading again
    first.save()
    assert Digests(memory).of(str(file), file.stat()) == wrong
    os.utime(file, ns=(long_ago, long_ago))  # this changes the change time
    right = Digests(memory).of(str(file), file.stat())
    assert right != wrong
    file.write_text("two")
    assert Digests(memory).of(str(file), file.stat()) != right
    memory.write_bytes(b"junk")
    assert Digests(memory).of(str(file), file.stat()) not in (right, wrong)
