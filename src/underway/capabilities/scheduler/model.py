"""What the scheduler knows of pods and nodes, in the form its rules read fastest.

Pods made from one template differ only in their names: what decides where a pod can run is its
``Shape``, read once for all of them. Amounts are whole numbers: thousandths of a CPU, otherwise
bytes or pieces.

Source: Kubernetes API reference 1.32 (PodSpec, NodeStatus).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from underway.api import placement, quantity, selectors
from underway.api.objects import (
    Object,
    deleting,
    find_condition,
    key_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    uid_of,
)
from underway.api.qos import pod_requests
from underway.api.selectors import LabelSelector, Requirement
from underway.capabilities.scheduler import profiles
from underway.capabilities.scheduler.profiles import Profile

SCHEDULER_NAME = profiles.DEFAULT_NAME
NOT_READY = "node.kubernetes.io/not-ready"
MAX_PODS = 110  # of a node that does not say

# What a container that asks for nothing is taken to use, when nodes are compared.
DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "200Mi"

Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Matcher:
    """Which pods a term means: of these namespaces, or those a selector chooses, by labels."""

    namespaces: frozenset[str]
    among: LabelSelector | None
    selector: LabelSelector

    def matches(self, pod: PodInfo, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
        """Whether the pod is meant; ``namespaces`` gives each namespace's labels."""
        here = pod.namespace in self.namespaces or (
            self.among is not None and self.among.matches(namespaces.get(pod.namespace))
        )
        return here and self.selector.matches(pod.labels)


@dataclass(frozen=True, slots=True)
class Term:
    """A pod affinity term; ``weight`` is negative for preferred anti-affinity."""

    matcher: Matcher
    key: str
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint."""

    matcher: Matcher
    key: str
    max_skew: int
    min_domains: int
    hard: bool
    honor_affinity: bool
    honor_taints: bool


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """All of a pod that decides where it can run."""

    id: bytes
    spec: Object
    priority: int
    may_preempt: bool
    requests: Amounts
    cpu: int
    memory: int
    ports: frozenset[tuple[str, str, int]]
    images: tuple[str, ...]
    plain: bool  # no node selector, no node affinity
    affinity: tuple[Term, ...]
    anti: tuple[Term, ...]
    preferred: tuple[Term, ...]
    spreads: tuple[Spread, ...]
    profile: Profile


@dataclass(eq=False, slots=True)
class PodInfo:
    """One pod."""

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    shape: Shape
    created: str = ""
    deleting: bool = False
    claims: tuple[str, ...] = ()
    node: str = ""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return key_of(self.namespace, self.name)

    @property
    def priority(self) -> int:
        """How important it is."""
        return self.shape.priority


@dataclass(eq=False, slots=True)
class NodeInfo:
    """A node and what the pods on it take up."""

    name: str
    node: Object
    labels: Mapping[str, str]
    allocatable: Amounts
    images: Mapping[str, int]
    ready: bool
    hindered: bool  # tainted, cordoned or not ready: worth a closer look
    pods: dict[str, PodInfo] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    cpu: int = 0
    memory: int = 0
    ports: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def add(self, pod: PodInfo) -> None:
        """Count a pod in."""
        self.pods[pod.uid] = pod
        self._count(pod.shape, 1)

    def remove(self, pod: PodInfo) -> None:
        """Count a pod out."""
        del self.pods[pod.uid]
        self._count(pod.shape, -1)

    def copy(self) -> NodeInfo:
        """The same node, whose pods can be changed without changing this one's."""
        return NodeInfo(
            self.name,
            self.node,
            self.labels,
            self.allocatable,
            self.images,
            self.ready,
            self.hindered,
            dict(self.pods),
            dict(self.requested),
            self.cpu,
            self.memory,
            dict(self.ports),
        )

    def _count(self, shape: Shape, sign: int) -> None:
        for name, amount in shape.requests.items():
            self.requested[name] = self.requested.get(name, 0) + sign * amount
        self.cpu += sign * shape.cpu
        self.memory += sign * shape.memory
        for port in shape.ports:
            count = self.ports.get(port, 0) + sign
            if count:
                self.ports[port] = count
            else:
                del self.ports[port]


