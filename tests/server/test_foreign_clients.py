"""Client libraries as people install them, over TLS, against the embedded server."""

import asyncio
import gc
import threading

import kopf
import kr8s
import lightkube
import pytest
from kubernetes import client as official
from kubernetes import config as official_config
from kubernetes import dynamic, watch
from kubernetes.client.exceptions import ApiException
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Pod
from tests.server.cluster import Cluster

from underway.api.resources import CUSTOMRESOURCEDEFINITIONS, Resource

pytestmark = [
    pytest.mark.peer,
    # What the libraries leave open, and a version they do not know yet, is theirs.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Kubernetes version:UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

GREETINGS = Resource("example.com", "v1", "greetings", "Greeting")
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "greetings.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "greetings", "singular": "greeting", "kind": "Greeting"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"to": {"type": "string"}}},
                            "status": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            },
                        },
                    }
                },
                "subresources": {"status": {}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("clients")) as running:
        running.call(running.admin.create(CUSTOMRESOURCEDEFINITIONS, DEFINITION))
        running.kubectl("wait", "--for=condition=Established", "crd/greetings.example.com")
        yield running
    gc.collect()  # the connections the libraries left open are told of here, where that is let pass


@pytest.fixture
def space(cluster, request):
    name = request.node.name.replace("_", "-")[:60].strip("-")
    cluster.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def api_client(cluster):
    with official_config.new_client_from_config(str(cluster.kubeconfig())) as made:
        yield made


def test_the_official_client_creates_reads_changes_and_deletes(api_client, space):
    core = official.CoreV1Api(api_client)
    container = official.V1Container(name="main", image="nginx")
    pod = official.V1Pod(
        metadata=official.V1ObjectMeta(name="web", labels={"app": "web"}),
        spec=official.V1PodSpec(containers=[container], node_name="n1"),
    )
    made = core.create_namespaced_pod(space, pod)
    assert made.spec.restart_policy == "Always"
    made.metadata.labels["tier"] = "front"
    assert core.replace_namespaced_pod("web", space, made).metadata.labels["tier"] == "front"
    with pytest.raises(ApiException) as refused:
        core.replace_namespaced_pod("web", space, made)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    patched = core.patch_namespaced_pod("web", space, {"metadata": {"labels": {"tier": None}}})
    assert patched.metadata.labels == {"app": "web"}
    assert [
        p.metadata.name for p in core.list_namespaced_pod(space, label_selector="app=web").items
    ] == ["web"]
    core.delete_namespaced_pod("web", space, grace_period_seconds=0)
    with pytest.raises(ApiException) as gone:
        core.read_namespaced_pod("web", space)
    assert gone.value.status == 404


def test_the_official_client_watches_and_resumes(api_client, space):
    core = official.CoreV1Api(api_client)
    start = core.list_namespaced_config_map(space).metadata.resource_version
    for name in ("a", "b"):
        core.create_namespaced_config_map(space, {"metadata": {"name": name}})
    seen = []
    watching = watch.Watch()
    for event in watching.stream(
        core.list_namespaced_config_map, space, resource_version=start, timeout_seconds=20
    ):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 2:
            watching.stop()
    assert seen == [("ADDED", "a"), ("ADDED", "b")]


def test_the_dynamic_client_finds_custom_resources_and_applies_them(api_client, space):
    found = dynamic.DynamicClient(api_client).resources.get(
        api_version="example.com/v1", kind="Greeting"
    )
    body = {
        "apiVersion": "example.com/v1",
        "kind": "Greeting",
        "metadata": {"name": "g"},
        "spec": {"to": "world"},
    }
    made = found.server_side_apply(body=body, name="g", namespace=space, field_manager="test")
    assert made.metadata.managedFields[0].operation == "Apply"
    found.patch(
        body={"spec": {"to": "all"}},
        name="g",
        namespace=space,
        content_type="application/merge-patch+json",
    )
    assert found.get(name="g", namespace=space).spec.to == "all"
    found.delete(name="g", namespace=space)
    assert list(found.get(namespace=space).items) == []


