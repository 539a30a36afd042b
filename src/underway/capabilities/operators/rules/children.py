"""What to do so that the children there are become those a hook desires."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from underway.api.objects import Object, deleting, key_of, meta, name_of, namespace_of
from underway.api.resources import Resource
from underway.base.errors import Invalid
from underway.capabilities.operators.model import ChildId, ChildRule, Method, UpdateStrategy
from underway.capabilities.operators.rules import merge

Children = dict[ChildId, Object]


@dataclass(frozen=True)
class Action:
    """One write: the object to create or write, or the one to delete."""

    verb: Literal["create", "update", "delete"]
    object: Object


@dataclass(frozen=True)
class ChildKind:
    """A rule and the resource it names."""

    rule: ChildRule
    resource: Resource

    @property
    def title(self) -> str:
        """How hooks know it: ``Pod.v1``, ``StatefulSet.apps/v1``."""
        return f"{self.resource.kind}.{self.resource.api_version}"


def plan(
    observed: Mapping[ChildId, Object],
    desired: Mapping[ChildId, Object],
    method_of: Callable[[ChildId], Method],
) -> list[Action]:
    """The writes that bring the observed children nearer to the desired ones.

    A child that is to be recreated is deleted now and created when it has gone.
    """
    actions = [
        Action("delete", obj)
        for which, obj in observed.items()
        if which not in desired and not deleting(obj)
    ]
    for which, wanted in desired.items():
        current = observed.get(which)
        if current is None:
            actions.append(Action("create", merge.remembered(wanted)))
            continue
        method = method_of(which)
        if deleting(current) or method == "OnDelete":
            continue
        updated = merge.applied(current, wanted)
        if method in ("Recreate", "RollingRecreate"):
            if not merge.same(updated, current):
                actions.append(Action("delete", current))
        elif updated != current:
            actions.append(Action("update", updated))
    return actions


def strategies(kinds: Iterable[ChildKind]) -> dict[tuple[str, str], UpdateStrategy]:
    """The update strategy of each group and kind."""
    return {(kind.resource.group, kind.resource.kind): kind.rule.update_strategy for kind in kinds}


def grouped(
    parent: Object, kinds: Iterable[ChildKind], objects: Iterable[Object], version: str
) -> Object:
    """Objects as hooks get them: by kind, then by name; every kind has an entry.

    In hooks of version v1 a key is the name alone where parent and object are of one scope, in v2
    it is ``namespace/name`` for whatever has a namespace.
    """
    found: Object = {kind.title: {} for kind in kinds}
    relative = version == "v1" and bool(namespace_of(parent))
    for obj in objects:
        key = name_of(obj) if relative else key_of(namespace_of(obj), name_of(obj))
        found.setdefault(f"{obj['kind']}.{obj['apiVersion']}", {})[key] = obj
    return found


def desired_children(
    parent: Object,
    kinds: Iterable[ChildKind],
    answered: Iterable[Object],
    labels: Mapping[str, str] | None = None,
) -> Children:
    """The children a hook answered, by id, in its order, each with its namespace.

    ``labels`` are put on each.

    Raises:
        Invalid: one has no name, is of a kind the controller does not list, comes twice, or lies
            in another namespace than its parent.
    """
    known = {(kind.resource.group, kind.resource.kind): kind.resource for kind in kinds}
    home = namespace_of(parent)
    found: Children = {}
    for answer in answered:
        child = {**answer, "metadata": dict(answer.get("metadata") or {})}
        which = ChildId.of(child)
        what = f"the hook's child {which.kind} {which.key}"
        resource = known.get((which.group, which.kind))
        if resource is None:
            raise Invalid(f"{what}: {child.get('apiVersion')} is none of the child resources")
        if not name_of(child):
            raise Invalid(f"{what} has no name")
        if home and namespace_of(child) not in ("", home):
            raise Invalid(f"{what} is in another namespace than its parent ({home})")
        if resource.namespaced and home:
            meta(child)["namespace"] = home
        if resource.namespaced and not namespace_of(child):
            raise Invalid(f"{what} has no namespace")
        if labels:
            meta(child)["labels"] = {**(meta(child).get("labels") or {}), **labels}
        which = ChildId.of(child)
        if which in found:
            raise Invalid(f"{what} comes twice")
        found[which] = child
    return found
