"""Profiles: which rules count for the pods of one ``schedulerName``, and how much.

Source: Kubernetes docs, "Scheduler Configuration"; kube-scheduler configuration v1
(kubescheduler.config.k8s.io/v1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from underway.api.objects import Object
from underway.base.errors import Invalid

DEFAULT_NAME = "default-scheduler"
API_VERSIONS = ("kubescheduler.config.k8s.io/v1",)
BACKOFF_S, MAX_BACKOFF_S = 1.0, 10.0

FILTERS = frozenset(
    (
        "NodeUnschedulable",
        "TaintToleration",
        "NodeAffinity",
        "NodePorts",
        "NodeResourcesFit",
        "InterPodAffinity",
        "PodTopologySpread",
    )
)
WEIGHTS: Mapping[str, int] = {
    "NodeResourcesFit": 1,
    "NodeResourcesBalancedAllocation": 1,
    "ImageLocality": 1,
    "NodeAffinity": 2,
    "TaintToleration": 3,
    "PodTopologySpread": 2,
    "InterPodAffinity": 2,
}
# Plugins that decide nothing here that could be switched; naming them is no mistake.
_OTHERS = frozenset(
    (
        "NodeName",
        "PrioritySort",
        "SchedulingGates",
        "DefaultPreemption",
        "DefaultBinder",
        "VolumeBinding",
        "VolumeRestrictions",
        "VolumeZone",
        "NodeVolumeLimits",
        "DynamicResources",
    )
)
_KNOWN = FILTERS | WEIGHTS.keys() | _OTHERS
_STRATEGIES = ("LeastAllocated", "MostAllocated", "RequestedToCapacityRatio")


@dataclass(frozen=True, slots=True)
class Strategy:
    """How free resources are valued.

    ``shape`` is, for RequestedToCapacityRatio, what a utilization (0 to 100) is worth (0 to 10).
    """

    type: str = "LeastAllocated"
    weights: tuple[tuple[str, int], ...] = (("cpu", 1), ("memory", 1))
    shape: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """What counts for the pods of one scheduler name.

    Attributes:
        name: the ``schedulerName``.
        off: filters that do not count.
        weights: of the scores; 0 where one does not count.
        strategy: how free resources are valued.
        added_required: node selector terms that hold for all pods, as JSON.
        added_preferred: preferred terms that hold for all pods, as JSON.
        spread: constraints of pods that bring none, as JSON.
        required_weight: what a placed pod's required affinity counts for those it wants.
        preempts: whether its pods may make others go.
    """

    name: str = DEFAULT_NAME
    off: frozenset[str] = frozenset()
    weights: Mapping[str, int] = field(default_factory=lambda: WEIGHTS, hash=False)
    strategy: Strategy = Strategy()
    added_required: bytes = b""
    added_preferred: bytes = b""
    spread: bytes = b""
    required_weight: int = 1
    preempts: bool = True

    def weight(self, score: str) -> int:
        """How much a score counts."""
        return self.weights.get(score, 0)


DEFAULT = Profile()


@dataclass(frozen=True, slots=True)
class Configuration:
    """A scheduler's whole configuration: its profiles by name, and back-off in seconds."""

    profiles: Mapping[str, Profile]
    backoff_s: float = BACKOFF_S
    max_backoff_s: float = MAX_BACKOFF_S


STANDARD = Configuration({DEFAULT_NAME: DEFAULT})


def configuration(written: Any) -> Configuration:
    """The configuration that a KubeSchedulerConfiguration describes.

    Raises:
        Invalid: it is none, or names something that does not exist; the message names the field.
    """
    if not isinstance(written, dict) or written.get("kind") != "KubeSchedulerConfiguration":
        raise Invalid("kind: must be KubeSchedulerConfiguration")
    if written.get("apiVersion") not in API_VERSIONS:
        raise Invalid(f"apiVersion: must be {' or '.join(API_VERSIONS)}")
    profiles: dict[str, Profile] = {}
    for index, each in enumerate(written.get("profiles") or [{}]):
        profile = _profile(each, f"profiles[{index}]")
        if profile.name in profiles:
            raise Invalid(f"profiles[{index}].schedulerName: {profile.name} is there already")
        profiles[profile.name] = profile
    first = float(written.get("podInitialBackoffSeconds") or BACKOFF_S)
    most = float(written.get("podMaxBackoffSeconds") or MAX_BACKOFF_S)
    if not 0 < first <= most:
        raise Invalid("podMaxBackoffSeconds: must be at least podInitialBackoffSeconds, above 0")
    return Configuration(profiles, first, most)


