"""Composite- and DecoratorControllers with hooks in Python and shell, on the embedded server."""

from __future__ import annotations

from importlib import resources

import pytest
from tests.capabilities.operators.hook_servers import python_hook, shell_hook

from underway.api.objects import labels_of, name_of, uid_of
from underway.api.resources import PODS
from underway.capabilities.operators.controller import composite, decorator
from underway.testing import Cluster

CRDS = resources.files("underway.capabilities.operators.crds").joinpath("metacontroller.yaml")


def crd(kind: str, *, namespaced: bool = True) -> dict:
    plural = f"{kind.lower()}s"
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced" if namespaced else "Cluster",
            "names": {"plural": plural, "kind": kind, "singular": kind.lower()},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": free, "status": free},
                        }
                    },
                }
            ],
        },
    }


@pytest.fixture
def cluster():
    factories = [composite.add, decorator.add]
    crds = [CRDS.read_text(), crd("PodSet"), crd("Copy", namespaced=False)]
    with Cluster(capabilities=("workloads", "scheduler"), controllers=factories, crds=crds) as made:
        yield made


def pod_sets(url: str, **spec) -> dict:
    return {
        "apiVersion": "metacontroller.k8s.io/v1alpha1",
        "kind": "CompositeController",
        "metadata": {"name": "podsets"},
        "spec": {
            "parentResource": {
                "apiVersion": "example.com/v1",
                "resource": "podsets",
                "revisionHistory": {"fieldPaths": ["spec.image"]},
            },
            "childResources": [
                {
                    "apiVersion": "v1",
                    "resource": "pods",
                    "updateStrategy": {
                        "method": "RollingRecreate",
                        "statusChecks": {"conditions": [{"type": "Ready", "status": "True"}]},
                    },
                }
            ],
            "hooks": {"sync": {"webhook": {"url": f"{url}/sync"}}},
            **spec,
        },
    }


def pod_set(replicas: int, image: str) -> dict:
    return {
        "apiVersion": "example.com/v1",
        "kind": "PodSet",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "image": image,
            "selector": {"matchLabels": {"app": "web"}},
        },
    }


def ready(count: int):
    return lambda obj: (obj.get("status") or {}).get("ready") == count


def rolled_out(obj) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    seen = obj["status"]["observedGeneration"] == obj["metadata"]["generation"] if conditions else 0
    return bool(seen) and any(c["type"] == "Updated" and c["status"] == "True" for c in conditions)


def test_a_composite_controller_makes_scales_mends_and_rolls_its_children(cluster):
    client = cluster.client
    with python_hook("sets") as url:
        client.apply(pod_sets(url))
        client.apply(pod_set(3, "image:1"))
        client.wait_for("podset", "web", ready(3))
        first = {name_of(pod): uid_of(pod) for pod in client.list("pods", "default")}
        assert set(first) == {"web-0", "web-1", "web-2"}

        client.delete("pod", "web-1")
        client.wait_for("pod", "web-1", lambda pod: uid_of(pod) != first["web-1"])
        client.wait_for("podset", "web", ready(3))

        away: list[str] = []
        watched = watch_pods(cluster, away)
        client.apply(pod_set(3, "image:2"))
        client.wait_for("podset", "web", rolled_out)
        client.wait_for("podset", "web", ready(3))
        watched.cancel()
        pods = client.list("pods", "default")
        assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {"image:2"}
        assert away == ["1 of 3 gone"] * len(away)
        assert len(away) >= 3
        revisions = client.list("controllerrevisions.metacontroller.k8s.io", "default")
        assert [each["parentPatch"] for each in revisions] == [{"spec": {"image": "image:2"}}]

        client.apply(pod_set(1, "image:2"))
        client.wait_for("podset", "web", ready(1))
        client.wait_gone("pod", "web-2")


def watch_pods(cluster, away: list[str]):
    """Note, at each deletion, how many pods of image:2's rollout are away at once."""
    import asyncio

    there = {"web-0", "web-1", "web-2"}

    async def follow() -> None:
        api = cluster.client._client
        version = (await api.list(PODS, "default")).resource_version
        async for event in api.watch(PODS, "default", resource_version=version):
            name = name_of(event.object)
            if event.type == "DELETED":
                there.discard(name)
                away.append(f"{3 - len(there)} of 3 gone")
            else:
                there.add(name)

    return asyncio.run_coroutine_threadsafe(follow(), cluster._loop)


def test_a_finalize_hook_takes_children_away_in_its_order_before_the_parent_goes(cluster):
    client = cluster.client
    with python_hook("sets") as url:
        hooks = {
            "sync": {"webhook": {"url": f"{url}/sync"}},
            "finalize": {"webhook": {"url": f"{url}/finalize"}},
        }
        client.apply(pod_sets(url, hooks=hooks, generateSelector=True))
        made = pod_set(3, "image:1")
        client.apply(made)
        parent = client.wait_for("podset", "web", ready(3))
        assert parent["metadata"]["finalizers"] == ["metacontroller.io/compositecontroller-podsets"]
        assert labels_of(client.get("pod", "web-0"))["controller-uid"] == uid_of(parent)
        client.delete("podset", "web")
        client.wait_gone("podset", "web")
        assert client.list("pods", "default") == []


