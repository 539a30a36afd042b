"""ResourceQuotas."""

from __future__ import annotations

import asyncio

import pytest
from tests.server.running import configmap, deployment, pod, serve

from underway.api.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    RESOURCEQUOTAS,
    SERVICES,
)
from underway.base.errors import Forbidden

SPACE = "default"


def placed(obj):
    obj["metadata"]["namespace"] = SPACE
    return obj


def quota(name="q", hard=None, **spec):
    return placed({"metadata": {"name": name}, "spec": {"hard": hard or {}, **spec}})


def sized(name, **resources):
    return placed(
        pod(name, containers=[{"name": "main", "image": "nginx", "resources": resources}])
    )


async def used(admin, expected, name="q"):
    """Wait until the quota's status shows this."""
    async with asyncio.timeout(10):
        seen = await admin.get(RESOURCEQUOTAS, name, SPACE)
        version = seen["metadata"]["resourceVersion"]
        if (seen.get("status") or {}).get("used") == expected:
            return
        async for event in admin.watch(
            RESOURCEQUOTAS, SPACE, resource_version=version, fields=f"metadata.name={name}"
        ):
            if event.object["status"].get("used") == expected:
                return


def test_what_exceeds_a_quota_is_refused_and_the_status_shows_the_use(tmp_path):
    async def scenario(_server, admin):
        await admin.create(RESOURCEQUOTAS, quota(hard={"pods": "2", "requests.memory": "1Gi"}))
        await admin.create(PODS, sized("a", requests={"memory": "512Mi"}))
        await used(admin, {"pods": "1", "requests.memory": "512Mi"})
        with pytest.raises(Forbidden) as caught:
            await admin.create(PODS, sized("b", requests={"memory": "768Mi"}))
        assert caught.value.message == (
            'pods "b" is forbidden: exceeded quota: q, requested: requests.memory=768Mi,'
            " used: requests.memory=512Mi, limited: requests.memory=1Gi"
        )
        await admin.create(PODS, sized("b", requests={"memory": "256Mi"}))
        with pytest.raises(Forbidden, match="requested: pods=1, used: pods=2, limited: pods=2"):
            await admin.create(PODS, sized("c", requests={"memory": "1"}))
        await admin.delete(PODS, "a", SPACE)
        await used(admin, {"pods": "1", "requests.memory": "256Mi"})
        await admin.create(PODS, sized("c", requests={"memory": "1Mi"}))

    serve(tmp_path, scenario)


def test_a_pod_must_say_what_a_quota_counts(tmp_path):
    async def scenario(_server, admin):
        await admin.create(RESOURCEQUOTAS, quota(hard={"limits.cpu": "1", "memory": "1Gi"}))
        with pytest.raises(Forbidden) as caught:
            await admin.create(PODS, placed(pod("p")))
        assert caught.value.message == (
            'pods "p" is forbidden: failed quota: q:'
            " must specify limits.cpu for: main; memory for: main"
        )

    serve(tmp_path, scenario)


def test_objects_of_any_kind_are_counted(tmp_path):
    async def scenario(_server, admin):
        hard = {"count/deployments.apps": "1", "configmaps": "1", "services.nodeports": "1"}
        await admin.create(RESOURCEQUOTAS, quota(hard=hard))
        await admin.create(DEPLOYMENTS, placed(deployment("d")))
        with pytest.raises(Forbidden, match=r'deployments\.apps "e" is forbidden: exceeded'):
            await admin.create(DEPLOYMENTS, placed(deployment("e")))
        await admin.create(CONFIGMAPS, placed(configmap("a")))
        with pytest.raises(Forbidden, match="requested: configmaps=1"):
            await admin.create(CONFIGMAPS, placed(configmap("b")))
        ports = [{"name": "a", "port": 1}, {"name": "b", "port": 2}]
        service = placed({"metadata": {"name": "s"}, "spec": {"ports": ports}})
        made = await admin.create(SERVICES, service)
        made["spec"]["type"] = "NodePort"
        with pytest.raises(Forbidden, match=r"services\.nodeports=2"):
            await admin.replace(SERVICES, made)

    serve(tmp_path, scenario)


def test_storage_is_counted_in_all_and_by_class(tmp_path):
    def claim(name, size, storage_class):
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
        }
        return placed({"metadata": {"name": name}, "spec": spec})

    async def scenario(_server, admin):
        fast = "fast.storageclass.storage.k8s.io/requests.storage"
        await admin.create(RESOURCEQUOTAS, quota(hard={"requests.storage": "10Gi", fast: "1Gi"}))
        await admin.create(PERSISTENTVOLUMECLAIMS, claim("a", "2Gi", "slow"))
        with pytest.raises(Forbidden, match=f"requested: {fast}=2Gi"):
            await admin.create(PERSISTENTVOLUMECLAIMS, claim("b", "2Gi", "fast"))
        await used(admin, {"requests.storage": "2Gi", fast: "0"})

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        (
            {"scopes": ["BestEffort"]},
            sized("in"),
            sized("out", requests={"cpu": "1m"}),
        ),
        (
            {"scopes": ["Terminating"]},
            placed(pod("in", activeDeadlineSeconds=9)),
            placed(pod("out")),
        ),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [
                        {
                            "scopeName": "PriorityClass",
                            "operator": "In",
                            "values": ["system-node-critical"],
                        }
                    ]
                }
            },
            placed(pod("in", priorityClassName="system-node-critical")),
            placed(pod("out")),
        ),
    ],
)
def test_a_scoped_quota_counts_only_pods_in_its_scope(tmp_path, spec, inside, outside):
    async def scenario(_server, admin):
        await admin.create(RESOURCEQUOTAS, quota(hard={"pods": "0"}, **spec))
        await admin.create(PODS, outside)
        with pytest.raises(Forbidden, match="exceeded quota: q"):
            await admin.create(PODS, inside)

    serve(tmp_path, scenario)


def test_writes_at_once_do_not_pass_together(tmp_path):
    async def scenario(_server, admin):
        await admin.create(RESOURCEQUOTAS, quota(hard={"count/configmaps": "6"}))

        async def attempt(number):
            try:
                await admin.create(CONFIGMAPS, placed(configmap(f"c{number}")))
            except Forbidden:
                return 0
            return 1

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(attempt(number)) for number in range(20)]
        assert sum(task.result() for task in tasks) == 6

    serve(tmp_path, scenario)
