"""What the scheduler knows of pods and nodes.

Source: Kubernetes API reference 1.32 (PodSpec, NodeStatus).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from underway.api import quantity
from underway.api.objects import Object, deleting, find_condition, name_of
from underway.api.qos import pod_requests

SCHEDULER_NAME = "default-scheduler"
NOT_READY = "node.kubernetes.io/not-ready"

# What a container that asks for nothing is taken to use, when nodes are compared.
DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "200Mi"


@dataclass(frozen=True)
class Usage:
    """What one pod takes up on its node: resources by name, and ports of the host."""

    requests: Mapping[str, Fraction]
    compared: Mapping[str, Fraction]
    ports: frozenset[tuple[str, str, int]] = frozenset()


@dataclass
class NodeInfo:
    """A node and the pods on it."""

    node: Object
    pods: Mapping[str, Usage] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The node's name."""
        return name_of(self.node)

    def allocatable(self) -> dict[str, Fraction]:
        """What pods may have in all, by resource."""
        amounts = (self.node.get("status") or {}).get("allocatable") or {}
        return {name: quantity.parse(amount) for name, amount in amounts.items()}

    def requested(self) -> dict[str, Fraction]:
        """What its pods have asked for, by resource."""
        return _sum(usage.requests for usage in self.pods.values())

    def compared(self) -> dict[str, Fraction]:
        """The same with defaults for containers that ask for nothing."""
        return _sum(usage.compared for usage in self.pods.values())

    def ports(self) -> set[tuple[str, str, int]]:
        """Host ports in use: address, protocol, number."""
        return {port for usage in self.pods.values() for port in usage.ports}


def _sum(parts: Iterable[Mapping[str, Fraction]]) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, Fraction()) + amount
    return total


def usage_of(pod: Object) -> Usage:
    """What a pod takes up."""
    spec = pod.get("spec") or {}
    return Usage(pod_requests(spec), _compared(spec), frozenset(host_ports(spec)))


def _compared(spec: Object) -> dict[str, Fraction]:
    containers = [
        {"resources": {"requests": _with_defaults(container)}}
        for container in spec.get("containers") or ()
    ]
    return pod_requests({**spec, "containers": containers})


def _with_defaults(container: Object) -> dict[str, str]:
    requests = (container.get("resources") or {}).get("requests") or {}
    return {
        "cpu": requests.get("cpu", DEFAULT_CPU),
        "memory": requests.get("memory", DEFAULT_MEMORY),
    }


def host_ports(spec: Object) -> list[tuple[str, str, int]]:
    """Ports of the host that the pod wants: address, protocol, number."""
    return [
        (port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", int(port["hostPort"]))  # noqa: S104  # the API's word for any address
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


def is_ready(node: Object) -> bool:
    """Whether the node's agent says that it can run pods."""
    condition = find_condition((node.get("status") or {}).get("conditions"), "Ready")
    return condition is not None and condition.get("status") == "True"


def is_finished(pod: Object) -> bool:
    """Whether the pod takes up nothing any more."""
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def to_schedule(pod: Object) -> bool:
    """Whether the pod waits for this scheduler."""
    spec = pod.get("spec") or {}
    return (
        not spec.get("nodeName")
        and (spec.get("schedulerName") or SCHEDULER_NAME) == SCHEDULER_NAME
        and not deleting(pod)
        and not is_finished(pod)
    )
