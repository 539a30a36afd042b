"""Informers, controllers and the manager against the real embedded server."""

import asyncio

import pytest
from tests.cluster import api_server, cluster

from underway.api.objects import Object, name_of
from underway.api.resources import CONFIGMAPS, EVENTS_CORE, LEASES, SECRETS
from underway.base.clock import SystemClock
from underway.base.errors import ServiceUnavailable, UnderwayError
from underway.client import Client
from underway.reconcile import (
    NORMAL,
    Controller,
    Done,
    Informer,
    LeaderElector,
    Manager,
    Request,
    RequeueAfter,
    TerminalError,
)
from underway.reconcile.testenv import Environment, running
from underway.wire.http import Handler, Response


def config_map(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "data": data,
    }


def test_an_informer_shows_what_is_there_and_what_changes(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            await env.client.create(CONFIGMAPS, config_map("before", a="1"))
            informer = env.manager.informer(CONFIGMAPS, namespace="default")
            informer.add_index("values", lambda obj: (obj.get("data") or {}).values())
            await informer.synced()
            found = informer.get("default/before")
            found["data"]["a"] = "spoiled"  # a reader's copy is its own
            assert informer.get("default/before")["data"] == {"a": "1"}
            seen: asyncio.Queue = asyncio.Queue()
            informer.add_handler(lambda kind, old, new: seen.put_nowait((kind, old, new)))
            kinds = [(await seen.get())[0] for _ in range(len(informer))]
            assert set(kinds) == {"ADDED"}
            await env.client.create(CONFIGMAPS, config_map("later", a="2"))
            assert (await seen.get())[0] == "ADDED"
            assert [name_of(each) for each in informer.by_index("values", "2")] == ["later"]
            await env.client.patch(CONFIGMAPS, "later", {"data": {"a": "3"}}, "default")
            kind, old, new = await seen.get()
            assert (kind, old.object["data"], new.object["data"]) == (
                "MODIFIED",
                {"a": "2"},
                {"a": "3"},
            )
            assert informer.by_index("values", "2") == []
            await env.client.delete(CONFIGMAPS, "later", "default")
            assert (await seen.get())[0] == "DELETED"
            assert informer.get("default/later") is None
            assert env.manager.informer(CONFIGMAPS, namespace="default") is informer

    asyncio.run(main())


class Flaky:
    """The server as seen over a bad line: watches end early, some calls fail, some expire."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.calls = 0

    async def __call__(self, request) -> Response:
        if "watch=true" in request.query:
            self.calls += 1
            if self.calls % 5 == 1:
                raise ServiceUnavailable("the line is cut")
            if self.calls % 5 == 2:
                request.query = request.query.replace("resourceVersion=", "resourceVersion=1&x=")
            response = await self._handler(request)
            if self.calls % 5 in (3, 4):
                response.body = _first(response.body)
            return response
        return await self._handler(request)


async def _first(body):
    async for chunk in body:
        yield chunk
        return


class QuickClock(SystemClock):
    """Waits are cut short, so that back-off costs the test no time."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, 0.005))


def test_an_informer_misses_nothing_over_a_bad_line(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            admin = server.as_user("admin", ["system:masters"])
            client = Client(admin)
            informer = Informer(Client(Flaky(admin)), QuickClock(), CONFIGMAPS, namespace="default")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(informer.run())
                for number in range(30):
                    await client.create(CONFIGMAPS, config_map(f"c{number}", a=str(number)))
                    if number % 3 == 0:
                        await client.delete(CONFIGMAPS, f"c{number}", "default")
                    await asyncio.sleep(0)
                last = await client.create(CONFIGMAPS, config_map("last"))
                arrived = asyncio.Event()
                informer.add_handler(
                    lambda _kind, _old, new: new and new.meta.name == "last" and arrived.set()
                )
                async with asyncio.timeout(20):
                    await arrived.wait()
                task.cancel()
            wanted = await client.list(CONFIGMAPS, "default")
            assert name_of(last) in {name_of(each) for each in wanted.items}
            assert {name_of(each): each for each in informer.list()} == {
                name_of(each): each for each in wanted.items
            }

    asyncio.run(main())


def copier(manager: Manager) -> Controller:
    """Keeps a Secret beside every ConfigMap labelled ``copy``; the tests' smallest operator."""
    maps, secrets = manager.informer(CONFIGMAPS), manager.informer(SECRETS)

    async def reconcile(request: Request) -> Done:
        found = maps.get(request.key)
        if found is None or "copy" not in (found["metadata"].get("labels") or {}):
            return Done()
        current = secrets.get(request.key)
        wanted = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": request.name,
                "namespace": request.namespace,
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "name": request.name,
                        "uid": found["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "stringData": found.get("data") or {},
        }
        if current is None:
            await manager.client.create(SECRETS, wanted)
            manager.events.event(found, NORMAL, "Copied", "Made a copy")
        return Done()

    return Controller("copier", reconcile, primary=CONFIGMAPS, owns=[SECRETS])


def test_a_controller_mends_what_was_deleted_behind_its_back(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            env.manager.add(copier(env.manager))
            made = config_map("a", x="1")
            made["metadata"]["labels"] = {"copy": "yes"}
            await env.client.create(CONFIGMAPS, made)
            for _ in range(2):
                secret = await env.until(SECRETS, lambda all_: all_.get("default/a"))
                await env.client.delete(SECRETS, "a", "default")
                uid = secret["metadata"]["uid"]
                await env.until(
                    SECRETS,
                    lambda all_, uid=uid: (
                        (s := all_.get("default/a")) and s["metadata"]["uid"] != uid
                    ),
                )
            events = await env.until(
                EVENTS_CORE,
                lambda all_: (
                    (found := [e for e in all_.values() if e["reason"] == "Copied"])
                    and found[0]["count"] == 3
                    and found
                ),
                "default",
            )
            assert len(events) == 1
            assert events[0]["metadata"]["name"].startswith("a.")

    asyncio.run(main())


def test_errors_are_tried_again_terminal_ones_are_not_and_requeues_come_back(tmp_path):
    async def main():
        calls: list[str] = []
        done = asyncio.Event()

        async def reconcile(request: Request):
            calls.append(request.name)
            if request.name == "terminal":
                raise TerminalError("hopeless")
            if request.name == "failing" and calls.count("failing") < 3:
                raise ServiceUnavailable("not yet")
            if request.name == "bug" and calls.count("bug") < 2:
                raise KeyError("oops")
            if request.name == "again" and calls.count("again") < 3:
                return RequeueAfter(0.01)
            if all(calls.count(name) >= n for name, n in wanted.items()):
                done.set()
            return Done()

        wanted = {"terminal": 1, "failing": 3, "bug": 2, "again": 3}
        async with cluster(tmp_path) as env:
            for name in wanted:
                await env.client.create(CONFIGMAPS, config_map(name))
            informer = env.manager.informer(CONFIGMAPS, namespace="default", labels="app")
            env.manager.add(Controller("test", reconcile, primary=informer, workers=2))
            env.manager.informer(SECRETS)
            async with asyncio.timeout(10):
                await done.wait()
            assert {name: calls.count(name) for name in wanted} == wanted

    asyncio.run(main())


def test_a_runnable_that_breaks_is_reported_and_started_again(tmp_path):
    async def main():
        runs = 0
        again = asyncio.Event()
        broken = asyncio.Event()
        restarted = asyncio.Event()

        class Clock(SystemClock):
            async def sleep(self, delay_s: float) -> None:
                broken.set()
                await (again.wait() if delay_s <= 2 else asyncio.sleep(delay_s))

        async def breaks():
            nonlocal runs
            runs += 1
            if runs == 1:
                raise RuntimeError("first time")
            restarted.set()
            await asyncio.Event().wait()

        async with api_server(tmp_path) as server:
            env = Environment(server.as_user("admin", ["system:masters"]), Clock())
            async with running(env):
                env.manager.add_runnable(breaks, "breaker")
                await broken.wait()
                assert env.manager.problems() == ["breaker: first time"]
                assert not env.manager.healthy()
                again.set()
                async with asyncio.timeout(10):
                    await restarted.wait()
                assert env.manager.healthy()
            assert not env.manager.healthy()

    asyncio.run(main())


def test_one_of_two_leads_and_the_other_takes_over_when_it_stops(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            client = Client(server.as_user("admin", ["system:masters"]))
            clock = QuickClock()
            leading: list[str] = []
            stop = {"a": asyncio.Event(), "b": asyncio.Event()}
            changed = asyncio.Condition()

            async def compete(name: str) -> None:
                async def lead() -> None:
                    async with changed:
                        leading.append(name)
                        changed.notify_all()
                    await stop[name].wait()

                elector = LeaderElector(
                    client, clock, namespace="default", name="lock", identity=name
                )
                await elector.run(lead)

            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                group.create_task(compete("a"))
                group.create_task(compete("b"))
                async with changed:
                    await changed.wait_for(lambda: len(leading) == 1)
                first = leading[0]
                lease = await client.get(LEASES, "lock", "default")
                assert lease["spec"]["holderIdentity"] == first
                stop[first].set()
                async with changed:
                    await changed.wait_for(lambda: len(leading) == 2)
                assert leading[1] != first
                stop[leading[1]].set()

    asyncio.run(main())


def test_waiting_for_what_never_comes_tells_what_is_there(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            await env.client.create(CONFIGMAPS, config_map("here"))
            with pytest.raises(UnderwayError, match="here"):
                await env.until(CONFIGMAPS, lambda _all: False, "default", timeout_s=0.1)

    asyncio.run(main())


def test_a_controller_ends_though_a_task_of_its_reconciler_fails_as_it_is_cancelled(tmp_path):
    begun = asyncio.Event()

    async def fails_when_cancelled():
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ServiceUnavailable("gone") from None

    async def reconcile(_request: Request) -> Done:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_when_cancelled())
        return Done()

    async def main():
        async with api_server(tmp_path) as server:
            client = Client(server.as_user("admin", ["system:masters"]))
            await client.create(CONFIGMAPS, config_map("a"))
            manager = Manager(client, SystemClock())
            manager.add(Controller("mine", reconcile, primary=CONFIGMAPS))
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                running_manager = group.create_task(manager.run())
                await begun.wait()
                running_manager.cancel()

    asyncio.run(main())