def test_lightkube_applies_lists_watches_and_deletes(cluster, space):
    kubeconfig = lightkube.KubeConfig.from_file(str(cluster.kubeconfig()))
    client = lightkube.Client(kubeconfig, namespace=space, field_manager="lightkube")
    made = client.apply(ConfigMap(metadata=ObjectMeta(name="a", namespace=space), data={"k": "1"}))
    assert made.data == {"k": "1"}
    client.create(
        Pod(
            metadata=ObjectMeta(name="web", labels={"app": "web"}),
            spec=PodSpec(containers=[Container(name="main", image="nginx")]),
        )
    )
    assert [pod.metadata.name for pod in client.list(Pod, labels={"app": "web"})] == ["web"]
    version = client.get(ConfigMap, "a").metadata.resourceVersion
    client.patch(ConfigMap, "a", {"data": {"k": "2"}})
    event, changed = next(client.watch(ConfigMap, resource_version=version))
    assert (event, changed.data) == ("MODIFIED", {"k": "2"})
    client.delete(ConfigMap, "a")
    with pytest.raises(lightkube.ApiError) as gone:
        client.get(ConfigMap, "a")
    assert gone.value.status.reason == "NotFound"


def test_kr8s_creates_patches_waits_and_deletes(cluster, space):
    api = kr8s.api(kubeconfig=str(cluster.kubeconfig()), namespace=space)
    made = kr8s.objects.ConfigMap(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": space}},
        api=api,
    )
    made.create()
    made.patch({"data": {"k": "1"}})
    made.label({"app": "web"})
    (found,) = list(kr8s.get("configmaps", namespace=space, label_selector="app=web", api=api))
    assert found.raw["data"] == {"k": "1"}
    found.delete()
    found.wait("delete", timeout=20)
    assert not made.exists()


def test_kopf_sees_its_resource_come_and_go_and_keeps_its_finalizer(cluster, space):
    registry = kopf.OperatorRegistry()
    happened = []

    @kopf.on.create("example.com", "v1", "greetings", registry=registry)
    def created(spec, patch, **_):
        happened.append(("created", spec["to"]))
        patch.status["said"] = f"hello {spec['to']}"

    @kopf.on.update("example.com", "v1", "greetings", field="spec.to", registry=registry)
    def updated(old, new, **_):
        happened.append(("updated", old, new))

    @kopf.on.delete("example.com", "v1", "greetings", registry=registry)
    def deleted(name, **_):
        happened.append(("deleted", name))

    @kopf.on.login(registry=registry)
    def login(**_):
        keys = cluster.home.pki
        return kopf.ConnectionInfo(
            server=cluster.url,
            ca_path=str(keys / "ca.crt"),
            certificate_path=str(keys / "admin.crt"),
            private_key_path=str(keys / "admin.key"),
            default_namespace=space,
        )

    ready, stop = threading.Event(), threading.Event()

    def operate():
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        asyncio.run(
            kopf.operator(
                registry=registry,
                settings=settings,
                namespaces=[space],
                standalone=True,
                ready_flag=ready,
                stop_flag=stop,
            )
        )

    def wait_status(path, value):
        cluster.kubectl(
            "-n", space, "wait", "greeting/g", f"--for=jsonpath={path}={value}", "--timeout=30s"
        )

    thread = threading.Thread(target=operate)
    thread.start()
    try:
        assert ready.wait(30)
        made = {
            "apiVersion": "example.com/v1",
            "kind": "Greeting",
            "metadata": {"name": "g"},
            "spec": {"to": "you"},
        }
        cluster.call(cluster.admin.create(GREETINGS, made, space))
        wait_status("{.status.said}", "hello you")
        shown = cluster.call(cluster.admin.get(GREETINGS, "g", space))
        assert any("kopf" in each for each in shown["metadata"]["finalizers"])
        cluster.call(cluster.admin.patch(GREETINGS, "g", {"spec": {"to": "all"}}, space))
        cluster.kubectl("-n", space, "wait", "greeting/g", "--timeout=30s",
                        '--for=jsonpath={.metadata.annotations.kopf\\.zalando\\.org/last-handled-configuration}')  # fmt: skip
        cluster.kubectl("-n", space, "delete", "greeting/g", "--timeout=30s")
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert happened[0] == ("created", "you")
    assert happened[-1] == ("deleted", "g")
