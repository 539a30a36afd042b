"""Claims, volumes and local directories on the real API server."""

import asyncio

from tests.capabilities.storage.objects import (
    ALL,
    NS,
    claim,
    phase,
    pod,
    storage_class,
    volume,
)
from tests.capabilities.workloads.kubelet import add_node, kubelet
from tests.cluster import cluster

from underway.api.objects import annotations_of, deleting, labels_of, name_of
from underway.api.resources import (
    EVENTS_CORE,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    STATEFULSETS,
    STORAGECLASSES,
)
from underway.capabilities.scheduler import controller as scheduler
from underway.capabilities.workloads.controller import cleanup, statefulset
from underway.client import Patch

NODE = kubelet(only_bound=True)


def bound(name):
    def condition(all_):
        found = all_.get(f"{NS}/{name}")
        return found if phase(found) == "Bound" else None

    return condition


def stands(name, wanted):
    return lambda all_: phase(all_.get(name)) == wanted and all_[name]


def test_a_claim_is_bound_to_the_volume_that_fits_and_the_volume_is_kept(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL) as env:
            for each in (volume("big", "9Gi"), volume("fits", "2Gi"), volume("small", "1Mi")):
                await env.client.create(PERSISTENTVOLUMES, each)
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("data", "1Gi", ""))
            found = await env.until(PERSISTENTVOLUMECLAIMS, bound("data"), NS)
            assert found["spec"]["volumeName"] == "fits"
            assert found["status"]["capacity"] == {"storage": "2Gi"}
            await env.until(PERSISTENTVOLUMES, stands("fits", "Bound"))
            await env.until(PERSISTENTVOLUMES, stands("big", "Available"))
            await env.client.delete(PERSISTENTVOLUMECLAIMS, "data", NS)
            await env.until(PERSISTENTVOLUMES, stands("fits", "Released"))
            # A namesake must not get at what the first one left.
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("data", "1Gi", ""))
            again = await env.until(PERSISTENTVOLUMECLAIMS, bound("data"), NS)
            assert again["spec"]["volumeName"] == "big"

    asyncio.run(main())


def test_many_claims_and_volumes_pair_off_without_a_volume_given_twice(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL) as env:
            async with asyncio.TaskGroup() as group:
                for number in range(12):
                    wanted = claim(f"c{number}", f"{number % 4 + 1}Gi", "")
                    group.create_task(env.client.create(PERSISTENTVOLUMECLAIMS, wanted))
                    there = volume(f"v{number}", f"{number % 4 + 1}Gi")
                    group.create_task(env.client.create(PERSISTENTVOLUMES, there))

            def paired(all_):
                names = [each["spec"].get("volumeName") for each in all_.values()]
                served = [phase(each) == "Bound" for each in all_.values()]
                return sum(served) >= 11 and [n for n in names if n]

            names = await env.until(PERSISTENTVOLUMECLAIMS, paired, NS)
            assert len(names) == len(set(names))

    asyncio.run(main())


def test_a_claim_without_a_class_gets_the_default_one_and_waits_for_its_first_pod(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL, scheduler.add, NODE) as env:
            await add_node(env.client, "n1", **{"kubernetes.io/hostname": "n1"})
            await env.until(STORAGECLASSES, lambda all_: "local-path" in all_)
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("data"))
            await env.until(
                EVENTS_CORE,
                lambda all_: any(e["reason"] == "WaitForFirstConsumer" for e in all_.values()),
            )
            assert not (await env.client.list(PERSISTENTVOLUMES)).items
            await env.client.create(PODS, pod("writer", "data"))
            found = await env.until(PERSISTENTVOLUMECLAIMS, bound("data"), NS)
            assert found["spec"]["storageClassName"] == "local-path"
            assert annotations_of(found)["volume.kubernetes.io/selected-node"] == "n1"
            made = await env.client.get(PERSISTENTVOLUMES, found["spec"]["volumeName"])
            directory = tmp_path / "volumes" / made["spec"]["local"]["path"].rpartition("/")[2]
            assert directory.is_dir()
            assert str(directory) == made["spec"]["local"]["path"]
            await env.until(PODS, stands(f"{NS}/writer", "Running"), NS)
            told = {e["reason"] for e in (await env.client.list(EVENTS_CORE)).items}
            assert {"ExternalProvisioning", "Provisioning", "ProvisioningSucceeded"} <= told
            # In use, it stays until the pod is gone; then the directory goes too.
            (directory / "file").write_text("kept")
            (directory / "way-out").symlink_to(tmp_path / "store")
            await env.client.delete(PERSISTENTVOLUMECLAIMS, "data", NS)
            await env.until(PERSISTENTVOLUMECLAIMS, lambda all_: deleting(all_[f"{NS}/data"]), NS)
            assert (directory / "file").exists()
            await env.client.delete(PODS, "writer", NS)
            await env.until(PERSISTENTVOLUMES, lambda all_: not all_)
            assert not directory.exists()
            assert (tmp_path / "store").is_dir()

    asyncio.run(main())


