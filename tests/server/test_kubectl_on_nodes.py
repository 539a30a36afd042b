"""kubectl exec, logs and port-forward pass through the server to a node and back."""

import subprocess
import urllib.request

import pytest
from tests.peers import kubectl
from tests.server.cluster import Cluster
from tests.server.running import pod

from underway.api.resources import NODES, PODS
from underway.transport.bytestreams import dial
from underway.transport.front import serve
from underway.transport.streams import port_forward, remote_command
from underway.wire.http import Response

pytestmark = pytest.mark.peer


async def kubelet(_node, request):
    kind, namespace, name, *rest = request.path.strip("/").split("/")
    assert (namespace, name) == ("default", "web")
    if kind == "containerLogs":
        text = f"log of {rest[0]} with {request.query}\n".encode()
        return Response(200, {"content-type": "text/plain"}, text)
    if kind == "portForward":
        return port_forward(request, lambda port: dial("127.0.0.1", port))
    words = request.param_lists()["command"]

    async def run(streams):
        await streams.write_stdout(f"{rest[0]} runs {' '.join(words)}\n".encode())
        if streams.stdin is not None:
            async for data in streams.stdin:
                await streams.write_stdout(data.upper())
        return 3 if words[0] == "fail" else 0

    return remote_command(request, run)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), connector=kubelet) as running:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
        running.call(running.admin.create(NODES, node))
        running.call(running.admin.create(PODS, pod("web", nodeName="n1"), "default"))
        ready = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {
                    "name": "main",
                    "ready": True,
                    "state": {"running": {}},
                    "image": "",
                    "imageID": "",
                }
                | {"restartCount": 0}
            ],
        }
        status = {"status": ready}
        running.call(running.admin.patch(PODS, "web", status, "default", subresource="status"))
        yield running


def test_exec_carries_output_input_and_exit_status(cluster):
    assert cluster.kubectl("exec", "web", "--", "ls", "-l") == "main runs ls -l\n"
    assert cluster.kubectl("exec", "-i", "web", "--", "cat", stdin="abc") == "main runs cat\nABC"
    failed = cluster.kubectl("exec", "web", "--", "fail", check=False)
    assert failed.returncode == 3
    assert "command terminated with exit code 3" in failed.stderr


def test_logs_come_from_the_node(cluster):
    assert cluster.kubectl("logs", "web", "--tail=5") == "log of main with tailLines=5\n"
    wrong = cluster.kubectl("logs", "web", "-c", "nope", check=False)
    assert "container nope is not valid for pod web" in wrong.stderr


def test_port_forward_reaches_a_port_of_the_pod(cluster):
    async def hello(_request):
        return Response(200, {}, b"hello")

    async def listen():
        return await serve(hello)

    async def close(server):
        await server.close()

    target = cluster.call(listen())
    process = subprocess.Popen(
        [str(kubectl()), "port-forward", "pod/web", f":{target.port}"],
        env={"KUBECONFIG": str(cluster.kubeconfig()), "HOME": str(cluster.home.root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        address = line.split()[2]
        with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
            assert answer.read() == b"hello"
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        cluster.call(close(target))
