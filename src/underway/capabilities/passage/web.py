"""The console's page of passages: each application's way from its source to production, live."""

from __future__ import annotations

from dataclasses import replace

from underway.api.objects import Object
from underway.api.resources import EVENTS_CORE, PODS
from underway.base.errors import Forbidden, NotFound
from underway.capabilities.passage.model import PASSAGE_ANNOTATION, PASSAGES
from underway.kit.console import Shown, View, Visit, Watch

_LATEST = 5
_HERE = "underway.capabilities.passage"
_KINDS = {
    "deployment": ("workloads", "deployments"),
    "statefulset": ("workloads", "statefulsets"),
    "daemonset": ("workloads", "daemonsets"),
    "job": ("workloads", "jobs"),
    "cronjob": ("workloads", "cronjobs"),
    "service": ("resources", "core", "v1", "services"),
    "configmap": ("resources", "core", "v1", "configmaps"),
    "secret": ("resources", "core", "v1", "secrets"),
    "persistentvolumeclaim": ("resources", "core", "v1", "persistentvolumeclaims"),
}


async def page(visit: Visit) -> Shown:
    """All passages, the latest first, or the one named by ``NAMESPACE/NAME``."""
    match visit.path:
        case ():
            return await _passages(visit)
        case (namespace, name):
            return await _passage(visit, namespace, name)
    raise NotFound("a passage has nothing below it")


async def summary(visit: Visit) -> View:
    """The latest passages, for the home page."""
    view = await _passages(visit)
    latest = {**view.values, "passages": view.values["passages"][:_LATEST]}
    return replace(view, title="Latest passages", values=latest)


async def _passages(visit: Visit) -> View:
    found = await visit.client.list(PASSAGES, visit.namespace)
    passages = sorted(found.items, key=_begun, reverse=True)
    watches = (Watch(PASSAGES, visit.namespace),)
    return View("Passages", f"{_HERE}:passages.html", {"passages": passages}, watches)


async def _passage(visit: Visit, namespace: str, name: str) -> View:
    passage = await visit.client.get(PASSAGES, name, namespace)
    status = passage.get("status") or {}
    values = {
        "passage": passage,
        "objects": [_linked(namespace, each) for each in status.get("objects") or ()],
        "pods": await _pods(visit, namespace, name),
        "events": await _events(visit, namespace, passage),
    }
    watches = (
        Watch(PASSAGES, namespace, f"metadata.name={name}"),
        Watch(PODS, namespace),
    )
    trail = (("Passages", "/passages"),)
    return View(name, f"{_HERE}:passage.html", values, watches, trail)


def _begun(passage: Object) -> str:
    """When the passage's latest run began."""
    steps = (passage.get("status") or {}).get("steps") or [{}]
    return str(steps[0].get("startedAt") or passage["metadata"].get("creationTimestamp") or "")


def _linked(namespace: str, reference: str) -> tuple[str, tuple[str, ...]]:
    """An object's ``kind/name``, and where the console shows it (empty: nowhere of its own)."""
    kind, _, name = reference.partition("/")
    place = _KINDS.get(kind.lower().partition(".")[0])
    return reference, (*place, namespace, name) if place else ()


async def _pods(visit: Visit, namespace: str, passage: str) -> list[Object]:
    """The pods that run what the passage delivered."""
    try:
        pods = (await visit.client.list(PODS, namespace)).items
    except Forbidden:
        return []
    return [
        pod
        for pod in pods
        if (pod["metadata"].get("annotations") or {}).get(PASSAGE_ANNOTATION) == passage
    ]


async def _events(visit: Visit, namespace: str, passage: Object) -> list[Object]:
    about = f"involvedObject.uid={passage['metadata'].get('uid', '')}"
    try:
        return (await visit.client.list(EVENTS_CORE, namespace, fields=about)).items
    except Forbidden:
        return []
