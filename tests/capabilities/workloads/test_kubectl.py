"""Real kubectl over TLS against the embedded server with these controllers."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.capabilities.workloads.kubelet import add_node, kubelet
from tests.server.cluster import Cluster

from underway.capabilities.scheduler.manifest import CAPABILITY as SCHEDULER
from underway.capabilities.workloads.manifest import CAPABILITY as WORKLOADS
from underway.client import Client
from underway.kit.registry import load
from underway.reconcile import Manager

pytestmark = pytest.mark.peer


@contextlib.contextmanager
def whole_cluster(root: Path) -> Iterator[Cluster]:
    """A server with every workload controller, the scheduler and one node that runs nothing."""
    with Cluster(root) as cluster:

        async def control() -> None:
            client = Client(cluster.api.as_user("controllers", ["system:masters"]))
            manager = Manager(client)
            factories = [load(each) for each in (*WORKLOADS.controllers, *SCHEDULER.controllers)]
            for factory in (*factories, kubelet(outcome, only_bound=True)):
                factory(manager, cluster.home)
            await manager.run()

        cluster.call(add_node(cluster.admin, "n1", "16"))
        running = asyncio.run_coroutine_threadsafe(control(), cluster.loop)
        try:
            yield cluster
        finally:
            running.cancel()


def outcome(pod: dict) -> str:
    return "Succeeded" if "job-name" in pod["metadata"].get("labels", {}) else "Running"


def test_kubectl_drives_rollouts_jobs_services_and_namespaces(tmp_path):
    with whole_cluster(tmp_path) as cluster:
        kubectl = cluster.kubectl
        kubectl("create", "deployment", "web", "--image=web:1", "--replicas=3", "--port=80")
        assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web")
        kubectl("expose", "deployment", "web", "--port=80")
        kubectl("set", "image", "deployment/web", "web=web:2")
        kubectl("rollout", "status", "deployment/web")
        kubectl("rollout", "restart", "deployment/web")
        kubectl("rollout", "status", "deployment/web")
        history = kubectl("rollout", "history", "deployment/web")
        assert [line.split()[0] for line in history.splitlines()[2:] if line] == ["1", "2", "3"]
        kubectl("rollout", "undo", "deployment/web", "--to-revision=1")
        kubectl("rollout", "status", "deployment/web")
        images = "-o=jsonpath={.items[*].spec.containers[*].image}"
        assert "web:1" in kubectl("get", "pods", "-l", "app=web", images)
        kubectl("rollout", "pause", "deployment/web")
        kubectl("set", "image", "deployment/web", "web=web:9")
        kubectl("rollout", "resume", "deployment/web")
        kubectl("rollout", "status", "deployment/web")
        kubectl("scale", "deployment/web", "--replicas=5")
        kubectl("wait", "--for=jsonpath={.status.readyReplicas}=5", "deployment/web")
        described = kubectl("describe", "deployment", "web")
        assert "NewReplicaSetAvailable" in described
        assert "ScalingReplicaSet" in described
        slices = json.loads(kubectl("get", "endpointslices", "-o", "json"))["items"]
        behind = [s for s in slices if s["metadata"]["name"].startswith("web-")]
        assert sum(len(each["endpoints"]) for each in behind) >= 5
        assert "Endpoints:" in kubectl("describe", "service", "web")

        kubectl("create", "job", "once", "--image=busybox", "--", "true")
        kubectl("wait", "--for=condition=complete", "job/once", "--timeout=30s")
        assert "1/1" in kubectl("get", "job", "once")
        kubectl("delete", "job", "once", "--cascade=foreground", "--timeout=30s")

        kubectl("create", "namespace", "team")
        kubectl("create", "deployment", "api", "--image=api", "-n", "team")
        kubectl("rollout", "status", "deployment/api", "-n", "team")
        kubectl("delete", "namespace", "team", "--timeout=30s")
        assert "team" not in kubectl("get", "namespaces")

        kubectl("delete", "deployment", "web", "--cascade=foreground", "--timeout=30s")
        assert kubectl("get", "pods,replicasets", "-l", "app=web", "-o", "name") == ""


def test_kubectl_undoes_the_rollout_of_a_statefulset(tmp_path):
    with whole_cluster(tmp_path) as cluster:
        manifest = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "db"},
            "spec": {
                "replicas": 2,
                "serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}},
                "template": {
                    "metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [{"name": "db", "image": "db:1"}]},
                },
            },
        }
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        cluster.kubectl("rollout", "status", "statefulset/db")
        cluster.kubectl("set", "image", "statefulset/db", "db=db:2")
        cluster.kubectl("rollout", "status", "statefulset/db")
        cluster.kubectl("rollout", "undo", "statefulset/db")
        cluster.kubectl("rollout", "status", "statefulset/db")
        images = "-o=jsonpath={.items[*].spec.containers[*].image}"
        assert cluster.kubectl("get", "pods", "-l", "app=db", images) == "db:1 db:1"


def test_kubectl_drains_a_node_budgets_are_kept_and_taints_evict(tmp_path):
    with whole_cluster(tmp_path) as cluster:
        kubectl = cluster.kubectl
        cluster.call(add_node(cluster.admin, "n2", "16"))
        kubectl("create", "deployment", "web", "--image=web:1", "--replicas=4")
        kubectl("rollout", "status", "deployment/web")
        kubectl("create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=50%")
        kubectl("wait", "pdb/web", "--for=jsonpath={.status.disruptionsAllowed}=2", "--timeout=20s")
        kubectl("drain", "n1", "--timeout=60s", "--force")
        nodes = "-o=jsonpath={.items[*].spec.nodeName}"
        kubectl("rollout", "status", "deployment/web")
        assert set(kubectl("get", "pods", "-l", "app=web", nodes).split()) == {"n2"}
        assert "SchedulingDisabled" in kubectl("get", "node", "n1")
        kubectl("uncordon", "n1")
        kubectl("taint", "nodes", "n2", "broken=yes:NoExecute")
        kubectl(
            "wait", "pods", "-l", "app=web", "--for=jsonpath={.spec.nodeName}=n1", "--timeout=30s"
        )
        kubectl("rollout", "status", "deployment/web")
        assert set(kubectl("get", "pods", "-l", "app=web", nodes).split()) == {"n1"}


def test_kubectl_sees_an_important_pod_take_the_place_of_a_lesser_one(tmp_path):
    with whole_cluster(tmp_path) as cluster:
        kubectl = cluster.kubectl
        kubectl("create", "priorityclass", "high", "--value=1000")
        asks = (
            '{"spec":{"containers":[{"name":"c","image":"c","resources":{"requests":{"cpu":"10"}}}]'
        )
        kubectl("run", "low", "--image=c", f"--overrides={asks}}}}}")
        kubectl("wait", "pod/low", "--for=condition=Ready", "--timeout=20s")
        overrides = f'--overrides={asks},"priorityClassName":"high"}}}}'
        kubectl("run", "high", "--image=c", overrides)
        kubectl("wait", "pod/high", "--for=condition=Ready", "--timeout=20s")
        assert kubectl("get", "pods", "-o", "name").split() == ["pod/high"]
        assert "Preempted by pod" in kubectl("get", "events", "--field-selector=reason=Preempted")
