import copy

from tests.api.manifests import complete

from underway.api import resources
from underway.api.objects import Object
from underway.api.qos import pod_requests, qos_class
from underway.api.resources import Resource
from underway.api.strategy import prepare_create, prepare_update

CUSTOM = Resource("x.io", "v1", "things", "Thing", subresources=("status",))


def stored(kind: str) -> tuple[Resource, Object]:
    resource, obj = complete(kind)
    obj["metadata"] |= {"uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    prepare_create(resource, obj)
    return resource, obj


def test_a_new_pod_is_pending_with_its_class_and_generation():
    resource, pod = complete("pod")
    pod["metadata"]["uid"] = "u"
    pod["status"] = {"phase": "Running", "podIP": "1.1.1.1"}
    prepare_create(resource, pod)
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert pod["metadata"]["generation"] == 1


def test_a_node_registers_with_its_status():
    node = {"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "1"}}}
    prepare_create(resources.NODES, node)
    assert node["status"] == {"capacity": {"cpu": "1"}}
    assert "generation" not in node["metadata"]


def test_a_job_selects_its_own_pods():
    resource, job = complete("job")
    del job["spec"]["manualSelector"], job["spec"]["selector"]
    job["metadata"]["uid"] = "u-1"
    prepare_create(resource, job)
    key = "batch.kubernetes.io/controller-uid"
    assert job["spec"]["selector"] == {"matchLabels": {key: "u-1"}}
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["job-name"] == labels["batch.kubernetes.io/job-name"] == "web"
    assert labels["controller-uid"] == labels[key] == "u-1"


def test_a_namespace_is_held_by_the_cluster():
    resource, namespace = complete("namespace")
    prepare_create(resource, namespace)
    assert namespace["spec"]["finalizers"] == ["kubernetes"]
    assert namespace["status"] == {"phase": "Active"}


def test_an_update_keeps_the_status_and_a_status_update_the_rest():
    resource, old = stored("deployment")
    old["status"] = {"replicas": 1}
    new = copy.deepcopy(old)
    new["spec"]["replicas"] = 3
    new["status"] = {"replicas": 9}
    main = copy.deepcopy(new)
    prepare_update(resource, main, old)
    assert main["status"] == {"replicas": 1}
    assert main["metadata"]["generation"] == 2
    status = copy.deepcopy(new)
    prepare_update(resource, status, old, "status")
    assert status["status"] == {"replicas": 9}
    assert status["spec"]["replicas"] == 1
    assert status["metadata"]["generation"] == 1


def test_metadata_alone_does_not_count_as_a_change():
    resource, old = stored("deployment")
    new = copy.deepcopy(old)
    new["metadata"]["labels"] = {"a": "b"}
    new["metadata"]["generation"] = 99
    prepare_update(resource, new, old)
    assert new["metadata"]["generation"] == 1


def test_identity_cannot_be_forged():
    resource, old = stored("configmap")
    new = copy.deepcopy(old)
    new["metadata"] |= {"uid": "other", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    del new["metadata"]["creationTimestamp"]
    prepare_update(resource, new, old)
    assert new["metadata"] == old["metadata"]


def test_a_service_keeps_its_address_and_node_ports():
    resource, old = stored("service")
    old["spec"] |= {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}
    old["spec"]["ports"][0]["nodePort"] = 30000
    new = copy.deepcopy(old)
    for name in ("clusterIP", "clusterIPs"):
        del new["spec"][name]
    del new["spec"]["ports"][0]["nodePort"]
    prepare_update(resource, new, old)
    assert new["spec"] == old["spec"]


def test_custom_resources_have_a_generation_and_their_status_apart():
    old: Object = {"metadata": {"name": "a", "generation": 4}, "spec": {"x": 1}, "status": {"y": 1}}
    new: Object = {"metadata": {"name": "a"}, "spec": {"x": 2}, "status": {"y": 2}}
    main = copy.deepcopy(new)
    prepare_update(CUSTOM, main, old)
    assert main == {
        "metadata": {"name": "a", "generation": 5},
        "spec": {"x": 2},
        "status": {"y": 1},
    }
    status = copy.deepcopy(new)
    status["metadata"]["labels"] = {"a": "b"}
    prepare_update(CUSTOM, status, old, "status")
    assert status == {**old, "status": {"y": 2}}


def test_a_resize_changes_resources_alone():
    resource, old = stored("pod")
    new = copy.deepcopy(old)
    new["spec"]["containers"][0] |= {"image": "x", "resources": {"limits": {"cpu": "1"}}}
    prepare_update(resource, new, old, "resize")
    container = new["spec"]["containers"][0]
    assert container["image"] == "nginx"
    assert container["resources"] == {"limits": {"cpu": "1"}}


def pod_of(*resources_: Object) -> Object:
    return {"containers": [{"resources": each} for each in resources_]}


def test_the_class_follows_requests_and_limits():
    both = {"cpu": "1", "memory": "1Gi"}
    assert qos_class(pod_of({})) == "BestEffort"
    assert qos_class(pod_of({"requests": {"cpu": "1"}})) == "Burstable"
    assert qos_class(pod_of({"requests": both, "limits": both})) == "Guaranteed"
    assert qos_class(pod_of({"requests": both, "limits": both}, {})) == "Burstable"


def test_init_containers_count_by_their_largest_and_sidecars_beside():
    spec = pod_of({"requests": {"cpu": "1"}})
    spec["initContainers"] = [
        {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
        {"resources": {"requests": {"cpu": "2", "memory": "1Ki"}}},
    ]
    assert pod_requests(spec) == {"cpu": 2.5, "memory": 1024}
