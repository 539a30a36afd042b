"""Stages that play on the real server."""

import asyncio

import yaml
from tests.cluster import cluster

from underway.api.objects import find_condition
from underway.api.resources import (
    CONFIGMAPS,
    EVENTS_CORE,
    JOBS,
    LEASES,
    NODES,
    PODS,
    SERVICEACCOUNTS,
)
from underway.base.clock import FakeClock
from underway.capabilities.scheduler import controller as scheduler
from underway.capabilities.simulation import controller as simulation
from underway.capabilities.simulation.model import STAGES, node_object
from underway.capabilities.simulation.rules.rendering import Renderer
from underway.capabilities.workloads.controller import job as jobs
from underway.dist.assembly import install_crd

NS = "default"


def crd():
    from importlib import resources

    folder = resources.files("underway.capabilities.simulation.crds")
    return yaml.safe_load(folder.joinpath("stages.yaml").read_text())


def run(tmp_path, main, *factories, stages=(), clock=None):
    async def whole():
        async with cluster(tmp_path, *factories, clock=clock) as env:
            await install_crd(env.client, crd())
            for each in stages:
                for obj in yaml.safe_load_all(each) if isinstance(each, str) else [each]:
                    await env.client.create(STAGES, obj)
            await env.add(simulation.add)
            async with asyncio.timeout(30):
                await main(env)

    asyncio.run(whole())


async def settled(env):
    """Return when no controller has had anything to do for a while."""
    quiet = 0
    while quiet < 10:
        await asyncio.sleep(0.005)
        quiet = 0 if env.manager.busy() else quiet + 1


def pod(name, node="", **more):
    spec = {"containers": [{"name": "c", "image": "web"}], **more.pop("spec", {})}
    if node:
        spec["nodeName"] = node
    header = {"name": name, "namespace": NS, **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": header, "spec": spec}


def ready(name):
    def check(found):
        conditions = (found.get(name, {}).get("status") or {}).get("conditions")
        return (find_condition(conditions, "Ready") or {}).get("status") == "True"

    return check


def test_a_node_is_ready_and_its_pods_run_and_go(tmp_path):
    async def main(env):
        await env.client.create(NODES, node_object("fake-0"))
        await env.until(NODES, ready("fake-0"))
        lease = await env.until(LEASES, lambda all_: all_.get("kube-node-lease/fake-0"))
        assert lease["metadata"]["ownerReferences"][0]["kind"] == "Node"
        for name in ("a", "b"):
            await env.client.create(PODS, pod(name))
        found = await env.until(
            PODS, lambda all_: ready(f"{NS}/a")(all_) and ready(f"{NS}/b")(all_) and all_, NS
        )
        a, b = found[f"{NS}/a"], found[f"{NS}/b"]
        assert a["status"]["phase"] == "Running"
        assert a["status"]["podIP"] != b["status"]["podIP"]
        assert a["status"]["containerStatuses"][0]["state"]["running"]
        node = await env.client.get(NODES, "fake-0")
        assert a["status"]["hostIP"] == node["status"]["addresses"][0]["address"]
        await env.client.delete(PODS, "a", NS)
        await env.until(PODS, lambda all_: f"{NS}/a" not in all_, NS)

    run(tmp_path, main, scheduler.add)


def test_nodes_that_are_real_are_left_alone(tmp_path):
    async def main(env):
        real = node_object("real")
        del real["metadata"]["annotations"]
        await env.client.create(NODES, real)
        await env.client.create(PODS, pod("there", "real"))
        await env.client.create(NODES, node_object("fake"))
        await env.client.create(PODS, pod("here", "fake"))
        await env.until(PODS, ready(f"{NS}/here"), NS)
        there = await env.client.get(PODS, "there", NS)
        assert there["status"]["phase"] == "Pending"
        assert "conditions" not in (await env.client.get(NODES, "real")).get("status", {})

    run(tmp_path, main)


def test_pods_of_a_node_that_becomes_simulated_later_are_taken_up(tmp_path):
    async def main(env):
        await env.client.create(PODS, pod("early", "late"))
        await env.client.create(NODES, node_object("late"))
        await env.until(PODS, ready(f"{NS}/early"), NS)

    run(tmp_path, main)


def test_pods_of_jobs_complete(tmp_path):
    async def main(env):
        await env.client.create(NODES, node_object("n"))
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "j", "namespace": NS},
            "spec": {"template": template, "completions": 2, "parallelism": 2},
        }
        await env.client.create(JOBS, job)
        await env.until(
            JOBS, lambda all_: all_[f"{NS}/j"].get("status", {}).get("succeeded") == 2, NS
        )

    run(tmp_path, main, scheduler.add, jobs.add)


SLOW = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: create}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .status.podIP, operator: DoesNotExist}
  delay: {durationMilliseconds: 60000}
  immediateNextStage: true
  next:
    event: {type: Normal, reason: Created, message: Created container}
    finalizers: {add: [{value: example.com/held}]}
    statusTemplate: |
      {{ $now := Now }}
      phase: Pending
      podIP: {{ PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) | Quote }}
      conditions:
      {{ if .spec.initContainers }}
      - lastTransitionTime: {{ $now | Quote }}
        message: 'incomplete: [{{ range .spec.initContainers }} {{ .name }} {{ end }}]'
        status: "False"
        type: Initialized
      {{ end }}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: run}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.podIP, operator: Exists}
    - cel: {expression: "self.status.phase == 'Pending'"}
  delay:
    durationFrom: {expressionFrom: '.metadata.annotations["run/delay"]'}
  steps:
  - patch: {root: status, subresource: status, template: "phase: Running"}
  - patch: {root: metadata, template: 'labels: {ran: "{{ .metadata.name }}"}'}
  - apply:
      template: |
        apiVersion: v1
        kind: ConfigMap
        metadata: {name: made-by-{{ .metadata.name }}}
        data: {node: {{ .spec.nodeName | Quote }}}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: let-go}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: Exists}
  next:
    finalizers: {empty: true}
    delete: true
