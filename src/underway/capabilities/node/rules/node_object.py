"""The Node object and its Lease.

Source: Kubernetes documentation "Node status", "Leases" (node heartbeats); well-known labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from underway.api.objects import Object, set_condition
from underway.capabilities.node.rules.fields import Machine

MAX_PODS = 110
LEASE_NAMESPACE = "kube-node-lease"
LEASE_DURATION_S, LEASE_RENEW_S = 40, 10
_CALM = {
    "MemoryPressure": ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    "DiskPressure": ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    "PIDPressure": ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
}
_PRESSED = {
    "MemoryPressure": ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    "DiskPressure": ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    "PIDPressure": ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
}


def node(machine: Machine, architecture: str, pod_cidr: str) -> Object:
    """The Node as it is first registered."""
    labels = {
        "beta.kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        "kubernetes.io/hostname": machine.name,
        "kubernetes.io/os": "linux",
        # One machine is everything: workloads that ask for a control-plane node run here too.
        "node-role.kubernetes.io/control-plane": "",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": machine.name, "labels": labels},
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
    }


def node_status(
    before: Object,
    machine: Machine,
    info: Mapping[str, str],
    pressure: Mapping[str, bool],
    images: Sequence[Object],
    problem: str,
    port: int,
    now: str,
) -> Object:
    """``Node.status``; ``problem`` says why no pod can run, or is empty."""
    capacity = {
        "cpu": f"{machine.cpu_millis}m"
        if machine.cpu_millis % 1000
        else str(machine.cpu_millis // 1000),
        "ephemeral-storage": f"{machine.ephemeral_bytes // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "memory": f"{machine.memory_bytes // 1024}Ki",
        "pods": str(MAX_PODS),
    }
    conditions = [dict(condition) for condition in before.get("conditions") or ()]
    for kind, pressed in pressure.items():
        reason, message = (_PRESSED if pressed else _CALM)[kind]
        _condition(conditions, kind, reason, message, now, true=pressed)
    if problem:
        _condition(conditions, "Ready", "KubeletNotReady", problem, now, true=False)
    else:
        message = "kubelet is posting ready status"
        _condition(conditions, "Ready", "KubeletReady", message, now, true=True)
    return {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            {"type": "InternalIP", "address": machine.address},
            {"type": "Hostname", "address": machine.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": dict(info),
        "images": list(images),
        "conditions": conditions,
    }


def lease(machine: Machine, owner: Object, now: str) -> Object:
    """The node's heartbeat."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": machine.name,
            "namespace": LEASE_NAMESPACE,
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "name": machine.name,
                    "uid": owner["metadata"]["uid"],
                }
            ],
        },
        "spec": {
            "holderIdentity": machine.name,
            "leaseDurationSeconds": LEASE_DURATION_S,
            "renewTime": now,
        },
    }


def _condition(
    conditions: list[Object], kind: str, reason: str, message: str, now: str, *, true: bool
) -> None:
    value: dict[str, Any] = {
        "type": kind,
        "status": "True" if true else "False",
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
    }
    set_condition(conditions, value, now)
