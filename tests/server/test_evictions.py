"""Evictions and what they take from disruption budgets."""

import asyncio
import os
import subprocess

import msgspec
import pytest
from tests.peers import kubectl
from tests.server.running import pod, request, serve

from underway.api.resources import PODS, Resource
from underway.testing import Cluster

PDBS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
LABELS = {"app": "web"}


def budget(name="web", selector=None, **spec):
    spec = {"minAvailable": 1, "selector": selector or {"matchLabels": LABELS}, **spec}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": spec,
    }


async def make_budget(client, allowed, *, name="web", seen=1, needed=1, healthy=1, **spec):
    made = await client.create(PDBS, budget(name, **spec), "default")
    status = {
        "disruptionsAllowed": allowed,
        "currentHealthy": healthy,
        "desiredHealthy": needed,
        "expectedPods": healthy,
        "observedGeneration": seen,
    }
    return await client.replace(PDBS, {**made, "status": status}, subresource="status")


async def make_pod(client, name, *, phase="Running", ready=True):
    made = pod(name, nodeName="n1")
    made["metadata"]["labels"] = LABELS
    made = await client.create(PODS, made, "default")
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"phase": phase, "conditions": conditions}
    return await client.replace(PODS, {**made, "status": status}, subresource="status")


async def evict(server, name, body=None, query="", headers=()):
    sent = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    sent.update(body or {})
    path = f"/api/v1/namespaces/default/pods/{name}/eviction"

    asked = request("POST", path, query, msgspec.json.encode(sent), **dict(headers))
    asked.headers["content-type"] = "application/json"
    return await server.as_user("admin", ["system:masters"])(asked)


def test_an_eviction_is_taken_from_the_budget_and_told_on_the_pod(tmp_path):
    async def scenario(server, client):
        await make_pod(client, "a")
        await make_budget(client, 1)
        answer = await evict(server, "a")
        assert (answer.status, answer.json()["status"]) == (201, "Success")
        gone = await client.get(PODS, "a", "default")
        assert gone["metadata"]["deletionTimestamp"]
        told = [c for c in gone["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        assert [(c["status"], c["reason"], c["message"]) for c in told] == [
            ("True", "EvictionByEvictionAPI", "Eviction API: evicting")
        ]
        status = (await client.get(PDBS, "web", "default"))["status"]
        assert status["disruptionsAllowed"] == 0
        assert list(status["disruptedPods"]) == ["a"]
        allowed = [c for c in status["conditions"] if c["type"] == "DisruptionAllowed"]
        assert [(c["status"], c["reason"]) for c in allowed] == [("False", "InsufficientPods")]

    serve(tmp_path, scenario)


def test_an_exhausted_budget_refuses_in_upstreams_words(tmp_path):
    async def scenario(server, client):
        await make_pod(client, "a")
        await make_budget(client, 0, needed=2, healthy=2)
        answer = await evict(server, "a")
        status = answer.json()
        assert (answer.status, status["reason"]) == (429, "TooManyRequests")
        text = "Cannot evict pod as it would violate the pod's disruption budget."
        assert status["message"] == text
        (cause,) = status["details"]["causes"]
        assert cause["reason"] == "DisruptionBudget"
        assert (
            cause["message"] == "The disruption budget web needs 2 healthy pods and has 2 currently"
        )
        assert "retry-after" not in answer.headers  # clients would wait in silence
        assert "deletionTimestamp" not in (await client.get(PODS, "a", "default"))["metadata"]

    serve(tmp_path, scenario)


def test_a_budget_nobody_has_counted_yet_asks_for_patience(tmp_path):
    async def scenario(server, client):
        await make_pod(client, "a")
        await make_budget(client, 3, seen=0)
        answer = await evict(server, "a")
        assert (answer.status, answer.headers["retry-after"]) == (429, "10")
        (cause,) = answer.json()["details"]["causes"]
        assert cause["message"].endswith("web is still being processed by the server.")

    serve(tmp_path, scenario)


def test_a_pod_with_two_budgets_cannot_be_evicted(tmp_path):
    async def scenario(server, client):
        await make_pod(client, "a")
        await make_budget(client, 5)
        await make_budget(client, 5, name="all", selector={})
        answer = await evict(server, "a")
        assert answer.status == 500
        assert answer.json()["message"].startswith("This pod has more than one PodDisruptionBudget")

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("policy", "needed", "healthy", "code"),
    [
        (None, 2, 2, 201),
        (None, 2, 1, 429),
        ("IfHealthyBudget", 2, 1, 429),
        ("IfHealthyBudget", 0, 0, 429),
        ("AlwaysAllow", 2, 0, 201),
    ],
)
def test_pods_that_are_not_ready_go_as_the_policy_says(tmp_path, policy, needed, healthy, code):
    async def scenario(server, client):
        await make_pod(client, "a", ready=False)
        more = {"unhealthyPodEvictionPolicy": policy} if policy else {}
        await make_budget(client, 0, needed=needed, healthy=healthy, **more)
        assert (await evict(server, "a")).status == code
        status = (await client.get(PDBS, "web", "default"))["status"]
        assert not status.get("disruptedPods")

    serve(tmp_path, scenario)