"""


def test_a_life_in_stages_with_delays_events_finalizers_and_objects_applied(tmp_path):
    clock = FakeClock()

    async def main(env):
        await env.client.create(NODES, node_object("n"))
        held = pod("p", "n", annotations={"run/delay": "90s"})
        held["spec"]["initContainers"] = [{"name": "i", "image": "x"}]
        await env.client.create(PODS, held)
        await env.until(NODES, ready("n"))
        await settled(env)
        assert "podIP" not in (await env.client.get(PODS, "p", NS))["status"]
        await clock.advance(61)
        found = await env.until(PODS, lambda all_: all_[f"{NS}/p"]["status"].get("podIP"), NS)
        found = await env.client.get(PODS, "p", NS)
        assert found["metadata"]["finalizers"] == ["example.com/held"]
        initialized = find_condition(found["status"]["conditions"], "Initialized")
        assert initialized["message"] == "incomplete: [ i ]"
        await settled(env)
        await clock.advance(91)
        await env.until(CONFIGMAPS, lambda all_: all_.get(f"{NS}/made-by-p"), NS)
        found = await env.client.get(PODS, "p", NS)
        assert found["status"]["phase"] == "Running"
        assert found["metadata"]["labels"] == {"ran": "p"}
        await env.until(
            EVENTS_CORE, lambda all_: any(e["reason"] == "Created" for e in all_.values()), NS
        )
        await env.client.delete(PODS, "p", NS)
        await env.until(PODS, lambda all_: f"{NS}/p" not in all_, NS)

    run(tmp_path, main, stages=[SLOW], clock=clock)


def test_stages_of_any_kind_play(tmp_path):
    stage = {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "mark"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "ServiceAccount"},
            "selector": {"matchLabels": {"mark": "yes"}},
            "next": {
                "patches": [{"root": "metadata", "template": "annotations: {marked: by-stage}"}]
            },
        },
    }

    async def main(env):
        for name, mark in (("one", "yes"), ("two", "no")):
            header = {"name": name, "namespace": NS, "labels": {"mark": mark}}
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": header}
            await env.client.create(SERVICEACCOUNTS, account)
        await env.until(
            SERVICEACCOUNTS, lambda all_: all_[f"{NS}/one"]["metadata"].get("annotations"), NS
        )
        two = await env.client.get(SERVICEACCOUNTS, "two", NS)
        assert "annotations" not in two["metadata"]
        # A Stage that goes away is played no more.
        await env.client.delete(STAGES, "mark")
        await settled(env)

    run(tmp_path, main, stages=[stage])


def test_a_stage_whose_template_fails_says_so_once_and_holds_up_nobody(tmp_path):
    stage = {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "broken"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchLabels": {"break": "yes"}},
            "next": {"statusTemplate": "phase: {{ .spec.nodeName.deeper }}"},
        },
    }
    fine = {**stage, "metadata": {"name": "fine"}}
    fine["spec"] = {
        **stage["spec"],
        "selector": {
            "matchLabels": {"break": "no"},
            "matchExpressions": [
                {"key": ".status.phase", "operator": "NotIn", "values": ["Running"]}
            ],
        },
        "next": {"statusTemplate": "phase: Running"},
    }

    async def main(env):
        await env.client.create(NODES, node_object("n"))
        await env.client.create(PODS, pod("bad", "n", labels={"break": "yes"}))
        await env.client.create(PODS, pod("good", "n", labels={"break": "no"}))
        await env.until(PODS, lambda all_: all_[f"{NS}/good"]["status"]["phase"] == "Running", NS)
        told = await env.until(
            EVENTS_CORE,
            lambda all_: [e for e in all_.values() if e["reason"] == "StageFailed"],
            NS,
        )
        assert len(told) == 1
        assert "can't evaluate field deeper" in told[0]["message"]

    run(tmp_path, main, stages=[stage, fine])


def test_a_node_that_goes_is_not_made_again(tmp_path):
    async def main(env):
        await env.client.create(NODES, node_object("n"))
        await env.until(LEASES, lambda all_: all_.get("kube-node-lease/n"))
        await env.client.delete(NODES, "n")
        await settled(env)
        assert not (await env.client.list(NODES)).items
        assert not env.manager.problems()

    run(tmp_path, main)


def test_leases_are_renewed_while_time_passes(tmp_path):
    clock = FakeClock()

    async def main(env):
        await env.client.create(NODES, node_object("n"))
        first = await env.until(LEASES, lambda all_: all_.get("kube-node-lease/n"))
        await settled(env)
        await clock.advance(241)
        await env.until(
            LEASES,
            lambda all_: (
                all_["kube-node-lease/n"]["spec"]["renewTime"] != first["spec"]["renewTime"]
            ),
        )

    run(tmp_path, main, clock=clock)


def test_templates_are_parsed_once():
    render = Renderer(lambda: "now", {})
    for number in range(3):
        assert render("n: {{ .n }}", {"n": number}) == {"n": number}
    assert len(render._templates) == 1
