"""Events are one kind of object under two APIs: core/v1 and events.k8s.io/v1.

They are stored as core/v1. Source: kubernetes/api core/v1 ``Event``, events/v1 ``Event``.
"""

from __future__ import annotations

from underway.api.objects import Object

_CORE_TO_EVENTS = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_EVENTS_TO_CORE = {new: old for old, new in _CORE_TO_EVENTS.items()}


def to_events_api(event: Object) -> Object:
    """A core/v1 Event as events.k8s.io/v1 shows it."""
    shown = {_CORE_TO_EVENTS.get(name, name): value for name, value in event.items()}
    return {**shown, "apiVersion": "events.k8s.io/v1"}


def to_core(event: Object) -> Object:
    """An events.k8s.io/v1 Event as core/v1 stores it."""
    stored = {_EVENTS_TO_CORE.get(name, name): value for name, value in event.items()}
    stored.setdefault("involvedObject", {})
    stored.setdefault("source", {})
    return {**stored, "apiVersion": "v1"}
