"""What an object uses of a ResourceQuota, and which quotas it falls under.

Source: Kubernetes "Resource Quotas"; kubernetes ``pkg/quota/v1/evaluator/core``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from underway.api import qos, quantity
from underway.api.objects import Object, annotations_of

Usage = dict[str, Fraction]
_ONE = Fraction(1)
_CLASS = ".storageclass.storage.k8s.io/"
_COUNTED = (
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
)
_BYTES = ("memory", "storage", "hugepages-")
_MUST_SAY = ("cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory")


def storage_of(name: str) -> str:
    """The resource whose objects use up a quota's entry: ``count/deployments.apps`` -> its own."""
    if name.startswith("count/"):
        return name.removeprefix("count/")
    if name in _COUNTED:
        return name
    if name.startswith("services."):
        return "services"
    if name == "requests.storage" or _CLASS in name:
        return "persistentvolumeclaims"
    return "pods"


def written(name: str, amount: Fraction) -> str:
    """An amount of a quota's entry as upstream writes it."""
    return quantity.format_value(amount, "binary" if any(x in name for x in _BYTES) else "decimal")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one object uses; the rest is what scopes ask about, and only pods have it."""

    usage: Usage
    is_pod: bool = False
    best_effort: bool = False
    terminating: bool = False
    priority_class: str = ""
    crosses: bool = False

    def under(self, quota: Object) -> bool:
        """Whether the object falls under a quota's scopes."""
        spec = quota.get("spec") or {}
        selector = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
        wanted = [*({"scopeName": each} for each in spec.get("scopes") or ()), *selector]
        return not wanted or (self.is_pod and all(self._fits(each) for each in wanted))

    def _fits(self, requirement: Object) -> bool:
        match requirement.get("scopeName"):
            case "Terminating":
                return self.terminating
            case "NotTerminating":
                return not self.terminating
            case "BestEffort":
                return self.best_effort
            case "NotBestEffort":
                return not self.best_effort
            case "CrossNamespacePodAffinity":
                return self.crosses
            case "PriorityClass":
                return self._fits_class(requirement)
        return False

    def _fits_class(self, requirement: Object) -> bool:
        values = requirement.get("values") or ()
        match requirement.get("operator", "Exists"):
            case "In":
                return self.priority_class in values
            case "NotIn":
                return self.priority_class not in values
            case "DoesNotExist":
                return not self.priority_class
        return bool(self.priority_class)


def footprint(storage: str, obj: Object) -> Footprint:
    """What an object uses."""
    usage: Usage = {f"count/{storage}": _ONE}
    if storage in _COUNTED:
        usage[storage] = _ONE
    if storage == "pods":
        return _of_pod(obj, usage)
    if storage == "services":
        usage.update(_of_service(obj.get("spec") or {}))
    elif storage == "persistentvolumeclaims":
        usage.update(_of_claim(obj))
    return Footprint(usage)


def _of_pod(pod: Object, usage: Usage) -> Footprint:
    spec = pod.get("spec") or {}
    if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
        usage["pods"] = _ONE
        for name, amount in qos.pod_requests(spec, "requests").items():
            usage[f"requests.{name}"] = amount
            if name in ("cpu", "memory", "ephemeral-storage") or name.startswith("hugepages-"):
                usage[name] = amount
        for name, amount in qos.pod_requests(spec, "limits").items():
            usage[f"limits.{name}"] = amount
    return Footprint(
        usage,
        is_pod=True,
        best_effort=qos.qos_class(spec) == "BestEffort",
        terminating=spec.get("activeDeadlineSeconds") is not None,
        priority_class=spec.get("priorityClassName") or "",
        crosses=_crosses(spec),
    )


def _crosses(spec: Object) -> bool:
    """Whether a pod's affinity looks at pods of other namespaces."""
    affinity = spec.get("affinity") or {}
    for side in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(side) or {}
        terms = [
            *(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ()),
            *(
                each.get("podAffinityTerm") or {}
                for each in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
            ),
        ]
        if any(t.get("namespaces") or t.get("namespaceSelector") is not None for t in terms):
            return True
    return False


def _of_service(spec: Object) -> Usage:
    kind, ports = spec.get("type"), len(spec.get("ports") or ())
    if kind == "NodePort":
        return {"services.nodeports": Fraction(ports)}
    if kind != "LoadBalancer":
        return {}
    if spec.get("allocateLoadBalancerNodePorts") is False:
        ports = sum(1 for port in spec.get("ports") or () if port.get("nodePort"))
    return {"services.loadbalancers": _ONE, "services.nodeports": Fraction(ports)}


def _of_claim(claim: Object) -> Usage:
    spec = claim.get("spec") or {}
    requests = (spec.get("resources") or {}).get("requests") or {}
    size = quantity.parse(requests.get("storage", "0"))
    usage = {"requests.storage": size}
    name = annotations_of(claim).get("volume.beta.kubernetes.io/storage-class")
    name = name or spec.get("storageClassName")
    if name:
        usage[f"{name}{_CLASS}requests.storage"] = size
        usage[f"{name}{_CLASS}persistentvolumeclaims"] = _ONE
    return usage


def unsaid(spec: Object, names: list[str]) -> str:
    """What containers of a pod must say because a quota counts it, or empty."""
    missing = [
        f"{name} for: {','.join(sorted(lacking))}"
        for name in sorted(names)
        if name in _MUST_SAY and (lacking := set(_lacking(spec, name)))
    ]
    return f"must specify {'; '.join(missing)}" if missing else ""


def _lacking(spec: Object, name: str) -> Iterator[str]:
    side, _, resource = name.rpartition(".")
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        amounts = (container.get("resources") or {}).get(side or "requests") or {}
        if resource not in amounts:
            yield str(container.get("name"))
