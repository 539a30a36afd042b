"""HorizontalPodAutoscalers and ReplicationControllers on the real server."""

import asyncio
from datetime import timedelta
from typing import Any

from tests.capabilities.workloads.kubelet import kubelet
from tests.cluster import Cluster, api_server, make_home

from underway.api.objects import Object, controller_of, find_condition
from underway.api.resources import (
    DEPLOYMENTS,
    EVENTS_CORE,
    HORIZONTALPODAUTOSCALERS,
    HORIZONTALPODAUTOSCALERS_V1,
    PODS,
    REPLICATIONCONTROLLERS,
)
from underway.base.clock import rfc3339
from underway.capabilities.workloads.controller import autoscaler, cleanup, deployment, replicaset
from underway.reconcile.testenv import Environment, running
from underway.wire.http import Request, Response, json_response

NS = "default"
SETS = (deployment.add, replicaset.add, cleanup.add, kubelet())


def web(replicas: int = 1) -> Object:
    container = {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "100m"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NS},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [container]},
            },
        },
    }


def scaler(metric: Object, most: int = 10, **spec: Any) -> Object:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": NS},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": most,
            "metrics": [metric],
            **spec,
        },
    }


CPU = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
}


class World:
    """An API server, the controllers, and metrics APIs that say what the test wants."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.cpu_milli: int | None = None
        self.external = "0"

    async def deploy(self, replicas: int) -> None:
        await self.env.client.create(DEPLOYMENTS, web(replicas))

        def ready(all_: dict[str, Object]) -> bool:
            return all_[f"{NS}/web"].get("status", {}).get("readyReplicas") == replicas

        await self.env.until(DEPLOYMENTS, ready, NS)

    async def replicas(self, wanted: int) -> Object:
        return await self.env.until(
            DEPLOYMENTS, lambda all_: all_[f"{NS}/web"]["spec"]["replicas"] == wanted, NS
        )

    async def condition(self, kind: str, reason: str) -> Object:
        def found(all_: dict[str, Object]) -> Any:
            conditions = (all_[f"{NS}/web"].get("status") or {}).get("conditions")
            return (find_condition(conditions, kind) or {}).get("reason") == reason and all_

        return (await self.env.until(HORIZONTALPODAUTOSCALERS, found, NS))[f"{NS}/web"]

    async def metrics(self, request: Request) -> Response | None:
        if request.path == f"/apis/metrics.k8s.io/v1beta1/namespaces/{NS}/pods":
            assert request.params()["labelSelector"] == "app=web"
            pods = [] if self.cpu_milli is None else (await self.env.client.list(PODS, NS)).items
            # Past the moment the pods became ready, of which only the second is known.
            now = rfc3339(self.env.clock.now() + timedelta(seconds=1))
            usage = {"cpu": f"{self.cpu_milli}m", "memory": "1Mi"}
            items = [
                {
                    "metadata": {"name": pod["metadata"]["name"]},
                    "timestamp": now,
                    "window": "0s",
                    "containers": [{"name": "c", "usage": usage}],
                }
                for pod in pods
            ]
            return json_response({"kind": "PodMetricsList", "items": items})
        if request.path == f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{NS}/queue":
            return json_response({"items": [{"value": self.external}]})
        custom = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{NS}"
        if request.path == f"{custom}/pods/*/requests":
            now = rfc3339(self.env.clock.now())
            items = [
                {"describedObject": {"name": pod["metadata"]["name"]}, "timestamp": now, "value": 1}
                for pod in (await self.env.client.list(PODS, NS)).items
            ]
            return json_response({"items": items})
        if request.path == f"{custom}/services/front/hits":
            return json_response({"items": [{"value": "60"}]})
        return None


class Measured:
    """An API server with metrics beside it."""

    def __init__(self, server):
        self.server = server
        self.world = None

    def as_user(self, name, groups=()):
        handler = self.server.as_user(name, groups)

        async def handle(request: Request) -> Response:
            return await self.world.metrics(request) or await handler(request)

        return handle


def in_world(tmp_path, test, *factories):
    async def main():
        async with api_server(tmp_path) as server:
            measured = Measured(server)
            env = Cluster(measured, make_home(tmp_path))
            world = measured.world = World(env)
            await env.add(*SETS, *factories)
            async with running(env):
                await test(world)
            assert not env.watched.refused

    asyncio.run(main())


def test_replicas_follow_the_load_up_to_the_maximum(tmp_path):
    async def test(world):
        world.cpu_milli = 100
        await world.deploy(1)
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(CPU, 2))
        await world.replicas(2)
        found = await world.condition("ScalingActive", "ValidMetricFound")
        current = found["status"]["currentMetrics"][0]["resource"]["current"]
        assert current == {"averageUtilization": 100, "averageValue": "100m"}
        assert found["status"]["desiredReplicas"] == 2
        events = await world.env.until(
            EVENTS_CORE,
            lambda all_: [e for e in all_.values() if e["reason"] == "SuccessfulRescale"],
        )
        text = "New size: 2; reason: cpu resource utilization (percentage of request) above target"
        assert events[0]["message"] == text
        old = await world.env.client.get(HORIZONTALPODAUTOSCALERS_V1, "web", NS)
        assert old["spec"]["targetCPUUtilizationPercentage"] == 50
        assert old["status"]["currentCPUUtilizationPercentage"] == 100

    in_world(tmp_path, test, autoscaler.add)


def test_without_metrics_the_condition_says_why_and_nothing_changes(tmp_path):
    async def test(world):
        await world.env.client.create(DEPLOYMENTS, web(3))
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(CPU))
        found = await world.condition("ScalingActive", "FailedGetResourceMetric")
        assert found["status"]["currentReplicas"] in (0, 3)
        deployed = await world.env.client.get(DEPLOYMENTS, "web", NS)
        assert deployed["spec"]["replicas"] == 3

    in_world(tmp_path, test, autoscaler.add)


def test_a_size_out_of_bounds_is_brought_within_them_without_asking_metrics(tmp_path):
    async def test(world):
        await world.env.client.create(DEPLOYMENTS, web(9))
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(CPU, 4))
        await world.replicas(4)

    in_world(tmp_path, test, autoscaler.add)


def test_a_target_that_is_not_there_is_told(tmp_path):
    async def test(world):
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(CPU))
        found = await world.condition("AbleToScale", "FailedGetScale")
        assert 'deployments.apps "web" not found' in str(found["status"]["conditions"])

    in_world(tmp_path, test, autoscaler.add)


def test_an_external_metric_is_shared_by_the_replicas(tmp_path):
    async def test(world):
        world.external = "30"
        target = {"type": "AverageValue", "averageValue": "10"}
        metric = {"type": "External", "external": {"metric": {"name": "queue"}, "target": target}}
        await world.env.client.create(DEPLOYMENTS, web())
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(metric))
        await world.replicas(3)

    in_world(tmp_path, test, autoscaler.add)


def test_custom_metrics_of_pods_and_objects_count(tmp_path):
    async def test(world):
        await world.deploy(2)
        target = {"type": "AverageValue", "averageValue": "500m"}
        metric = {"type": "Pods", "pods": {"metric": {"name": "requests"}, "target": target}}
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(metric))
        await world.replicas(4)
        await world.env.client.delete(HORIZONTALPODAUTOSCALERS, "web", NS)
        described = {"apiVersion": "v1", "kind": "Service", "name": "front"}
        source = {
            "metric": {"name": "hits"},
            "describedObject": described,
            "target": {"type": "AverageValue", "averageValue": "10"},
        }
        metric = {"type": "Object", "object": source}
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(metric))
        await world.replicas(6)

    in_world(tmp_path, test, autoscaler.add)


def test_two_autoscalers_of_the_same_pods_do_nothing_and_say_so(tmp_path):
    async def test(world):
        world.external = "20"
        target = {"type": "AverageValue", "averageValue": "10"}
        metric = {"type": "External", "external": {"metric": {"name": "queue"}, "target": target}}
        await world.env.client.create(DEPLOYMENTS, web(2))
        other = scaler(metric)
        other["metadata"]["name"] = "other"
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, other)
        await world.env.until(
            HORIZONTALPODAUTOSCALERS,
            lambda all_: (all_[f"{NS}/other"].get("status") or {}).get("desiredReplicas") == 2,
            NS,
        )
        await world.env.client.create(HORIZONTALPODAUTOSCALERS, scaler(metric))
        found = await world.condition("ScalingActive", "AmbiguousSelector")
        text = str(found["status"]["conditions"])
        assert "pods by selector app=web are controlled by multiple HPAs: [other, web]" in text

    in_world(tmp_path, test, autoscaler.add)


def test_a_replication_controller_keeps_its_pods_and_adopts_orphans(tmp_path):
    async def test(world):
        spec = {"containers": [{"name": "c", "image": "web:1"}]}
        header = {"name": "orphan", "namespace": NS, "labels": {"app": "old"}}
        orphan = {"apiVersion": "v1", "kind": "Pod", "metadata": header, "spec": spec}
        await world.env.client.create(PODS, orphan)
        controller = {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "old", "namespace": NS},
            "spec": {
                "replicas": 3,
                "selector": {"app": "old"},
                "template": {"metadata": {"labels": {"app": "old"}}, "spec": spec},
            },
        }
        await world.env.client.create(REPLICATIONCONTROLLERS, controller)
        pods = await world.env.until(
            PODS,
            lambda all_: len(all_) == 3 and all(map(controller_of, all_.values())) and all_,
            NS,
        )
        assert f"{NS}/orphan" in pods
        await world.env.until(
            REPLICATIONCONTROLLERS,
            lambda all_: all_[f"{NS}/old"]["status"].get("readyReplicas") == 3,
            NS,
        )
        await world.env.client.delete(PODS, "orphan", NS)
        await world.env.until(PODS, lambda all_: len(all_) == 3 and f"{NS}/orphan" not in all_, NS)
        await world.env.client.delete(REPLICATIONCONTROLLERS, "old", NS)
        await world.env.until(PODS, lambda all_: not all_, NS)

    in_world(tmp_path, test)
