"""Events: what controllers did, told to the users of the objects.

Source: Kubernetes API reference, Event v1 core; client-go ``tools/record`` for the limits.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from underway.api.objects import Object, name_of, namespace_of, uid_of
from underway.api.resources import EVENTS_CORE
from underway.base.clock import Clock, rfc3339
from underway.base.errors import NotFound, UnderwayError
from underway.client import Client

log = logging.getLogger(__name__)

NORMAL = "Normal"
WARNING = "Warning"

QUEUE_LIMIT = 1000  # events waiting to be written; more are dropped
CACHE_LIMIT = 4096  # kinds of event remembered for counting, and objects for limiting
MESSAGE_LIMIT = 1024  # characters, as the API's validation has it
BURST = 25  # events one object may have at once
REFILL_S = 300.0  # then one more each
SIMILAR_LIMIT = 10  # messages of one reason about one object, after which they are one event
SIMILAR_S = 600.0  # without another for so long, they are told apart again
COMBINED = "(combined from similar events): "


@dataclass
class _Written:
    namespace: str
    name: str
    count: int


@dataclass
class _Bucket:
    tokens: float
    at: float


@dataclass
class _Similar:
    messages: set[str]
    at: float


class Recorder:
    """Writes events about objects, counting repeats and bounding the rate per object.

    Events that differ in their message alone become one event once there are many of them.

    ``event`` only queues and never waits; ``run`` does the writing.
    """

    def __init__(self, client: Client, clock: Clock, *, component: str) -> None:
        self._client = client
        self._clock = clock
        self._component = component
        self._queue: asyncio.Queue[tuple[str, Object]] = asyncio.Queue(QUEUE_LIMIT)
        self._written: OrderedDict[tuple[str, ...], _Written] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def event(
        self,
        obj: Object,
        type: str,
        reason: str,
        message: str,
        *,
        component: str = "",
        field_path: str = "",
    ) -> None:
        """Tell that something happened to ``obj``.

        Args:
            obj: the object, with apiVersion, kind and metadata.
            type: ``Normal`` or ``Warning``.
            reason: one CamelCase word for machines.
            message: a sentence for people.
            component: who tells it, where that is not the recorder's own component.
            field_path: the part of the object meant, e.g. ``spec.containers{web}``.
        """
        source = component or self._component
        if not self._allowed((source, uid_of(obj))):
            return
        now = rfc3339(self._clock.now())
        reference = {
            "apiVersion": obj.get("apiVersion", ""),
            "kind": obj.get("kind", ""),
            "namespace": namespace_of(obj),
            "name": name_of(obj),
            "uid": uid_of(obj),
            "resourceVersion": obj["metadata"].get("resourceVersion", ""),
            "fieldPath": field_path,
        }
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": namespace_of(obj) or "default"},
            "involvedObject": {name: value for name, value in reference.items() if value},
            "type": type,
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "source": {"component": source},
            "reportingComponent": source,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._queue.put_nowait((name_of(obj), event))
        except asyncio.QueueFull:
            log.debug("too many events at once; dropped %s of %s", reason, name_of(obj))

    async def run(self) -> None:
        """Write what was told, until cancelled."""
        while True:
            name, event = await self._queue.get()
            try:
                await self._write(name, event)
            except UnderwayError as error:
                # A namespace going away takes no events; nothing depends on them.
                log.debug("an event about %s was not written: %s", name, error)
            finally:
                self._queue.task_done()

    async def flushed(self) -> None:
        """Return once everything told so far has been written."""
        await self._queue.join()

    async def _write(self, about: str, event: Object) -> None:
        which = self._aggregated(event)
        known = self._written.get(which)
        if known is not None:
            known.count += 1
            repeat = {
                "count": known.count,
                "lastTimestamp": event["lastTimestamp"],
                "message": event["message"],
            }
            try:
                await self._client.patch(EVENTS_CORE, known.name, repeat, known.namespace)
                self._written.move_to_end(which)
                return
            except NotFound:
                del self._written[which]  # events expire; the next is a first one again
        namespace = event["metadata"]["namespace"]
        event["metadata"]["name"] = f"{about[:230]}.{secrets.token_hex(8)}"
        await self._client.create(EVENTS_CORE, event)
        self._written[which] = _Written(namespace, event["metadata"]["name"], 1)
        if len(self._written) > CACHE_LIMIT:
            self._written.popitem(last=False)

    def _aggregated(self, event: Object) -> tuple[str, ...]:
        """What tells the event from others; combines it with similar ones if there are many."""
        kind, message = _kind_of_event(event), event["message"]
        now = self._clock.monotonic()
        similar = self._similar.get(kind)
        if similar is None or now - similar.at > SIMILAR_S:
            similar = self._similar[kind] = _Similar(set(), now)
        similar.at = now
        self._similar.move_to_end(kind)
        if len(self._similar) > CACHE_LIMIT:
            self._similar.popitem(last=False)
        if len(similar.messages) < SIMILAR_LIMIT:
            similar.messages.add(message)
        if message in similar.messages:
            return (*kind, message)
        event["message"] = f"{COMBINED}{message}"[:MESSAGE_LIMIT]
        return (*kind, "")

    def _allowed(self, source: tuple[str, str]) -> bool:
        now = self._clock.monotonic()
        bucket = self._buckets.setdefault(source, _Bucket(BURST, now))
        self._buckets.move_to_end(source)
        if len(self._buckets) > CACHE_LIMIT:
            self._buckets.popitem(last=False)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_S)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def _kind_of_event(event: Object) -> tuple[str, ...]:
    about = event["involvedObject"]
    return (
        about.get("kind", ""),
        about.get("uid", ""),
        about.get("fieldPath", ""),
        event["metadata"]["namespace"],
        about["name"],
        event["type"],
        event["reason"],
        event["source"]["component"],
    )
