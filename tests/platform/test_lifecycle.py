"""Starting, stopping and surviving: the platform's own commands."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from tests.platform.conftest import Platform

pytestmark = [pytest.mark.platform, pytest.mark.privileged, pytest.mark.timeout(300)]


def test_status_names_endpoints_and_components(platform: Platform) -> None:
    status = platform.status()
    assert status["running"]
    assert {"api", "registry"} <= set(status["endpoints"])
    assert Path(status["caFile"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    health = {each["name"]: each["health"] for each in status["components"]}
    assert health == {"supervisor": "healthy", "control-plane": "healthy", "node": "healthy"}


def test_second_up_says_so(platform: Platform) -> None:
    assert "already running" in platform.underway("up", "--detach").stdout


def test_doctor_and_capabilities(platform: Platform) -> None:
    findings = json.loads(platform.underway("doctor", "-o", "json").stdout)
    assert {"root", "runc", "conmon", "overlayfs"} <= {each["name"] for each in findings}
    rows = json.loads(platform.underway("capability", "list", "-o", "json").stdout)
    assert {each["id"]: each["state"] for each in rows}["node"] == "Ready"


def test_taken_port_is_named(platform: Platform, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        other = Platform(tmp_path / "other")
        done = other.underway(
            "up", "--detach", "--api-port", port, "--registry-port", "0", "--node-port", "0",
            check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert port in done.stderr
        other.underway("reset", "--yes")


def test_everything_killed_continues(platform: Platform) -> None:
    platform.kubectl("create", "deployment", "survivor", "--image=busybox", "--replicas=2",
                     "--", "sleep", "3600")  # fmt: skip
    platform.kubectl("rollout", "status", "deployment/survivor", "--timeout=60s")
    before = platform.get("pods", "-l", "app=survivor")["items"]
    for component in platform.status()["components"]:
        os.kill(component["pid"], signal.SIGKILL)
    platform.up()
    platform.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=30s")
    platform.kubectl("rollout", "status", "deployment/survivor", "--timeout=60s")
    after = platform.get("pods", "-l", "app=survivor")["items"]

    def containers(pods: list[dict]) -> set[tuple[str, str, int]]:
        return {
            (pod["metadata"]["uid"], status["containerID"], status["restartCount"])
            for pod in pods
            for status in pod["status"]["containerStatuses"]
        }

    assert containers(after) == containers(before)
    inside = platform.kubectl("exec", "deploy/survivor", "--", "echo", "still here")
    assert inside.stdout == "still here\n"
    platform.kubectl("delete", "deployment", "survivor", "--wait")


def test_killed_component_is_started_again(platform: Platform) -> None:
    def pids() -> dict[str, int]:
        return {each["name"]: each["pid"] for each in platform.status()["components"]}

    before = pids()
    os.kill(before["control-plane"], signal.SIGKILL)
    platform.kubectl("version", check=False)
    deadline = 100
    while deadline and platform.kubectl("get", "--raw=/readyz", check=False).returncode:
        deadline -= 1
    after = pids()
    assert after["supervisor"] == before["supervisor"]
    assert after["control-plane"] not in (None, before["control-plane"])


def test_down_leaves_nothing_running_and_up_brings_it_back(platform: Platform) -> None:
    platform.kubectl("create", "deployment", "again", "--image=busybox", "--", "sleep", "3600")
    platform.kubectl("rollout", "status", "deployment/again", "--timeout=60s")
    platform.underway("down")
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(platform.home) not in mounts
    assert platform.underway("status", check=False).returncode == 3
    platform.up()
    platform.kubectl("rollout", "status", "deployment/again", "--timeout=60s")
    platform.kubectl("delete", "deployment", "again")


def test_commands_say_when_nothing_runs(tmp_path: Path) -> None:
    nowhere = Platform(tmp_path / "nowhere")
    assert nowhere.underway("status", check=False).returncode == 3
    done = nowhere.underway("ship", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "underway up" in done.stderr
