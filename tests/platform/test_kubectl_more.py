"""Volumes that last, metrics, autoscaling, and the tools for looking into pods: real kubectl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.platform.conftest import Platform

pytestmark = [
    pytest.mark.platform, pytest.mark.privileged, pytest.mark.peer, pytest.mark.timeout(300),
]  # fmt: skip

NS = ("-n", "more")
KEEPER = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper, namespace: more}
spec:
  replicas: 1
  serviceName: keeper
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
      containers:
        - name: keeper
          image: busybox
          command: [sh, -c, "echo started >> /data/starts; id > /inner/id; exec sleep 1000000"]
          volumeMounts:
            - {name: data, mountPath: /data}
            - {name: data, mountPath: /inner, subPath: sub/inner}
            - {name: data, mountPath: /fixed, readOnly: true}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 10Mi}}}
"""
BURNER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: burner, namespace: more}
spec:
  selector: {matchLabels: {app: burner}}
  template:
    metadata: {labels: {app: burner}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: burner
          image: busybox
          command: [sh, -c, "while :; do :; done"]
          resources: {requests: {cpu: 50m}, limits: {cpu: 200m}}
"""


@pytest.fixture(scope="module")
def keeper(platform: Platform) -> Iterator[Platform]:
    platform.kubectl("create", "namespace", "more")
    platform.kubectl("apply", "-f", "-", stdin=KEEPER)
    platform.kubectl(*NS, "rollout", "status", "statefulset/keeper", "--timeout=120s")
    yield platform
    platform.kubectl("delete", "namespace", "more", "--timeout=60s")
    assert platform.get("pv")["items"] == []
    assert list((platform.home / "volumes").iterdir()) == []


def starts(platform: Platform) -> int:
    text = platform.kubectl(*NS, "exec", "keeper-0", "--", "cat", "/data/starts").stdout
    return text.splitlines().count("started")


def test_a_claim_says_how_it_came_by_its_volume(keeper: Platform) -> None:
    text = keeper.kubectl(*NS, "describe", "pvc", "data-keeper-0").stdout
    assert "Bound" in text
    assert "local-path" in text
    assert "Used By:       keeper-0" in text
    for event in ("WaitForPodScheduled", "ExternalProvisioning", "ProvisioningSucceeded"):
        assert event in text
    assert "local-path (default)" in keeper.kubectl("get", "storageclass").stdout


def test_a_volume_belongs_to_the_pods_group_and_can_be_mounted_read_only(
    keeper: Platform,
) -> None:
    run = (*NS, "exec", "keeper-0", "--")
    assert "2000" in keeper.kubectl(*run, "cat", "/data/sub/inner/id").stdout
    assert keeper.kubectl(*run, "stat", "-c", "%g", "/inner/id").stdout.strip() == "2000"
    refused = keeper.kubectl(*run, "touch", "/fixed/file", check=False)
    assert refused.returncode != 0
    assert "Read-only" in refused.stderr


def test_data_outlasts_the_pod_and_the_platforms_rest(keeper: Platform) -> None:
    before = starts(keeper)
    keeper.kubectl(*NS, "delete", "pod", "keeper-0")
    keeper.kubectl(*NS, "rollout", "status", "statefulset/keeper", "--timeout=60s")
    assert starts(keeper) == before + 1
    keeper.underway("down")
    keeper.up()
    ready = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    keeper.kubectl(*NS, "wait", ready, "pod/keeper-0", "--timeout=90s")
    keeper.kubectl(*NS, "wait", "--for=condition=Ready", "pod/keeper-0", "--timeout=90s")
    assert starts(keeper) == before + 2


def test_files_are_copied_in_and_out(keeper: Platform, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("to and fro\n")
    keeper.kubectl(*NS, "cp", str(tmp_path / "here"), "keeper-0:/data/there")
    keeper.kubectl(*NS, "cp", "keeper-0:/data/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "to and fro\n"


def test_an_ephemeral_container_looks_into_a_running_pod(keeper: Platform) -> None:
    look = "echo 'looking'; tr '\\0' ' ' < /proc/1/cmdline; exec sleep 100000"
    keeper.kubectl(
        *NS, "debug", "keeper-0", "--image=busybox", "--target=keeper", "-c", "look",
        "--profile=general", "--attach=false", "--", "sh", "-c", look,
    )  # fmt: skip
    running = "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running}"
    keeper.kubectl(*NS, "wait", running, "pod/keeper-0", "--timeout=60s")
    out = keeper.kubectl(*NS, "exec", "keeper-0", "-c", "look", "--", "cat", "/proc/1/cmdline")
    assert out.stdout.replace("\0", " ").strip() == "sleep 1000000"
    pod = keeper.get(*NS, "pod", "keeper-0")
    assert pod["status"]["containerStatuses"][0]["ready"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


def test_an_autoscaler_adds_replicas_under_real_load_and_top_shows_it(keeper: Platform) -> None:
    keeper.kubectl("apply", "-f", "-", stdin=BURNER)
    keeper.kubectl(*NS, "rollout", "status", "deployment/burner", "--timeout=60s")
    keeper.kubectl(*NS, "autoscale", "deployment", "burner", "--cpu=50%", "--max=3")
    grown = "--for=jsonpath={.spec.replicas}=3"
    keeper.kubectl(*NS, "wait", grown, "deployment/burner", "--timeout=120s")
    text = keeper.kubectl(*NS, "describe", "hpa", "burner").stdout
    assert "SuccessfulRescale" in text
    assert "cpu resource utilization (percentage of request) above target" in text
    table = keeper.kubectl(*NS, "top", "pods", "-l", "app=burner").stdout
    header, *rows = table.splitlines()
    assert header.split() == ["NAME", "CPU(cores)", "MEMORY(bytes)"]
    assert max(int(row.split()[1].removesuffix("m")) for row in rows) > 50
    node = keeper.kubectl("top", "nodes").stdout.splitlines()[1].split()
    assert int(node[1].removesuffix("m")) > 50
    summary = keeper.kubectl("get", "--raw", f"/api/v1/nodes/{node[0]}/proxy/stats/summary")
    found = json.loads(summary.stdout)
    assert found["node"]["memory"]["workingSetBytes"] > 0
    assert any(pod["podRef"]["namespace"] == "more" for pod in found["pods"])
    keeper.kubectl(*NS, "delete", "hpa,deployment", "burner")
