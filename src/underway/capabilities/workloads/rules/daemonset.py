"""Which nodes a DaemonSet's pods run on, and how they are replaced.

Source: Kubernetes docs, "DaemonSet" and "Perform a Rolling Update on a DaemonSet".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from underway.api import placement
from underway.api.objects import Object, deleting, labels_of, meta, name_of, owner_reference
from underway.capabilities.workloads.model import (
    available_in_s,
    created_at,
    finished,
    is_ready,
    pod_from_template,
    resolve,
    spec_of,
)

REVISION = "controller-revision-hash"
TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
NOT_READY = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}


@dataclass(frozen=True)
class Plan:
    """Names of nodes to make pods for, and pods to delete."""

    create: tuple[str, ...] = ()
    delete: tuple[Object, ...] = ()


def pod_spec(daemonset: Object) -> Object:
    """The template's pod, with the tolerations that every daemon has."""
    spec = dict(spec_of(spec_of(daemonset)["template"]))
    tolerations = list(spec.get("tolerations") or ())
    for key, effect in TOLERATED:
        entry = {"key": key, "operator": "Exists", "effect": effect}
        if entry not in tolerations:
            tolerations.append(entry)
    if spec.get("hostNetwork"):
        tolerations.append(
            {
                "key": "node.kubernetes.io/network-unavailable",
                "operator": "Exists",
                "effect": "NoSchedule",
            }
        )
    spec["tolerations"] = tolerations
    return spec


