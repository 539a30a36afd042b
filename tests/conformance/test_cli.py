"""kubectl, as people type it ([sig-cli])."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from tests import peers
from tests.conformance.world import World, workload
from underway.testing import Cluster

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def controller(cluster: Cluster) -> Iterator[World]:
    """A namespace with a ReplicationController of two pods."""
    with World.of(cluster, "cli") as world:
        world.kubectl(
            "create", "-f", "-", stdin=json.dumps(workload("ReplicationController", replicas=2))
        )
        world.until(
            "ReplicationController", "web", lambda each: each["status"].get("readyReplicas") == 2
        )
        yield world


def test_versions_and_the_address_of_the_cluster(controller: World) -> None:
    assert "v1" in controller.kubectl("api-versions").split()
    assert "Kubernetes control plane" in controller.kubectl("cluster-info")
    version = json.loads(controller.kubectl("version", "-o", "json"))
    assert {"major", "minor", "gitVersion", "gitCommit"} <= version["serverVersion"].keys()
    assert version["clientVersion"]["gitVersion"]


def test_describe_tells_what_matters(controller: World) -> None:
    text = controller.kubectl("describe", "rc", "web")
    for wanted in (
        "Selector:     app=web",
        "2 current / 2 desired",
        "2 Running",
        "SuccessfulCreate",
    ):
        assert wanted in text
    text = controller.kubectl("describe", "pods", "-l", "app=web")
    for wanted in ("Controlled By:  ReplicationController/web", "Node:", "Status:", "Image:"):
        assert wanted in text
    assert "Name:         " + controller.ns in controller.kubectl(
        "describe", "namespace", controller.ns
    )
    assert "Conditions:" in controller.kubectl("describe", "node", "node-0")


def test_expose_makes_services(controller: World) -> None:
    controller.kubectl("expose", "rc", "web", "--name=rm2", "--port=1234", "--target-port=6379")
    controller.kubectl(
        "expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=6379"
    )
    for name, port in (("rm2", 1234), ("rm3", 2345)):
        (found,) = controller.get("services", name)["spec"]["ports"]
        assert (found["port"], found["targetPort"]) == (port, 6379)
        controller.until_all(
            "EndpointSlice",
            lambda slices: sum(len(each["endpoints"]) for each in slices) == 2,
            f"kubernetes.io/service-name={name}",
        )


def test_labels_and_annotations_are_put_on_pods(controller: World) -> None:
    name = controller.list("pods")[0]["metadata"]["name"]
    controller.kubectl("label", "pods", name, "testing=yes")
    assert "yes" in controller.kubectl("get", "pod", name, "-L", "testing")
    controller.kubectl("label", "pods", name, "testing-")
    assert "yes" not in controller.kubectl("get", "pod", name, "-L", "testing", "--no-headers")
    body = '{"metadata":{"annotations":{"x":"y"}}}'
    for each in controller.list("pods"):
        controller.kubectl("patch", "pod", each["metadata"]["name"], "-p", body)
    assert all(each["metadata"]["annotations"]["x"] == "y" for each in controller.list("pods"))


def test_a_pod_is_run_tried_and_replaced(world: World) -> None:
    world.kubectl("run", "p", "--image=one", "--restart=Never", "--labels=app=p")
    made = world.get("pods", "p")
    assert made["spec"]["restartPolicy"] == "Never"
    assert [each["image"] for each in made["spec"]["containers"]] == ["one"]
    body = '{"spec":{"containers":[{"name":"p","image":"two"}]}}'
    world.kubectl("patch", "pod", "p", "-p", body, "--dry-run=server")
    assert world.get("pods", "p")["spec"]["containers"][0]["image"] == "one"
    text = world.kubectl("get", "pod", "p", "-o", "json").replace(
        '"image": "one"', '"image": "two"'
    )
    world.kubectl("replace", "-f", "-", stdin=text)
    assert world.get("pods", "p")["spec"]["containers"][0]["image"] == "two"


def test_diff_shows_the_other_image(world: World) -> None:
    made = workload("Deployment")
    world.kubectl("create", "-f", "-", stdin=json.dumps(made))
    made["spec"]["template"]["spec"]["containers"][0]["image"] = "busybox:other"
    done = world.kubectl("diff", "-f", "-", stdin=json.dumps(made), check=False)
    assert done.returncode == 1
    assert re.search(r"^-.*image: registry.example.com/web:1$", done.stdout, re.MULTILINE)
    assert re.search(r"^\+.*image: busybox:other$", done.stdout, re.MULTILINE)


def test_a_replication_controller_is_made_scaled_and_deleted(world: World) -> None:
    made = workload("ReplicationController", replicas=2)
    world.kubectl("create", "-f", "-", stdin=json.dumps(made))
    for wanted in (2, 1, 2):
        world.kubectl("scale", "rc", "web", f"--replicas={wanted}", "--timeout=60s")
        world.until_all("pods", lambda pods, n=wanted: len(pods) == n)
    world.kubectl("delete", "rc", "web")
    world.until_all("pods", lambda pods: not pods)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


@pytest.mark.parametrize("where", ["port", "socket"])
def test_the_proxy_serves_the_api(world: World, where: str) -> None:
    path = str(world.cluster.home.root / "proxy.sock")
    how = "--port=0" if where == "port" else f"--unix-socket={path}"
    environment = {**os.environ, "KUBECONFIG": str(world.cluster.kubeconfig)}
    command = [str(peers.kubectl()), "proxy", how, "--disable-filter"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as proxy:  # fmt: skip
        try:
            told = proxy.stdout.readline()
            if where == "port":
                (port,) = re.findall(r"127\.0\.0\.1:(\d+)", told)
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                answer = json.load(opener.open(f"http://127.0.0.1:{port}/api/", timeout=20))
            else:
                connection = _Unix(path)
                connection.request("GET", "/api/")
                answer = json.loads(connection.getresponse().read())
                connection.close()
            assert answer["versions"] == ["v1"]
        finally:
            proxy.terminate()
