"""Constraints that look past one node: pod affinity, topology spread, and where volumes are.

Source: Kubernetes docs, "Assigning Pods to Nodes" (inter-pod affinity), "Pod Topology Spread
Constraints", "Persistent Volumes" (node affinity).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from underway.api import placement
from underway.api.objects import Object
from underway.capabilities.scheduler.model import (
    Matcher,
    NodeInfo,
    PodInfo,
    Shape,
    Spread,
    Term,
    untolerated,
)
from underway.capabilities.scheduler.rules.cluster import Cluster
from underway.capabilities.scheduler.rules.fit import Refusal

_VOLUME = Refusal(("node(s) had volume node affinity conflict",), helpless=True)
_AFFINITY = Refusal(("node(s) didn't match pod affinity rules",), helpless=True)
_ANTI = Refusal(("node(s) didn't match pod anti-affinity rules",))
_EXISTING = Refusal(("node(s) didn't satisfy existing pods anti-affinity rules",))
_SKEW = Refusal(("node(s) didn't match pod topology spread constraints",))
_NO_LABEL = Refusal(
    ("node(s) didn't match pod topology spread constraints (missing required label)",),
    helpless=True,
)


@dataclass(slots=True)
class _Domains:
    """A spread constraint's domains: how many matching pods each has, and the fewest of all."""

    spread: Spread
    counts: dict[str, int]
    fewest: int
    own: int


def concerns(pod: PodInfo, cluster: Cluster, volumes: Sequence[Object]) -> bool:
    """Whether any node's answer depends on other nodes."""
    shape = pod.shape
    if shape.affinity or shape.anti or shape.preferred or shape.spreads or volumes:
        return True
    carried = (cluster.anti, cluster.preferred, cluster.affinity)
    return any(term.matcher.matches(pod, cluster.namespaces) for terms in carried for term in terms)


