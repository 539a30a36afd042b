"""Which nodes a pod may run on: selectors, affinity, taints and tolerations.

Source: Kubernetes docs, "Assigning Pods to Nodes" and "Taints and Tolerations".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from underway.api.objects import Object, labels_of, name_of
from underway.api.selectors import Requirement

NO_SCHEDULE = "NoSchedule"
PREFER_NO_SCHEDULE = "PreferNoSchedule"
NO_EXECUTE = "NoExecute"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


def matches_node(pod_spec: Object, node: Object) -> bool:
    """Whether the pod's ``nodeSelector`` and required node affinity choose the node."""
    labels = labels_of(node)
    wanted = pod_spec.get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(matches_term(term, node) for term in required.get("nodeSelectorTerms") or ())


def matches_term(term: Object, node: Object) -> bool:
    """Whether a ``NodeSelectorTerm`` chooses the node; an empty term chooses none."""
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    return _all_hold(expressions, labels_of(node)) and _all_hold(
        fields, {"metadata.name": name_of(node)}
    )


def preference(pod_spec: Object, node: Object) -> int:
    """The sum of the weights of the preferred terms that choose the node."""
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return sum(
        int(each.get("weight") or 0)
        for each in preferred
        if matches_term(each.get("preference") or {}, node)
    )


def _all_hold(expressions: Iterable[Object], labels: Mapping[str, str]) -> bool:
    return all(
        Requirement(
            str(each.get("key") or ""),
            str(each.get("operator") or ""),
            tuple(each.get("values") or ()),
        ).matches(labels)
        for each in expressions
    )


def taints_of(node: Object) -> list[Object]:
    """The node's taints; a cordoned node counts as tainted."""
    spec = node.get("spec") or {}
    taints = list(spec.get("taints") or ())
    if spec.get("unschedulable") and not any(each["key"] == UNSCHEDULABLE for each in taints):
        taints.append({"key": UNSCHEDULABLE, "effect": NO_SCHEDULE})
    return taints


def tolerates(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    """Whether one of the tolerations tolerates the taint."""
    return any(_tolerates_one(each, taint) for each in tolerations)


def _tolerates_one(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    key = toleration.get("key")
    if key and key != taint.get("key"):
        return False
    if (toleration.get("operator") or "Equal") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(
    pod_spec: Object, node: Object, effects: Iterable[str] = (NO_SCHEDULE, NO_EXECUTE)
) -> list[Object]:
    """The node's taints of these effects that the pod does not tolerate."""
    tolerations = pod_spec.get("tolerations") or ()
    chosen = set(effects)
    return [
        taint
        for taint in taints_of(node)
        if taint.get("effect") in chosen and not tolerates(tolerations, taint)
    ]
