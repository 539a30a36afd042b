"""Deployments and ReplicaSets on the real server: they converge, whatever happens meanwhile."""

import asyncio
import random

import pytest
from tests.capabilities.workloads.kubelet import kubelet
from tests.cluster import api_server, cluster, make_home

from underway.api.objects import (
    Object,
    annotations_of,
    controller_of,
    deleting,
    find_condition,
    name_of,
)
from underway.api.resources import DEPLOYMENTS, EVENTS_CORE, PODS, REPLICASETS
from underway.base.errors import Conflict, NotFound, ServiceUnavailable
from underway.capabilities.workloads.controller import deployment, replicaset
from underway.reconcile.testenv import Environment, running

CONTROLLERS = (deployment.add, replicaset.add)
NS = "default"


def web(replicas: int = 3, image: str = "web:1", **spec: object) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NS},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
            **spec,
        },
    }


def image_patch(image: str) -> Object:
    return {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}}


def condition(obj: Object, kind: str) -> tuple[str, str]:
    found = find_condition((obj.get("status") or {}).get("conditions"), kind) or {}
    return found.get("status", ""), found.get("reason", "")


def complete(obj: Object | None) -> bool:
    """As ``kubectl rollout status`` sees it."""
    if obj is None:
        return False
    status, wanted = obj.get("status") or {}, obj["spec"]["replicas"]
    return (
        status.get("observedGeneration", 0) >= obj["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
        and condition(obj, "Progressing")[1] == "NewReplicaSetAvailable"
    )


async def rolled_out(env: Environment) -> Object:
    return await env.until(
        DEPLOYMENTS, lambda all_: complete(all_.get("default/web")) and all_["default/web"], NS
    )


async def pods(env: Environment) -> list[Object]:
    return [each for each in (await env.client.list(PODS, NS)).items if not deleting(each)]


async def sets_by_image(env: Environment) -> dict[str, Object]:
    found = (await env.client.list(REPLICASETS, NS)).items
    return {each["spec"]["template"]["spec"]["containers"][0]["image"]: each for each in found}


def test_a_deployment_rolls_out_updates_rolls_back_and_scales(tmp_path):
    async def main():
        async with cluster(tmp_path, *CONTROLLERS, kubelet()) as env:
            await env.client.create(DEPLOYMENTS, web())
            first = await rolled_out(env)
            assert condition(first, "Available") == ("True", "MinimumReplicasAvailable")
            assert annotations_of(first)["deployment.kubernetes.io/revision"] == "1"
            await env.client.patch(DEPLOYMENTS, "web", image_patch("web:2"), NS)
            second = await rolled_out(env)
            assert annotations_of(second)["deployment.kubernetes.io/revision"] == "2"
            assert {p["spec"]["containers"][0]["image"] for p in await pods(env)} == {"web:2"}
            sets = await sets_by_image(env)
            assert (sets["web:1"]["spec"]["replicas"], sets["web:2"]["spec"]["replicas"]) == (0, 3)
            await env.client.patch(DEPLOYMENTS, "web", image_patch("web:1"), NS)
            third = await rolled_out(env)
            assert annotations_of(third)["deployment.kubernetes.io/revision"] == "3"
            back = (await sets_by_image(env))["web:1"]
            assert annotations_of(back)["deployment.kubernetes.io/revision-history"] == "1"
            await env.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 5}}, NS)
            await rolled_out(env)
            assert len(await pods(env)) == 5
            await env.manager.events.flushed()
            told = (await env.client.list(EVENTS_CORE, NS)).items
            assert any(
                each["reason"] == "ScalingReplicaSet" and "from 3 to 5" in each["message"]
                for each in told
            )

    asyncio.run(main())


def test_recreate_never_runs_old_and_new_pods_together(tmp_path):
    async def main():
        async with cluster(tmp_path, *CONTROLLERS, kubelet()) as env:
            together: list[set[str]] = []
            informer = env.manager.informer(PODS)

            def watch(*_: object) -> None:
                together.append(
                    {each["spec"]["containers"][0]["image"] for each in informer.list(NS)}
                )

            informer.add_handler(watch)
            await env.client.create(DEPLOYMENTS, web(strategy={"type": "Recreate"}))
            await rolled_out(env)
            await env.client.patch(DEPLOYMENTS, "web", image_patch("web:2"), NS)
            await rolled_out(env)
            assert max(map(len, together)) == 1
            assert together[-1] == {"web:2"}

    asyncio.run(main())


def test_a_paused_deployment_scales_but_does_not_roll(tmp_path):
    async def main():
        async with cluster(tmp_path, *CONTROLLERS, kubelet()) as env:
            await env.client.create(DEPLOYMENTS, web(2))
            await rolled_out(env)
            paused = {**image_patch("web:2"), "spec": {**image_patch("web:2")["spec"]}}
            paused["spec"].update(paused=True, replicas=4)
            await env.client.patch(DEPLOYMENTS, "web", paused, NS)
            await env.until(PODS, lambda all_: len(all_) == 4, NS)
            found = await env.until(
                DEPLOYMENTS,
                lambda all_: (
                    condition(all_["default/web"], "Progressing")[1] == "DeploymentPaused"
                    and all_["default/web"]
                ),
                NS,
            )
            assert "web:2" not in await sets_by_image(env)
            assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
            await env.client.patch(DEPLOYMENTS, "web", {"spec": {"paused": False}}, NS)
            await rolled_out(env)
            assert {p["spec"]["containers"][0]["image"] for p in await pods(env)} == {"web:2"}

    asyncio.run(main())