def target_of(pod: Object) -> str:
    """The node that a daemon's pod runs on, or is meant for."""
    if node := spec_of(pod).get("nodeName"):
        return str(node)
    affinity = (spec_of(pod).get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def new_pod(daemonset: Object, node: str, revision: str) -> Object:
    """The pod for a node; the scheduler binds it there and nowhere else."""
    template = spec_of(daemonset)["template"]
    pod = pod_from_template(
        daemonset, {**template, "spec": pod_spec(daemonset)}, owner_reference(daemonset)
    )
    meta(pod).setdefault("labels", {})[REVISION] = revision
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = pod["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [{**term, "matchFields": [here]} for term in terms]
    }
    return pod


def should_run(daemonset: Object, node: Object) -> bool:
    """Whether a pod belongs on the node."""
    spec = pod_spec(daemonset)
    spec["tolerations"] = [*spec["tolerations"], NOT_READY]
    return placement.matches_node(spec, node) and not placement.untolerated(spec, node)


def may_stay(daemonset: Object, node: Object) -> bool:
    """Whether a pod that is there already may go on."""
    spec = pod_spec(daemonset)
    return placement.matches_node(spec, node) and not placement.untolerated(
        spec, node, (placement.NO_EXECUTE,)
    )


def plan(
    daemonset: Object, nodes: list[Object], pods: list[Object], update: str, now: datetime
) -> Plan:
    """The next step.

    Args:
        daemonset: the object.
        nodes: all nodes.
        pods: the pods it controls.
        update: the hash of the newest revision.
        now: the time, for ``minReadySeconds``.
    """
    by_node: dict[str, list[Object]] = {}
    for pod in pods:
        by_node.setdefault(target_of(pod), []).append(pod)
    surge = _surge(daemonset, nodes)
    create: list[str] = []
    delete: list[Object] = []
    for node in nodes:
        here = by_node.pop(name_of(node), [])
        alive = [pod for pod in here if not finished(pod)]
        delete += [pod for pod in here if finished(pod) and not deleting(pod)]
        running = sorted((pod for pod in alive if not deleting(pod)), key=_keep_first)
        if not may_stay(daemonset, node):
            delete += running
            continue
        delete += _spare(daemonset, running, update, now) if surge else running[1:]
        if should_run(daemonset, node) and not alive:
            create.append(name_of(node))
    for homeless in by_node.values():
        delete += [pod for pod in homeless if not deleting(pod)]
    if not delete and not create:
        if surge:
            create = _surging(daemonset, nodes, pods, update, now, surge)
        else:
            delete = _update(daemonset, nodes, pods, update, now)
    return Plan(tuple(create), tuple(delete))


def _keep_first(pod: Object) -> tuple[bool, bool, str, str]:
    return not is_ready(pod), not spec_of(pod).get("nodeName"), created_at(pod), name_of(pod)


def _update(
    daemonset: Object, nodes: list[Object], pods: list[Object], update: str, now: datetime
) -> list[Object]:
    strategy = spec_of(daemonset).get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return []
    eligible = sum(should_run(daemonset, node) for node in nodes)
    limit = (strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1)
    missing = sum(not _available(daemonset, pod, now) for pod in pods)
    budget = max(1, resolve(limit, eligible, up=True)) - missing
    outdated = [pod for pod in pods if labels_of(pod).get(REVISION) != update and not deleting(pod)]
    # Those that serve nobody cost nothing.
    gone = [pod for pod in outdated if not _available(daemonset, pod, now)]
    rest = [pod for pod in outdated if _available(daemonset, pod, now)]
    return [*gone, *rest[: max(0, budget)]]


def _surge(daemonset: Object, nodes: list[Object]) -> int:
    """On how many nodes a new pod may run beside the old one; 0 where old ones go first."""
    strategy = spec_of(daemonset).get("updateStrategy") or {}
    limit = (strategy.get("rollingUpdate") or {}).get("maxSurge")
    if strategy.get("type") == "OnDelete" or not limit:
        return 0
    return resolve(limit, sum(should_run(daemonset, node) for node in nodes), up=True)


def _is_new(pod: Object, update: str) -> bool:
    return labels_of(pod).get(REVISION) == update


def _spare(daemonset: Object, running: list[Object], update: str, now: datetime) -> list[Object]:
    """Pods of one node to delete while surging: an old one stays until a new one serves.

    An old one that does not serve goes as soon as there is a new one.
    """
    new = [pod for pod in running if _is_new(pod, update)]
    old = [pod for pod in running if not _is_new(pod, update)]
    serves = old[:1] if old and _available(daemonset, old[0], now) else []
    replaced = bool(new) and (_available(daemonset, new[0], now) or not serves)
    return [*new[1:], *(old if replaced else old[1:])]


def _surging(
    daemonset: Object,
    nodes: list[Object],
    pods: list[Object],
    update: str,
    now: datetime,
    surge: int,
) -> list[str]:
    """Nodes that get a new pod beside their old one."""
    at_once: list[str] = []
    later: list[str] = []
    eligible = {name_of(node) for node in nodes if should_run(daemonset, node)}
    by_node: dict[str, list[Object]] = {}
    for pod in pods:
        if not deleting(pod) and not finished(pod) and target_of(pod) in eligible:
            by_node.setdefault(target_of(pod), []).append(pod)
    for name, here in by_node.items():
        old = [pod for pod in here if not _is_new(pod, update)]
        if len(old) < len(here):
            surge -= bool(old)
        elif any(_available(daemonset, pod, now) for pod in old):
            later.append(name)
        else:
            at_once.append(name)
    return [*at_once, *later[: max(0, surge)]]


def _available(daemonset: Object, pod: Object, now: datetime) -> bool:
    min_ready_s = int(spec_of(daemonset).get("minReadySeconds") or 0)
    return not deleting(pod) and available_in_s(pod, min_ready_s, now) == 0


def status(
    daemonset: Object, nodes: list[Object], pods: list[Object], update: str, now: datetime
) -> Object:
    """The status."""
    wanted = {name_of(node) for node in nodes if should_run(daemonset, node)}
    alive = [pod for pod in pods if not finished(pod) and not deleting(pod)]
    placed = {target_of(pod): pod for pod in sorted(alive, key=_keep_first, reverse=True)}
    here = {node: pod for node, pod in placed.items() if node in wanted}
    available = sum(_available(daemonset, pod, now) for pod in here.values())
    updated = sum(labels_of(pod).get(REVISION) == update for pod in here.values())
    return {
        "observedGeneration": meta(daemonset).get("generation"),
        "desiredNumberScheduled": len(wanted),
        "currentNumberScheduled": len(here),
        "numberMisscheduled": len(placed) - len(here),
        "numberReady": sum(is_ready(pod) for pod in here.values()),
        "updatedNumberScheduled": updated or None,
        "numberAvailable": available or None,
        "numberUnavailable": len(wanted) - available or None,
    }
