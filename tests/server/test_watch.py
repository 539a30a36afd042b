"""Watches lose, double and reorder nothing."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.server.running import configmap, deployment, request, serve

from underway.api.resources import CONFIGMAPS, DEPLOYMENTS
from underway.base.clock import FakeClock, SystemClock
from underway.base.errors import Expired
from underway.client import Client
from underway.server import watch as watching
from underway.server.store import Key, Store
from underway.server.watch import Hub, Watch


class Plain:
    name = "plain"

    def one(self, data):
        return data

    def bookmark(self, metadata):
        return msgspec.json.encode({"metadata": metadata})


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "delete"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["x", "y", "z"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)
WATCHES = st.lists(
    st.tuples(
        st.integers(0, 40),  # begins after this many operations
        st.sampled_from(["", "a"]),  # namespace
        st.booleans(),  # by selector
        st.booleans(),  # from the current objects, or from a version
        st.integers(0, 40),  # how many operations that version lies back
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=OPERATIONS, watches=WATCHES)
def test_every_watch_arrives_at_the_stores_state_in_order(operations, watches):
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_replay(Path(directory) / "db", operations, watches))


async def _replay(path, operations, watches):
    store = Store(path)
    store.open()
    hub = Hub(store, SystemClock())
    hub.start()
    versions = [store.resource_version]
    states = [{}]
    serial = 0
    results = []
    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(len(operations) + 1):
                for start, namespace, selecting, fresh, back in watches:
                    if min(start, len(operations)) != number:
                        continue
                    origin = max(0, number - back)
                    watch = Watch(
                        "things",
                        Plain(),
                        namespace=namespace,
                        since=None if fresh else versions[origin],
                        match=(lambda o: o["metadata"]["labels"]["on"]) if selecting else None,
                    )
                    frames = []
                    base = {} if fresh else states[origin]
                    results.append((watch, base, frames))
                    begun = asyncio.Event()
                    tasks.create_task(_collect(hub, watch, frames, begun))
                    await begun.wait()
                if number == len(operations):
                    break
                kind, namespace, name, on = operations[number]
                key = Key("things", namespace, name)
                row = store.latest(key)
                if kind == "write":
                    serial += 1
                    uid = row.uid if row else f"uid{serial}"
                    obj = {"metadata": {"name": name, "uid": uid, "labels": {"on": on}}}
                    if row is None:
                        await store.create(key, obj)
                    else:
                        await store.replace(key, obj, row)
                elif row is not None:
                    await store.delete(key, row.decode(), row)
                versions.append(store.resource_version)
                states.append({row.key: row.decode() for row in store.rows("things")})
            hub.stop()
    finally:
        await store.close()
    for watch, base, frames in results:
        _check(watch, base, frames, states[-1])


async def _collect(hub, watch, frames, begun):
    asyncio.get_running_loop().call_soon(begun.set)
    async for frame in hub.stream(watch):
        frames.append(msgspec.json.decode(frame))


def _selected(watch, state):
    """uid -> version of the objects a watch is about."""
    return {
        obj["metadata"]["uid"]: obj["metadata"]["resourceVersion"]
        for key, obj in state.items()
        if (not watch.namespace or key.namespace == watch.namespace)
        and (watch.match is None or watch.match(obj))
    }


def _check(watch, base, frames, final):
    seen = _selected(watch, base)
    last = watch.since or 0
    for frame in frames:
        metadata = frame["object"]["metadata"]
        uid, version = metadata["uid"], metadata["resourceVersion"]
        if watch.since is not None:
            assert int(version) > last
            last = int(version)
        match frame["type"]:
            case "ADDED":
                assert uid not in seen
                seen[uid] = version
            case "MODIFIED":
                assert uid in seen
                assert int(seen[uid]) < int(version)
                seen[uid] = version
            case "DELETED":
                assert int(seen.pop(uid)) < int(version)
    assert seen == _selected(watch, final)


async def _take(iterator, count):
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found.append(await anext(iterator))
    return found


def test_a_watch_from_nowhere_begins_with_what_is_there(tmp_path):
    async def scenario(_server, client):
        await client.create(CONFIGMAPS, configmap("a"), "default")
        async with contextlib.aclosing(client.watch(CONFIGMAPS, "default")) as events:
            first = await _take(events, 1)
            assert first[0].type == "ADDED"
            await client.create(CONFIGMAPS, configmap("b"), "default")
            (second,) = await _take(events, 1)
            assert (second.type, second.object["metadata"]["name"]) == ("ADDED", "b")

    serve(tmp_path, scenario)


def test_an_object_enters_and_leaves_a_selector(tmp_path):
    async def scenario(_server, client):
        start = (await client.list(CONFIGMAPS, "default")).resource_version
        events = client.watch(CONFIGMAPS, "default", resource_version=start, labels="on=yes")
        async with contextlib.aclosing(events):
            await client.create(CONFIGMAPS, configmap("a"), "default")
            for value in ("yes", "yes", "no"):
                body = {"metadata": {"labels": {"on": value}}, "data": {"at": value}}
                await client.patch(CONFIGMAPS, "a", body, "default")
            body = {"metadata": {"labels": {"on": "yes"}}}
            await client.patch(CONFIGMAPS, "a", body, "default")
            await client.delete(CONFIGMAPS, "a", "default")
            found = await _take(events, 4)
        assert [event.type for event in found] == ["ADDED", "DELETED", "ADDED", "DELETED"]
        left = found[1].object
        assert left["metadata"]["labels"] == {"on": "yes"}
        assert left["data"] == {"at": "yes"}

    serve(tmp_path, scenario)


def test_a_version_before_the_history_is_expired(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "HISTORY_LIMIT", 5)

    async def scenario(server, client):
        old = (await client.list(CONFIGMAPS, "default")).resource_version
        for number in range(10):
            await client.create(CONFIGMAPS, configmap(f"m{number}"), "default")
        with pytest.raises(Expired, match="too old resource version"):
            await anext(client.watch(CONFIGMAPS, "default", resource_version=old))
        page = await client.list(CONFIGMAPS, "default", limit=2)
        for number in range(10):
            await client.patch(CONFIGMAPS, f"m{number}", {"data": {"x": "y"}}, "default")
        answer = await server.as_user("a", ["system:masters"])(
            request("GET", CONFIGMAPS.path("default"), f"limit=2&continue={page.continue_token}")
        )
        assert answer.status == 410
        token = answer.json()["metadata"]["continue"]
        rest = await client.list(CONFIGMAPS, "default", limit=2, continue_token=token)
        assert [item["metadata"]["name"] for item in rest.items] == ["m2", "m3"]

    serve(tmp_path, scenario)


def test_pages_show_the_state_of_the_first_page(tmp_path):
    async def scenario(_server, client):
        for name in "abcde":
            await client.create(CONFIGMAPS, configmap(name), "default")
        first = await client.list(CONFIGMAPS, "default", limit=2)
        await client.delete(CONFIGMAPS, "c", "default")
        await client.create(CONFIGMAPS, configmap("cc"), "default")
        await client.patch(CONFIGMAPS, "d", {"data": {"x": "y"}}, "default")
        rest = await client.list(
            CONFIGMAPS, "default", limit=10, continue_token=first.continue_token
        )
        assert [i["metadata"]["name"] for i in first.items + rest.items] == list("abcde")
        assert rest.resource_version == first.resource_version
        assert "data" not in rest.items[1] or rest.items[1]["data"] == {}

    serve(tmp_path, scenario)


def test_streaming_lists_end_with_a_marked_bookmark(tmp_path):
    async def scenario(server, client):
        await client.create(CONFIGMAPS, configmap("a"), "default")
        query = (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
            "&allowWatchBookmarks=true"
        )
        answer = await client.request("GET", CONFIGMAPS.path("default"), query)
        async with contextlib.aclosing(answer.body) as frames:
            found = [msgspec.json.decode(frame) for frame in await _take(frames, 2)]
        assert [frame["type"] for frame in found] == ["ADDED", "BOOKMARK"]
        mark = found[1]["object"]["metadata"]
        assert mark["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert mark["resourceVersion"] == str(server.store.resource_version)

    serve(tmp_path, scenario)


def test_bookmarks_come_and_a_watch_ends_in_its_time(tmp_path):
    clock = FakeClock()

    async def scenario(_server, client):
        start = (await client.list(CONFIGMAPS, "default")).resource_version
        found = []

        async def follow():
            events = client.watch(CONFIGMAPS, "default", resource_version=start, timeout_s=100)
            found.extend([event.type async for event in events])

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(follow())
            while not task.done():
                await clock.advance(1)
        assert found == ["BOOKMARK"]

    serve(tmp_path, scenario, clock=clock)


def test_a_slow_watcher_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "QUEUE_LIMIT", 10)

    async def scenario(server, client):
        start = (await client.list(CONFIGMAPS, "default")).resource_version
        events = client.watch(CONFIGMAPS, "default", resource_version=start)
        await client.create(CONFIGMAPS, configmap("first"), "default")
        await anext(events)
        for number in range(30):
            await client.create(CONFIGMAPS, configmap(f"m{number}"), "default")
        names = [event.object["metadata"]["name"] async for event in events]
        assert names == [f"m{number}" for number in range(10)]
        assert server.hub.watcher_count == 0

    serve(tmp_path, scenario)


def test_watchers_of_tables_and_of_metadata_get_those(tmp_path):
    async def scenario(server, _client):
        handler = server.as_user("a", ["system:masters"])
        await Client(handler).create(DEPLOYMENTS, deployment("web"), "default")
        for kind in ("Table", "PartialObjectMetadata"):
            answer = await handler(
                request(
                    "GET",
                    DEPLOYMENTS.path("default"),
                    "watch=1",
                    accept=f"application/json;as={kind};v=v1;g=meta.k8s.io",
                )
            )
            async with contextlib.aclosing(answer.body) as frames:
                frame = msgspec.json.decode(await anext(frames))
            assert frame["type"] == "ADDED"
            assert frame["object"]["kind"] == kind

    serve(tmp_path, scenario)
