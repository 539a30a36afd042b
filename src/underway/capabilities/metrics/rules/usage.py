"""What is used now, and how the metrics API says it.

Source: ``k8s.io/metrics/pkg/apis/metrics/v1beta1``; metrics-server ``pkg/storage``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from underway.api import quantity
from underway.api.objects import Object, annotations_of, labels_of, name_of, namespace_of
from underway.base.clock import rfc3339
from underway.capabilities.metrics.rules.exposition import Reading, Scrape

API_VERSION = "metrics.k8s.io/v1beta1"
SIMULATED = "kwok.x-k8s.io/node"
SIMULATED_CPU, SIMULATED_MEMORY = "kwok.x-k8s.io/usage-cpu", "kwok.x-k8s.io/usage-memory"
LEAST_S = 0.5  # of time between two readings that a rate may be made from


@dataclass(frozen=True, slots=True)
class Use:
    """A rate over ``window_s`` that ended at ``at_s``: CPU in nanocores, memory in bytes."""

    cpu_nanos: int
    memory_bytes: int
    at_s: float
    window_s: float


def use(before: Reading | None, after: Reading) -> Use | None:
    """What was used between two readings; None where they do not make a rate.

    A container that started in between counts from its start.
    """
    if not after.complete:
        return None
    assert after.at_s is not None
    assert after.cpu_s is not None
    assert after.memory_bytes is not None
    started = after.started_s
    if started is not None and (before is None or (before.at_s or 0) < started):
        before = Reading(at_s=started, cpu_s=0.0)
    if before is None or before.at_s is None or before.cpu_s is None:
        return None
    window_s = after.at_s - before.at_s
    if window_s < LEAST_S or after.cpu_s < before.cpu_s:
        return None
    rate = (after.cpu_s - before.cpu_s) / window_s
    return Use(int(rate * 1e9), int(after.memory_bytes), after.at_s, window_s)


def pod_use(pod: Object, before: Scrape | None, after: Scrape) -> dict[str, Use] | None:
    """What the containers of a pod use, by name; None unless all that were read make a rate."""
    mine = (namespace_of(pod), name_of(pod))
    found = {}
    for key, reading in after.containers.items():
        if key[:2] != mine:
            continue
        used = use(before.containers.get(key) if before else None, reading)
        if used is None:
            return None
        found[key[2]] = used
    return found or None


def simulated(pod: Object, now: datetime) -> dict[str, Use] | None:
    """What a pod of a simulated node says that each of its containers uses."""
    notes = annotations_of(pod)
    cpu, memory = notes.get(SIMULATED_CPU), notes.get(SIMULATED_MEMORY)
    if cpu is None and memory is None:
        return None
    try:
        each = Use(
            int(quantity.parse(cpu or "0") * 10**9),
            quantity.bytes(memory or "0"),
            now.timestamp(),
            15.0,
        )
    except ValueError:
        return None
    return {container["name"]: each for container in (pod.get("spec") or {})["containers"]}


def together(uses: Iterable[Use], now: datetime) -> Use:
    """The sum of what several use."""
    found = list(uses)
    return Use(
        sum(each.cpu_nanos for each in found),
        sum(each.memory_bytes for each in found),
        max((each.at_s for each in found), default=now.timestamp()),
        max((each.window_s for each in found), default=15.0),
    )


def pod_metrics(pod: Object, uses: Mapping[str, Use]) -> Object:
    """The PodMetrics of a pod."""
    newest = max(uses.values(), key=lambda each: each.at_s)
    containers = [{"name": name, "usage": _usage(each)} for name, each in uses.items()]
    return {**_head("PodMetrics", pod, newest), "containers": containers}


def node_metrics(node: Object, used: Use) -> Object:
    """The NodeMetrics of a node."""
    return {**_head("NodeMetrics", node, used), "usage": _usage(used)}


def _head(kind: str, obj: Object, used: Use) -> Object:
    at = rfc3339(datetime.fromtimestamp(used.at_s, UTC))
    metadata: Object = {"name": name_of(obj), "creationTimestamp": at}
    if namespace_of(obj):
        metadata["namespace"] = namespace_of(obj)
    if labels_of(obj):
        metadata["labels"] = dict(labels_of(obj))
    return {
        "kind": kind,
        "apiVersion": API_VERSION,
        "metadata": metadata,
        "timestamp": at,
        "window": f"{used.window_s:.3f}s",
    }


def _usage(used: Use) -> Object:
    return {"cpu": f"{used.cpu_nanos}n", "memory": f"{used.memory_bytes // 1024}Ki"}