class Constraints:
    """What the rest of the cluster means for one pod.

    Args:
        pod: the pod.
        cluster: the cluster.
        volumes: the ``required`` node affinities of its volumes.
        without: placed pods to be thought away, as ``(pod, node)``.
    """

    def __init__(
        self,
        pod: PodInfo,
        cluster: Cluster,
        volumes: Sequence[Object] = (),
        without: Iterable[tuple[PodInfo, str]] = (),
    ) -> None:
        self._pod = pod
        self._cluster = cluster
        self._volumes = volumes
        self._without = tuple(without)
        shape = pod.shape
        self._existing = self._forbidden_by_others()
        self._anti = [(term.key, self._by_value(term.key, term.matcher)) for term in shape.anti]
        together = tuple(term.matcher for term in shape.affinity)
        self._affinity = [
            (term.key, self._by_value(term.key, *together)) for term in shape.affinity
        ]
        # The first of a group that wants to be together has nobody to join yet.
        self._first = not any(counts for _, counts in self._affinity) and all(
            matcher.matches(pod, cluster.namespaces) for matcher in together
        )
        self._hard, self._soft = self._spreads(shape)
        self._answers: dict[Any, Refusal | None] = {}
        self._place = _values_of(
            {
                *(each.spread.key for each in self._hard),
                *(key for key, _ in (*self._affinity, *self._anti)),
                *(key for key, _ in self._existing),
            }
        )

    def refusal(self, info: NodeInfo) -> Refusal | None:
        """Why the pod cannot run on the node."""
        for required in self._volumes:
            terms = required.get("nodeSelectorTerms") or ()
            if not any(placement.matches_term(term, info.node) for term in terms):
                return _VOLUME
        # Nodes with the same values of the labels in question have the same answer.
        which = self._place(info.labels)
        if which not in self._answers:
            self._answers[which] = self._refusal(info.labels)
        return self._answers[which]

    def _refusal(self, labels: Mapping[str, str]) -> Refusal | None:
        for domains in self._hard:
            value = labels.get(domains.spread.key)
            if value is None:
                return _NO_LABEL
            skew = domains.counts.get(value, 0) + domains.own - domains.fewest
            if skew > domains.spread.max_skew:
                return _SKEW
        for key, counts in self._affinity:
            value = labels.get(key)
            if value is None or not (counts.get(value) or self._first):
                return _AFFINITY
        if any(counts.get(labels.get(key, "")) for key, counts in self._anti if key in labels):
            return _ANTI
        if any(labels.get(key) in values for key, values in self._existing if key in labels):
            return _EXISTING
        return None

    def scores(self, nodes: Sequence[NodeInfo]) -> list[float]:
        """How well each node suits the pod, from 0 to 400."""
        total = [0.0] * len(nodes)
        if weights := self._attractions():
            raw = [
                sum(values.get(info.labels.get(key, ""), 0.0) for key, values in weights.items())
                for info in nodes
            ]
            low, high = min(raw), max(raw)
            if high > low:
                weight = self._pod.shape.profile.weight("InterPodAffinity")
                total = [weight * 100.0 * (each - low) / (high - low) for each in raw]
        if self._soft:
            for index, each in enumerate(self._spread_scores(nodes)):
                total[index] += self._pod.shape.profile.weight("PodTopologySpread") * each
        return total

    # -- counting --------------------------------------------------------------------------

    def _by_value(
        self, key: str, *matchers: Matcher, without_deleting: bool = False
    ) -> dict[str, int]:
        """For each value of a node label how many pods all matchers mean."""
        per_node = self._cluster.counts(*matchers, without_deleting=without_deleting)
        found = self._sum(key, per_node)
        for pod, node in self._without:
            if without_deleting and pod.deleting:
                continue
            if all(each.matches(pod, self._cluster.namespaces) for each in matchers):
                self._take(found, key, node, 1)
        return found

    def _sum(self, key: str, per_node: Mapping[str, int]) -> dict[str, int]:
        found: dict[str, int] = {}
        nodes = self._cluster.nodes
        for name, number in per_node.items():
            info = nodes.get(name)
            value = info.labels.get(key) if info is not None else None
            if value is not None:
                found[value] = found.get(value, 0) + number
        return found

    def _take(self, counts: dict[str, int], key: str, node: str, number: int) -> None:
        info = self._cluster.nodes.get(node)
        value = info.labels.get(key) if info is not None else None
        if value is not None and value in counts:
            counts[value] -= number
            if not counts[value]:
                del counts[value]

    def _forbidden_by_others(self) -> list[tuple[str, set[str]]]:
        found: list[tuple[str, set[str]]] = []
        if "InterPodAffinity" in self._pod.shape.profile.off:
            return found
        for term, per_node in self._cluster.anti.items():
            if not term.matcher.matches(self._pod, self._cluster.namespaces):
                continue
            counts = self._sum(term.key, per_node)
            for pod, node in self._without:
                for _ in range(pod.shape.anti.count(term)):
                    self._take(counts, term.key, node, 1)
            found.append((term.key, set(counts)))
        return found

    # -- spread ----------------------------------------------------------------------------

    def _spreads(self, shape: Shape) -> tuple[list[_Domains], list[_Domains]]:
        hard: list[_Domains] = []
        soft: list[_Domains] = []
        if shape.spreads:
            keys = {each.key for each in shape.spreads if each.hard}
            for spread in shape.spreads:
                domains = self._domains(shape, spread, keys if spread.hard else {spread.key})
                (hard if spread.hard else soft).append(domains)
        return hard, soft

    def _domains(self, shape: Shape, spread: Spread, keys: set[str]) -> _Domains:
        per_node = self._cluster.counts(spread.matcher, without_deleting=True)
        taken = Counter(
            node
            for pod, node in self._without
            if not pod.deleting and spread.matcher.matches(pod, self._cluster.namespaces)
        )
        domains = self._cluster.remembered(
            (shape.id, spread.key, spread.honor_affinity, spread.honor_taints, *sorted(keys)),
            lambda: {
                info.name: info.labels[spread.key]
                for info in self._cluster.nodes.values()
                if spread.key in info.labels and _counts_in(shape, spread, keys, info)
            },
        )
        counts = dict.fromkeys(domains.values(), 0)
        for name, number in per_node.items():
            if name in domains:
                counts[domains[name]] += number - taken[name]
        fewest = min(counts.values(), default=0)
        if len(counts) < spread.min_domains:
            fewest = 0
        own = int(spread.matcher.matches(self._pod, self._cluster.namespaces))
        return _Domains(spread, counts, fewest, own)

    def _spread_scores(self, nodes: Sequence[NodeInfo]) -> list[float]:
        """Nodes in the domains with fewest pods first; those without the label last."""
        raw: list[float | None] = []
        for info in nodes:
            total: float | None = 0.0
            for domains in self._soft:
                value = info.labels.get(domains.spread.key)
                if value is None or total is None:
                    total = None
                    continue
                # Few domains tell less apart than many, so each counts for less.
                weight = math.log(len(domains.counts) + 2)
                total += domains.counts.get(value, 0) * weight + domains.spread.max_skew - 1
            raw.append(total)
        known = [each for each in raw if each is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        return [
            0.0 if each is None else 100.0 * (high + low - each) / high if high else 100.0
            for each in raw
        ]

    # -- attraction ------------------------------------------------------------------------

    def _attractions(self) -> dict[str, dict[str, float]]:
        """For each topology key how much each of its values attracts the pod."""
        found: dict[str, dict[str, float]] = {}

        def draw(term: Term, per_node: Mapping[str, int], weight: float) -> None:
            values = found.setdefault(term.key, {})
            for value, number in self._sum(term.key, per_node).items():
                values[value] = values.get(value, 0.0) + weight * number

        for term in self._pod.shape.preferred:
            draw(term, self._cluster.counts(term.matcher), term.weight)
        for terms, fixed in (
            (self._cluster.preferred, 0),
            (self._cluster.affinity, self._pod.shape.profile.required_weight),
        ):
            for term, per_node in terms.items():
                if term.matcher.matches(self._pod, self._cluster.namespaces):
                    draw(term, per_node, fixed or term.weight)
        return found


def _values_of(keys: set[str]) -> Callable[[Mapping[str, str]], Any]:
    """What tells apart the places that nodes' labels name by these keys."""
    ordered = sorted(keys)
    if len(ordered) == 1:
        only = ordered[0]
        return lambda labels: labels.get(only)
    return lambda labels: tuple([labels.get(key) for key in ordered])


def _counts_in(shape: Shape, spread: Spread, keys: set[str], info: NodeInfo) -> bool:
    """Whether a node's pods and domain count for a constraint."""
    if not all(key in info.labels for key in keys):
        return False
    if (
        spread.honor_affinity
        and not shape.plain
        and not placement.matches_node(shape.spec, info.node)
    ):
        return False
    hard = (placement.NO_SCHEDULE, placement.NO_EXECUTE)
    return not (spread.honor_taints and info.hindered and untolerated(shape, info.node, *hard))