def test_a_rollout_that_does_not_move_exceeds_its_deadline_and_keeps_the_old_pods(tmp_path):
    def outcome(pod: Object) -> str:
        broken = pod["spec"]["containers"][0]["image"] == "web:broken"
        return "Unready" if broken else "Running"

    async def main():
        async with cluster(tmp_path, *CONTROLLERS, kubelet(outcome)) as env:
            await env.client.create(DEPLOYMENTS, web(4, progressDeadlineSeconds=1))
            await rolled_out(env)
            await env.client.patch(DEPLOYMENTS, "web", image_patch("web:broken"), NS)
            late = await env.until(
                DEPLOYMENTS,
                lambda all_: (
                    condition(all_["default/web"], "Progressing")
                    == ("False", "ProgressDeadlineExceeded")
                    and all_["default/web"]
                ),
                NS,
            )
            assert late["status"]["availableReplicas"] >= 3
            await env.client.patch(DEPLOYMENTS, "web", image_patch("web:1"), NS)
            await rolled_out(env)

    asyncio.run(main())


def test_a_replicaset_adopts_orphans_and_lets_strays_go(tmp_path):
    async def main():
        async with cluster(tmp_path, replicaset.add, kubelet()) as env:
            template = web()["spec"]["template"]
            orphan = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "orphan", "namespace": NS, "labels": {"app": "web"}},
                "spec": template["spec"],
            }
            await env.client.create(PODS, orphan)
            owner = {**web(2), "kind": "ReplicaSet"}
            await env.client.create(REPLICASETS, owner)
            found = await env.until(PODS, lambda all_: len(all_) == 2 and all_, NS)
            adopted = await env.until(PODS, lambda all_: controller_of(all_["default/orphan"]), NS)
            assert adopted["name"] == "web"
            assert "default/orphan" in found
            stray = {"metadata": {"labels": {"app": "other"}}}
            await env.client.patch(PODS, "orphan", stray, NS)
            await env.until(
                PODS,
                lambda all_: len(all_) == 3 and controller_of(all_["default/orphan"]) is None,
                NS,
            )

    asyncio.run(main())


def test_no_pod_is_made_twice_however_slow_the_cache(tmp_path):
    async def main():
        async with cluster(tmp_path, replicaset.add, kubelet()) as env:
            made: set[str] = set()
            informer = env.manager.informer(PODS)
            informer.add_handler(lambda kind, _old, new: kind == "ADDED" and made.add(new.meta.uid))
            await env.client.create(REPLICASETS, {**web(25), "kind": "ReplicaSet"})
            await env.until(
                REPLICASETS,
                lambda all_: all_["default/web"]["status"].get("readyReplicas") == 25,
                NS,
            )
            assert len(made) == 25

    asyncio.run(main())


class Stormy:
    """The server in bad weather: writes fail before or after they were done, watches break."""

    def __init__(self, handler, seed: int) -> None:
        self._handler = handler
        self._random = random.Random(seed)
        self.over = False

    async def __call__(self, request):
        luck = 1.0 if self.over else self._random.random()
        if luck < 0.08:
            raise ServiceUnavailable("lost on the way there")
        response = await self._handler(request)
        if luck < 0.16 and "watch=" not in request.query:
            raise ServiceUnavailable("lost on the way back")
        return response


@pytest.mark.parametrize("seed", range(3))
def test_controllers_converge_through_storms_restarts_and_changes_of_mind(tmp_path, seed):
    async def main():
        chance = random.Random(seed)
        async with api_server(tmp_path) as server:
            admin = server.as_user("admin", ["system:masters"])
            stormy = Stormy(admin, seed)
            calm = Environment(admin)
            await calm.client.create(DEPLOYMENTS, web(2))
            for turn in range(4):
                env = Environment(stormy)
                for factory in (*CONTROLLERS, kubelet()):
                    factory(env.manager, make_home(tmp_path))
                async with running(env):
                    for _ in range(4):
                        await disturb(calm, chance)
                        await asyncio.sleep(0.02)
                    if turn == 3:
                        stormy.over = True
                        final = await rolled_out(calm)
                        size = final["spec"]["replicas"]
                        await calm.until(PODS, lambda all_, size=size: len(all_) == size, NS)
                        images = {p["spec"]["containers"][0]["image"] for p in await pods(calm)}
                        wanted = final["spec"]["template"]["spec"]["containers"][0]["image"]
                        assert images <= {wanted}

    asyncio.run(main())


async def disturb(env: Environment, chance: random.Random) -> None:
    try:
        match chance.randrange(3):
            case 0:
                size = {"spec": {"replicas": chance.randrange(6)}}
                await env.client.patch(DEPLOYMENTS, "web", size, NS)
            case 1:
                image = f"web:{chance.randrange(3)}"
                await env.client.patch(DEPLOYMENTS, "web", image_patch(image), NS)
            case 2:
                for pod in (await pods(env))[:1]:
                    await env.client.delete(PODS, name_of(pod), NS)
    except (NotFound, Conflict):
        return
