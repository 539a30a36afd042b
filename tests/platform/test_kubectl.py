"""Real kubectl against the running platform: the everyday commands, real containers behind them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import peers
from tests.platform.conftest import Platform

pytestmark = [
    pytest.mark.platform, pytest.mark.privileged, pytest.mark.peer, pytest.mark.timeout(300),
]  # fmt: skip

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
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: busybox
          command: [sh, -c, "mkdir -p /www; echo hello from $HOSTNAME > /www/index.html; echo serving; exec httpd -f -v -p 8080 -h /www"]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"""


@pytest.fixture(scope="module")
def web(platform: Platform) -> Iterator[Platform]:
    platform.kubectl("create", "namespace", "shop")
    platform.kubectl("config", "set-context", "--current", "--namespace=shop")
    platform.kubectl("apply", "-f", "-", stdin=WEB)
    platform.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    yield platform
    platform.kubectl("config", "set-context", "--current", "--namespace=default")
    platform.kubectl("delete", "namespace", "shop", "--timeout=60s")


def test_get_tables(web: Platform) -> None:
    lines = web.kubectl("get", "pods").stdout.splitlines()
    assert lines[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert len(lines) == 3
    assert all(line.split()[1:4] == ["1/1", "Running", "0"] for line in lines[1:])
    wide = web.kubectl("get", "pods", "-o", "wide").stdout.splitlines()[0]
    assert wide.split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    deployment = web.kubectl("get", "deployment", "web").stdout.splitlines()[1]
    assert deployment.split()[:4] == ["web", "2/2", "2", "2"]
    node = web.kubectl("get", "nodes").stdout.splitlines()[1]
    assert node.split()[1] == "Ready"


def test_get_formats_and_selectors(web: Platform) -> None:
    names = web.kubectl("get", "pods", "-l", "app=web", "-o", "name").stdout.split()
    assert len(names) == 2
    jsonpath = "jsonpath={.items[*].status.phase}"
    assert web.kubectl("get", "pods", "-o", jsonpath).stdout == "Running Running"
    assert "kind: Deployment" in web.kubectl("get", "deploy", "web", "-o", "yaml").stdout
    one = names[0].removeprefix("pod/")
    chosen = web.kubectl("get", "pods", "--field-selector", f"metadata.name={one}", "-o", "name")
    assert chosen.stdout.split() == [names[0]]
    assert "kube-system" in web.kubectl("get", "namespaces").stdout
    assert "shop" in web.kubectl("get", "pods", "-A").stdout


def test_describe(web: Platform) -> None:
    name = web.kubectl("get", "pods", "-l", "app=web", "-o", "name").stdout.split()[0]
    text = web.kubectl("describe", name).stdout
    for event in ("Scheduled", "Pulled", "Created", "Started"):
        assert event in text
    assert (
        "2 desired | 2 updated | 2 total | 2 available"
        in web.kubectl("describe", "deployment", "web").stdout
    )
    assert re.search(r"Endpoints:\s+\d+\.", web.kubectl("describe", "service", "web").stdout)
    assert "Allocatable" in web.kubectl("describe", "nodes").stdout


def test_watch_sees_a_change(web: Platform) -> None:
    command = [str(peers.kubectl("37")), "get", "configmaps", "-w", "--no-headers"]
    with subprocess.Popen(
        command, env=web.environment, stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        try:
            web.kubectl("create", "configmap", "seen", "--from-literal=a=1")
            for line in watching.stdout:
                if line.startswith("seen"):
                    break
            else:
                pytest.fail("the watch ended without the change")
        finally:
            watching.terminate()
    web.kubectl("delete", "configmap", "seen")


def test_logs(web: Platform) -> None:
    assert "serving" in web.kubectl("logs", "deployment/web").stdout
    command = [str(peers.kubectl("37")), "logs", "-f", "deployment/web", "--tail=1"]
    with subprocess.Popen(
        command, env=web.environment, stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        try:
            assert following.stdout.readline()
        finally:
            following.terminate()


def test_exec(web: Platform) -> None:
    assert web.kubectl("exec", "deploy/web", "--", "echo", "inside").stdout == "inside\n"
    done = web.kubectl("exec", "deploy/web", "--", "sh", "-c", "echo bad >&2; exit 3", check=False)
    assert done.returncode == 3
    assert "bad" in done.stderr
    piped = web.kubectl("exec", "-i", "deploy/web", "--", "wc", "-c", stdin="x" * 100_000)
    assert piped.stdout.strip() == "100000"


def test_exec_with_a_terminal(web: Platform) -> None:
    command = f"{peers.kubectl('37')} exec -it deploy/web -- sh -c 'tty; stty size'"
    done = web.run("script", "-qec", command, "/dev/null")
    assert "/dev/pts/" in done.stdout


def test_service_address_and_name_answer(web: Platform) -> None:
    address = web.kubectl("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}").stdout
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    seen = {opener.open(f"http://{address}/", timeout=5).read().decode() for _ in range(40)}
    assert len(seen) == 2
    inside = web.kubectl("exec", "deploy/web", "--", "wget", "-qO-", "http://web.shop.svc/")
    assert inside.stdout.startswith("hello from web-")


def test_port_forward(web: Platform) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(peers.kubectl("37")), "port-forward", "svc/web", f"{port}:80"]
    with subprocess.Popen(
        command, env=web.environment, stdout=subprocess.PIPE, text=True
    ) as forwarding:
        assert forwarding.stdout is not None
        try:
            assert "Forwarding from" in forwarding.stdout.readline()
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            for _ in range(3):
                answer = opener.open(f"http://127.0.0.1:{port}/", timeout=10).read()
                assert answer.startswith(b"hello from web-")
        finally:
            forwarding.terminate()


def test_scale_rollout_and_undo(web: Platform) -> None:
    web.kubectl("scale", "deployment/web", "--replicas=3")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert len(web.get("pods", "-l", "app=web")["items"]) >= 3
    web.kubectl("set", "env", "deployment/web", "COLOUR=blue")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    web.kubectl("rollout", "restart", "deployment/web")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    history = web.kubectl("rollout", "history", "deployment/web").stdout
    assert len(re.findall(r"^\d+", history, re.MULTILINE)) == 3
    web.kubectl("rollout", "undo", "deployment/web", "--to-revision=1")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    container = web.get("deployment", "web")["spec"]["template"]["spec"]["containers"][0]
    assert "env" not in container
    web.kubectl("scale", "deployment/web", "--replicas=2")


def test_label_annotate_edit_and_wait(web: Platform, tmp_path: Path) -> None:
    web.kubectl("label", "deployment", "web", "tier=front")
    web.kubectl("annotate", "deployment", "web", "owner=me")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/owner: me/owner: you/' \"$1\"\n")
    editor.chmod(0o755)
    web.run("env", f"KUBE_EDITOR={editor}", str(peers.kubectl("37")), "edit", "deployment", "web")
    found = web.get("deployment", "web")["metadata"]
    assert found["labels"]["tier"] == "front"
    assert found["annotations"]["owner"] == "you"
    web.kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=60s")


def test_explain_and_api_resources(web: Platform) -> None:
    text = web.kubectl("explain", "deployment.spec.replicas").stdout
    assert "replicas" in text
    assert "<integer>" in text
    listed = web.kubectl("api-resources", "-o", "name").stdout.split()
    assert {"pods", "deployments.apps", "passages.underway.dev"} <= set(listed)


def test_diff_after_apply_is_empty(web: Platform) -> None:
    done = web.kubectl("apply", "-f", "-", stdin=WEB)
    assert done.stdout.count("unchanged") + done.stdout.count("configured") == 2
    assert web.kubectl("diff", "-f", "-", stdin=WEB, check=False).returncode == 0


def test_job_runs_to_completion(web: Platform) -> None:
    web.kubectl("create", "job", "once", "--image=busybox", "--", "sh", "-c", "echo done; exit 0")
    web.kubectl("wait", "--for=condition=Complete", "job/once", "--timeout=60s")
    assert web.kubectl("logs", "job/once").stdout == "done\n"
    web.kubectl("delete", "job", "once")


def test_run_attached_and_removed(web: Platform) -> None:
    done = web.kubectl(
        "run", "quick", "--image=busybox", "--restart=Never", "--rm", "-i", "--",
        "sh", "-c", "cat; echo end", stdin="typed\n",
    )  # fmt: skip
    assert "typed" in done.stdout
    assert "end" in done.stdout


def test_configuration_reaches_the_container(web: Platform) -> None:
    web.kubectl("create", "configmap", "settings", "--from-literal=colour=green")
    web.kubectl("create", "secret", "generic", "key", "--from-literal=token=s3cret")
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"},
        "spec": {
            "restartPolicy": "Never",
            "volumes": [{"name": "s", "configMap": {"name": "settings"}},
                        {"name": "k", "secret": {"secretName": "key"}}, {"name": "e", "emptyDir": {}}],
            "containers": [{
                "name": "main", "image": "busybox",
                "command": ["sh", "-c", "cat /s/colour /k/token; echo; echo $COLOUR $NAME; touch /e/x; ls /e; ls /var/run/secrets/kubernetes.io/serviceaccount"],
                "env": [{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
                        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "volumeMounts": [{"name": "s", "mountPath": "/s"}, {"name": "k", "mountPath": "/k"},
                                 {"name": "e", "mountPath": "/e"}],
            }],
        },
    }  # fmt: skip
    web.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    web.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reader", "--timeout=60s")
    out = web.kubectl("logs", "reader").stdout.split()
    assert out == ["greens3cret", "green", "reader", "x", "ca.crt", "namespace", "token"]
    web.kubectl("delete", "pod", "reader")


def test_crashing_container_is_restarted_with_back_off(web: Platform) -> None:
    web.kubectl("run", "crash", "--image=busybox", "--", "sh", "-c", "echo dying; exit 2")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if "CrashLoopBackOff" in web.kubectl("get", "pod", "crash").stdout:
            break
        time.sleep(0.5)
    else:
        pytest.fail(web.kubectl("describe", "pod", "crash").stdout)
    assert "dying" in web.kubectl("logs", "crash", "--previous").stdout
    web.kubectl("delete", "pod", "crash", "--grace-period=1")


USES_API = """
import json, ssl, urllib.request
where = "/var/run/secrets/kubernetes.io/serviceaccount/"
request = urllib.request.Request(
    "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews",
    data=json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode(),
    headers={"Authorization": "Bearer " + open(where + "token").read(),
             "Content-Type": "application/json"},
)
context = ssl.create_default_context(cafile=where + "ca.crt")
answer = json.load(urllib.request.urlopen(request, context=context, timeout=10))
print(answer["status"]["userInfo"]["username"])
"""


def test_pod_uses_the_api_with_its_service_account(web: Platform) -> None:
    web.kubectl(
        "run", "caller", "--image=python:3.11-slim", "--restart=Never", "--", "python", "-c", USES_API
    )  # fmt: skip
    web.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/caller", "--timeout=240s")
    assert web.kubectl("logs", "caller").stdout == "system:serviceaccount:shop:default\n"
    web.kubectl("delete", "pod", "caller")


def test_older_kubectl_works_too(web: Platform) -> None:
    done = web.run(str(peers.kubectl("32")), "get", "pods", "-l", "app=web")
    assert "Running" in done.stdout
    inside = web.run(str(peers.kubectl("32")), "exec", "deploy/web", "--", "echo", "inside")
    assert inside.stdout == "inside\n"
