"""A running platform is brought back to a snapshot; what it runs goes on."""

import json
import time

import pytest

pytestmark = [pytest.mark.platform, pytest.mark.privileged, pytest.mark.peer]


def container_of(platform, pod):
    (status,) = platform.get("pod", pod)["status"]["containerStatuses"]
    return status.get("containerID", "") if status["ready"] else ""


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_platform_is_brought_back_to_a_snapshot(platform):
    platform.kubectl("create", "secret", "generic", "kept", "--from-literal=word=open-sesame")
    saved = json.loads(platform.underway("snapshot", "save", "good", "-o", "json").stdout)
    listed = json.loads(platform.underway("snapshot", "list", "-o", "json").stdout)
    assert listed == [saved]
    version = platform.get("secret", "kept")["metadata"]["resourceVersion"]

    platform.kubectl("delete", "secret", "kept")
    platform.kubectl("create", "configmap", "later")
    before = {each["name"]: each["pid"] for each in platform.status()["components"]}

    done = platform.underway("snapshot", "restore", "good", "--yes")
    assert "Restored good." in done.stdout
    status = platform.status()
    assert status["running"]
    assert not set(before.values()) & {each["pid"] for each in status["components"]}
    kept = platform.get("secret", "kept")
    assert kept["metadata"]["resourceVersion"] == version
    assert kept["data"] == {"word": "b3Blbi1zZXNhbWU="}
    missing = platform.kubectl("get", "configmap", "later", check=False)
    assert "NotFound" in missing.stderr
    made = platform.kubectl("create", "configmap", "newest", "-o", "json")
    assert int(json.loads(made.stdout)["metadata"]["resourceVersion"]) > saved["revision"] + 2
    platform.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")

    stored = b"".join(file.read_bytes() for file in (platform.home / "store").iterdir())
    assert b"open-sesame" not in stored
    assert b"b3Blbi1zZXNhbWU=" not in stored

    refused = platform.underway("snapshot", "restore", "nothing", "--yes", check=False)
    assert refused.returncode == 1
    assert "underway snapshot list" in refused.stderr
    platform.underway("snapshot", "delete", "good")
    assert "good" not in platform.underway("snapshot", "list").stdout


def test_pods_of_the_snapshot_go_on_running(platform):
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "steady"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": "docker.io/library/busybox:latest",
                    "command": ["sleep", "100000"],
                }
            ],
        },
    }
    platform.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    platform.kubectl("wait", "--for=condition=Ready", "pod/steady", "--timeout=180s")
    container = container_of(platform, "steady")
    deleted = {**manifest, "metadata": {"name": "deleted"}}
    platform.kubectl("apply", "-f", "-", stdin=json.dumps(deleted))
    platform.kubectl("wait", "--for=condition=Ready", "pod/deleted", "--timeout=60s")
    ended = container_of(platform, "deleted")
    platform.underway("snapshot", "save", "pods")
    platform.kubectl("delete", "pod", "deleted", "--timeout=60s")
    later = {**manifest, "metadata": {"name": "later"}}
    platform.kubectl("apply", "-f", "-", stdin=json.dumps(later))
    platform.kubectl("wait", "--for=condition=Ready", "pod/later", "--timeout=60s")
    uid = platform.get("pod", "later")["metadata"]["uid"]

    platform.underway("snapshot", "restore", "pods", "--yes")
    platform.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
    platform.kubectl("exec", "steady", "--", "true", timeout=60)
    status = platform.get("pod", "steady")["status"]["containerStatuses"][0]
    assert (status["containerID"], status["restartCount"]) == (container, 0)
    assert platform.kubectl("get", "pod", "later", check=False).returncode != 0
    # What it has lost is started anew, and what it no longer knows is cleared away.
    wait_until(lambda: container_of(platform, "deleted") not in ("", ended))
    wait_until(lambda: not list((platform.home / "node").glob(f"*/{uid}")))
    platform.kubectl("exec", "deleted", "--", "true", timeout=60)
    platform.kubectl("delete", "pod", "steady", "deleted", "--timeout=60s")
