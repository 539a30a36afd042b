"""The cluster for tests, as its users meet it."""

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from tests.peers import helm, kubectl

from underway.api.objects import find_condition
from underway.api.resources import CONFIGMAPS
from underway.base.errors import BadRequest, InternalError, Invalid, NotFound, RequestTimeout
from underway.client import Patch, kubeconfig
from underway.reconcile import Controller, Done
from underway.testing import Cluster, FakeClock, MovableClock


def workload(kind, name, template=None, **spec):
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "none"}]},
                **(template or {}),
            },
            **spec,
        },
    }


def pod(name, annotations=None, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "main", "image": "none"}], **spec},
    }


def job(name, annotations=None, **spec):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "metadata": {"annotations": annotations or {}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "none"}],
                },
            },
            **spec,
        },
    }


def test_the_fixture_gives_a_working_cluster(underway_cluster):
    client = underway_cluster.client
    client.create(workload("StatefulSet", "db", replicas=2, serviceName="db"))
    client.create(workload("DaemonSet", "agent"))
    client.wait_for("sts", "db", lambda obj: obj["status"].get("readyReplicas") == 2)
    client.wait_for("ds", "agent", lambda obj: obj["status"].get("numberReady") == 1)
    addresses = {each["status"]["podIP"] for each in client.list("pods")}
    assert len(addresses) == 3


def test_the_session_fixture_lasts(underway_cluster_session):
    underway_cluster_session.client.create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "one-test"}}
    )
    underway_cluster_session.client.delete("ns", "one-test")
    underway_cluster_session.client.wait_gone("namespace", "one-test")


def test_nothing_is_left_behind():
    before = set(threading.enumerate())
    with Cluster() as cluster:
        root = cluster.home.root
        assert cluster.kubeconfig.stat().st_mode & 0o077 == 0
        assert root.parent.stat().st_mode & 0o077 == 0
    assert not root.parent.exists()
    named = {each.name for each in set(threading.enumerate()) - before}
    assert not {name for name in named if "cluster" in name or "store" in name}


def test_clusters_side_by_side_know_nothing_of_each_other():
    def use(number):
        with Cluster() as cluster:
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number}"}}
            cluster.client.create(made)
            names = {each["metadata"]["name"] for each in cluster.client.list("cm", "default")}
            return cluster.url, names - {"kube-root-ca.crt"}, cluster.ca_file.read_bytes()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(use, range(4)))
    assert len({ca for _, _, ca in found}) == 4
    assert [names for _, names, _ in found] == [{f"c{number}"} for number in range(4)]


def test_an_async_test_uses_a_client_on_its_own_loop():
    async def main():
        async with Cluster(nodes=0) as cluster:
            client = kubeconfig.load(cluster.kubeconfig)
            try:
                await client.create(
                    CONFIGMAPS, {"metadata": {"name": "mine", "namespace": "default"}}
                )
            finally:
                await client.aclose()
            return await asyncio.to_thread(cluster.client.get, "cm", "mine")

    assert asyncio.run(main())["metadata"]["name"] == "mine"


def test_jobs_end_as_their_annotation_says():
    with Cluster() as cluster:
        client = cluster.client
        client.create(job("good"))
        client.create(job("bad", {"simulated-node.underway.dev/exit-code": "3"}, backoffLimit=0))
        client.create(
            pod("steady", {"simulated-node.underway.dev/exit-code": "never"}, restartPolicy="Never")
        )
        client.wait_for("job", "good", "Complete")
        client.wait_for("job", "bad", "Failed")
        (failed,) = client.list("pods", labels="job-name=bad")
        state = failed["status"]["containerStatuses"][0]["state"]
        assert state["terminated"]["exitCode"] == 3
        client.wait_for("pod", "steady", "Ready")


def test_a_pod_is_ready_once_its_readiness_gates_are_open():
    with Cluster() as cluster:
        client = cluster.client
        client.create(pod("gated", readinessGates=[{"conditionType": "example.com/open"}]))
        client.wait_for("pod", "gated", "ContainersReady")
        ready = [
            c for c in client.get("pod", "gated")["status"]["conditions"] if c["type"] == "Ready"
        ]
        assert ready[0]["status"] == "False"
        body = {"status": {"conditions": [{"type": "example.com/open", "status": "True"}]}}
        client.patch("pod", "gated", body, how=Patch.STRATEGIC, subresource="status")
        client.wait_for("pod", "gated", "Ready")


def test_time_stands_still_with_a_fake_clock_until_it_is_moved():
    clock = FakeClock(datetime(2030, 1, 1, tzinfo=UTC))
    with Cluster(clock=clock) as cluster:
        client = cluster.client
        client.create(workload("Deployment", "web", minReadySeconds=300))
        client.wait_for("deploy", "web", lambda obj: (obj.get("status") or {}).get("readyReplicas"))
        assert client.get("pods", client.list("pods")[0]["metadata"]["name"])["metadata"][
            "creationTimestamp"
        ].startswith("2030-01-01T00:00:00")
        assert not client.get("deploy", "web")["status"].get("availableReplicas")
        cluster.advance(301)
        client.wait_for("deploy", "web", "Available")


