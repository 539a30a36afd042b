"""What wakes a controller: owned and watched resources, and predicates on their changes.

Source: controller-runtime ``pkg/predicate``, ``pkg/handler``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from underway.api.objects import Object, key_of, meta, split_key
from underway.api.resources import Resource
from underway.reconcile.informer import EventType, Informer


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """The object to reconcile; ``namespace`` is empty for cluster-scoped ones."""

    namespace: str
    name: str

    @property
    def key(self) -> str:
        """``namespace/name``, or the name alone."""
        return key_of(self.namespace, self.name)

    @classmethod
    def of(cls, key: str) -> Request:
        """The request for a key."""
        return cls(*split_key(key))


Source = Resource | Informer
MapFn = Callable[[Object], Iterable[Request]]
"""From an object that changed (not to be written to) to those to reconcile because of it."""
Predicate = Callable[[EventType, Object | None, Object | None], bool]
"""Whether a change matters: the event, the object before and after (not to be written to)."""


@dataclass(frozen=True)
class Owned:
    """A resource whose objects wake their owner.

    ``any_owner`` wakes every owner of the primary's kind, not only the one that is controller.
    """

    source: Source
    predicates: Sequence[Predicate] = ()
    any_owner: bool = False


@dataclass(frozen=True)
class Watched:
    """A resource whose changes wake the objects that ``map_fn`` names.

    It is asked about the object before and after the change.
    """

    source: Source
    map_fn: MapFn
    predicates: Sequence[Predicate] = ()


def generation_changed(kind: EventType, old: Object | None, new: Object | None) -> bool:
    """The spec, metadata people write, or the deletion mark changed: not the status alone."""
    if kind != "MODIFIED" or old is None or new is None:
        return True
    return _differs(
        old, new, "generation", "deletionTimestamp", "uid", "labels", "annotations", "finalizers"
    )


def labels_changed(kind: EventType, old: Object | None, new: Object | None) -> bool:
    """The object came, went, or has other labels."""
    return kind != "MODIFIED" or old is None or new is None or _differs(old, new, "labels")


def annotations_changed(kind: EventType, old: Object | None, new: Object | None) -> bool:
    """The object came, went, or has other annotations."""
    return kind != "MODIFIED" or old is None or new is None or _differs(old, new, "annotations")


def status_changed(kind: EventType, old: Object | None, new: Object | None) -> bool:
    """The object came, went, or has another status."""
    return (
        kind != "MODIFIED" or old is None or new is None or old.get("status") != new.get("status")
    )


def on_events(*kinds: EventType) -> Predicate:
    """Only events of these kinds: ``ADDED``, ``MODIFIED``, ``DELETED``."""
    return lambda kind, _old, _new: kind in kinds


def with_object(test: Callable[[Object], Any]) -> Predicate:
    """``test`` holds for the object as it was or as it is."""
    return lambda _kind, old, new: any(each is not None and test(each) for each in (old, new))


def any_of(*predicates: Predicate) -> Predicate:
    """At least one holds."""
    return lambda kind, old, new: any(each(kind, old, new) for each in predicates)


def all_of(*predicates: Predicate) -> Predicate:
    """All hold."""
    return lambda kind, old, new: all(each(kind, old, new) for each in predicates)


def negated(predicate: Predicate) -> Predicate:
    """It does not hold."""
    return lambda kind, old, new: not predicate(kind, old, new)


def _differs(old: Object, new: Object, *fields: str) -> bool:
    before, after = meta(old), meta(new)
    return any(before.get(field) != after.get(field) for field in fields)
