"""Garbage collection and namespace deletion on the real server."""

import asyncio

import pytest
from tests.capabilities.workloads.kubelet import kubelet
from tests.cluster import cluster

from underway.api.objects import Object, owner_reference
from underway.api.resources import (
    CONFIGMAPS,
    CUSTOMRESOURCEDEFINITIONS,
    DEPLOYMENTS,
    NAMESPACES,
    PODS,
    REPLICASETS,
    SECRETS,
    Resource,
)
from underway.base.errors import NotFound
from underway.capabilities.workloads.controller import cleanup, deployment, replicaset
from underway.reconcile.testenv import Environment

NS = "default"
WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


def config_map(name: str, *owners: Object, namespace: str = NS, **metadata: object) -> Object:
    header = {"name": name, "namespace": namespace, **metadata}
    if owners:
        header["ownerReferences"] = [owner_reference(each, controller=False) for each in owners]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": header}


def deployment_of(namespace: str) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web"}]},
            },
        },
    }


async def gone(env: Environment, *names: str) -> None:
    await env.until(CONFIGMAPS, lambda all_: not any(f"{NS}/{name}" in all_ for name in names), NS)


def test_what_loses_its_last_owner_goes_and_what_has_another_stays(tmp_path):
    async def main():
        async with cluster(tmp_path, cleanup.add) as env:
            one = await env.client.create(CONFIGMAPS, config_map("one"))
            two = await env.client.create(CONFIGMAPS, config_map("two"))
            await env.client.create(CONFIGMAPS, config_map("of-one", one))
            await env.client.create(CONFIGMAPS, config_map("of-both", one, two))
            await env.client.delete(CONFIGMAPS, "one", NS)
            await gone(env, "one", "of-one")
            left = await env.until(
                CONFIGMAPS,
                lambda all_: (
                    len(all_[f"{NS}/of-both"]["metadata"]["ownerReferences"]) == 1
                    and all_[f"{NS}/of-both"]
                ),
                NS,
            )
            assert left["metadata"]["ownerReferences"][0]["name"] == "two"
            await env.client.delete(CONFIGMAPS, "two", NS)
            await gone(env, "of-both")

    asyncio.run(main())


def test_an_owner_that_never_was_counts_as_gone(tmp_path):
    async def main():
        async with cluster(tmp_path, cleanup.add) as env:
            ghost = {**config_map("ghost"), "apiVersion": "v1"}
            ghost["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
            await env.client.create(CONFIGMAPS, config_map("haunted", ghost))
            await gone(env, "haunted")

    asyncio.run(main())


def test_in_the_foreground_the_owner_goes_last(tmp_path):
    async def main():
        async with cluster(tmp_path, cleanup.add) as env:
            owner = await env.client.create(CONFIGMAPS, config_map("owner"))
            held = config_map("held", owner, finalizers=["example.com/held"])
            child = await env.client.create(CONFIGMAPS, held)
            await env.client.create(CONFIGMAPS, config_map("grandchild", child))
            await env.client.delete(CONFIGMAPS, "owner", NS, propagation="Foreground")
            await gone(env, "grandchild")
            await env.until(
                CONFIGMAPS,
                lambda all_: all_[f"{NS}/held"]["metadata"].get("deletionTimestamp"),
                NS,
            )
            assert await env.client.get(CONFIGMAPS, "owner", NS)
            free = {"metadata": {"finalizers": None}}
            await env.client.patch(CONFIGMAPS, "held", free, NS)
            await gone(env, "owner", "held")

    asyncio.run(main())


def test_orphans_stay_without_their_owner(tmp_path):
    async def main():
        async with cluster(tmp_path, cleanup.add) as env:
            owner = await env.client.create(CONFIGMAPS, config_map("owner"))
            await env.client.create(CONFIGMAPS, config_map("child", owner))
            await env.client.delete(CONFIGMAPS, "owner", NS, propagation="Orphan")
            await gone(env, "owner")
            child = await env.client.get(CONFIGMAPS, "child", NS)
            assert not child["metadata"].get("ownerReferences")

    asyncio.run(main())


def test_owners_of_kinds_that_come_later_are_known_too(tmp_path):
    async def main():
        async with cluster(tmp_path, cleanup.add) as env:
            await define_widgets(env)
            widget = await make_widget(env, NS)
            await env.client.create(CONFIGMAPS, config_map("of-widget", widget))
            await env.client.create(
                WIDGETS,
                {
                    **widget,
                    "metadata": {
                        "name": "second",
                        "namespace": NS,
                        "ownerReferences": [owner_reference(widget)],
                    },
                },
            )
            await env.client.delete(WIDGETS, "w", NS)
            await gone(env, "of-widget")
            await env.until(WIDGETS, lambda all_: not all_, NS)

    asyncio.run(main())


async def define_widgets(env: Environment) -> None:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "singular": "widget"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
    await env.client.create(CUSTOMRESOURCEDEFINITIONS, definition)


async def make_widget(env: Environment, namespace: str) -> Object:
    wanted = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": namespace},
    }
    async with asyncio.timeout(10):
        while True:
            try:
                return await env.client.create(WIDGETS, wanted)
            except NotFound:
                await asyncio.sleep(0.02)


