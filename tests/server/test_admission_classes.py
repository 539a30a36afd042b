"""Classes that objects get, and what classes ask for."""

import pytest
from tests.server.running import pod, serve

from underway.api.resources import NODES, PERSISTENTVOLUMECLAIMS, PODS, STORAGECLASSES, Resource
from underway.base.clock import FakeClock
from underway.base.errors import Forbidden
from underway.client import Client

INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", "Ingress")
INGRESSCLASSES = Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", False)
RUNTIMECLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False)
DEFAULT = "storageclass.kubernetes.io/is-default-class"


def storage_class(name, *, default=False, **more):
    annotations = {DEFAULT: "true"} if default else {}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": "example.com/disks",
        **more,
    }


def claim(name, size="1Gi", **spec):
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
            **spec,
        },
    }


def test_claims_get_the_newest_default_class(tmp_path):
    clock = FakeClock()

    async def scenario(_server, client):
        async def chosen(name, **spec):
            made = await client.create(PERSISTENTVOLUMECLAIMS, claim(name, **spec), "default")
            return made["spec"].get("storageClassName")

        await client.create(STORAGECLASSES, storage_class("plain"))
        assert await chosen("none") is None
        await client.create(STORAGECLASSES, storage_class("old", default=True))
        assert await chosen("old") == "old"
        await clock.advance(60)
        await client.create(STORAGECLASSES, storage_class("a-new", default=True))
        assert await chosen("new") == "a-new"
        assert await chosen("given", storageClassName="plain") == "plain"
        assert await chosen("static", storageClassName="") == ""

    serve(tmp_path, scenario, clock=clock)


def test_ingresses_get_the_default_class_unless_annotated(tmp_path):
    async def scenario(_server, client):
        annotations = {"ingressclass.kubernetes.io/is-default-class": "true"}
        made = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": "front", "annotations": annotations},
            "spec": {"controller": "example.com/front"},
        }
        await client.create(INGRESSCLASSES, made)
        backend = {"service": {"name": "web", "port": {"number": 80}}}
        ingress = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "a"},
            "spec": {"defaultBackend": backend},
        }
        found = await client.create(INGRESSES, ingress, "default")
        assert found["spec"]["ingressClassName"] == "front"
        old = {"name": "b", "annotations": {"kubernetes.io/ingress.class": "other"}}
        found = await client.create(INGRESSES, {**ingress, "metadata": old}, "default")
        assert "ingressClassName" not in found["spec"]

    serve(tmp_path, scenario)


def test_claims_grow_only_where_their_class_allows_it(tmp_path):
    async def scenario(_server, client):
        await client.create(STORAGECLASSES, storage_class("fixed"))
        await client.create(STORAGECLASSES, storage_class("elastic", allowVolumeExpansion=True))

        async def grown(name, storage, *, bound):
            made = claim(name, storageClassName=storage)
            made = await client.create(PERSISTENTVOLUMECLAIMS, made, "default")
            if bound:
                status = {"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}
                await client.patch(
                    PERSISTENTVOLUMECLAIMS, name, status, "default", subresource="status"
                )
            more = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
            return await client.patch(PERSISTENTVOLUMECLAIMS, name, more, "default")

        with pytest.raises(Forbidden, match="must support resize"):
            await grown("a", "fixed", bound=True)
        with pytest.raises(Forbidden, match="Only bound persistent volume claims"):
            await grown("b", "elastic", bound=False)
        made = await grown("c", "elastic", bound=True)
        assert made["spec"]["resources"]["requests"]["storage"] == "2Gi"

    serve(tmp_path, scenario)


def test_runtime_classes_add_overhead_and_scheduling(tmp_path):
    async def scenario(_server, client):
        sandbox = {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "sandbox"},
            "handler": "runsc",
            "overhead": {"podFixed": {"cpu": "250m", "memory": "64Mi"}},
            "scheduling": {
                "nodeSelector": {"sandbox": "yes"},
                "tolerations": [{"key": "sandbox", "operator": "Exists"}],
            },
        }
        await client.create(RUNTIMECLASSES, sandbox)
        made = await client.create(PODS, pod("a", runtimeClassName="sandbox"), "default")
        assert made["spec"]["overhead"] == {"cpu": "250m", "memory": "64Mi"}
        assert made["spec"]["nodeSelector"] == {"sandbox": "yes"}
        keys = [each.get("key") for each in made["spec"]["tolerations"]]
        assert keys.count("sandbox") == 1
        same = pod("b", runtimeClassName="sandbox", overhead={"cpu": "0.25", "memory": "64Mi"})
        await client.create(PODS, same, "default")
        for spec, why in (
            ({"runtimeClassName": "none"}, 'pod rejected: RuntimeClass "none" not found'),
            ({"runtimeClassName": "sandbox", "overhead": {"cpu": "1"}}, "doesn't match"),
            ({"runtimeClassName": "sandbox", "nodeSelector": {"sandbox": "no"}}, "conflict:"),
        ):
            with pytest.raises(Forbidden, match=why):
                await client.create(PODS, pod("c", **spec), "default")

    serve(tmp_path, scenario)


def test_trust_bundles_of_a_signer_need_the_right_to_attest(tmp_path):
    bundles = Resource(
        "certificates.k8s.io", "v1", "clustertrustbundles", "ClusterTrustBundle", False
    )

    async def scenario(server, client):
        if server.catalog.find(bundles.group, bundles.version, bundles.plural) is None:
            pytest.skip("this version does not serve ClusterTrustBundle as v1")
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "bundles"},
            "rules": [
                {
                    "apiGroups": ["certificates.k8s.io"],
                    "resources": ["clustertrustbundles"],
                    "verbs": ["create"],
                }
            ],
        }
        roles = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
        await client.create(roles, role)
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "bundles"},
            "roleRef": {"apiGroup": roles.group, "kind": "ClusterRole", "name": "bundles"},
            "subjects": [{"apiGroup": roles.group, "kind": "User", "name": "jo"}],
        }
        bindings = Resource(roles.group, "v1", "clusterrolebindings", "ClusterRoleBinding", False)
        await client.create(bindings, binding)
        bundle = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "ClusterTrustBundle",
            "metadata": {"name": "example.com:ca:1"},
            "spec": {"signerName": "example.com/ca", "trustBundle": "x"},
        }
        with pytest.raises(Forbidden, match=r'attest for signerName "example\.com/ca"'):
            await Client(server.as_user("jo")).create(bundles, bundle)

    serve(tmp_path, scenario)


def test_a_bound_pod_takes_over_its_nodes_zone(tmp_path):
    async def scenario(_server, client):
        zone = {"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n1", "labels": {**zone, "other": "x"}},
        }
        await client.create(NODES, node)
        made = pod("a")
        made["metadata"]["labels"] = {"app": "web", "topology.kubernetes.io/zone": "wrong"}
        await client.create(PODS, made, "default")
        target = {"target": {"kind": "Node", "name": "n1"}, "metadata": {"name": "a"}}
        binding = {"apiVersion": "v1", "kind": "Binding", **target}
        await client.create(PODS, binding, "default", name="a", subresource="binding")
        found = await client.get(PODS, "a", "default")
        assert found["metadata"]["labels"] == {"app": "web", **zone}

    serve(tmp_path, scenario)
