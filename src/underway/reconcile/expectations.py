"""Expectations: not acting twice because a cache has not caught up with one's own writes.

A controller that creates or deletes children reads them from an informer, which learns of them
a moment later. Until it has, counting children would give a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from underway.api.objects import Object, object_key, uid_of
from underway.reconcile.informer import Informer


@dataclass
class _Pending:
    created: dict[str, tuple[str, int]] = field(default_factory=dict)  # uid -> key, version
    updated: dict[str, tuple[str, int]] = field(default_factory=dict)  # the same
    deleted: dict[str, str] = field(default_factory=dict)  # uid -> key


class Expectations:
    """What one controller wrote and its informer has yet to show, by the parent's key.

    Resource versions are compared as numbers: the embedded server and Kubernetes since 1.35
    promise that order, and etcd's revisions always had it.
    """

    def __init__(self, children: Informer) -> None:
        self._children = children
        self._pending: dict[str, _Pending] = {}

    def created(self, parent: str, child: Object) -> None:
        """A child was created; ``child`` is the server's answer."""
        version = _number(child["metadata"].get("resourceVersion", ""))
        pending = self._pending.setdefault(parent, _Pending())
        pending.created[uid_of(child)] = (object_key(child), version)

    def updated(self, parent: str, obj: Object) -> None:
        """An object was written; ``obj`` is the server's answer."""
        version = _number(obj["metadata"].get("resourceVersion", ""))
        pending = self._pending.setdefault(parent, _Pending())
        pending.updated[uid_of(obj)] = (object_key(obj), version)

    def deleted(self, parent: str, child: Object) -> None:
        """A child's deletion was asked for and granted."""
        self._pending.setdefault(parent, _Pending()).deleted[uid_of(child)] = object_key(child)

    def satisfied(self, parent: str) -> bool:
        """Whether the informer shows everything that was written for this parent.

        When it does not, the event that will change that also wakes the parent.
        """
        pending = self._pending.get(parent)
        if pending is None:
            return True
        for uid, (key, version) in list(pending.created.items()):
            if self._seen(uid, key, version):
                del pending.created[uid]
        for uid, key in list(pending.deleted.items()):
            if self._gone(uid, key):
                del pending.deleted[uid]
        for uid, (key, version) in list(pending.updated.items()):
            if self._caught_up(key, version):
                del pending.updated[uid]
        if pending.created or pending.updated or pending.deleted:
            return False
        del self._pending[parent]
        return True

    def forget(self, parent: str) -> None:
        """The parent is gone."""
        self._pending.pop(parent, None)

    def _seen(self, uid: str, key: str, version: int) -> bool:
        entry = self._children.entry(key)
        if entry is not None and entry.meta.uid == uid:
            return True
        return _number(self._children.resource_version) >= version

    def _caught_up(self, key: str, version: int) -> bool:
        entry = self._children.entry(key)
        return entry is None or _number(entry.meta.resource_version) >= version

    def _gone(self, uid: str, key: str) -> bool:
        entry = self._children.entry(key)
        return entry is None or entry.meta.uid != uid or bool(entry.meta.deletion_timestamp)


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
