"""Whatever happens to events, requests and controllers, they bring about the same world.

Deployments, a StatefulSet and a Job run on simulated nodes, with the controllers of workloads, the
scheduler and the simulation all at once. What goes wrong is drawn from a seed.
"""

import asyncio
import contextlib
import random
from collections import Counter

import pytest
import yaml
from tests.cluster import api_server

from underway.api.objects import find_condition
from underway.api.resources import (
    DEPLOYMENTS,
    JOBS,
    NODES,
    PODS,
    REPLICASETS,
    SERVICEACCOUNTS,
    STATEFULSETS,
)
from underway.base.clock import FakeClock
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.scheduler.manifest import CAPABILITY as SCHEDULER
from underway.capabilities.simulation.manifest import CAPABILITY as SIMULATION
from underway.capabilities.simulation.model import node_object
from underway.capabilities.workloads.manifest import CAPABILITY as WORKLOADS
from underway.client import Client
from underway.dist.assembly import install_crd
from underway.kit import registry
from underway.reconcile import Manager
from underway.wire.http import Response

NS = "default"
PATIENCE_S = 60


class Trouble:
    """Stands between the controllers and the server, and spoils what the seed says.

    Requests fail before or after they took effect; watches end early, start over with 410, and
    say things twice. ``kill`` is called at random requests.
    """

    def __init__(self, handler, seed, kill=lambda: None, kills=0.0):
        self.handler = handler
        self.chance = random.Random(seed)
        self.kill, self.kills = kill, kills
        self.on = True
        self.lives = 0
        self.requests = Counter()

    async def __call__(self, request):
        watching = "watch=" in request.query
        self.requests[f"{request.method} {request.path}"] += 1
        if not self.on:
            return await self.handler(request)
        if self.chance.random() < self.kills:
            self.kill()
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.04:
            return self._failure(503, "ServiceUnavailable")
        response = await self.handler(request)
        if watching and response.status == 200:
            return Response(response.status, response.headers, self._spoilt(response.body))
        if request.method != "GET" and self.chance.random() < 0.04:
            return self._failure(503, "ServiceUnavailable")  # done, but nobody learns of it
        return response

    def _failure(self, code, reason):
        body = f'{{"kind":"Status","code":{code},"reason":"{reason}","message":"trouble"}}'
        return Response(code, {"content-type": "application/json"}, body.encode())

    async def _spoilt(self, body):
        async with contextlib.aclosing(body):
            async for chunk in body:
                for _ in range(self.chance.randrange(4)):
                    await asyncio.sleep(0)
                yield chunk
                if not self.on:
                    continue
                if self.chance.random() < 0.05:
                    yield chunk  # the same again
                if self.chance.random() < 0.03:
                    yield (
                        b'{"type":"ERROR","object":{"kind":"Status","code":410,'
                        b'"reason":"Expired","message":"too old"}}\n'
                    )
                    return
                if self.chance.random() < 0.04:
                    return


def template(app, **spec):
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [container], **spec}}


def workload(kind, name, **spec):
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NS},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": template(name),
            **spec,
        },
    }


async def until(condition):
    """Wait until the condition holds: what it asks is nobody's event."""
    while not await condition():  # noqa: ASYNC110  # counts of requests, and several kinds at once
        await asyncio.sleep(0.05)


async def there(client):
    try:
        return await client.get(SERVICEACCOUNTS, "default", NS)
    except NotFound:
        return None


async def set_up(client):
    from importlib import resources

    folder = resources.files("underway.capabilities.simulation.crds")
    await install_crd(client, yaml.safe_load(folder.joinpath("stages.yaml").read_text()))
    await until(lambda: there(client))
    for number in range(3):
        await client.create(NODES, node_object(f"n{number}", cpu="8"))
    await client.create(DEPLOYMENTS, workload("Deployment", "web", replicas=4))
    await client.create(STATEFULSETS, workload("StatefulSet", "db", replicas=2, serviceName="db"))
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once", "namespace": NS},
        "spec": {
            "completions": 3,
            "completionMode": "Indexed",
            "parallelism": 2,
            "template": template("once", restartPolicy="Never"),
        },
    }
    await client.create(JOBS, job)


async def change(client):
    """A new version of the Deployment, fewer replicas, and a pod that somebody deletes."""
    new = {"spec": {"replicas": 3, "template": {"metadata": {"annotations": {"version": "2"}}}}}
    await client.patch(DEPLOYMENTS, "web", new, NS)
    with contextlib.suppress(NotFound):  # it may not have come yet
        await client.delete(PODS, "db-0", NS)


