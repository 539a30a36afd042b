"""What a node's pods use, in the two forms the kubelet tells it.

Source: kubernetes ``pkg/kubelet/metrics/collectors/resource_metrics.go`` (``/metrics/resource``),
``k8s.io/kubelet/pkg/apis/stats/v1alpha1`` (``/stats/summary``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from underway.api.objects import Object
from underway.base.clock import rfc3339


@dataclass(frozen=True, slots=True)
class Used:
    """What was used up to a moment; ``cpu_ns`` only grows."""

    cpu_ns: int = 0
    memory_bytes: int = 0
    working_set_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """A running container's use; ``started_at`` is its start."""

    name: str
    started_at: datetime
    used: Used


@dataclass(frozen=True, slots=True)
class PodUse:
    """A pod's use; ``started_at`` is RFC 3339, or empty before it started."""

    namespace: str
    name: str
    uid: str
    started_at: str
    used: Used
    containers: tuple[ContainerUse, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeUse:
    """A node's use at one moment."""

    name: str
    at: datetime
    booted_at: datetime
    used: Used
    available_bytes: int
    pods: tuple[PodUse, ...] = ()


_FAMILIES = (
    ("container_cpu_usage_seconds_total", "counter", "CPU time of the container in core-seconds"),
    ("container_memory_working_set_bytes", "gauge", "Working set of the container in bytes"),
    ("container_start_time_seconds", "gauge", "Start of the container in seconds since 1970"),
    ("node_cpu_usage_seconds_total", "counter", "CPU time of the node in core-seconds"),
    ("node_memory_working_set_bytes", "gauge", "Working set of the node in bytes"),
    ("pod_cpu_usage_seconds_total", "counter", "CPU time of the pod in core-seconds"),
    ("pod_memory_working_set_bytes", "gauge", "Working set of the pod in bytes"),
    ("resource_scrape_error", "gauge", "1 if the use could not be read, else 0"),
)


def exposition(node: NodeUse) -> str:
    """The node's use in Prometheus' text format, with the time of each sample in milliseconds."""
    moment = int(node.at.timestamp() * 1000)
    samples: dict[str, list[str]] = {name: [] for name, _, _ in _FAMILIES}
    for name, labels, value in _samples(node):
        shown = "{" + ",".join(f'{k}="{v}"' for k, v in labels) + "}" if labels else ""
        samples[name].append(f"{name}{shown} {value} {moment}")
    samples["resource_scrape_error"].append("resource_scrape_error 0")
    lines: list[str] = []
    for name, kind, text in _FAMILIES:
        if samples[name]:
            lines += [f"# HELP {name} [STABLE] {text}", f"# TYPE {name} {kind}", *samples[name]]
    return "\n".join([*lines, ""])


def _samples(node: NodeUse) -> Iterator[tuple[str, tuple[tuple[str, str], ...], str]]:
    yield from _pair("node", (), node.used)
    for pod in node.pods:
        where = (("namespace", pod.namespace), ("pod", pod.name))
        yield from _pair("pod", where, pod.used)
        for each in pod.containers:
            labels = (("container", each.name), *where)
            yield from _pair("container", labels, each.used)
            yield "container_start_time_seconds", labels, f"{each.started_at.timestamp():.3f}"


def _pair(
    what: str, labels: tuple[tuple[str, str], ...], used: Used
) -> Iterable[tuple[str, tuple[tuple[str, str], ...], str]]:
    yield f"{what}_cpu_usage_seconds_total", labels, f"{used.cpu_ns / 1e9:.6f}"
    yield f"{what}_memory_working_set_bytes", labels, str(used.working_set_bytes)


def summary(node: NodeUse) -> Object:
    """The node's use as ``/stats/summary`` has it."""
    now = rfc3339(node.at)
    shown = _shown(node.used, now)
    shown["memory"]["availableBytes"] = node.available_bytes
    head = {"nodeName": node.name, "startTime": rfc3339(node.booted_at), **shown}
    return {"node": head, "pods": [_pod(pod, now) for pod in node.pods]}


def _pod(pod: PodUse, now: str) -> Object:
    return {
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started_at or None,
        "containers": [
            {
                "name": each.name,
                "startTime": rfc3339(each.started_at),
                **_shown(each.used, now),
            }
            for each in pod.containers
        ],
        **_shown(pod.used, now),
        "process_stats": {"process_count": pod.used.processes},
    }


def _shown(used: Used, now: str) -> Object:
    return {
        "cpu": {"time": now, "usageCoreNanoSeconds": used.cpu_ns},
        "memory": {
            "time": now,
            "usageBytes": used.memory_bytes,
            "workingSetBytes": used.working_set_bytes,
        },
    }
