"""The real kubectl, over TLS, does to this server what it does to any."""

import re
import subprocess
import time

import pytest
from tests.peers import helm, kubectl
from tests.server.cluster import Cluster
from tests.server.running import pod

from underway.api.resources import PODS

pytestmark = pytest.mark.peer

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: nginx
        ports: [{containerPort: 80}]
"""
WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What is wanted.
            required: [size]
            properties:
              size: {type: integer, minimum: 1}
              color: {type: string, default: red}
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.n}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Color, type: string, jsonPath: .spec.color}
"""
WIDGET = """
apiVersion: example.com/v1
kind: Widget
metadata: {name: one}
spec: {size: 3}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def space(cluster, request):
    """A namespace of the test's own, and kubectl in it."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[:60].strip("-")
    cluster.kubectl("create", "namespace", name)

    def run(*words, **options):
        return cluster.kubectl("-n", name, *words, **options)

    return run


def test_versions_and_resources_are_discovered(cluster):
    assert "Server Version: v1.37" in cluster.kubectl("version")
    found = cluster.kubectl("api-resources")
    assert re.search(r"deployments\s+deploy\s+apps/v1\s+true\s+Deployment", found)
    verbs = cluster.kubectl("api-resources", "--verbs=list,create", "-o", "name").split()
    assert "pods" in verbs
    assert "tokenreviews.authentication.k8s.io" not in verbs
    assert "apps/v1" in cluster.kubectl("api-versions").split()
    assert "readyz check passed" in cluster.kubectl("get", "--raw", "/readyz?verbose")


