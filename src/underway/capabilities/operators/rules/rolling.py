"""Rolling updates: which revision of the parent each child follows, one step at a time.

Every revision of the parent that still has children is kept as a ControllerRevision. Children move
to the latest revision one by one, each only when those that moved before are as their status
checks want them.

Source: Metacontroller's API reference, "Child Update Methods", "ControllerRevision".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from underway.api.objects import Object, find_condition, meta, owner_reference
from underway.api.patches import copy_json
from underway.api.resources import Resource
from underway.capabilities.operators.model import (
    CONTROLLERREVISIONS,
    ChildId,
    UpdateStrategy,
)
from underway.capabilities.operators.rules import merge
from underway.capabilities.operators.rules.children import Children

Strategies = Mapping[tuple[str, str], UpdateStrategy]


@dataclass
class Revision:
    """One state of the parent, and the children that follow it.

    ``stored`` is the ControllerRevision as read, None for one that is not stored yet. ``desired``
    is what the hook wants for this state.
    """

    patch: Object
    parent: Object
    stored: Object | None = None
    members: list[ChildId] = field(default_factory=list)
    desired: Children = field(default_factory=dict)


def patch_of(parent: Object, paths: Sequence[str]) -> Object:
    """The part of the parent that starts a rollout when it changes."""
    found: Object = {}
    for path in paths:
        value = _lookup(parent, path)
        if value is not None:
            _put(found, path, copy_json(value))
    return found


def parent_at(parent: Object, patch: Object, paths: Sequence[str]) -> Object:
    """The parent as it was at a revision, as far as the revision knows."""
    made: Object = copy_json(parent)
    for path in paths:
        value = _lookup(patch, path)
        if value is None:
            _drop(made, path)
        else:
            _put(made, path, copy_json(value))
    return made


def members_of(stored: Object, namespace: str) -> list[ChildId]:
    """The children that a ControllerRevision lists."""
    return [
        ChildId(group["apiGroup"], group["kind"], f"{namespace}/{name}")
        for group in stored.get("children") or ()
        for name in group["names"]
    ]


def as_object(
    revision: Revision, parent: Object, resource: Resource, labels: Mapping[str, str]
) -> Object:
    """The ControllerRevision to store."""
    groups: dict[tuple[str, str], list[str]] = {}
    for member in revision.members:
        name = member.key.rpartition("/")[2]
        groups.setdefault((member.group, member.kind), []).append(name)
    children = [
        {"apiGroup": group, "kind": kind, "names": names} for (group, kind), names in groups.items()
    ]
    if revision.stored is not None:
        return {**revision.stored, "children": children}
    text = json.dumps([meta(parent).get("uid"), revision.patch], sort_keys=True)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    header = {
        "name": f"{resource.group_resource}-{digest}",
        "namespace": meta(parent).get("namespace"),
        "labels": {
            **labels,
            f"{CONTROLLERREVISIONS.group}/apiGroup": resource.group,
            f"{CONTROLLERREVISIONS.group}/resource": resource.plural,
        },
        "ownerReferences": [owner_reference(parent)],
    }
    return {
        "apiVersion": CONTROLLERREVISIONS.api_version,
        "kind": CONTROLLERREVISIONS.kind,
        "metadata": header,
        "parentPatch": revision.patch,
        "children": children,
    }


def advance(
    latest: Revision, older: Sequence[Revision], observed: Children, how: Strategies
) -> Object:
    """Move children to the latest revision: those that need no change, and at most one that does.

    Changes ``members`` of the revisions.

    Returns:
        The condition ``Updated``, which says how far the rollout is.
    """
    _forget(latest, older, how)
    claimed = {member: revision for revision in older for member in revision.members}
    claimed |= dict.fromkeys(latest.members, latest)
    rolling = [which for which in latest.desired if _strategy(how, which).rolling]
    for which in rolling:
        current = observed.get(which)
        unclaimed = which not in claimed
        done = current is not None and merge.same(
            merge.applied(current, latest.desired[which]), current
        )
        if unclaimed or (done and claimed[which] is not latest):
            _move(which, latest, older)
            claimed[which] = latest
    for which in rolling:
        if claimed[which] is latest:
            continue
        waiting = _unhappy(latest, observed, how)
        if waiting:
            return _condition("False", "RolloutWaiting", waiting)
        _move(which, latest, older)
        name = which.key.rpartition("/")[2]
        return _condition("False", "RolloutProgressing", f"updating {which.kind} {name}")
    return _condition("True", "OnLatestRevision", "every child is on the latest revision")


def merged_children(latest: Revision, older: Sequence[Revision]) -> Children:
    """What is desired of each child: what the revision it follows says."""
    found = dict(latest.desired)
    for revision in older:
        for member in revision.members:
            if member in revision.desired and member in found:
                found[member] = revision.desired[member]
    return found


def _forget(latest: Revision, older: Sequence[Revision], how: Strategies) -> None:
    """Drop children that are not desired any more, do not roll, or belong to a later revision."""
    seen: set[ChildId] = set()
    for revision in (latest, *older):
        kept = []
        for member in revision.members:
            if member in latest.desired and member not in seen and _strategy(how, member).rolling:
                kept.append(member)
                seen.add(member)
        revision.members = kept


def _move(which: ChildId, latest: Revision, older: Sequence[Revision]) -> None:
    for revision in older:
        if which in revision.members:
            revision.members.remove(which)
    latest.members.append(which)


def _unhappy(latest: Revision, observed: Children, how: Strategies) -> str:
    """Why the rollout has to wait; empty if it may go on."""
    for member in latest.members:
        name = f"{member.kind} {member.key.rpartition('/')[2]}"
        child = observed.get(member)
        if child is None:
            return f"{name} is missing"
        if not merge.same(merge.applied(child, latest.desired[member]), child):
            return f"{name} is not updated yet"
        strategy = _strategy(how, member)
        seen = (child.get("status") or {}).get("observedGeneration")
        if strategy.method == "RollingInPlace" and seen and seen < meta(child).get("generation", 0):
            return f"{name} has not observed its latest spec"
        problem = _failed_check(strategy, child)
        if problem:
            return f"{name}: {problem}"
    return ""


def _failed_check(strategy: UpdateStrategy, child: Object) -> str:
    conditions = (child.get("status") or {}).get("conditions")
    for check in strategy.status_checks.conditions:
        found = find_condition(conditions, check.type)
        if found is None:
            return f"condition {check.type} is missing"
        for name, wanted in (("status", check.status), ("reason", check.reason)):
            if wanted is not None and found.get(name) != wanted:
                return f"condition {check.type} has {name} {found.get(name)}, not {wanted}"
    return ""


def _strategy(how: Strategies, which: ChildId) -> UpdateStrategy:
    return how.get((which.group, which.kind), UpdateStrategy())


def _condition(status: str, reason: str, message: str) -> Object:
    return {"type": "Updated", "status": status, "reason": reason, "message": message}


def _lookup(obj: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(obj, dict):
            return None
        obj = obj.get(part)
    return obj


def _put(obj: Object, path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        obj = obj.setdefault(part, {})
    obj[last] = value


def _drop(obj: Object, path: str) -> None:
    *parts, last = path.split(".")
    for part in parts:
        obj = obj.get(part) or {}
    obj.pop(last, None)
