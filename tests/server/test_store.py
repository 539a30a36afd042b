"""The store keeps what it acknowledged, in order, whatever happens."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from underway.base.errors import AlreadyExists, Conflict, InternalError, ServiceUnavailable
from underway.server.store import Key, Store


def obj(name, uid=None, **extra):
    return {"metadata": {"name": name, "uid": uid or f"uid-{name}"}, **extra}


def key(name, namespace="default", resource="configmaps"):
    return Key(resource, namespace, name)


def run(path, scenario):
    async def main():
        store = Store(path)
        store.open()
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(main())


def test_objects_and_versions_survive_a_restart(tmp_path):
    path = tmp_path / "store" / "cluster.db"

    async def first(store):
        row = await store.create(key("a"), obj("a", data={"x": "1"}))
        await store.create(key("b"), obj("b"))
        await store.delete(key("b"), obj("b"), store.get(key("b")))
        return row, store.resource_version

    row, version = run(path, first)

    async def second(store):
        assert store.resource_version == version
        assert store.get(key("a")) == row
        assert store.get(key("b")) is None
        newer = await store.create(key("b"), obj("b", uid="uid-b2"))
        assert newer.rv > version

    run(path, second)


def test_a_name_is_taken_once_and_a_stale_state_is_not_replaced(tmp_path):
    async def scenario(store):
        row = await store.create(key("a"), obj("a"))
        with pytest.raises(AlreadyExists):
            await store.create(key("a"), obj("a", uid="other"))
        await store.replace(key("a"), obj("a", data={}), row)
        with pytest.raises(Conflict):
            await store.replace(key("a"), obj("a"), row)
        with pytest.raises(Conflict):
            await store.delete(key("a"), obj("a"), row)

    run(tmp_path / "db", scenario)


def test_writers_see_writes_under_way_and_readers_only_committed_ones(tmp_path):
    async def scenario(store):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(store.create(key("a"), obj("a")))
            await asyncio.sleep(0)
            assert store.get(key("a")) is None
            pending = store.latest(key("a"))
            assert pending is not None
            tasks.create_task(store.replace(key("a"), obj("a", data={"n": "2"}), pending))
        assert store.get(key("a")).decode()["data"] == {"n": "2"}

    run(tmp_path / "db", scenario)


def test_changes_are_told_in_the_order_of_their_versions(tmp_path):
    async def scenario(store):
        told = []
        store.subscribe(lambda change: told.append((change.row.rv, change.type)))
        async with asyncio.TaskGroup() as tasks:
            for number in range(200):
                tasks.create_task(store.create(key(f"n{number}"), obj(f"n{number}")))
        assert [rv for rv, _ in told] == sorted(rv for rv, _ in told)
        assert len(told) == 200

    run(tmp_path / "db", scenario)


def test_rows_are_listed_by_namespace_and_name(tmp_path):
    async def scenario(store):
        for namespace, name in [("b", "1"), ("a", "2"), ("a", "1"), ("a-b", "1")]:
            await store.create(key(name, namespace), obj(name, uid=namespace + name))
        await store.delete(key("2", "a"), obj("2", uid="a2"), store.get(key("2", "a")))
        found = [(row.key.namespace, row.key.name) for row in store.rows("configmaps")]
        assert found == [("a", "1"), ("a-b", "1"), ("b", "1")]
        assert [row.key.name for row in store.rows("configmaps", "a")] == ["1"]

    run(tmp_path / "db", scenario)


def test_the_database_is_opened_by_one_process_at_a_time(tmp_path):
    async def scenario(store):
        other = Store(tmp_path / "db")
        with pytest.raises(ServiceUnavailable, match="in use"):
            other.open()

    run(tmp_path / "db", scenario)


def test_a_failed_commit_fails_all_that_stood_on_it_and_the_store_goes_on(tmp_path):
    async def scenario(store):
        await store.create(key("a"), obj("a"))
        taken = obj("b", uid="uid-a")  # breaks the uniqueness of UIDs inside the transaction

        async def attempt(name, value):
            with pytest.raises(InternalError):
                await store.create(key(name), value)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(attempt("b", taken))
            tasks.create_task(attempt("c", obj("c")))
        assert store.latest(key("b")) is None
        assert store.latest(key("c")) is None
        await store.create(key("c"), obj("c"))
        assert [row.key.name for row in store.rows("configmaps")] == ["a", "c"]

    run(tmp_path / "db", scenario)


def test_a_listener_that_fails_costs_neither_the_writer_nor_other_listeners(tmp_path, caplog):
    async def scenario(store):
        def failing(_change):
            raise KeyError("oops")

        heard = []
        store.subscribe(failing)
        store.subscribe(lambda change: heard.append(change.row.key.name))
        async with asyncio.timeout(10):
            await store.create(key("a"), obj("a"))
        assert heard == ["a"]

    run(tmp_path / "db", scenario)
    assert "a listener failed" in caplog.text


def test_what_sqlite_cannot_take_fails_its_writer_and_no_other(tmp_path):
    async def scenario(store):
        async with asyncio.timeout(10):
            with pytest.raises(InternalError):
                await store.create(key("\udc80"), obj("a"))
            await store.create(key("b"), obj("b"))
        assert [row.key.name for row in store.rows("configmaps")] == ["b"]

    run(tmp_path / "db", scenario)


WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from underway.server.store import Key, Store

    async def main():
        store = Store(Path(sys.argv[1]))
        store.open()

        async def writer(number):
            turn = 0
            while True:
                name = f"w{number}-{turn}"
                made = {"metadata": {"name": name, "uid": name}, "data": {"x": "y" * 500}}
                row = await store.create(Key("configmaps", "default", name), made)
                sys.stdout.write(f"{name} {row.rv}\\n")
                sys.stdout.flush()
                turn += 1

        async with asyncio.TaskGroup() as tasks:
            for number in range(16):
                tasks.create_task(writer(number))

    asyncio.run(main())
    """
)


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path):
    path = tmp_path / "cluster.db"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    acknowledged = {}
    try:
        for line in child.stdout:
            if line.endswith("\n"):
                name, version = line.split()
                acknowledged[name] = int(version)
            if len(acknowledged) == 800:
                os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait(10)
        child.stdout.close()

    async def reopened(store):
        for name, version in acknowledged.items():
            row = store.get(key(name))
            assert row is not None
            assert row.rv == version
        assert store.resource_version >= max(acknowledged.values())

    assert len(acknowledged) >= 800
    run(path, reopened)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
