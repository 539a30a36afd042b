"""metrics.k8s.io/v1beta1: NodeMetrics and PodMetrics.

The API server authenticates and authorizes before it asks here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable

from underway.api import selectors
from underway.api.objects import Object, annotations_of, key_of, labels_of, name_of, namespace_of
from underway.api.resources import NODES, PODS
from underway.base.errors import MethodNotAllowed, NotFound, UnderwayError
from underway.capabilities.metrics.backend import Sampler
from underway.capabilities.metrics.rules import usage
from underway.capabilities.metrics.rules.exposition import Scrape
from underway.reconcile import Informer, Manager
from underway.wire.http import Handler, Request, Response, json_response

_BASE = ["apis", "metrics.k8s.io", "v1beta1"]
_VERBS = ["get", "list"]
_RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": usage.API_VERSION,
    "resources": [
        {
            "name": name,
            "singularName": "",
            "namespaced": namespaced,
            "kind": kind,
            "verbs": _VERBS,
        }
        for name, kind, namespaced in (
            ("nodes", "NodeMetrics", False),
            ("pods", "PodMetrics", True),
        )
    ],
}


def app(manager: Manager) -> Handler:
    """The API as a handler."""
    return MetricsApi(manager).handle


class MetricsApi:
    """Answers from the nodes' newest readings."""

    def __init__(self, manager: Manager) -> None:
        self._clock = manager.clock
        self._nodes = manager.informer(NODES)
        self._pods = manager.informer(PODS)
        self._sampler = Sampler(manager.client, manager.clock)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        try:
            return json_response(await self._answer(request))
        except UnderwayError as error:
            return json_response(error.to_status(), error.code)

    async def _answer(self, request: Request) -> Object:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} is not supported on metrics")
        segments = request.segments()
        if segments[:3] != _BASE:
            raise NotFound("the server could not find the requested resource")
        match segments[3:]:
            case []:
                return _RESOURCES
            case ["nodes"]:
                return _list("NodeMetrics", await self._node_metrics(_chosen(request, self._nodes)))
            case ["nodes", name]:
                return _one("nodes", name, await self._node_metrics(_named(self._nodes.get(name))))
            case ["pods"]:
                return _list("PodMetrics", await self._pod_metrics(_chosen(request, self._pods)))
            case ["namespaces", namespace, "pods"]:
                found = _chosen(request, self._pods, namespace)
                return _list("PodMetrics", await self._pod_metrics(found))
            case ["namespaces", namespace, "pods", name]:
                pod = _named(self._pods.get(key_of(namespace, name)))
                return _one("pods", f"{namespace}/{name}", await self._pod_metrics(pod))
        raise NotFound("the server could not find the requested resource")

    async def _node_metrics(self, nodes: list[Object]) -> list[Object]:
        readings = await self._read(nodes)
        now = self._clock.now()
        found = []
        for node in nodes:
            if usage.SIMULATED in annotations_of(node):
                uses = [
                    each
                    for pod in self._pods.list()
                    if (pod.get("spec") or {}).get("nodeName") == name_of(node)
                    for each in (usage.simulated(pod, now) or {}).values()
                ]
                found.append(usage.node_metrics(node, usage.together(uses, now)))
            elif pair := readings.get(name_of(node)):
                before, after = pair
                used = usage.use(before.node if before else None, after.node)
                if used is not None:
                    found.append(usage.node_metrics(node, used))
        return found

    async def _pod_metrics(self, pods: list[Object]) -> list[Object]:
        names = {str((pod.get("spec") or {}).get("nodeName") or "") for pod in pods}
        nodes = {name: node for name in names if (node := self._nodes.get(name)) is not None}
        readings = await self._read(nodes.values())
        now = self._clock.now()
        found = []
        for pod in pods:
            name = str((pod.get("spec") or {}).get("nodeName") or "")
            uses = None
            if name in nodes and usage.SIMULATED in annotations_of(nodes[name]):
                uses = usage.simulated(pod, now)
            elif pair := readings.get(name):
                uses = usage.pod_use(pod, *pair)
            if uses:
                found.append(usage.pod_metrics(pod, uses))
        return found

    async def _read(self, nodes: Iterable[Object]) -> dict[str, tuple[Scrape | None, Scrape]]:
        names = [name_of(node) for node in nodes if usage.SIMULATED not in annotations_of(node)]
        self._sampler.forget(set(self._nodes.keys()))
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(self._sampler.read(name)) for name in names}
        return {name: pair for name, task in tasks.items() if (pair := task.result()) is not None}


def _chosen(request: Request, informer: Informer, namespace: str | None = None) -> list[Object]:
    params = request.params()
    labels = selectors.parse_labels(params.get("labelSelector", ""))
    fields = selectors.parse_fields(params.get("fieldSelector", ""))
    return [
        obj
        for obj in informer.list(namespace)
        if labels.matches(labels_of(obj))
        and fields.matches(functools.partial(selectors.field_value, informer.resource, obj))
    ]


def _named(found: Object | None) -> list[Object]:
    return [] if found is None else [found]


def _one(resource: str, name: str, found: list[Object]) -> Object:
    if not found:
        details = {"group": "metrics.k8s.io", "kind": resource, "name": name}
        raise NotFound(f'{resource}.metrics.k8s.io "{name}" not found', details=details)
    return found[0]


def _list(kind: str, items: list[Object]) -> Object:
    return {
        "kind": f"{kind}List",
        "apiVersion": usage.API_VERSION,
        "metadata": {},
        "items": sorted(items, key=lambda each: (namespace_of(each), name_of(each))),
    }
