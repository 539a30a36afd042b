"""What a Stage's steps ask of the API, with their templates filled in.

Source: kwok API reference, StageStep; kwok documentation, "Stages Configuration".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from underway.api.objects import Object
from underway.base.errors import Invalid

Render = Callable[[str, Object], Any]
"""Fills in a template and reads the result as YAML."""

_TYPED = ("Node", "Pod")  # kinds whose patches are strategic unless they say otherwise


@dataclass(frozen=True, slots=True)
class Tell:
    """Write an event."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Modify:
    """Patch the object; ``how`` is ``json``, ``merge`` or ``strategic``."""

    body: Any
    how: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Apply:
    """Create or change another object; ``how`` is ``apply``, ``merge`` or ``strategic``."""

    body: Object
    how: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object at once."""


Action = Tell | Modify | Apply | Delete


def actions(step: Mapping[str, Any], obj: Object, render: Render) -> list[Action]:
    """What one step asks for.

    Raises:
        Invalid: a template gives no YAML, or something that is no patch.
        TemplateError: a template is none, or cannot be filled in.
    """
    found: list[Action] = []
    if event := step.get("event"):
        kind, reason = event.get("type") or "Normal", event.get("reason") or ""
        found.append(Tell(kind, reason, event.get("message") or ""))
    if change := step.get("finalizers"):
        operations = finalizer_operations(obj["metadata"].get("finalizers") or (), change)
        if operations:
            found.append(Modify(operations, "json"))
    if step.get("delete"):
        return [*found, Delete()]
    if patch := step.get("patch"):
        found.append(_patch(patch, obj, render))
    if apply := step.get("apply"):
        body = render(apply.get("template") or "", obj)
        if not isinstance(body, dict) or not body.get("kind"):
            raise Invalid("a Stage's apply template must give an object with apiVersion and kind")
        how = apply.get("type") or "apply"
        found.append(Apply(body, how, apply.get("subresource") or ""))
    return found


def _patch(patch: Object, obj: Object, render: Render) -> Modify:
    body, root = render(patch.get("template") or "", obj), patch.get("root") or ""
    how = patch.get("type") or ("strategic" if obj.get("kind") in _TYPED else "merge")
    if how not in ("json", "merge", "strategic"):
        raise Invalid(f"a Stage's patch has the type {how!r}", hint="json, merge or strategic")
    if how == "json":
        if not isinstance(body, list):
            raise Invalid("a Stage's json patch must be a list of operations")
        if root:
            body = [{**each, "path": f"/{root}{each.get('path') or ''}"} for each in body]
    elif root:
        body = {root: body}
    return Modify(body, how, patch.get("subresource") or "")


def finalizer_operations(present: Sequence[str], change: Object) -> list[Object]:
    """The JSON patch that adds and removes finalizers; empty where there is nothing to do."""
    added = [each.get("value") for each in change.get("add") or ()]
    removed = {each.get("value") for each in change.get("remove") or ()}
    kept = [] if change.get("empty") else [each for each in present if each not in removed]
    wanted = [*kept, *(each for each in added if each not in kept)]
    if wanted == list(present):
        return []
    path = "/metadata/finalizers"
    if not wanted:
        return [{"op": "remove", "path": path}]
    # Nobody else's change of the list in between may be lost.
    test: list[Object] = [{"op": "test", "path": path, "value": list(present)}] if present else []
    return [*test, {"op": "add", "path": path, "value": wanted}]
