"""Events, the latest first."""

from __future__ import annotations

from underway.api.objects import Object
from underway.api.resources import EVENTS_CORE
from underway.base.errors import NotFound
from underway.kit.console import View, Visit, Watch

_SHOWN = 200
_READ = 5000


async def page(visit: Visit) -> View:
    """The latest events of the namespace picked; ``?type=Warning`` leaves out the others."""
    if visit.path:
        raise NotFound("events have nothing below them")
    wanted = visit.params.get("type", "")
    fields = f"type={wanted}" if wanted in {"Normal", "Warning"} else ""
    found = await visit.client.list(EVENTS_CORE, visit.namespace, fields=fields, limit=_READ)
    events = sorted(found.items, key=last_seen, reverse=True)[:_SHOWN]
    values = {"events": events, "type": wanted, "seen": last_seen}
    watches = (Watch(EVENTS_CORE, visit.namespace, fields),)
    return View("Events", "console/events.html", values, watches)


def last_seen(event: Object) -> str:
    """When an event last happened, as its timestamp."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )
