"""A pod's quality of service, and what it asks of a node.

Source: Kubernetes ``pkg/apis/core/v1/helper/qos``, component-helpers ``resource`` (pod requests
with init containers and sidecars).
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from underway.api import quantity
from underway.api.objects import Object

_COMPUTE = ("cpu", "memory")


def _amounts(container: Object, side: str) -> dict[str, Fraction]:
    resources = (container.get("resources") or {}).get(side) or {}
    return {name: quantity.parse(amount) for name, amount in resources.items()}


def qos_class(spec: Object) -> str:
    """``Guaranteed``, ``Burstable`` or ``BestEffort``, from a PodSpec with defaults."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    any_set, guaranteed = False, True
    for container in containers:
        requests, limits = _amounts(container, "requests"), _amounts(container, "limits")
        for name in _COMPUTE:
            request, limit = requests.get(name), limits.get(name)
            any_set = any_set or bool(request) or bool(limit)
            if not limit or (request is not None and request != limit):
                guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def pod_requests(spec: Object, side: str = "requests") -> dict[str, Fraction]:
    """What a pod asks of its node, by resource name: ``cpu`` in CPUs, ``memory`` in bytes.

    Sidecars (init containers that restart Always) count beside the containers; of the other init
    containers each runs alone with the sidecars before it, so the largest counts.
    """
    total: dict[str, Fraction] = {}
    for container in spec.get("containers") or ():
        _add(total, _amounts(container, side))
    sidecars: dict[str, Fraction] = {}
    peak: dict[str, Fraction] = {}
    for container in spec.get("initContainers") or ():
        amounts = _amounts(container, side)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, amounts)
            _add(total, amounts)
            amounts = {}
        _raise_to(peak, _sum((sidecars, amounts)))
    _raise_to(total, peak)
    overhead = spec.get("overhead") or {}
    _add(total, {name: quantity.parse(amount) for name, amount in overhead.items()})
    return total


def _add(total: dict[str, Fraction], more: dict[str, Fraction]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Fraction()) + amount


def _sum(parts: Iterable[dict[str, Fraction]]) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {}
    for part in parts:
        _add(total, part)
    return total


def _raise_to(total: dict[str, Fraction], floor: dict[str, Fraction]) -> None:
    for name, amount in floor.items():
        total[name] = max(total.get(name, Fraction()), amount)