def test_a_deployment_takes_everything_below_it_along(tmp_path):
    async def main():
        factories = (deployment.add, replicaset.add, cleanup.add, kubelet())
        async with cluster(tmp_path, *factories) as env:
            await env.client.create(DEPLOYMENTS, deployment_of(NS))
            await env.until(PODS, lambda all_: len(all_) == 2, NS)
            await env.client.delete(DEPLOYMENTS, "web", NS, propagation="Foreground")
            await env.until(DEPLOYMENTS, lambda all_: not all_, NS)
            assert (await env.client.list(REPLICASETS, NS)).items == []
            assert (await env.client.list(PODS, NS)).items == []

    asyncio.run(main())


@pytest.mark.parametrize("with_custom", [False, True])
def test_a_namespace_goes_with_all_it_holds_and_nothing_else_does(tmp_path, with_custom):
    async def main():
        factories = (deployment.add, replicaset.add, cleanup.add, kubelet())
        async with cluster(tmp_path, *factories) as env:
            header = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
            await env.client.create(NAMESPACES, header)
            if with_custom:
                await define_widgets(env)
                await make_widget(env, "team")
            await env.client.create(CONFIGMAPS, config_map("stays"))
            await env.client.create(DEPLOYMENTS, deployment_of("team"))
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
            await env.client.create(SECRETS, secret, "team")
            await env.until(PODS, lambda all_: len(all_) == 2, "team")
            await env.client.delete(NAMESPACES, "team")
            await env.until(NAMESPACES, lambda all_: "team" not in all_)
            for resource in (PODS, SECRETS, REPLICASETS, CONFIGMAPS):
                assert (await env.client.list(resource, "team")).items == []
            assert await env.client.get(CONFIGMAPS, "stays", NS)

    asyncio.run(main())


def test_a_namespace_says_what_still_holds_it(tmp_path):
    async def main():
        async with cluster(tmp_path, cleanup.add) as env:
            header = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
            await env.client.create(NAMESPACES, header)
            held = config_map("held", namespace="team", finalizers=["example.com/held"])
            await env.client.create(CONFIGMAPS, held)
            await env.client.delete(NAMESPACES, "team")
            found = await env.until(
                NAMESPACES, lambda all_: all_["team"].get("status", {}).get("conditions")
            )
            assert "configmaps has 1 resource instances" in found[0]["message"]
            free = {"metadata": {"finalizers": None}}
            await env.client.patch(CONFIGMAPS, "held", free, "team")
            await env.until(NAMESPACES, lambda all_: "team" not in all_)

    asyncio.run(main())