def test_a_claim_grows_where_its_class_allows_it(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL) as env:
            await add_node(env.client, "n1")
            await env.client.create(
                STORAGECLASSES,
                storage_class("now", "underway.dev/local-path", allowVolumeExpansion=True),
            )
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("data", "1Gi", "now"))
            await env.until(PERSISTENTVOLUMECLAIMS, bound("data"), NS)
            body = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
            await env.client.patch(PERSISTENTVOLUMECLAIMS, "data", body, NS, how=Patch.STRATEGIC)
            found = await env.until(
                PERSISTENTVOLUMECLAIMS,
                lambda all_: (
                    all_[f"{NS}/data"]["status"]["capacity"]["storage"] == "3Gi"
                    and all_[f"{NS}/data"]
                ),
                NS,
            )
            made = await env.client.get(PERSISTENTVOLUMES, found["spec"]["volumeName"])
            assert made["spec"]["capacity"]["storage"] == "3Gi"

    asyncio.run(main())


def test_a_volume_that_points_elsewhere_is_not_removed_from_there(tmp_path):
    async def main():
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "file").write_text("precious")
        async with cluster(tmp_path, *ALL) as env:
            lie = volume(
                "pvc-0a1b2c3d-0000-4000-8000-000000000001",
                persistentVolumeReclaimPolicy="Delete",
                claimRef={"namespace": NS, "name": "gone", "uid": "u"},
                local={"path": str(victim)},
                nodeAffinity={
                    "required": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
                        ]
                    }
                },
            )
            del lie["spec"]["hostPath"]
            lie["metadata"]["annotations"] = {
                "pv.kubernetes.io/provisioned-by": "underway.dev/local-path"
            }
            await env.client.create(PERSISTENTVOLUMES, lie)
            await env.until(
                EVENTS_CORE,
                lambda all_: any(e["reason"] == "VolumeFailedDelete" for e in all_.values()),
            )
            assert (victim / "file").read_text() == "precious"

    asyncio.run(main())


def test_a_claim_whose_volume_is_taken_away_is_lost(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL) as env:
            await env.client.create(PERSISTENTVOLUMES, volume("v"))
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("data", klass=""))
            await env.until(PERSISTENTVOLUMECLAIMS, bound("data"), NS)
            await env.client.delete(PERSISTENTVOLUMES, "v")
            await env.until(PERSISTENTVOLUMES, lambda all_: deleting(all_["v"]))
            body = {"metadata": {"finalizers": None}}
            await env.client.patch(PERSISTENTVOLUMES, "v", body)
            await env.until(PERSISTENTVOLUMECLAIMS, stands(f"{NS}/data", "Lost"), NS)

    asyncio.run(main())


def test_delayed_claims_get_volumes_that_one_node_can_reach(tmp_path):
    def at(node):
        term = {
            "matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
            ]
        }
        return {"required": {"nodeSelectorTerms": [term]}}

    async def main():
        async with cluster(tmp_path, *ALL, scheduler.add, NODE) as env:
            for name in ("n1", "n2"):
                await add_node(env.client, name)
            waits = storage_class("disk", volumeBindingMode="WaitForFirstConsumer")
            await env.client.create(STORAGECLASSES, waits)
            await env.client.create(
                PERSISTENTVOLUMES, volume("far", "1Gi", "disk", nodeAffinity=at("n1"))
            )
            await env.client.create(
                PERSISTENTVOLUMES, volume("near", "5Gi", "disk", nodeAffinity=at("n2"))
            )
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("data", "2Gi", "disk"))
            await env.client.create(PODS, pod("p", "data"))
            found = await env.until(PODS, stands(f"{NS}/p", "Running"), NS)
            assert found["spec"]["nodeName"] == "n2"
            one = await env.until(PERSISTENTVOLUMECLAIMS, bound("data"), NS)
            assert one["spec"]["volumeName"] == "near"

    asyncio.run(main())


