"""A snapshot is whole or not there, and restoring it leads back, whatever happens on the way."""

import asyncio
import functools
import os
import shutil
import signal
import sqlite3
import sys
from types import SimpleNamespace

import pytest
from tests.server.running import configmap, running, serve

from underway.api.resources import CONFIGMAPS, SECRETS
from underway.base.errors import (
    AlreadyExists,
    BadRequest,
    Expired,
    InternalError,
    NotFound,
    ServiceUnavailable,
)
from underway.base.home import Home, Settings
from underway.server import snapshots, store
from underway.transport import pki


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("keys"))
    pki.ensure_pki(home, Settings())
    return home.pki


@pytest.fixture
def home(tmp_path, keys):
    found = Home(tmp_path / "home")
    shutil.copytree(keys, found.pki)
    found.save_settings(Settings(node_name="first"))
    found.kubeconfig.write_text("kubeconfig of old")
    return found


def put(name):
    async def scenario(server, admin):
        await admin.create(CONFIGMAPS, configmap(name, x=name), "default")
        return server.store.resource_version

    return scenario


async def names(server, admin):
    found = await admin.list(CONFIGMAPS, "default")
    return {each["metadata"]["name"] for each in found.items} - {"kube-root-ca.crt"}


def test_a_cluster_comes_back_as_it_was(home):
    async def first(server, admin):
        await put("before")(server, admin)
        made = {"metadata": {"name": "s", "namespace": "default"}, "stringData": {"a": "b"}}
        await admin.create(SECRETS, made)

    serve(home.root, first)
    saved = snapshots.save(home, "one")
    assert snapshots.listed(home) == [saved]
    serve(home.root, put("after"))
    home.save_settings(Settings(node_name="second"))
    key = (home.pki / "encryption.key").read_bytes()
    (home.pki / "encryption.key").write_text("lost")
    (home.pki / "of-later").write_text("")
    home.kubeconfig.unlink()

    snapshots.restore(home, "one")

    async def look(server, admin):
        assert await names(server, admin) == {"before"}
        assert (await admin.get(SECRETS, "s", "default"))["data"] == {"a": "Yg=="}

    serve(home.root, look)
    assert home.load_settings().node_name == "first"
    assert (home.pki / "encryption.key").read_bytes() == key
    assert not (home.pki / "of-later").exists()
    assert home.kubeconfig.read_text() == "kubeconfig of old"
    assert {path.name for path in home.root.iterdir()} == {
        "kubeconfig", "logs", "pki", "settings.json", "snapshots", "store",
    }  # fmt: skip
    snapshots.delete(home, "one")
    assert snapshots.listed(home) == []
    assert [path.name for path in home.snapshots.iterdir()] == [".lock"]


def test_versions_never_go_back_so_that_old_watches_list_again(home):
    serve(home.root, put("before"))
    snapshots.save(home, "one")
    highest = serve(home.root, put("after"))
    for _ in range(2):  # also when restored again
        revision = snapshots.restore(home, "one")
        assert revision > highest

        async def scenario(server, admin, past=highest):
            assert server.store.resource_version > past
            with pytest.raises(Expired):
                async for _ in admin.watch(CONFIGMAPS, "default", resource_version=str(past)):
                    pass
            made = await admin.create(CONFIGMAPS, configmap("new"), "default")
            return int(made["metadata"]["resourceVersion"])

        newest = serve(home.root, scenario)
        assert newest > revision
        highest = newest


def test_a_running_cluster_is_saved_at_one_moment(home):
    async def scenario():
        async with running(home.root) as server:

            def save():
                return [snapshots.save(home, f"s{number}") for number in range(5)]

            number = 0
            async with asyncio.TaskGroup() as group:
                saving = group.create_task(asyncio.to_thread(save))
                while not saving.done():
                    # Always in pairs, each b after its a.
                    await server.admin.create(CONFIGMAPS, configmap(f"a{number}"), "default")
                    await server.admin.create(CONFIGMAPS, configmap(f"b{number}"), "default")
                    number += 1
            return saving.result(), number

    saved, number = asyncio.run(scenario())
    assert number > 1
    for each in saved:
        with sqlite3.connect(home.snapshots / each.name / "store" / "cluster.db") as database:
            rows = database.execute(
                "SELECT name, rv FROM objects WHERE resource = 'configmaps' AND name GLOB '[ab]*'"
            ).fetchall()
            last = database.execute("SELECT max(rv) FROM objects").fetchone()[0]
        database.close()
        found = {name for name, _ in rows}
        assert {f"a{name[1:]}" for name in found if name[0] == "b"} <= found
        assert last <= each.revision


def test_a_running_cluster_is_not_replaced(home):
    serve(home.root, put("before"))
    snapshots.save(home, "one")

    async def scenario(server, admin):
        await put("after")(server, admin)
        with pytest.raises(ServiceUnavailable, match="in use"):
            snapshots.restore(home, "one")
        return await names(server, admin)

    assert serve(home.root, scenario) == {"before", "after"}
    assert not list(home.root.glob(".aside-*"))