def _profile(written: Object, path: str) -> Profile:
    found = Profile(written.get("schedulerName") or DEFAULT_NAME)
    found = _with_plugins(found, written.get("plugins") or {}, f"{path}.plugins")
    for index, each in enumerate(written.get("pluginConfig") or ()):
        where = f"{path}.pluginConfig[{index}]"
        name, arguments = each.get("name") or "", each.get("args") or {}
        if name not in _KNOWN:
            raise Invalid(f"{where}.name: there is no plugin {name!r}")
        found = _with_arguments(found, name, arguments, f"{where}.args")
    return found


def _with_plugins(profile: Profile, plugins: Object, path: str) -> Profile:
    off, weights, preempts = set(profile.off), dict(profile.weights), profile.preempts
    for point in ("multiPoint", "filter", "score", "postFilter"):
        chosen = plugins.get(point) or {}
        filters = point in ("multiPoint", "filter")
        scores = point in ("multiPoint", "score")
        for name in _names(chosen.get("disabled"), f"{path}.{point}.disabled"):
            everything = name == "*"
            if filters:
                off |= FILTERS if everything else {name} & FILTERS
            if scores:
                weights = {n: 0 if everything or n == name else w for n, w in weights.items()}
            if point != "score" and (everything or name == "DefaultPreemption"):
                preempts = False
        for index, each in enumerate(chosen.get("enabled") or ()):
            (name,) = _names([each], f"{path}.{point}.enabled[{index}]")
            if filters:
                off.discard(name)
            if scores and name in WEIGHTS:
                weights[name] = int(each.get("weight") or WEIGHTS[name])
            preempts = preempts or name == "DefaultPreemption"
    return replace(profile, off=frozenset(off), weights=weights, preempts=preempts)


def _names(chosen: Iterable[Object] | None, path: str) -> list[str]:
    names = [str(each.get("name") or "") for each in chosen or ()]
    for name in names:
        if name != "*" and name not in _KNOWN:
            raise Invalid(
                f"{path}: there is no plugin {name!r}",
                hint=f"there are {', '.join(sorted(FILTERS | WEIGHTS.keys()))}",
            )
    return names


def _with_arguments(profile: Profile, name: str, arguments: Object, path: str) -> Profile:
    match name:
        case "NodeAffinity":
            return _with_affinity(profile, arguments.get("addedAffinity") or {})
        case "PodTopologySpread":
            return _with_spread(profile, arguments, path)
        case "InterPodAffinity":
            weight = int(arguments.get("hardPodAffinityWeight", profile.required_weight))
            if not 0 <= weight <= 100:
                raise Invalid(f"{path}.hardPodAffinityWeight: must be between 0 and 100")
            return replace(profile, required_weight=weight)
        case "NodeResourcesFit":
            strategy = _strategy(arguments.get("scoringStrategy") or {}, f"{path}.scoringStrategy")
            return replace(profile, strategy=strategy)
    return profile


def _with_affinity(profile: Profile, added: Object) -> Profile:
    required = added.get("requiredDuringSchedulingIgnoredDuringExecution")
    preferred = added.get("preferredDuringSchedulingIgnoredDuringExecution")
    return replace(
        profile,
        added_required=msgspec.json.encode(required) if required else b"",
        added_preferred=msgspec.json.encode(preferred) if preferred else b"",
    )


def _with_spread(profile: Profile, arguments: Object, path: str) -> Profile:
    constraints = arguments.get("defaultConstraints") or ()
    if constraints and arguments.get("defaultingType") != "List":
        raise Invalid(f"{path}.defaultingType: must be List where there are defaultConstraints")
    for index, each in enumerate(constraints):
        if each.get("labelSelector") is not None:
            where = f"{path}.defaultConstraints[{index}].labelSelector"
            raise Invalid(f"{where}: must not be there: it is the workload's own")
    return replace(profile, spread=msgspec.json.encode(constraints) if constraints else b"")


def _strategy(written: Object, path: str) -> Strategy:
    kind = written.get("type") or "LeastAllocated"
    if kind not in _STRATEGIES:
        raise Invalid(f"{path}.type: must be one of {', '.join(_STRATEGIES)}")
    resources = written.get("resources") or [{"name": "cpu"}, {"name": "memory"}]
    weights = tuple((str(each["name"]), int(each.get("weight") or 1)) for each in resources)
    points = (written.get("requestedToCapacityRatio") or {}).get("shape") or ()
    shape = tuple((int(each["utilization"]), int(each["score"])) for each in points)
    if (kind == "RequestedToCapacityRatio") != bool(shape) or list(shape) != sorted(shape):
        raise Invalid(f"{path}.requestedToCapacityRatio.shape: must rise, and only for that type")
    return Strategy(kind, weights, shape)
