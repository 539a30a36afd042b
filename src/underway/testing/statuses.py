"""What a simulated node says of itself and its pods: pure decisions."""

from __future__ import annotations

import platform

from underway.api.objects import (
    Object,
    annotations_of,
    find_condition,
    set_condition,
    uid_of,
)

EXIT_CODE = "simulated-node.underway.dev/exit-code"
_NEVER = "never"
_CAPACITY = {"cpu": "32", "memory": "128Gi", "ephemeral-storage": "256Gi", "pods": "110"}


def node(name: str) -> Object:
    """The Node as it is registered."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/arch": _architecture(),
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
            },
            "annotations": {"simulated-node.underway.dev/runs": "nothing"},
        },
    }


def node_status(name: str, address: str, version: str, now: str) -> Object:
    """``Node.status`` of a node that is ready."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Simulated",
        "message": "this node runs nothing and says that its pods run",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {
        "capacity": dict(_CAPACITY),
        "allocatable": dict(_CAPACITY),
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ],
        "conditions": [ready],
        "nodeInfo": {
            "architecture": _architecture(),
            "bootID": "",
            "containerRuntimeVersion": "simulated://1",
            "kernelVersion": "",
            "kubeProxyVersion": "",
            "kubeletVersion": version,
            "machineID": "",
            "operatingSystem": "linux",
            "osImage": "simulated",
            "systemUUID": "",
        },
    }


def pod_status(pod: Object, host_ip: str, pod_ip: str, now: str) -> Object:
    """The next status of a pod bound to the node: Running, and after that its end if it has one."""
    before = pod.get("status") or {}
    exit_code = _exit_code(pod) if before.get("phase") == "Running" else None
    spec = pod["spec"]
    address = before.get("podIP") or (host_ip if spec.get("hostNetwork") else pod_ip)
    started = before.get("startTime") or now
    status: Object = {
        "phase": "Running",
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": started,
        "containerStatuses": [
            _container(pod, each, started, exit_code, now) for each in spec["containers"]
        ],
    }
    if exit_code is not None:
        status["phase"] = "Failed" if exit_code else "Succeeded"
    if init := spec.get("initContainers"):
        status["initContainerStatuses"] = [
            _container(
                pod, each, started, exit_code if each.get("restartPolicy") == "Always" else 0, now
            )
            for each in init
        ]
    status["conditions"] = _conditions(pod, ended=exit_code is not None, now=now)
    return status


def _exit_code(pod: Object) -> int | None:
    """With which code the pod's containers end; None where they go on."""
    asked = annotations_of(pod).get(EXIT_CODE, "")
    if asked == _NEVER:
        return None
    if asked.isdigit():
        return int(asked)
    return None if pod["spec"].get("restartPolicy", "Always") == "Always" else 0


def _container(pod: Object, spec: Object, started: str, exit_code: int | None, now: str) -> Object:
    container_id = f"simulated://{uid_of(pod)}/{spec['name']}"
    state: Object = {"running": {"startedAt": started}}
    if exit_code is not None:
        ended = {
            "exitCode": exit_code,
            "reason": "Error" if exit_code else "Completed",
            "startedAt": started,
            "finishedAt": now,
            "containerID": container_id,
        }
        state = {"terminated": ended}
    return {
        "name": spec["name"],
        "image": spec.get("image", ""),
        "imageID": "",
        "containerID": container_id,
        "ready": exit_code is None,
        "started": exit_code is None,
        "restartCount": 0,
        "state": state,
    }


def _conditions(pod: Object, *, ended: bool, now: str) -> list[Object]:
    conditions = [dict(each) for each in (pod.get("status") or {}).get("conditions") or ()]
    gates = [each["conditionType"] for each in pod["spec"].get("readinessGates") or ()]
    open_gates = all(
        (find_condition(conditions, gate) or {}).get("status") == "True" for gate in gates
    )
    values = {
        "PodReadyToStartContainers": not ended,
        "Initialized": True,
        "ContainersReady": not ended,
        "Ready": not ended and open_gates,
    }
    for kind, true in values.items():
        value = {"type": kind, "status": "True" if true else "False"}
        if ended and not true:
            value["reason"] = "PodCompleted"
        elif not true:
            value["reason"] = "ReadinessGatesNotReady"
        set_condition(conditions, value, now)
    return conditions


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