async def world(client):
    """What there is, without the names and times that are different in every run."""
    pods = Counter()
    for pod in (await client.list(PODS, NS)).items:
        owner = pod["metadata"]["ownerReferences"][0]["kind"]
        ready = find_condition(pod["status"].get("conditions"), "Ready") or {}
        version = (pod["metadata"].get("annotations") or {}).get("version", "1")
        state = (owner, pod["metadata"]["labels"]["app"], version, pod["status"]["phase"])
        gone = "deletionTimestamp" in pod["metadata"]
        state = (*state, ready.get("status"), bool(pod["spec"].get("nodeName")), gone)
        index = (pod["metadata"].get("annotations") or {}).get(
            "batch.kubernetes.io/job-completion-index"
        )
        if index is None:
            pods[state] += 1
        else:
            # A Job may run an index twice (where an answer is lost); it counts it once.
            pods[*state, index] = 1
    sets = Counter()
    for each in (await client.list(REPLICASETS, NS)).items:
        status = each["status"]
        sets[
            each["spec"]["replicas"], status.get("replicas", 0), status.get("readyReplicas", 0)
        ] += 1
    web = (await client.get(DEPLOYMENTS, "web", NS)).get("status") or {}
    db = (await client.get(STATEFULSETS, "db", NS)).get("status") or {}
    once = (await client.get(JOBS, "once", NS)).get("status") or {}
    return {
        "pods": pods,
        "sets": sets,
        "web": [web.get(each) for each in ("replicas", "updatedReplicas", "availableReplicas")],
        "db": [db.get(each) for each in ("replicas", "readyReplicas", "updatedReplicas")],
        "once": [once.get("succeeded"), once.get("active"), once.get("failed")],
    }


EXPECTED = {
    "pods": Counter(
        {
            ("ReplicaSet", "web", "2", "Running", "True", True, False): 3,
            ("StatefulSet", "db", "1", "Running", "True", True, False): 2,
            **{("Job", "once", "1", "Succeeded", "False", True, False, i): 1 for i in "012"},
        }
    ),
    "sets": Counter({(3, 3, 3): 1, (0, 0, 0): 1}),
    "web": [3, 3, 3],
    "db": [2, 2, 2],
    "once": [3, None, None],
}


async def arrives(client):
    """Wait for the world that is wanted; what there is instead otherwise."""
    found = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while (found := await world(client)) != EXPECTED:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.1)
    return found


def manager_of(handler, root, clock=None):
    manager = Manager(Client(handler), clock)
    for capability in (WORKLOADS, SCHEDULER, SIMULATION):
        for target in capability.controllers:
            registry.load(target)(manager, Home(root))
    return manager


@contextlib.asynccontextmanager
async def controllers(trouble, root):
    """Controllers that run, and start anew from nothing whenever they are killed."""
    killed = asyncio.Event()
    trouble.kill = killed.set

    async def live():
        while True:
            killed.clear()
            trouble.lives += 1
            async with asyncio.TaskGroup() as group:
                running = group.create_task(manager_of(trouble, root).run())
                await killed.wait()
                running.cancel()  # wherever each of its tasks is waiting at this moment

    async with asyncio.TaskGroup() as group:
        task = group.create_task(live())
        yield
        task.cancel()


async def trouble_for(trouble, requests):
    """Wait until so many requests were made, or hardly any are made any more."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(4):
            while trouble.requests.total() < requests:  # noqa: ASYNC110  # nobody's event
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(("seed", "kills"), [(1, 0.0), (2, 0.0), (3, 0.01), (4, 0.03)])
def test_the_same_world_comes_about_whatever_goes_wrong(tmp_path, seed, kills):
    async def main():
        async with api_server(tmp_path) as server:
            client = Client(server.as_user("admin", ["system:masters"]))
            trouble = Trouble(server.as_user("controllers", ["system:masters"]), seed, kills=kills)
            await set_up(client)
            async with controllers(trouble, tmp_path):
                await trouble_for(trouble, 250)
                await change(client)
                await trouble_for(trouble, 700)
                trouble.on = False
                assert await arrives(client) == EXPECTED
            assert (trouble.lives > 1) == (kills > 0)

    asyncio.run(main())


def test_no_controller_polls(tmp_path):
    clock = FakeClock()

    async def main():
        async with api_server(tmp_path, clock) as server:
            client = Client(server.as_user("admin", ["system:masters"]))
            trouble = Trouble(server.as_user("controllers", ["system:masters"]), 0)
            trouble.on = False
            await set_up(client)
            manager = manager_of(trouble, tmp_path, clock)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(manager.run())
                await manager.synced()
                idle = 0
                while idle < 20 or (await world(client))["once"] != [3, None, None]:
                    await asyncio.sleep(0.01)
                    await clock.advance(0.1)
                    idle = 0 if manager.busy() else idle + 1
                await clock.advance(30)  # what is put off for a moment has been done
                await asyncio.sleep(0.2)
                trouble.requests.clear()
                for _ in range(90):
                    await clock.advance(1)
                    await asyncio.sleep(0)
                await asyncio.sleep(0.2)
                running.cancel()
            # Simulated nodes give a sign of life every few minutes; nobody else says anything.
            beats = [each for each in trouble.requests if "/kube-node-lease/leases/" in each]
            assert set(trouble.requests) == set(beats)
            assert trouble.requests.total() <= 3

    asyncio.run(main())