def node_info(node: Object, pods: Iterable[PodInfo] = ()) -> NodeInfo:
    """A node with these pods on it."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    kept = {
        "metadata": {"name": name_of(node), "labels": labels_of(node)},
        "spec": {name: spec[name] for name in ("taints", "unschedulable") if spec.get(name)},
    }
    images = {
        name: int(image.get("sizeBytes") or 0)
        for image in status.get("images") or ()
        for name in image.get("names") or ()
    }
    ready = is_ready(node)
    found = NodeInfo(
        name_of(node),
        kept,
        labels_of(node),
        _whole({n: quantity.parse(a) for n, a in (status.get("allocatable") or {}).items()}),
        images,
        ready,
        bool(kept["spec"]) or not ready,
    )
    for pod in pods:
        found.add(pod)
    return found


def claim_names(pod: Object) -> tuple[str, ...]:
    """The names of the claims a pod uses; those of generic ephemeral volumes come of its own."""
    found = []
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if name := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            found.append(str(name))
        elif volume.get("ephemeral"):
            found.append(f"{name_of(pod)}-{volume['name']}")
    return tuple(found)


def pod_info(
    pod: Object, profile: Profile = profiles.DEFAULT, kin: LabelSelector | None = None
) -> PodInfo:
    """A pod in the form the rules read.

    Args:
        pod: the pod.
        profile: its scheduler's.
        kin: which pods the profile's own spread constraints count, for a pod that brings none.
    """
    spec, header = pod.get("spec") or {}, meta(pod)
    claims = claim_names(pod)
    return PodInfo(
        uid_of(pod),
        namespace_of(pod),
        name_of(pod),
        labels_of(pod),
        shape_of(pod, profile, kin),
        str((pod.get("status") or {}).get("startTime") or header.get("creationTimestamp") or ""),
        deleting(pod),
        claims,
        str(spec.get("nodeName") or ""),
    )


def shape_of(
    pod: Object, profile: Profile = profiles.DEFAULT, kin: LabelSelector | None = None
) -> Shape:
    """What decides where the pod can run."""
    spec = pod.get("spec") or {}
    kept: Object = {
        name: spec[name]
        for name in (
            "nodeSelector",
            "affinity",
            "tolerations",
            "topologySpreadConstraints",
            "priority",
            "preemptionPolicy",
            "overhead",
        )
        if spec.get(name)
    }
    for name in ("containers", "initContainers"):
        kept[name] = [
            {each: container.get(each) for each in ("resources", "ports", "restartPolicy", "image")}
            for container in spec.get(name) or ()
        ]
    if profile.spread and kin is not None and "topologySpreadConstraints" not in kept:
        kept["topologySpreadConstraints"] = msgspec.json.decode(profile.spread)
    else:
        kin = None
    relative: Any = None
    if "topologySpreadConstraints" in kept or "affinity" in kept:
        relative = [namespace_of(pod), labels_of(pod) if _by_label_keys(kept) else None]
    return _shape(msgspec.json.encode([kept, relative]), profile, kin)


def _by_label_keys(kept: Object) -> bool:
    return b"abelKeys" in msgspec.json.encode(kept)


@functools.lru_cache(maxsize=4096)
def _shape(written: bytes, profile: Profile, kin: LabelSelector | None) -> Shape:
    spec, relative = msgspec.json.decode(written)
    namespace, labels = relative or ("", {})
    affinity = spec.get("affinity") or {}
    anti = affinity.get("podAntiAffinity") or {}
    wanted = affinity.get("podAffinity") or {}
    preferred = [
        _term(each["podAffinityTerm"], namespace, labels, sign * int(each.get("weight") or 0))
        for sign, side in ((1, wanted), (-1, anti))
        for each in side.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    ]
    compared = _whole(pod_requests(_with_defaults(spec)))
    node_affinity = affinity.get("nodeAffinity") or {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    off = profile.off
    wanted, anti = ({}, {}) if "InterPodAffinity" in off else (wanted, anti)
    return Shape(
        written if profile is profiles.DEFAULT and kin is None else _named(written, profile, kin),
        spec,
        int(spec.get("priority") or 0),
        spec.get("preemptionPolicy") != "Never",
        {name: amount for name, amount in _whole(pod_requests(spec)).items() if amount},
        compared["cpu"],
        compared["memory"],
        frozenset(_host_ports(spec)),
        tuple(str(each.get("image") or "") for each in spec["containers"]),
        not spec.get("nodeSelector") and not node_affinity.get(required),
        tuple(_term(each, namespace, labels) for each in wanted.get(required) or ()),
        tuple(_term(each, namespace, labels) for each in anti.get(required) or ()),
        tuple(preferred),
        tuple(
            spread
            for each in spec.get("topologySpreadConstraints") or ()
            if (spread := _spread(each, namespace, labels, kin)) and not _is_off(spread, profile)
        ),
        profile,
    )


def _named(written: bytes, profile: Profile, kin: LabelSelector | None) -> bytes:
    """What tells a shape from those of other profiles, also of an earlier one of that name."""
    return b"\0".join((repr(profile).encode(), str(kin or "").encode(), written))


def _is_off(spread: Spread, profile: Profile) -> bool:
    return spread.hard and "PodTopologySpread" in profile.off


def _term(term: Object, namespace: str, labels: Mapping[str, str] | None, weight: int = 0) -> Term:
    among = term.get("namespaceSelector")
    names = term.get("namespaces") or ()
    if not names and among is None:
        names = (namespace,)
    matcher = Matcher(
        frozenset(names),
        None if among is None else selectors.from_object(among),
        _selector(
            term.get("labelSelector"),
            labels,
            term.get("matchLabelKeys") or (),
            term.get("mismatchLabelKeys") or (),
        ),
    )
    return Term(matcher, str(term.get("topologyKey") or ""), weight)


def _spread(
    constraint: Object,
    namespace: str,
    labels: Mapping[str, str] | None,
    kin: LabelSelector | None,
) -> Spread:
    selector = kin or _selector(
        constraint.get("labelSelector"), labels, constraint.get("matchLabelKeys") or (), ()
    )
    return Spread(
        Matcher(frozenset((namespace,)), None, selector),
        str(constraint.get("topologyKey") or ""),
        int(constraint.get("maxSkew") or 1),
        int(constraint.get("minDomains") or 1),
        constraint.get("whenUnsatisfiable") != "ScheduleAnyway",
        constraint.get("nodeAffinityPolicy") != "Ignore",
        constraint.get("nodeTaintsPolicy") == "Honor",
    )


def _selector(
    given: Object | None,
    labels: Mapping[str, str] | None,
    same: Iterable[str],
    other: Iterable[str],
) -> LabelSelector:
    found = selectors.from_object(given)
    more = [
        Requirement(key, operator, (labels[key],))
        for operator, keys in (("In", same), ("NotIn", other))
        for key in keys
        if labels and key in labels
    ]
    return LabelSelector((*found.requirements, *more), found.nothing) if more else found


def _whole(amounts: Mapping[str, Any]) -> dict[str, int]:
    return {
        name: math.ceil(amount * 1000 if name == "cpu" else amount)
        for name, amount in amounts.items()
    }


def _with_defaults(spec: Object) -> Object:
    containers = [
        {
            "resources": {
                "requests": {
                    "cpu": DEFAULT_CPU,
                    "memory": DEFAULT_MEMORY,
                    **((each.get("resources") or {}).get("requests") or {}),
                }
            }
        }
        for each in spec.get("containers") or ()
    ]
    return {
        **spec,
        "containers": containers or [{"resources": {"requests": {"cpu": 0, "memory": 0}}}],
    }


def _host_ports(spec: Object) -> list[tuple[str, str, int]]:
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


def is_gated(pod: Object) -> bool:
    """Whether something else has to happen before the pod may be scheduled."""
    return bool((pod.get("spec") or {}).get("schedulingGates"))


def scheduler_name(pod: Object) -> str:
    """The name of the scheduler that the pod waits for."""
    return (pod.get("spec") or {}).get("schedulerName") or SCHEDULER_NAME


def to_schedule(pod: Object, names: Container[str] = (SCHEDULER_NAME,)) -> bool:
    """Whether the pod waits for a scheduler of these names."""
    spec = pod.get("spec") or {}
    return (
        not spec.get("nodeName")
        and scheduler_name(pod) in names
        and not deleting(pod)
        and not is_finished(pod)
    )


def untolerated(shape: Shape, node: Object, *effects: str) -> list[Object]:
    """The node's taints of these effects that keep such a pod away."""
    return placement.untolerated(shape.spec, node, effects)