def test_a_rollout_waits_for_a_child_that_is_not_ready(cluster):
    client = cluster.client
    with python_hook("sets") as url:
        spec = pod_sets(url)
        checks = spec["spec"]["childResources"][0]["updateStrategy"]["statusChecks"]
        checks["conditions"] = [{"type": "Blessed", "status": "True"}]
        client.apply(spec)
        client.apply(pod_set(2, "image:1"))
        client.wait_for("podset", "web", ready(2))
        client.apply(pod_set(2, "image:2"))
        stuck = client.wait_for("podset", "web", lambda obj: "Blessed is missing" in str(obj))
        assert updated(stuck) == "RolloutWaiting"
        images = {p["spec"]["containers"][0]["image"] for p in client.list("pods", "default")}
        assert "image:1" in images


def updated(obj) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((c["reason"] for c in conditions if c["type"] == "Updated"), "")


def test_a_customize_hook_sees_related_objects_and_follows_their_changes(cluster):
    client = cluster.client
    with python_hook("propagation") as url:
        client.create(
            {
                "apiVersion": "metacontroller.k8s.io/v1alpha1",
                "kind": "CompositeController",
                "metadata": {"name": "copies"},
                "spec": {
                    "generateSelector": True,
                    "parentResource": {"apiVersion": "example.com/v1", "resource": "copys"},
                    "childResources": [
                        {
                            "apiVersion": "v1",
                            "resource": "configmaps",
                            "updateStrategy": {"method": "InPlace"},
                        }
                    ],
                    "hooks": {
                        "sync": {"webhook": {"url": f"{url}/sync"}},
                        "customize": {"webhook": {"url": f"{url}/customize"}},
                    },
                },
            }
        )
        for name in ("one", "two"):
            client.create(namespace(name, tier="x"))
        client.create(config_map("settings", colour="red"))
        client.create(
            {
                "apiVersion": "example.com/v1",
                "kind": "Copy",
                "metadata": {"name": "settings"},
                "spec": {
                    "source": "settings",
                    "from": "default",
                    "into": {"matchLabels": {"tier": "x"}},
                },
            }
        )
        for name in ("one", "two"):
            client.wait_for("configmap", "settings", colour("red"), name)
        client.patch("configmap", "settings", {"data": {"colour": "blue"}})
        for name in ("one", "two"):
            client.wait_for("configmap", "settings", colour("blue"), name)
        client.create(namespace("three", tier="x"))
        client.wait_for("configmap", "settings", colour("blue"), "three")
        client.patch("namespace", "one", {"metadata": {"labels": {"tier": None}}})
        client.wait_gone("configmap", "settings", "one")


def colour(wanted: str):
    return lambda obj: obj["data"]["colour"] == wanted


def namespace(name: str, **labels: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def config_map(name: str, **data: str) -> dict:
    header = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": header, "data": data}


@pytest.mark.peer
def test_a_decorator_in_shell_attaches_labels_and_cleans_up_when_an_object_opts_out(
    cluster, tmp_path
):
    client = cluster.client
    with shell_hook("labelled", tmp_path) as url:
        hook = {"webhook": {"url": url}}
        client.create(
            {
                "apiVersion": "metacontroller.k8s.io/v1alpha1",
                "kind": "DecoratorController",
                "metadata": {"name": "notes"},
                "spec": {
                    "resources": [
                        {
                            "apiVersion": "v1",
                            "resource": "services",
                            "annotationSelector": {"matchAnnotations": {"note": "please"}},
                        }
                    ],
                    "attachments": [{"apiVersion": "v1", "resource": "configmaps"}],
                    "hooks": {"sync": hook, "finalize": hook},
                },
            }
        )
        for name in ("door", "gate"):
            header = {"name": name, "annotations": {"note": "please"} if name == "door" else {}}
            spec = {"ports": [{"port": 80}], "selector": {"app": name}}
            client.create({"apiVersion": "v1", "kind": "Service", "metadata": header, "spec": spec})
        note = client.wait_for("configmap", "note-door", lambda obj: obj["data"] == {"by": "sh"})
        assert note["metadata"]["ownerReferences"][0]["kind"] == "Service"
        client.wait_for("service", "door", lambda obj: labels_of(obj).get("noted") == "yes")

        client.delete("configmap", "note-door")
        client.wait_for("configmap", "note-door", lambda obj: uid_of(obj) != uid_of(note))
        client.patch("service", "door", {"metadata": {"annotations": {"note": None}}})
        client.wait_gone("configmap", "note-door")
        left = client.wait_for("service", "door", lambda obj: not obj["metadata"].get("finalizers"))
        assert "noted" not in labels_of(left)
        assert not any(name_of(each) == "note-gate" for each in client.list("configmaps"))


def test_a_controller_starts_when_its_resource_comes_and_stops_when_it_is_deleted(cluster):
    client = cluster.client
    with python_hook("sets") as url:
        early = pod_sets(url)
        early["spec"]["parentResource"]["resource"] = "latesets"
        client.apply(early)
        client.apply(crd("LateSet"))
        client.wait_for("customresourcedefinition", "latesets.example.com", "Established")
        parent = {**pod_set(1, "image:1"), "kind": "LateSet"}
        client.apply(parent)
        client.wait_for("lateset", "web", ready(1))
        client.delete("compositecontroller", "podsets")
        client.wait_gone("compositecontroller", "podsets")
        client.apply({**pod_set(1, "image:1"), "kind": "PodSet"})
        assert client.get("podset", "web").get("status") is None


def test_a_hook_that_fails_is_asked_again_and_the_error_reaches_nobody_else(cluster):
    client = cluster.client
    with python_hook("sets") as url:
        broken = pod_sets("http://127.0.0.1:9")
        client.apply(broken)
        client.apply(pod_set(1, "image:1"))
        client.apply(pod_sets(url))
        client.wait_for("podset", "web", ready(1))
