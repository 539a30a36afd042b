"""Whole shipments on a real cluster; only the image is not built."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.base.home import Settings
from underway.capabilities.passage import crds
from underway.capabilities.passage.controller import Order, Shipment, Tools
from underway.client import Client, kubeconfig
from underway.kit.ports import BuildRequest, BuildResult, FittedSource
from underway.testing import Cluster

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: $(IMAGE)}]}
---
"""
DATABASE = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: database}
spec:
  replicas: 2
  selector: {matchLabels: {app: database}}
  template:
    metadata: {labels: {app: database}}
    spec: {containers: [{name: database, image: redis:7}]}
---
"""
SETTINGS = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: b}}\n---\n"
CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
"""
WIDGET = """
{apiVersion: shop.example.org/v1, kind: Widget, metadata: {name: first}, spec: {size: 3}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shop.example.org}
spec:
  group: shop.example.org
  scope: Namespaced
  names: {plural: widgets, kind: Widget}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
"""


class Fitter:
    """Takes the manifest that lies in the source."""

    def fit(self, root: Path, name: str, port: int | None) -> FittedSource:
        return FittedSource(root, "dockerfile", root / "Dockerfile", (root / "app.yaml",), 80)


class Builder:
    """Gives an image that simulated nodes run without pulling it."""

    def build(self, request: BuildRequest, progress: object) -> BuildResult:
        return BuildResult(f"{request.tag}@sha256:{'0' * 64}", f"sha256:{'0' * 64}", "sha256:1")


class Quiet:
    def begin(self, step: str) -> None: ...

    def line(self, text: str) -> None: ...

    def end(self, step: str, message: str, seconds: float, *, failed: bool = False) -> None: ...


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    definition = Path(crds.__file__).parent / "passages.yaml"
    with Cluster(crds=[definition]) as cluster:
        yield cluster


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-")[:60].strip("-")
    cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def ship(
    cluster: Cluster, namespace: str, root: Path, *manifests: str, timeout_s: float = 20
) -> dict:
    (root / "app.yaml").write_text("".join(manifests))

    async def run() -> dict:
        client: Client = kubeconfig.load(cluster.kubeconfig)
        tools = Tools(client, Settings(), Fitter(), Builder(), SystemClock())
        try:
            order = Order(root, "shop", namespace, timeout_s=timeout_s)
            return await Shipment(order, tools, Quiet()).ship()
        finally:
            await client.aclose()

    return asyncio.run(run())


def names(cluster: Cluster, kind: str, namespace: str) -> list[str]:
    return [obj["metadata"]["name"] for obj in cluster.client.list(kind, namespace)]


def test_every_workload_is_awaited(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    passage = ship(cluster, namespace, tmp_path, WEB, DATABASE)
    rollout = next(step for step in passage["status"]["steps"] if step["name"] == "rollout")
    assert "web: 1/1 ready" in rollout["message"]
    assert "database: 2/2 ready" in rollout["message"]


def test_custom_resources_come_with_their_definition(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    passage = ship(cluster, namespace, tmp_path, WIDGET, WEB)
    assert passage["status"]["objects"][0].startswith("customresourcedefinition/")
    assert "widget/first" in passage["status"]["objects"]


def test_an_unknown_kind_fails_the_passage_and_undoes_it(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    gadget = "{apiVersion: shop.example.org/v9, kind: Gadget, metadata: {name: a}}\n"
    with pytest.raises(NotFound, match='no matches for kind "Gadget"'):
        ship(cluster, namespace, tmp_path, SETTINGS, WEB, gadget)
    assert "settings" not in names(cluster, "ConfigMap", namespace)


def test_what_a_newer_version_lacks_is_deleted_but_not_its_data(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    ship(cluster, namespace, tmp_path, WEB, SETTINGS, CLAIM)
    passage = ship(cluster, namespace, tmp_path, WEB)
    assert "settings" not in names(cluster, "ConfigMap", namespace)
    assert "data" in names(cluster, "PersistentVolumeClaim", namespace)
    prune = next(step for step in passage["status"]["steps"] if step["name"] == "prune")
    assert prune["message"] == "configmap/settings removed"


def test_what_a_failed_version_lacks_stays(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    ship(cluster, namespace, tmp_path, WEB, SETTINGS)
    nowhere = WEB.replace("spec: {containers", "spec: {nodeName: nowhere, containers")
    with pytest.raises(UnderwayError):
        ship(cluster, namespace, tmp_path, nowhere, timeout_s=0.5)
    assert "settings" in names(cluster, "ConfigMap", namespace)


def test_a_manifest_without_the_image_is_refused(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="no manifest has the image"):
        ship(cluster, namespace, tmp_path, SETTINGS)


def test_shipping_the_same_again_writes_nothing(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    first = ship(cluster, namespace, tmp_path, WEB, SETTINGS)
    again = ship(cluster, namespace, tmp_path, WEB, SETTINGS)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
