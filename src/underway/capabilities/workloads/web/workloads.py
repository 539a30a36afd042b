"""Workloads: what is rolled out how far, with the pods and events of each; scale and restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from underway.api.objects import Object
from underway.api.resources import (
    CRONJOBS,
    DAEMONSETS,
    DEPLOYMENTS,
    EVENTS_CORE,
    JOBS,
    PODS,
    REPLICASETS,
    STATEFULSETS,
    Resource,
)
from underway.base.errors import BadRequest, Forbidden, NotFound
from underway.client import Patch
from underway.kit.console import Moved, Shown, Table, View, Visit, Watch

_HERE = "underway.capabilities.workloads"
_KINDS = {
    each.plural: each
    for each in (DEPLOYMENTS, STATEFULSETS, DAEMONSETS, JOBS, CRONJOBS, REPLICASETS)
}
_LISTED = (DEPLOYMENTS, STATEFULSETS, DAEMONSETS, JOBS, CRONJOBS)
_SCALED = (DEPLOYMENTS, STATEFULSETS, REPLICASETS)
_RESTARTED = (DEPLOYMENTS, STATEFULSETS, DAEMONSETS)
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_TRAIL = (("Workloads", "/workloads"),)
_MOST_REPLICAS = 10_000


@dataclass(frozen=True, slots=True)
class Listing:
    """One kind's objects; ``table`` is None where the visitor may not list them."""

    resource: Resource
    table: Table | None


async def page(visit: Visit) -> Shown:
    """All workloads, or the one named by ``KIND/NAMESPACE/NAME``."""
    match visit.path:
        case ():
            return await _overview(visit)
        case (plural, namespace, name) if plural in _KINDS:
            resource = _KINDS[plural]
            if visit.method == "POST":
                return await _change(visit, resource, namespace, name)
            return await _workload(visit, resource, namespace, name)
    raise NotFound("there is no such page below /workloads")


async def _overview(visit: Visit) -> View:
    listings = [Listing(each, await _table(visit, each)) for each in _LISTED]
    if all(each.table is None for each in listings):
        where = f"the namespace {visit.namespace}" if visit.namespace else "all namespaces"
        raise Forbidden(
            f"you may not list workloads in {where}",
            hint="pick a namespace that you may see, above",
        )
    watches = tuple(Watch(each.resource, visit.namespace) for each in listings if each.table)
    return View("Workloads", f"{_HERE}:workloads.html", {"listings": listings}, watches)


async def _table(visit: Visit, resource: Resource, **selection: Any) -> Table | None:
    try:
        return await visit.table(resource, selection.pop("namespace", visit.namespace), **selection)
    except Forbidden:
        return None


async def _workload(visit: Visit, resource: Resource, namespace: str, name: str) -> View:
    obj = await visit.client.get(resource, name, namespace)
    labels = _selector(obj)
    about = f"involvedObject.uid={obj['metadata']['uid']}"
    pods = await _table(visit, PODS, namespace=namespace, labels=labels) if labels else None
    try:
        events = (await visit.client.list(EVENTS_CORE, namespace, fields=about)).items
    except Forbidden:
        events = []
    patches = await visit.may("patch", resource, namespace, name)
    scales = resource in _SCALED and await visit.may("patch", resource, namespace, name, "scale")
    values = {
        "object": obj, "resource": resource, "pods": pods, "events": events,
        "rollout": rollout(obj), "scales": scales,
        "restarts": patches and resource in _RESTARTED,
    }  # fmt: skip
    watches = [
        Watch(resource, namespace, f"metadata.name={name}"),
        Watch(EVENTS_CORE, namespace, about),
    ]
    if labels:
        watches.append(Watch(PODS, namespace, labels=labels))
    return View(name, f"{_HERE}:workload.html", values, tuple(watches), _TRAIL)


def _selector(obj: Object) -> str:
    """The selector of the object's pods as text; empty where it has none."""
    found = (obj.get("spec") or {}).get("selector") or {}
    parts = [f"{key}={value}" for key, value in (found.get("matchLabels") or {}).items()]
    for each in found.get("matchExpressions") or ():
        key, values = each["key"], ",".join(each.get("values") or ())
        match each["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case "DoesNotExist":
                parts.append(f"!{key}")
    return ",".join(parts)


def rollout(obj: Object) -> str:
    """How far a Deployment, StatefulSet or DaemonSet has come, in a sentence; else empty.

    Source: kubectl ``pkg/polymorphichelpers/rollout_status.go`` (which figures count).
    """
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if obj.get("kind") == "DaemonSet":
        wanted, updated = status.get("desiredNumberScheduled", 0), "updatedNumberScheduled"
        available = status.get("numberAvailable", 0)
    elif obj.get("kind") in {"Deployment", "StatefulSet"}:
        wanted, updated = spec.get("replicas", 1), "updatedReplicas"
        available = status.get("availableReplicas", 0)
    else:
        return ""
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return "The change has not been seen yet."
    if status.get(updated, 0) < wanted:
        return f"{status.get(updated, 0)} of {wanted} replicas are of the latest version."
    if status.get("replicas", wanted) > wanted:
        return f"{status['replicas'] - wanted} old replicas are still to end."
    if available < wanted:
        return f"{available} of {wanted} replicas are available."
    return f"Rolled out: {available} of {wanted} replicas are available."


async def _change(visit: Visit, resource: Resource, namespace: str, name: str) -> Moved:
    here = f"/workloads/{resource.plural}/{namespace}/{name}"
    match visit.form.get("action"):
        case "scale" if resource in _SCALED:
            replicas = _replicas(visit.form.get("replicas", ""))
            body: Object = {"spec": {"replicas": replicas}}
            await visit.client.patch(resource, name, body, namespace, subresource="scale")
            return Moved(here, f"Scaled to {replicas}.")
        case "restart" if resource in _RESTARTED:
            stamp = f"{visit.now:%Y-%m-%dT%H:%M:%SZ}"
            template = {"metadata": {"annotations": {_RESTARTED_AT: stamp}}}
            body = {"spec": {"template": template}}
            await visit.client.patch(resource, name, body, namespace, how=Patch.STRATEGIC)
            return Moved(here, "Restarting, one pod after the other.")
    raise BadRequest(f"{resource.kind} has no such action")


def _replicas(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _MOST_REPLICAS:
        raise BadRequest(f"replicas must be a number from 0 to {_MOST_REPLICAS}, not {text[:20]!r}")
    return int(text)
