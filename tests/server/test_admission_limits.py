"""LimitRanges."""

from __future__ import annotations

import pytest
from tests.server.running import pod, serve

from underway.api.resources import LIMITRANGES, PERSISTENTVOLUMECLAIMS, PODS
from underway.base.errors import Forbidden

SPACE = "default"


def limits(*items):
    return {"metadata": {"name": "bounds", "namespace": SPACE}, "spec": {"limits": list(items)}}


def sized(name, **resources):
    containers = [{"name": "main", "image": "nginx", "resources": resources}]
    made = pod(name, containers=containers)
    made["metadata"]["namespace"] = SPACE
    return made


def test_containers_get_the_namespaces_defaults_and_the_pod_says_so(tmp_path):
    async def scenario(_server, admin):
        item = {
            "type": "Container",
            "default": {"cpu": "500m", "memory": "64Mi"},
            "defaultRequest": {"cpu": "100m", "memory": "32Mi"},
        }
        await admin.create(LIMITRANGES, limits(item))
        made = await admin.create(PODS, sized("p", requests={"cpu": "200m"}))
        assert made["spec"]["containers"][0]["resources"] == {
            "requests": {"cpu": "200m", "memory": "32Mi"},
            "limits": {"cpu": "500m", "memory": "64Mi"},
        }
        assert made["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
            "LimitRanger plugin set: memory request for container main;"
            " cpu, memory limit for container main"
        )
        assert made["status"]["qosClass"] == "Burstable"

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("item", "resources", "why"),
    [
        (
            {"type": "Container", "min": {"cpu": "100m"}},
            {"requests": {"cpu": "50m"}},
            "minimum cpu usage per Container is 100m, but request is 50m",
        ),
        (
            {"type": "Container", "max": {"memory": "1Gi"}},
            {"limits": {"memory": "2Gi"}},
            "maximum memory usage per Container is 1Gi, but limit is 2Gi",
        ),
        (
            {"type": "Pod", "max": {"memory": "1Gi"}},
            {},
            "maximum memory usage per Pod is 1Gi.  No limit is specified",
        ),
        (
            {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}},
            {"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        (
            {"type": "Container", "min": {"cpu": "100m", "memory": "1Mi"}, "defaultRequest": {}},
            {"requests": {"cpu": "1m", "memory": "1"}},
            (
                "[minimum cpu usage per Container is 100m, but request is 1m,"
                " minimum memory usage per Container is 1Mi, but request is 1]"
            ),
        ),
    ],
)
def test_a_pod_outside_the_bounds_is_refused(tmp_path, item, resources, why):
    async def scenario(_server, admin):
        await admin.create(LIMITRANGES, limits(item))
        with pytest.raises(Forbidden) as caught:
            await admin.create(PODS, sized("p", **resources))
        assert caught.value.message == f'pods "p" is forbidden: {why}'

    serve(tmp_path, scenario)


def test_a_claim_larger_than_allowed_is_refused(tmp_path):
    async def scenario(_server, admin):
        item = {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}
        await admin.create(LIMITRANGES, limits(item))
        claim = {
            "metadata": {"name": "c", "namespace": SPACE},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "2Gi"}},
            },
        }
        why = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
        with pytest.raises(Forbidden, match=why):
            await admin.create(PERSISTENTVOLUMECLAIMS, claim)

    serve(tmp_path, scenario)