def test_a_jump_of_the_clock_loses_no_node():
    with Cluster(clock=FakeClock(), nodes=2) as cluster:
        client = cluster.client
        for delay_s in (301, 900):
            cluster.advance(delay_s)
            cluster.advance(35)  # what a node promised for the jump does not outlast it
            lengths = {each["spec"]["leaseDurationSeconds"] for each in _node_leases(client)}
            assert lengths == {40}
            for node in client.list("nodes"):
                ready = find_condition(node["status"]["conditions"], "Ready")
                assert ready["status"] == "True"
                assert ready["lastTransitionTime"] == node["metadata"]["creationTimestamp"]
                assert not node["spec"].get("taints")


def _node_leases(client):
    return client.list("leases", "kube-node-lease")


def test_the_default_clock_runs_and_can_be_put_forward():
    async def main():
        clock = MovableClock()
        start = clock.now()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            sleeping = group.create_task(clock.sleep(3600))
            await clock.sleep(0.01)
            assert not sleeping.done()
            await clock.advance(1800)
            await asyncio.sleep(0)
            assert not sleeping.done()
            await clock.advance(1801)
        assert clock.now() - start > timedelta(hours=1)

    asyncio.run(main())


def test_controllers_of_the_users_own_run_inside():
    def labeller(manager, _home):
        maps = manager.informer(CONFIGMAPS)

        async def reconcile(request):
            found = maps.get(request.key)
            if found and "seen" not in (found["metadata"].get("labels") or {}):
                body = {"metadata": {"labels": {"seen": "yes"}}}
                await manager.client.patch(CONFIGMAPS, request.name, body, request.namespace)
            return Done()

        manager.add(Controller("labeller", reconcile, primary=CONFIGMAPS))

    with Cluster(nodes=0, capabilities=(), controllers=[labeller]) as cluster:
        cluster.client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
        cluster.client.wait_for("cm", "a", lambda obj: obj["metadata"].get("labels"))


def test_wrong_use_is_told_clearly(tmp_path):
    with (
        pytest.raises(InternalError, match="no capability nonsense"),
        Cluster(capabilities=["nonsense"]),
    ):
        pass
    with pytest.raises(BadRequest, match="no YAML"):
        Cluster(crds=["a: [b"])
    with Cluster(nodes=0, capabilities=()) as cluster:
        with pytest.raises(NotFound, match="no resource called gizmos"):
            cluster.client.get("gizmos", "a")
        with pytest.raises(NotFound, match=r"no Widget of example\.com/v1"):
            cluster.client.create({"apiVersion": "example.com/v1", "kind": "Widget"})
        with pytest.raises(Invalid):
            cluster.client.create({**pod("p"), "spec": {"containers": []}})
        with pytest.raises(RequestTimeout, match=r"kube-root-ca\.crt"):
            cluster.client.wait_for("cm", "kube-root-ca.crt", lambda _obj: False, timeout_s=0.1)


def test_an_error_in_the_test_is_the_error_that_is_seen():
    with pytest.raises(ZeroDivisionError), Cluster():
        1 / 0  # noqa: B018


def test_the_plugin_loads_nothing_heavy():
    code = (
        "import sys, pytest; before = set(sys.modules); import underway.testing.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["underway", "underway.testing", "underway.testing.plugin"]


@pytest.mark.peer
@pytest.mark.parametrize("version", ["32", "37"])
def test_kubectl_drives_it(underway_cluster, version, tmp_path):
    def run(*words, check=True):
        command = [str(kubectl(version)), f"--kubeconfig={underway_cluster.kubeconfig}", *words]
        env = {"HOME": str(tmp_path)}
        return subprocess.run(
            command, capture_output=True, text=True, env=env, check=check, timeout=60
        )

    run("create", "deployment", "web", "--image=web", "--replicas=2")
    assert "successfully rolled out" in run("rollout", "status", "deployment/web").stdout
    assert "node-0   Ready" in run("get", "nodes").stdout
    refused = run("exec", "deployment/web", "--", "true", check=False)
    assert "simulated" in refused.stderr


@pytest.mark.peer
@pytest.mark.parametrize("version", ["32", "37"])
def test_helm_installs_a_chart_and_runs_its_hook(underway_cluster, version, tmp_path):
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: shop\nversion: 1.0.0\n")
    (chart / "templates" / "hook.yaml").write_text(
        "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: before\n"
        "  annotations: {helm.sh/hook: pre-install}\n"
        "spec:\n  template:\n    spec:\n      restartPolicy: Never\n"
        "      containers: [{name: main, image: none}]\n"
    )
    (chart / "templates" / "web.yaml").write_text(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
        "spec:\n  selector: {matchLabels: {app: web}}\n  template:\n"
        "    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web, image: none}]}\n"
    )
    env = {"HOME": str(tmp_path), "KUBECONFIG": str(underway_cluster.kubeconfig)}
    command = [str(helm(version)), "install", "shop", str(chart), "--wait", "--timeout=60s"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=90)
    assert done.returncode == 0, done.stderr
    assert underway_cluster.client.get("job", "before")["status"]["succeeded"] == 1


@pytest.mark.peer
def test_the_official_python_client_watches_it(underway_cluster):
    kubernetes = pytest.importorskip("kubernetes")
    with kubernetes.config.new_client_from_config(str(underway_cluster.kubeconfig)) as api:
        core = kubernetes.client.CoreV1Api(api)
        underway_cluster.client.create(pod("p"))
        seen = []
        watch = kubernetes.watch.Watch()
        for event in watch.stream(core.list_namespaced_pod, "default", timeout_seconds=20):
            seen.append(event["object"].status.phase)
            if seen[-1] == "Running":
                break
        watch.stop()
    assert seen[-1] == "Running"