def test_apply_diff_get_and_describe(space):
    assert "deployment.apps/web created" in space("apply", "-f", "-", stdin=WEB)
    assert "deployment.apps/web unchanged" in space("apply", "-f", "-", stdin=WEB)
    four = WEB.replace("replicas: 2", "replicas: 4")
    difference = space("diff", "-f", "-", stdin=four, check=False)
    assert difference.returncode == 1
    assert "+  replicas: 4" in difference.stdout
    assert "configured" in space("apply", "-f", "-", stdin=four)
    assert space("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "4"
    wide = space("get", "deploy", "-o", "wide").splitlines()
    assert wide[0].split() == [
        "NAME",
        "READY",
        "UP-TO-DATE",
        "AVAILABLE",
        "AGE",
        "CONTAINERS",
        "IMAGES",
        "SELECTOR",
    ]
    assert wide[1].split()[:2] == ["web", "0/4"]
    assert "Replicas:               4 desired" in space("describe", "deploy", "web")
    assert "kind: Deployment" in space("get", "deploy", "web", "-o", "yaml")
    assert "web" in space("get", "all")


def test_server_side_apply_reports_conflicts_and_can_force(space):
    space("apply", "--server-side", "--field-manager=one", "-f", "-", stdin=WEB)
    three = WEB.replace("replicas: 2", "replicas: 3")
    words = ("apply", "--server-side", "--field-manager=two", "-f", "-")
    refused = space(*words, stdin=three, check=False)
    assert refused.returncode != 0
    assert 'conflict with "one": .spec.replicas' in refused.stderr
    space(*words, "--force-conflicts", stdin=three)
    assert space("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "3"


def test_protobuf_bodies_create_things(space, cluster):
    space("create", "deployment", "made", "--image=nginx", "--replicas=2")
    assert space("get", "deploy", "made", "-o", "jsonpath={.spec.replicas}") == "2"
    space("create", "configmap", "cm", "--from-literal=a=b")
    space("create", "secret", "generic", "s", "--from-literal=a=b")
    assert space("get", "secret", "s", "-o", "jsonpath={.data.a}") == "Yg=="
    space("create", "service", "clusterip", "svc", "--tcp=80:8080")
    space("create", "job", "job", "--image=busybox", "--", "true")
    space("create", "cronjob", "cron", "--image=busybox", "--schedule=*/5 * * * *", "--", "true")
    space("create", "ingress", "ing", "--rule=example.com/*=svc:80")
    space("create", "quota", "q", "--hard=pods=3")
    space("create", "serviceaccount", "robot")
    token = space("create", "token", "robot").strip()
    config = cluster.kubeconfig(token=token)
    assert "robot" in cluster.kubectl("auth", "whoami", config=config)
    denied = cluster.kubectl("get", "pods", config=config, check=False)
    assert "Error from server (Forbidden)" in denied.stderr


def test_scale_label_annotate_set_and_edit(space):
    space("apply", "-f", "-", stdin=WEB)
    space("scale", "deploy/web", "--replicas=7")
    space("label", "deploy/web", "tier=front")
    space("annotate", "deploy/web", "note=hello")
    space("set", "image", "deploy/web", "main=busybox")
    space("set", "env", "deploy/web", "A=1")
    edit = {"KUBE_EDITOR": "sed -i 's/image: busybox/image: redis/'"}
    assert "edited" in space("edit", "deploy/web", env=edit)
    path = (
        "jsonpath={.spec.replicas} {.metadata.labels.tier} {.metadata.annotations.note}"
        " {.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[0].name}"
    )
    assert space("get", "deploy", "web", "-o", path) == "7 front hello redis A"
    bad = {"KUBE_EDITOR": "sed -i 's/replicas: 7/replicas: -1/'"}
    refused = space("edit", "deploy/web", env=bad, check=False)
    assert 'deployments.apps "web" is invalid' in refused.stderr
    assert "restarted" in space("rollout", "restart", "deploy/web")


def test_every_patch_type(space):
    space("apply", "-f", "-", stdin=WEB)
    ops = '[{"op":"replace","path":"/spec/replicas","value":5}]'
    space("patch", "deploy/web", "--type=json", "-p", ops)
    space("patch", "deploy/web", "--type=merge", "-p", '{"metadata":{"labels":{"a":"b"}}}')
    containers = '{"spec":{"template":{"spec":{"containers":[{"name":"main","tty":true}]}}}}'
    space("patch", "deploy/web", "-p", containers)
    path = "jsonpath={.spec.replicas} {.metadata.labels.a} {..containers[0].image}"
    assert space("get", "deploy", "web", "-o", path) == "5 b nginx"


def test_selectors(space):
    space("run", "one", "--image=nginx", "--labels=tier=a")
    space("run", "two", "--image=nginx", "--labels=tier=b")
    assert space("get", "pods", "-l", "tier=a", "-o", "name").split() == ["pod/one"]
    assert space("get", "pods", "-l", "tier in (b),tier", "-o", "name").split() == ["pod/two"]
    fields = "metadata.name=two,status.phase=Pending"
    assert space("get", "pods", "--field-selector", fields, "-o", "name").split() == ["pod/two"]
    refused = space("get", "pods", "--field-selector", "foo=x", check=False)
    assert "field label not supported: foo" in refused.stderr
    assert space("get", "pods", "--chunk-size=1", "-o", "name").split() == ["pod/one", "pod/two"]


def test_get_watch_prints_a_row_for_each_change(cluster, space, request):
    process = subprocess.Popen(
        [str(kubectl()), "get", "pods", "-w", "-A", "--field-selector", "metadata.name=watched"],
        env={"KUBECONFIG": str(cluster.kubeconfig()), "HOME": str(cluster.home.root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not cluster.api.hub.watcher_count and time.monotonic() < deadline:
            time.sleep(0.02)
        space("run", "watched", "--image=nginx")
        lines = [process.stdout.readline().split() for _ in range(2)]
        assert lines[0][:2] == ["NAMESPACE", "NAME"]
        assert lines[1][1:4] == ["watched", "0/1", "Pending"]
        space("delete", "pod", "watched")
        assert process.stdout.readline().split()[1] == "watched"
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_wait_for_a_condition_and_for_deletion(cluster, space):
    space("run", "p", "--image=nginx")
    late = space("wait", "--for=condition=Ready", "pod/p", "--timeout=1s", check=False)
    assert "timed out waiting for the condition" in late.stderr
    namespace = space("get", "pod", "p", "-o", "jsonpath={.metadata.namespace}")
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    cluster.call(cluster.admin.patch(PODS, "p", ready, namespace, subresource="status"))
    assert "condition met" in space("wait", "--for=condition=Ready", "pod/p", "--timeout=10s")
    space("delete", "pod", "p", "--wait=false")
    space("wait", "--for=delete", "pod/p", "--timeout=10s")


def test_deleting_pods_waits_for_their_node(cluster, space):
    namespace = space("get", "sa", "default", "-o", "jsonpath={.metadata.namespace}")
    cluster.call(cluster.admin.create(PODS, pod("held", nodeName="n1"), namespace))
    space("delete", "pod", "held", "--wait=false")
    stamp = space("get", "pod", "held", "-o", "jsonpath={.metadata.deletionTimestamp}")
    assert stamp
    space("delete", "pod", "held", "--force", "--grace-period=0")
    assert "not found" in space("get", "pod", "held", check=False).stderr


def test_explain_reads_the_openapi_documents(cluster, space):
    assert "Container image name" in space("explain", "pod.spec.containers.image")
    assert "KIND:       Deployment" in space("explain", "deployment")


def test_custom_resources(cluster, space):
    cluster.kubectl("apply", "-f", "-", stdin=WIDGETS)
    cluster.kubectl("wait", "--for=condition=Established", "crd/widgets.example.com")
    space("apply", "-f", "-", stdin=WIDGET)
    assert space("get", "wd").split() == ["NAME", "SIZE", "COLOR", "one", "3", "red"]
    refused = space("apply", "-f", "-", stdin=WIDGET.replace("3", "0"), check=False)
    assert 'The Widget "one" is invalid: spec.size: Invalid value: 0' in refused.stderr
    unknown = WIDGET.replace("size: 3", "size: 3, typo: 1")
    refused = space("apply", "-f", "-", stdin=unknown, check=False)
    assert 'unknown field "spec.typo"' in refused.stderr
    space("scale", "widget/one", "--replicas=5")
    assert space("get", "widget", "one", "-o", "jsonpath={.spec.size}") == "5"
    assert "What is wanted." in space("explain", "widget.spec")
    space("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=WIDGET)
    assert space("get", "widget", "one", "-o", "jsonpath={.spec.size}") == "3"
    cluster.kubectl("delete", "crd", "widgets.example.com")
    gone = space("get", "widgets", check=False)  # whose name kubectl still has in its cache
    assert "the server could not find the requested resource" in gone.stderr


def test_rights(cluster, space):
    space("create", "role", "reader", "--verb=get,list", "--resource=pods")
    space("create", "rolebinding", "readers", "--role=reader", "--user=jane")
    assert space("auth", "can-i", "list", "pods", "--as=jane") == "yes\n"
    assert space("auth", "can-i", "delete", "pods", "--as=jane", check=False).stdout == "no\n"
    space("get", "pods", "--as=jane")
    refused = space("get", "secrets", "--as=jane", check=False)
    assert 'User "jane" cannot list resource "secrets" in API group ""' in refused.stderr
    assert "pods" in space("auth", "can-i", "--list", "--as=jane")


def test_errors_read_as_kubernetes_own(space):
    missing = space("get", "pod", "nope", check=False)
    assert missing.stderr == 'Error from server (NotFound): pods "nope" not found\n'
    space("create", "configmap", "twice")
    again = space("create", "configmap", "twice", check=False)
    assert 'configmaps "twice" already exists' in again.stderr
    typo = WEB.replace("replicas", "replcas")
    refused = space("apply", "-f", "-", stdin=typo, check=False)
    assert 'strict decoding error: unknown field "spec.replcas"' in refused.stderr
    bad = WEB.replace("app: web}}\n  template", "app: other}}\n  template")
    refused = space("apply", "-f", "-", stdin=bad, check=False)
    assert "`selector` does not match template `labels`" in refused.stderr


def test_expose_gives_a_service_an_address(space):
    space("apply", "-f", "-", stdin=WEB)
    space("expose", "deploy/web", "--port=80", "--type=NodePort")
    found = space("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}")
    assert re.fullmatch(r"10\.96\.\d+\.\d+ 3\d{4}", found)


def test_a_namespace_being_deleted_takes_nothing_new(cluster):
    cluster.kubectl("create", "namespace", "going")
    cluster.kubectl("delete", "namespace", "going", "--wait=false")
    assert "Terminating" in cluster.kubectl("get", "ns", "going")
    refused = cluster.kubectl("create", "configmap", "a", "-n", "going", check=False)
    assert "because it is being terminated" in refused.stderr


def test_helm_installs_upgrades_rolls_back_and_uninstalls(cluster, tmp_path):
    environment = {
        "KUBECONFIG": str(cluster.kubeconfig()),
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }

    def run(*words):
        done = subprocess.run(
            [str(helm()), *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("create", "demo")
    assert "STATUS: deployed" in run("install", "first", "./demo")
    run("upgrade", "first", "./demo", "--set", "replicaCount=3")
    path = "jsonpath={.spec.replicas}"
    assert cluster.kubectl("get", "deploy", "first-demo", "-o", path) == "3"
    run("rollback", "first", "1")
    assert cluster.kubectl("get", "deploy", "first-demo", "-o", path) == "1"
    run("uninstall", "first")
    assert "first-demo" not in cluster.kubectl("get", "deploy", "-o", "name")


def test_the_oldest_supported_kubectl_works_too(cluster, tmp_path):
    config = f"--kubeconfig={cluster.kubeconfig()}"

    def run(*words, stdin=None):
        done = subprocess.run(
            [str(kubectl("32")), config, *words],
            env={"HOME": str(tmp_path)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("create", "namespace", "old")
    run("create", "deployment", "made", "--image=nginx", "-n", "old")
    run("apply", "--server-side", "-n", "old", "-f", "-", stdin=WEB)
    assert run("get", "deploy", "-n", "old", "-o", "name").split() == [
        "deployment.apps/made",
        "deployment.apps/web",
    ]
    assert "KIND:       Pod" in run("explain", "pod.spec")
    run("delete", "deploy", "--all", "-n", "old")
