"""From requests and limits to the numbers the kernel takes, and a pod's quality of service.

Source: Kubernetes documentation "Resource Management for Pods and Containers", "Pod Quality of
Service Classes"; OCI runtime-spec 1.0 ``linux.resources``.
"""

from __future__ import annotations

from typing import Any

from underway.api import quantity
from underway.api.objects import Object

PERIOD_US = 100_000
MIN_SHARES, MAX_SHARES = 2, 262_144
MIN_QUOTA_US = 1_000
PIDS_MAX = 4_096


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort."""
    spec = pod.get("spec") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    guaranteed, anything = True, False
    for container in containers:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit = limits.get(name)
            request = requests.get(name, limit)
            anything = anything or limit is not None or request is not None
            if limit is None or quantity.parse(request or 0) != quantity.parse(limit):
                guaranteed = False
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def cgroup_resources(container: Object) -> dict[str, Any]:
    """``linux.resources`` of a container, without devices."""
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    requests = {
        **{k: limits[k] for k in ("cpu",) if k in limits},
        **(resources.get("requests") or {}),
    }
    cpu: dict[str, int] = {"shares": _shares(quantity.cpu_millis(requests.get("cpu", 0)))}
    if limit := quantity.cpu_millis(limits.get("cpu", 0)):
        cpu["period"] = PERIOD_US
        cpu["quota"] = max(limit * PERIOD_US // 1000, MIN_QUOTA_US)
    result: dict[str, Any] = {"cpu": cpu, "pids": {"limit": PIDS_MAX}}
    if memory := quantity.bytes(limits.get("memory", 0)):
        # Swap counts as memory, so that a limit is a limit.
        result["memory"] = {"limit": memory, "swap": memory}
    return result


def oom_score(pod: Object, container: Object, node_memory_bytes: int, floor: int) -> int:
    """How readily the kernel ends the container when memory runs out; never below ``floor``.

    Source: Kubernetes documentation "Node out of memory behavior".
    """
    quality = qos_class(pod)
    if quality == "Guaranteed":
        wanted = -997
    elif quality == "BestEffort":
        wanted = 1000
    else:
        requests = (container.get("resources") or {}).get("requests") or {}
        share = 1000 * quantity.bytes(requests.get("memory", 0)) // max(node_memory_bytes, 1)
        wanted = min(max(2, 1000 - share), 999)
    return max(wanted, floor)


def _shares(cpu_millis: int) -> int:
    return min(max(cpu_millis * 1024 // 1000, MIN_SHARES), MAX_SHARES)
