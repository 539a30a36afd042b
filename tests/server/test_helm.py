"""Both helms against the embedded server: a chart with hooks through its whole life."""

import asyncio
import contextlib
import json
import os
import subprocess

import pytest
from tests.peers import helm
from tests.server.cluster import Cluster

from underway.api.resources import JOBS, PODS
from underway.base.errors import UnderwayError

pytestmark = pytest.mark.peer

CHART = "apiVersion: v2\nname: hooked\nversion: {version}\nappVersion: '{version}'\n"
VALUES = "replicas: 1\nbroken: false\n"
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}-web, labels: {app: {{ .Release.Name }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers:
      - {name: main, image: "nginx:{{ .Chart.AppVersion }}", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}-web}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}-web}
stringData: {revision: "{{ .Release.Revision }}"}
"""
HOOK = """
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-%(name)s
  labels: {hook: %(name)s}
  annotations:
    helm.sh/hook: %(hook)s
    helm.sh/hook-weight: "%(weight)s"
    helm.sh/hook-delete-policy: before-hook-creation%(more)s
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {broken: "{{ .Values.broken }}"}}
    spec: {restartPolicy: Never, containers: [{name: main, image: busybox, command: ["true"]}]}
"""
TEST_POD = """
apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-test
  annotations: {helm.sh/hook: test}
spec: {restartPolicy: Never, containers: [{name: main, image: busybox, command: ["true"]}]}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("helm")) as running:
        yield running


@pytest.fixture
def hooks(cluster):
    """Stands in for Job controller and node: ends the hooks' Jobs and pods; their names in order."""
    ran = []

    async def end_jobs():
        async for event in cluster.admin.watch(JOBS):
            job = event.object
            if event.type != "ADDED" or (job.get("status") or {}).get("conditions"):
                continue
            ran.append(job["metadata"]["labels"]["hook"])
            broken = job["spec"]["template"]["metadata"]["labels"]["broken"] == "true"
            end = {"startTime": "2026-01-01T00:00:00Z", "failed" if broken else "succeeded": 1}
            kinds = ("FailureTarget", "Failed") if broken else ("SuccessCriteriaMet", "Complete")
            end["conditions"] = [
                {
                    "type": kind,
                    "status": "True",
                    "reason": "Hook",
                    "lastTransitionTime": "2026-01-01T00:00:01Z",
                }
                for kind in kinds
            ]
            if not broken:
                end["completionTime"] = "2026-01-01T00:00:01Z"
            await status(JOBS, job, end)

    async def end_pods():
        async for event in cluster.admin.watch(PODS):
            if event.type == "ADDED" and event.object["status"]["phase"] == "Pending":
                ran.append("test")
                await status(PODS, event.object, {"phase": "Succeeded"})

    async def status(resource, obj, value):
        metadata = obj["metadata"]
        with contextlib.suppress(UnderwayError):  # gone already
            await cluster.admin.patch(
                resource,
                metadata["name"],
                {"status": value},
                metadata["namespace"],
                subresource="status",
            )

    async def both():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(end_jobs())
            tasks.create_task(end_pods())

    running = asyncio.run_coroutine_threadsafe(both(), cluster.loop)
    yield ran
    running.cancel()


def write_chart(directory, version):
    templates = directory / "templates"
    templates.mkdir(parents=True, exist_ok=True)
    (directory / "Chart.yaml").write_text(CHART.format(version=version))
    (directory / "values.yaml").write_text(VALUES)
    (templates / "web.yaml").write_text(WEB)
    (templates / "test.yaml").write_text(TEST_POD)
    for name, hook, weight, more in (
        ("second", "pre-install", 5, ""),
        ("first", "pre-install", -5, ",hook-succeeded"),
        ("after", "post-install", 0, ""),
        ("migrate", "pre-upgrade", 0, ""),
        ("back", "post-rollback", 0, ""),
        ("farewell", "pre-delete", 0, ",hook-succeeded"),
    ):
        text = HOOK % {"name": name, "hook": hook, "weight": weight, "more": more}
        (templates / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize("version", ["32", "37"])
def test_a_chart_with_hooks_lives_its_whole_life(version, cluster, hooks, tmp_path):
    release, space = f"r{version}", f"helm-{version}"
    environment = {
        **os.environ,
        "KUBECONFIG": str(cluster.kubeconfig()),
        "HOME": str(tmp_path),
    }

    def run(*words, check=True):
        done = subprocess.run(
            [str(helm(version)), *words, "-n", space],
            env=environment, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def get(what, path):
        return cluster.kubectl("-n", space, "get", what, "-o", f"jsonpath={path}")

    major = run("version", "--short").stdout
    assert major.startswith("v3" if version == "32" else "v4"), major
    chart = tmp_path / "hooked"
    write_chart(chart, "1.0.0")
    run("install", release, str(chart), "--create-namespace")
    assert hooks == ["first", "second", "after"]
    jobs = cluster.kubectl("-n", space, "get", "jobs", "-o", "name").split()
    assert jobs == [f"job.batch/{release}-after", f"job.batch/{release}-second"]

    run("test", release)
    assert hooks[3:] == ["test"]

    write_chart(chart, "2.0.0")
    run("upgrade", release, str(chart), "--set", "replicas=3")
    assert hooks[4:] == ["migrate"]
    deployment = f"deployment/{release}-web"
    assert get(deployment, "{.spec.replicas} {..image}") == "3 nginx:2.0.0"

    refused = run("upgrade", release, str(chart), "--set", "broken=true,replicas=9", check=False)
    assert refused.returncode != 0
    assert "pre-upgrade" in refused.stderr
    assert get(deployment, "{.spec.replicas}") == "3"

    run("rollback", release, "1")
    assert hooks[5:] == ["migrate", "back"]
    assert get(deployment, "{.spec.replicas} {..image}") == "1 nginx:1.0.0"
    history = json.loads(run("history", release, "-o", "json").stdout)
    assert [each["status"] for each in history] == [
        "superseded",
        "superseded",
        "failed",
        "deployed",
    ]

    run("uninstall", release)
    assert hooks[7:] == ["farewell"]
    left = cluster.kubectl("-n", space, "get", "deployments,services,secrets", "-o", "name").split()
    assert [each for each in left if release in each] == []


@pytest.mark.parametrize("version", ["32", "37"])
def test_helms_own_chart_installs_tests_and_uninstalls(version, cluster, hooks, tmp_path):
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig()), "HOME": str(tmp_path)}

    def run(*words):
        done = subprocess.run(
            [str(helm(version)), *words],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    space = ("-n", f"own-{version}")
    run("create", "demo")
    run(
        "install",
        "own",
        "./demo",
        *space,
        "--create-namespace",
        "--set",
        "autoscaling.enabled=true",
    )
    run("test", "own", *space)
    assert hooks == ["test"]
    run("upgrade", "own", "./demo", *space, "--set", "replicaCount=2")
    run("rollback", "own", "1", *space)
    run("uninstall", "own", *space)
    left = cluster.kubectl(*space, "get", "deployments,hpa,services", "-o", "name")
    assert left.strip() == ""
