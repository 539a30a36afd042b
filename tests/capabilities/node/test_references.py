"""The agent's copies of ConfigMaps and Secrets: those its pods name, as a node may read them."""

from __future__ import annotations

import asyncio

from tests.cluster import api_server

from underway.api.resources import CONFIGMAPS, PODS, SECRETS
from underway.base.clock import SystemClock
from underway.capabilities.node.controller import references
from underway.capabilities.node.controller.references import References
from underway.client import Client

SPACE = "default"
SECRET = ("secret", SPACE, "s")
CONFIG = ("configmap", SPACE, "c")


def pod(name):
    volumes = [
        {"name": "a", "secret": {"secretName": "s"}},
        {"name": "b", "configMap": {"name": "c"}},
    ]
    spec = {
        "nodeName": "n1",
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "x"}],
        "volumes": volumes,
    }
    return {"metadata": {"name": name, "namespace": SPACE}, "spec": spec}


def named(name, **more):
    return {"metadata": {"name": name, "namespace": SPACE}, **more}


def in_node(tmp_path, scenario):
    """Run ``scenario(admin, references, heard)`` with references of the node ``n1``."""

    async def main():
        async with api_server(tmp_path) as server:
            admin = Client(server.as_user("admin", ["system:masters"]))
            node = Client(server.as_user("system:node:n1", ["system:nodes"]))
            held, heard = References(node, SystemClock()), asyncio.Queue()
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                task = group.create_task(held.run(lambda *what: heard.put_nowait(what)))
                await scenario(admin, held, heard)
                task.cancel()

    asyncio.run(main())


def test_what_a_pod_names_is_followed_until_it_is_gone(tmp_path):
    async def scenario(admin, held, heard):
        await admin.create(PODS, pod("p"))
        held.hold("uid", [SECRET, CONFIG])
        assert await held.find(SECRET) is None
        await admin.create(SECRETS, named("s", stringData={"k": "1"}))
        assert await heard.get() == SECRET
        await admin.patch(SECRETS, "s", {"stringData": {"k": "2"}}, SPACE)
        assert await heard.get() == SECRET
        await admin.create(CONFIGMAPS, named("other"))
        await admin.create(CONFIGMAPS, named("c", data={"k": "v"}))
        assert (await held.find(CONFIG))["data"] == {"k": "v"}
        held.release("uid")
        assert not held.followed
        await admin.delete(PODS, "p", SPACE, grace_period_s=0)
        assert await held.find(SECRET) is None  # a node may no longer read it

    in_node(tmp_path, scenario)


def test_pods_share_what_they_name(tmp_path):
    async def scenario(admin, held, heard):
        await admin.create(PODS, pod("p"))
        await admin.create(SECRETS, named("s"))
        held.hold("one", [SECRET])
        held.hold("two", [SECRET, CONFIG])
        held.hold("two", [SECRET])
        held.release("one")
        assert held.followed == {SECRET}
        before = await held.find(SECRET)
        await admin.patch(SECRETS, "s", {"stringData": {"k": "2"}}, SPACE)
        assert await heard.get() == SECRET  # once: the first copy alone would be no news
        after = await held.find(SECRET)
        assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]

    in_node(tmp_path, scenario)


def test_beyond_the_bound_it_is_read_when_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "LIMIT", 1)

    async def scenario(admin, held, _heard):
        await admin.create(PODS, pod("p"))
        await admin.create(SECRETS, named("s"))
        await admin.create(CONFIGMAPS, named("c"))
        held.hold("one", [CONFIG])
        held.hold("two", [SECRET])
        assert held.followed == {CONFIG}
        assert (await held.find(SECRET))["metadata"]["name"] == "s"
        held.release("two")
        held.release("one")
        assert not held.followed

    in_node(tmp_path, scenario)