def test_pods_that_serve_nobody_pass_the_budget_by(tmp_path):
    async def scenario(server, client):
        await make_budget(client, 0)
        for phase in ("Succeeded", "Failed", "Pending"):
            await make_pod(client, phase.lower(), phase=phase)
            assert (await evict(server, phase.lower())).status == 201

    serve(tmp_path, scenario)


def test_a_dry_run_takes_nothing_and_still_refuses(tmp_path):
    async def scenario(server, client):
        await make_pod(client, "a")
        made = await make_budget(client, 1)
        for query, body in (("dryRun=All", None), ("", {"deleteOptions": {"dryRun": ["All"]}})):
            assert (await evict(server, "a", body, query)).status == 201
        assert await client.get(PDBS, "web", "default") == made
        assert "deletionTimestamp" not in (await client.get(PODS, "a", "default"))["metadata"]
        made["status"]["disruptionsAllowed"] = 0
        await client.replace(PDBS, made, subresource="status")
        assert (await evict(server, "a", query="dryRun=All")).status == 429

    serve(tmp_path, scenario)


def test_preconditions_and_names_are_held_to(tmp_path):
    async def scenario(server, client):
        await make_pod(client, "a")
        stale = {"deleteOptions": {"preconditions": {"uid": "another"}}}
        assert (await evict(server, "a", stale)).status == 409
        assert (await evict(server, "a", {"metadata": {"name": "b"}})).status == 400
        assert (await evict(server, "none")).status == 404

    serve(tmp_path, scenario)


def test_fifty_evictions_at_once_never_overrun_the_budget(tmp_path):
    async def scenario(server, client):
        await asyncio.gather(*(make_pod(client, f"p{n}") for n in range(50)))
        await make_budget(client, 7, needed=43, healthy=50)
        answers = await asyncio.gather(*(evict(server, f"p{n}") for n in range(50)))
        codes = sorted(each.status for each in answers)
        assert codes == [201] * 7 + [429] * 43
        pods = (await client.list(PODS, "default")).items
        gone = {p["metadata"]["name"] for p in pods if "deletionTimestamp" in p["metadata"]}
        status = (await client.get(PDBS, "web", "default"))["status"]
        assert len(gone) == 7
        assert set(status["disruptedPods"]) == gone
        assert status["disruptionsAllowed"] == 0

    serve(tmp_path, scenario)


def test_budget_and_pod_survive_together(tmp_path):
    async def first(server, client):
        await make_pod(client, "a")
        await make_budget(client, 1)
        assert (await evict(server, "a")).status == 201

    async def second(_server, client):
        pods = (await client.list(PODS, "default")).items
        assert "deletionTimestamp" in pods[0]["metadata"]
        status = (await client.get(PDBS, "web", "default"))["status"]
        assert status["disruptionsAllowed"] == 0

    serve(tmp_path, first)
    serve(tmp_path, second)


WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: nginx}]}
"""


@pytest.mark.peer
def test_kubectl_drain_waits_for_the_budget_and_empties_the_node():
    with Cluster(nodes=2) as cluster:

        def run(*words, timeout=60):
            return subprocess.run(
                [str(kubectl()), "--kubeconfig", str(cluster.kubeconfig), *words],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env={**os.environ, "HOME": str(cluster.home.root)},
            )

        cluster.client.create(WEB)
        cluster.client.wait_for(
            "Deployment", "web", lambda d: d["status"].get("readyReplicas") == 3
        )
        cluster.client.create(budget(minAvailable=3))
        cluster.client.wait_for(
            PDBS, "web", lambda b: (b.get("status") or {}).get("currentHealthy") == 3
        )
        node = next(p["spec"]["nodeName"] for p in cluster.client.list("Pod", "default"))
        blocked = run("drain", node, "--timeout=1s")
        assert blocked.returncode != 0
        assert "violate the pod's disruption budget" in blocked.stderr
        cluster.client.patch("PodDisruptionBudget", "web", {"spec": {"minAvailable": 1}})
        drained = run("drain", node, "--timeout=50s")
        assert drained.returncode == 0, drained.stderr
        assert "drained" in drained.stdout
        left = [
            p for p in cluster.client.list("Pod", "default") if p["spec"].get("nodeName") == node
        ]
        assert left == []
        cluster.client.wait_for(
            "Deployment", "web", lambda d: d["status"].get("readyReplicas") == 3
        )
