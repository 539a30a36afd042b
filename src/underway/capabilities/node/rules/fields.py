"""The downward API: what a pod may learn of itself.

Source: Kubernetes documentation "Downward API" (available fields).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from underway.api import quantity
from underway.api.objects import Object, annotations_of, labels_of, name_of, namespace_of, uid_of
from underway.base.errors import BadRequest

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


@dataclass(frozen=True, slots=True)
class Machine:
    """What pods are told of the node: its name, address and allocatable resources."""

    name: str
    address: str
    cpu_millis: int
    memory_bytes: int
    ephemeral_bytes: int = 0


def field_value(pod: Object, path: str, machine: Machine, pod_ip: str) -> str:
    """The text of a pod's field.

    Raises:
        BadRequest: no such field is offered.
    """
    spec = pod.get("spec") or {}
    simple = {
        "metadata.name": name_of(pod),
        "metadata.namespace": namespace_of(pod),
        "metadata.uid": uid_of(pod),
        "spec.nodeName": spec.get("nodeName") or machine.name,
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
        "status.hostIP": machine.address,
        "status.hostIPs": machine.address,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
    }
    if path in simple:
        return simple[path]
    if path == "metadata.labels":
        return _lines(labels_of(pod))
    if path == "metadata.annotations":
        return _lines(annotations_of(pod))
    if match := _SUBSCRIPT.fullmatch(path):
        source = labels_of(pod) if match[1] == "labels" else annotations_of(pod)
        return source.get(match[2], "")
    raise BadRequest(f"unsupported fieldPath: {path}")


def resource_value(reference: Object, container: Object, pod: Object, machine: Machine) -> str:
    """A container's request or limit, divided by ``divisor`` and rounded up.

    A limit that was not set is the node's allocatable amount.

    Raises:
        BadRequest: no such resource is offered.
    """
    name = reference.get("containerName")
    if name:
        spec = pod.get("spec") or {}
        everyone = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
        found = next((each for each in everyone if each["name"] == name), None)
        if found is None:
            raise BadRequest(f"resourceFieldRef: the pod has no container {name}")
        container = found
    kind, _, resource = str(reference.get("resource", "")).partition(".")
    table = (container.get("resources") or {}).get(kind) or {}
    if kind not in ("limits", "requests") or not resource:
        raise BadRequest(f"unsupported resource: {reference.get('resource')}")
    whole_node = {
        "cpu": f"{machine.cpu_millis}m",
        "memory": str(machine.memory_bytes),
        "ephemeral-storage": str(machine.ephemeral_bytes),
    }
    value = table.get(resource)
    if value is None:
        value = whole_node.get(resource, "0") if kind == "limits" else "0"
    divisor = quantity.parse(reference.get("divisor") or "1") or 1
    return str(math.ceil(quantity.parse(value) / divisor))


def _lines(table: dict[str, str]) -> str:
    return "\n".join(f'{key}="{_quoted(value)}"' for key, value in sorted(table.items()))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