def test_wrong_names_and_damaged_snapshots_are_told_clearly(home):
    with pytest.raises(NotFound, match="there is no cluster"):
        snapshots.save(home, "early")
    serve(home.root, put("before"))
    for name in ("../x", ".hidden", "a/b", "x" * 64, "é"):
        with pytest.raises(BadRequest, match="is no name for a snapshot"):
            snapshots.save(home, name)
    made = snapshots.save(home)
    with pytest.raises(AlreadyExists):
        snapshots.save(home, made.name)
    for call in (snapshots.restore, snapshots.delete, snapshots.check):
        with pytest.raises(NotFound, match="there is no snapshot nothing"):
            call(home, "nothing")
    copied = home.snapshots / made.name / "store" / "cluster.db"
    whole = copied.read_bytes()
    for damaged in (
        b"",
        b"nonsense" * 1000,
        whole[:5000],
        whole[:4096] + b"\0" * (len(whole) - 4096),
    ):
        copied.write_bytes(damaged)
        with pytest.raises(InternalError):
            snapshots.restore(home, made.name)
    copied.write_bytes(whole)
    settings = home.snapshots / made.name / "settings.json"
    settings.write_text('{"nonsense": 1}')
    with pytest.raises(BadRequest, match=r"settings\.json"):
        snapshots.restore(home, made.name)
    settings.unlink()
    with pytest.raises(InternalError, match="is damaged"):
        snapshots.restore(home, made.name)
    assert serve(home.root, names) == {"before"}


def test_a_cluster_whose_database_is_lost_is_restored_far_ahead(home):
    serve(home.root, put("before"))
    snapshots.save(home, "one")
    highest = serve(home.root, put("after"))
    for wreck in (lambda path: path.write_bytes(b"x" * 9000), lambda path: path.unlink()):
        for leftover in home.database.parent.glob("cluster.db-*"):
            leftover.unlink()
        wreck(home.database)
        assert snapshots.restore(home, "one") > highest + 1_000_000
        assert serve(home.root, names) == {"before"}


# -- kill -9 -------------------------------------------------------------------------------

_TOUCHES = {"rename", "replace", "fsync", "unlink", "rmdir", "mkdir", "open", "write", "execute",
            "copyfile", "sendfile", "close"}  # fmt: skip


def killed_at(moment, action):
    """Run ``action`` in a child that kills itself before its ``moment``-th touch of the disk."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(_frame, event, called):
            nonlocal count
            if event == "c_call" and called.__name__ in _TOUCHES:
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(watch)
            action()
        finally:
            sys.setprofile(None)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture
def scene(home, tmp_path):
    """A home that a killed server left, its log still to be applied, with a snapshot of before."""
    serve(home.root, put("before"))
    snapshots.save(home, "one")

    async def leave():
        async with running(home.root) as server:
            await server.admin.create(CONFIGMAPS, configmap("after"), "default")
            copy = tmp_path / "left"
            shutil.copytree(home.root, copy)  # as a kill at this moment would leave it
            return Home(copy), server.store.resource_version

    left, highest = asyncio.run(leave())
    left.kubeconfig.write_text("kubeconfig of late")
    assert left.database.with_name("cluster.db-wal").stat().st_size > 0
    return SimpleNamespace(home=left, highest=highest)


def test_a_save_killed_at_any_moment_leaves_a_whole_snapshot_or_none(scene):
    home, moment, outcomes = scene.home, 0, set()
    killed = True
    while killed:
        moment += 1
        killed = killed_at(moment, lambda: snapshots.save(home, "two"))
        found = {each.name for each in snapshots.listed(home)}
        outcomes.add("two" in found)
        for name in found:
            snapshots.check(home, name)
        if "two" in found:
            snapshots.delete(home, "two")
    assert moment > 20
    assert outcomes == {False, True}
    assert store.revision_of(home.database) == scene.highest
    snapshots.save(home, "three")
    assert {path.name for path in home.snapshots.iterdir()} == {".lock", "one", "three"}


def test_a_restore_killed_at_any_moment_leaves_the_old_state_or_the_new(scene, tmp_path):
    moment, outcomes = 0, []
    killed = True
    while killed:
        moment += 1
        home = Home(tmp_path / "trial")
        shutil.copytree(scene.home.root, home.root)
        killed = killed_at(moment, functools.partial(snapshots.restore, home, "one"))
        snapshots.finish_restore(home)
        late = home.kubeconfig.read_text() == "kubeconfig of late"
        with sqlite3.connect(home.database) as database:
            rows = database.execute("SELECT name FROM objects WHERE resource = 'configmaps'")
            held = {name for (name,) in rows} & {"before", "after"}
        database.close()
        revision = store.revision_of(home.database)
        if late:
            assert held == {"before", "after"}
            assert revision == scene.highest
        else:
            assert held == {"before"}
            assert revision > scene.highest
        assert (home.pki / "ca.crt").read_bytes() == (scene.home.pki / "ca.crt").read_bytes()
        outcomes.append(late)
        shutil.rmtree(home.root)
    assert moment > 20
    assert set(outcomes) == {True, False}
    assert outcomes == sorted(outcomes, reverse=True)  # old up to one moment, new from there on