def test_a_pod_without_its_claims_says_what_it_waits_for(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL, scheduler.add, NODE) as env:
            await add_node(env.client, "n1")
            await env.client.create(PODS, pod("p", "nothing"))

            def said(text):
                return lambda all_: any(text in e.get("message", "") for e in all_.values())

            await env.until(EVENTS_CORE, said('persistentvolumeclaim "nothing" not found'))
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("nothing", klass=""))
            await env.until(EVENTS_CORE, said("unbound immediate PersistentVolumeClaims"))
            await env.client.create(PERSISTENTVOLUMES, volume("late"))
            await env.until(PODS, stands(f"{NS}/p", "Running"), NS)

    asyncio.run(main())


def test_only_one_pod_gets_a_claim_for_one_pod(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL, scheduler.add, NODE) as env:
            await add_node(env.client, "n1")
            alone = {"accessModes": ["ReadWriteOncePod"]}
            await env.client.create(PERSISTENTVOLUMECLAIMS, claim("data", **alone))
            await env.client.create(PODS, pod("first", "data"))
            await env.until(PODS, stands(f"{NS}/first", "Running"), NS)
            await env.client.create(PODS, pod("second", "data"))
            await env.until(
                EVENTS_CORE,
                lambda all_: any("ReadWriteOncePod" in e["message"] for e in all_.values()),
            )
            await env.client.delete(PODS, "first", NS)
            await env.until(PODS, stands(f"{NS}/second", "Running"), NS)

    asyncio.run(main())


def test_an_ephemeral_volume_comes_and_goes_with_its_pod(tmp_path):
    async def main():
        async with cluster(tmp_path, *ALL, scheduler.add, cleanup.add, NODE) as env:
            await add_node(env.client, "n1")
            template = {"metadata": {"labels": {"a": "b"}}, "spec": claim("x")["spec"]}
            volumes = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]
            await env.client.create(PODS, pod("p", volumes=volumes))
            found = await env.until(PERSISTENTVOLUMECLAIMS, bound("p-scratch"), NS)
            assert labels_of(found) == {"a": "b"}
            await env.until(PODS, stands(f"{NS}/p", "Running"), NS)
            await env.client.delete(PODS, "p", NS)
            await env.until(PERSISTENTVOLUMECLAIMS, lambda all_: not all_, NS)
            await env.until(PERSISTENTVOLUMES, lambda all_: not all_)

    asyncio.run(main())


MOUNT = {"name": "data", "mountPath": "/data"}


def database(**policy):
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": NS},
        "spec": {
            "replicas": 2,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "db:1", "volumeMounts": [MOUNT]}]},
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim("x")["spec"]}],
            "persistentVolumeClaimRetentionPolicy": policy or None,
        },
    }


def test_claims_go_with_scaled_down_pods_and_the_deleted_set_where_it_says_so(tmp_path):
    async def main():
        factories = (*ALL, scheduler.add, statefulset.add, cleanup.add, NODE)
        async with cluster(tmp_path, *factories) as env:
            await add_node(env.client, "n1")
            policy = {"whenScaled": "Delete", "whenDeleted": "Delete"}
            await env.client.create(STATEFULSETS, database(**policy))
            await env.until(PODS, stands(f"{NS}/db-1", "Running"), NS)
            await env.client.patch(STATEFULSETS, "db", {"spec": {"replicas": 1}}, NS)
            await env.until(
                PERSISTENTVOLUMECLAIMS, lambda all_: set(all_) == {f"{NS}/data-db-0"}, NS
            )
            await env.client.delete(STATEFULSETS, "db", NS)
            await env.until(PERSISTENTVOLUMECLAIMS, lambda all_: not all_, NS)

    asyncio.run(main())


def test_a_statefulset_keeps_its_volumes_over_its_pods(tmp_path):
    async def main():
        factories = (*ALL, scheduler.add, statefulset.add, cleanup.add, NODE)
        async with cluster(tmp_path, *factories) as env:
            await add_node(env.client, "n1")
            await env.client.create(STATEFULSETS, database())
            first = await env.until(PERSISTENTVOLUMECLAIMS, bound("data-db-0"), NS)
            await env.until(PERSISTENTVOLUMECLAIMS, bound("data-db-1"), NS)
            before = (await env.until(PODS, stands(f"{NS}/db-0", "Running"), NS))["metadata"]["uid"]
            await env.client.delete(PODS, "db-0", NS)
            await env.until(
                PODS,
                lambda all_: (
                    phase(all_.get(f"{NS}/db-0")) == "Running"
                    and all_[f"{NS}/db-0"]["metadata"]["uid"] != before
                ),
                NS,
            )
            again = await env.client.get(PERSISTENTVOLUMECLAIMS, "data-db-0", NS)
            assert again["spec"]["volumeName"] == first["spec"]["volumeName"]
            assert name_of(again) == "data-db-0"

    asyncio.run(main())
