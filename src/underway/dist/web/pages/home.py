"""The first page: is everything well, and what happened last."""

from __future__ import annotations

import contextlib
from typing import Any

from underway.api.objects import find_condition
from underway.api.resources import EVENTS_CORE, NODES, PODS, Resource
from underway.base.errors import Forbidden, NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.client import ObjectList
from underway.dist.web.pages.events import last_seen
from underway.kit import Ready, registry
from underway.kit.console import View, Visit, Watch

_WARNINGS = 8
_PODS = 2000


async def page(visit: Visit) -> View:
    """The home page; raises NotFound for anything below it."""
    if visit.path:
        raise NotFound("the home page has nothing below it")
    nodes = await _listed(visit, NODES)
    pods = await _listed(visit, PODS, limit=_PODS)
    warnings = await _listed(visit, EVENTS_CORE, fields="type=Warning")
    summaries = await _summaries(visit)
    values = {
        "summaries": summaries,
        "ready": await _ready(visit),
        "capabilities": await run_blocking(_capabilities),
        "nodes": nodes and [_node(each) for each in nodes.items],
        "phases": pods and _phases(pods),
        "more_pods": bool(pods and pods.continue_token),
        "warnings": warnings and _latest(warnings)[:_WARNINGS],
    }
    watches = [Watch(NODES), Watch(PODS), Watch(EVENTS_CORE, fields="type=Warning")]
    watches += [watch for each in summaries for watch in each.watches]
    return View("Home", "console/home.html", values, tuple(watches))


async def _summaries(visit: Visit) -> list[View]:
    """What the capabilities have to tell here, as far as the visitor may see it."""
    found: list[View] = []
    for capability in registry.installed():
        for each in capability.pages:
            if each.summary:
                with contextlib.suppress(Forbidden, NotFound):
                    found.append(await registry.load(each.summary)(visit))
    return found


async def _ready(visit: Visit) -> str:
    try:
        await visit.client.request("GET", "/readyz")
    except UnderwayError as error:
        return error.message
    return ""


async def _listed(visit: Visit, resource: Resource, **options: Any) -> ObjectList | None:
    """The objects, or None where the visitor may not list them."""
    try:
        return await visit.client.list(resource, **options)
    except UnderwayError as error:
        if error.code in {403, 404}:
            return None
        raise


def _capabilities() -> list[dict[str, str]]:
    found = []
    for capability in registry.installed():
        state = registry.probe(capability)
        row = {"id": capability.id, "summary": capability.summary, "state": type(state).__name__}
        if not isinstance(state, Ready):
            row |= {"reason": state.reason, "remedy": state.remedy}
        found.append(row)
    return found


def _node(node: dict[str, Any]) -> dict[str, Any]:
    ready = find_condition((node.get("status") or {}).get("conditions"), "Ready") or {}
    return {
        "name": node["metadata"]["name"],
        "ready": ready.get("status") == "True",
        "message": ready.get("message", ""),
        "version": ((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", ""),
    }


def _phases(pods: ObjectList) -> dict[str, int]:
    found: dict[str, int] = {}
    for pod in pods.items:
        phase = (pod.get("status") or {}).get("phase") or "Pending"
        found[phase] = found.get(phase, 0) + 1
    return dict(sorted(found.items()))


def _latest(events: ObjectList) -> list[dict[str, Any]]:
    return sorted(events.items, key=last_seen, reverse=True)
