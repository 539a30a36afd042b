"""Clusters for tests whose nodes are driven by Stages."""

from underway.api.resources import PODS
from underway.testing import Cluster, fake_nodes


def test_a_deployment_runs_on_many_nodes_without_machines():
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 30,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "c", "image": "none", "resources": {"requests": {"cpu": "1"}}}
                    ]
                },
            },
        },
    }
    with Cluster(nodes=0, capabilities=("workloads", "scheduler", "simulation")) as cluster:
        for node in fake_nodes(20, cpu="2"):
            cluster.client.create(node)
        cluster.client.create(workload)
        cluster.client.wait_for(
            "deployments", "web", lambda found: found["status"].get("readyReplicas") == 30
        )
        pods = cluster.client.list(PODS, "default")
        assert len({pod["status"]["podIP"] for pod in pods}) == 30
        assert len({pod["spec"]["nodeName"] for pod in pods}) == 20
