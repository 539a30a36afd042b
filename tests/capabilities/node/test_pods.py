"""Real containers from a busybox image, on the real API server."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from pathlib import Path

import pytest

from underway.api.resources import CONFIGMAPS, PODS, SECRETS
from underway.base.home import Home
from underway.capabilities.node.backend.layout import Layout
from underway.linux import mounts
from underway.linux.cgroups import Cgroups
from underway.wire.http import Request

from .conftest import (
    ADMINISTRATOR,
    IMAGE,
    NAMESPACE,
    condition,
    pod_of,
    running_node,
    shell,
    state_of,
)

_REMOVE = "command=rm&command=/tmp/live"

pytestmark = pytest.mark.privileged


def test_a_container_that_ends_is_reported_with_its_code_message_and_output(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            script = "echo out; echo err >&2; echo -n last words > /dev/termination-log; exit 3"
            await node.create(pod_of("a", shell("c", script), restartPolicy="Never"))
            pod = await node.until_phase("a", "Failed")
            ended = state_of(pod)["state"]["terminated"]
            assert (ended["exitCode"], ended["reason"]) == (3, "Error")
            assert ended["message"] == "last words"
            assert ended["startedAt"]
            assert ended["finishedAt"]
            assert state_of(pod)["imageID"].startswith("docker.io/library/box@sha256:")
            assert state_of(pod)["containerID"].startswith("runc://")
            assert sorted((await node.log("a")).splitlines()) == ["err", "out"]
            assert condition(pod, "Ready") == "False"

    asyncio.run(main())


def test_a_pod_runs_becomes_ready_and_leaves_nothing_when_deleted(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            script = "trap 'exit 0' TERM; echo up; while true; do sleep 0.1; done"
            await node.create(pod_of("a", shell("c", script)))
            pod = await node.until("a", lambda pod: condition(pod, "Ready") == "True")
            assert pod["status"]["phase"] == "Running"
            assert pod["status"]["podIP"] == pod["status"]["podIPs"][0]["ip"]
            assert "message" not in next(
                c for c in pod["status"]["conditions"] if c["type"] == "Ready"
            )
            uid, layout = pod["metadata"]["uid"], Layout(home)
            assert mounts.mounts_below(layout.pod(uid))
            await node.delete("a")
            assert not layout.pod(uid).exists()
            assert not mounts.mounts_below(layout.pod(uid))
            assert not Cgroups().processes(layout.slice)
            await node.until_event("Killing")

    asyncio.run(main())


def test_init_containers_run_one_after_the_other_before_the_rest(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            share = [{"name": "v", "mountPath": "/v"}]
            pod = pod_of(
                "a",
                shell("c", "cat /v/order", volumeMounts=share),
                initContainers=[
                    shell("one", "echo one >> /v/order", volumeMounts=share),
                    shell("two", "echo two >> /v/order", volumeMounts=share),
                ],
                volumes=[{"name": "v", "emptyDir": {}}],
                restartPolicy="Never",
            )
            await node.create(pod)
            done = await node.until_phase("a", "Succeeded")
            assert await node.log("a") == "one\ntwo\n"
            assert condition(done, "Initialized") == "True"
            assert state_of(done, "two")["state"]["terminated"]["reason"] == "Completed"

    asyncio.run(main())


def test_a_failing_init_container_keeps_the_rest_from_starting(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            pod = pod_of(
                "a",
                shell("c", "echo never"),
                initContainers=[shell("one", "exit 5")],
                restartPolicy="Never",
            )
            await node.create(pod)
            done = await node.until_phase("a", "Failed")
            assert state_of(done, "one")["state"]["terminated"]["exitCode"] == 5
            assert "waiting" in state_of(done, "c")["state"]

    asyncio.run(main())


def test_environment_user_and_directory_are_those_the_pod_asks_for(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            await node.client.create(
                CONFIGMAPS,
                {"metadata": {"name": "m", "namespace": NAMESPACE}, "data": {"color": "blue"}},
            )
            await node.client.create(
                SECRETS,
                {
                    "metadata": {"name": "s", "namespace": NAMESPACE},
                    "data": {"PASS": base64.b64encode(b"word").decode()},
                },
            )
            container = shell(
                "c",
                "env; echo id=$(id -u):$(id -g):$(id -G); echo cwd=$PWD; head -1 /etc/resolv.conf;"
                "cat /etc/hosts",
                workingDir="/work",
                env=[
                    {"name": "PLAIN", "value": "a$(COLOR)$$(X)$(NONE)"},
                    {
                        "name": "COLOR",
                        "valueFrom": {"configMapKeyRef": {"name": "m", "key": "color"}},
                    },
                    {"name": "LATE", "value": "$(COLOR)"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {
                        "name": "MEM",
                        "valueFrom": {
                            "resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}
                        },
                    },
                ],
                envFrom=[{"secretRef": {"name": "s"}, "prefix": "DB_"}],
                resources={"limits": {"memory": "64Mi"}},
                securityContext={"runAsUser": 1234, "runAsGroup": 7},
            )
            await node.create(pod_of("a", container, restartPolicy="Never"))
            pod = await node.until_phase("a", "Succeeded")
            seen = (await node.log("a")).splitlines()
            for line in (
                "PLAIN=a$(COLOR)$(X)$(NONE)",
                "LATE=blue",
                "DB_PASS=word",
                f"IP={pod['status']['podIP']}",
                "MEM=64",
                "FROM_IMAGE=yes",
                "HOSTNAME=a",
                "KUBERNETES_SERVICE_PORT=443",
                "id=1234:7:7 1300",
                "cwd=/work",
                f"{pod['status']['podIP']}\ta",
            ):
                assert line in seen, (line, seen)
            assert any(line.startswith("nameserver 10.") for line in seen)

    asyncio.run(main())


def test_volumes_show_objects_tokens_and_host_paths(home: Home, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "there").write_text("host\n")
        async with running_node(home) as node:
            await node.client.create(
                CONFIGMAPS,
                {
                    "metadata": {"name": "m", "namespace": NAMESPACE},
                    "data": {"a.txt": "first", "b.txt": "other"},
                },
            )
            volumes = [
                {"name": "m", "configMap": {"name": "m"}},
                {"name": "h", "hostPath": {"path": str(tmp_path), "type": "Directory"}},
                {"name": "ram", "emptyDir": {"medium": "Memory"}},
                {
                    "name": "t",
                    "projected": {
                        "sources": [
                            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                            {
                                "downwardAPI": {
                                    "items": [
                                        {
                                            "path": "labels",
                                            "fieldRef": {"fieldPath": "metadata.labels"},
                                        }
                                    ]
                                }
                            },
                        ]
                    },
                },
            ]
            script = (
                "cat /m/a.txt; echo; cat /sub; echo; cat /h/there; wc -c < /t/token; cat /t/labels;"
                "echo; touch /m/x 2>/dev/null || echo read-only; touch /ram/x && echo written;"
                "while [ $(cat /m/a.txt) = first ]; do sleep 0.05; done; echo changed;"
                "while true; do sleep 0.1; done"
            )
            container = shell(
                "c",
                script,
                volumeMounts=[
                    {"name": "m", "mountPath": "/m", "readOnly": True},
                    {"name": "m", "mountPath": "/sub", "subPath": "b.txt"},
                    {"name": "h", "mountPath": "/h"},
                    {"name": "ram", "mountPath": "/ram"},
                    {"name": "t", "mountPath": "/t"},
                ],
            )
            await node.create(pod_of("a", container, volumes=volumes))
            await node.until_phase("a", "Running")
            answer = await node.get(f"/containerLogs/{NAMESPACE}/a/c", "follow=true")
            seen = b""
            updated = False
            async for chunk in answer.body:  # type: ignore[union-attr]
                seen += chunk
                if b"written" in seen and not updated:
                    updated = True
                    await node.client.patch(CONFIGMAPS, "m", {"data": {"a.txt": "next"}}, NAMESPACE)
                if b"changed" in seen:
                    break
            lines = seen.decode().splitlines()
            assert lines[:3] == ["first", "other", "host"]
            assert int(lines[3]) > 100
            assert lines[4] == 'app="a"'
            assert lines[5:7] == ["read-only", "written"]

    asyncio.run(main())


def test_a_missing_configmap_is_named_and_the_pod_starts_once_it_is_there(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            pod = pod_of(
                "a",
                shell("c", "cat /m/k", volumeMounts=[{"name": "m", "mountPath": "/m"}]),
                volumes=[{"name": "m", "configMap": {"name": "late"}}],
                restartPolicy="Never",
            )
            await node.create(pod)
            event = await node.until_event("FailedMount")
            assert 'configmap "late" not found' in event["message"]
            await node.client.create(
                CONFIGMAPS,
                {"metadata": {"name": "late", "namespace": NAMESPACE}, "data": {"k": "v"}},
            )
            await node.until_phase("a", "Succeeded")
            assert await node.log("a") == "v"

    asyncio.run(main())


def test_a_container_that_crashes_is_started_again_with_back_off(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            await node.create(pod_of("a", shell("c", "echo broken; exit 9")))
            pod = await node.until(
                "a",
                lambda pod: (
                    state_of(pod).get("state", {}).get("waiting", {}).get("reason")
                    == "CrashLoopBackOff"
                ),
            )
            container = state_of(pod)
            assert container["restartCount"] == 1
            assert container["lastState"]["terminated"]["exitCode"] == 9
            assert pod["status"]["phase"] == "Running"
            assert await node.log("a", query="previous=true") == "broken\n"
            await node.delete("a")

    asyncio.run(main())


def test_a_memory_limit_is_honoured_and_reported(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            hungry = shell(
                "c", "head -c 200000000 /dev/zero | tail", resources={"limits": {"memory": "24Mi"}}
            )
            hungry["command"] = [
                "/bin/sh",
                "-c",
                "x=$(head -c 80000000 /dev/zero | tr '\\0' x); wait",
            ]
            await node.create(pod_of("a", hungry, restartPolicy="Never"))
            pod = await node.until_phase("a", "Failed")
            assert state_of(pod)["state"]["terminated"]["reason"] == "OOMKilled"
            assert state_of(pod)["state"]["terminated"]["exitCode"] == 137

    asyncio.run(main())


def test_probes_decide_readiness_and_restarts(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            container = shell(
                "c",
                "touch /tmp/live; httpd -f -p 8080 -h /www",
                readinessProbe={"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 1},
                livenessProbe={
                    "exec": {"command": ["test", "-e", "/tmp/live"]},
                    "periodSeconds": 1,
                    "failureThreshold": 1,
                },
                startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                ports=[{"name": "web", "containerPort": 8080}],
            )
            await node.create(pod_of("a", container))
            await node.until("a", lambda pod: condition(pod, "Ready") == "True")
            removal = Request("POST", "/run/default/a/c", _REMOVE, peer=ADMINISTRATOR)
            assert (await node.api.handle(removal)).status == 200
            await node.until_event("Unhealthy", "Liveness probe failed")
            pod = await node.until(
                "a",
                lambda pod: (
                    state_of(pod).get("restartCount") == 1 and condition(pod, "Ready") == "True"
                ),
            )
            assert state_of(pod)["lastState"]["terminated"]["exitCode"] == 137

    asyncio.run(main())


def test_a_program_that_is_not_there_is_reported_in_the_runtimes_words(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            container = {"name": "c", "image": IMAGE, "command": ["/bin/nothing"]}
            await node.create(pod_of("a", container, restartPolicy="Never"))
            pod = await node.until_phase("a", "Failed")
            ended = state_of(pod)["state"]["terminated"]
            assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
            assert "/bin/nothing" in ended["message"]
            assert "no such file" in ended["message"]

    asyncio.run(main())


def test_an_image_that_cannot_be_had_is_waited_for_with_its_reason(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            await node.create(pod_of("a", {"name": "c", "image": "absent:2"}))
            await node.create(pod_of("b", {"name": "c", "image": "UPPER:1"}))
            never = {"name": "c", "image": "absent:2", "imagePullPolicy": "Never"}
            await node.create(pod_of("d", never))
            for name, reason in (
                ("a", "ErrImagePull"),
                ("b", "InvalidImageName"),
                ("d", "ErrImageNeverPull"),
            ):
                pod = await node.until(
                    name,
                    lambda pod, reason=reason: (
                        state_of(pod).get("state", {}).get("waiting", {}).get("reason") == reason
                    ),
                )
                assert pod["status"]["phase"] == "Pending"
            await node.delete("a")

    asyncio.run(main())


def test_a_deleted_pod_gets_its_hook_its_signal_and_no_more_than_its_grace(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            seen = home.root / "seen"
            seen.mkdir()
            container = shell(
                "c",
                "trap 'echo term >> /seen/log; exit 0' TERM; touch /seen/up;"
                "while true; do sleep 0.1; done",
                volumeMounts=[{"name": "seen", "mountPath": "/seen"}],
                lifecycle={
                    "preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /seen/log"]}}
                },
                readinessProbe={
                    "exec": {"command": ["test", "-e", "/seen/up"]},
                    "periodSeconds": 1,
                },
            )
            stubborn = shell("d", "trap '' TERM; while true; do sleep 0.1; done")
            pod = pod_of(
                "a",
                container,
                stubborn,
                volumes=[{"name": "seen", "hostPath": {"path": str(seen)}}],
                terminationGracePeriodSeconds=2,
            )
            await node.create(pod)
            await node.until("a", lambda pod: condition(pod, "Ready") == "True")
            await node.delete("a")
            assert (seen / "log").read_text() == "hook\nterm\n"

    asyncio.run(main())


def test_a_pod_removed_by_force_is_ended_here_too(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            await node.create(pod_of("a", shell("c", "while true; do sleep 1; done")))
            pod = await node.until_phase("a", "Running")
            await node.client.delete(PODS, "a", NAMESPACE, grace_period_s=0)
            async with asyncio.timeout(20):
                while node.agent.pods():  # noqa: ASYNC110  # nothing tells when a worker ends
                    await asyncio.sleep(0.05)
            assert not Layout(home).pod(pod["metadata"]["uid"]).exists()
            assert not Cgroups().processes(Layout(home).slice)

    asyncio.run(main())


def test_host_ports_lead_to_the_pod_and_a_taken_one_is_named(home: Home) -> None:
    def ask(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(4096), b""))

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            free = socket.create_server(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            async with running_node(home) as node:
                container = shell(
                    "c",
                    "httpd -f -p 8080 -h /www",
                    ports=[{"containerPort": 8080, "hostPort": port}],
                    readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                )
                await node.create(pod_of("a", container))
                await node.until("a", lambda pod: condition(pod, "Ready") == "True")
                answer = await asyncio.to_thread(ask, port)
                assert b"hello from the pod" in answer
                number = taken.getsockname()[1]
                ports = [{"containerPort": 8080, "hostPort": number}]
                await node.create(pod_of("b", shell("c", "sleep 9", ports=ports)))
                event = await node.until_event("FailedCreatePodSandBox")
                assert f"host port {number} is taken by process {os.getpid()}" in event["message"]
                await node.delete("a")
                await node.delete("b")

    asyncio.run(main())
