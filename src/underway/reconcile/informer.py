"""Informers: a local, always-current copy of one resource, shared by all who read it.

An informer lists, then watches. It keeps each object as JSON bytes, a tenth of the size of the
parsed dictionary, and decodes a fresh copy for every reader, who may therefore change it.

Source: Kubernetes API concepts, "Efficient detection of changes"; client-go ``tools/cache``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from underway.api.objects import Object, key_of, object_key
from underway.api.resources import Resource
from underway.api.selectors import LabelSelector, parse_labels
from underway.base.clock import Clock
from underway.base.errors import Expired, UnderwayError
from underway.client import Client

log = logging.getLogger(__name__)

PAGE_SIZE = 500
BASE_BACKOFF_S = 0.8
MAX_BACKOFF_S = 30.0
WATCH_TIMEOUT_S = 290  # the server ends a watch after this; the next one resumes

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


class OwnerRef(msgspec.Struct, frozen=True, rename="camel"):
    """One of an object's owners."""

    uid: str = ""
    kind: str = ""
    name: str = ""
    api_version: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """The part of ``metadata`` that can be read without decoding the object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[OwnerRef, ...] | None = None
    finalizers: tuple[str, ...] | None = None

    @property
    def key(self) -> str:
        """``namespace/name``, or the name of a cluster-scoped object."""
        return key_of(self.namespace, self.name)

    @property
    def controller(self) -> OwnerRef | None:
        """The owner marked as controller, if any."""
        for owner in self.owner_references or ():
            if owner.controller:
                return owner
        return None


class _Envelope(msgspec.Struct):
    metadata: Metadata = msgspec.field(default_factory=Metadata)


_envelope = msgspec.json.Decoder(_Envelope)


class Entry:
    """One cached object: its bytes and its metadata."""

    __slots__ = ("_view", "meta", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.meta: Metadata = _envelope.decode(raw).metadata
        self._view: Object | None = None

    @property
    def object(self) -> Object:
        """The object, decoded anew at each call."""
        decoded: Object = msgspec.json.decode(self.raw)
        return decoded

    @property
    def view(self) -> Object:
        """The object, decoded once for all handlers of an event; not to be changed or kept."""
        if self._view is None:
            self._view = self.object
        return self._view

    def drop_view(self) -> None:
        """Keep only the bytes again."""
        self._view = None


Handler = Callable[[EventType, Entry | None, Entry | None], None]
"""Called with the kind of event, the entry before and the entry after it."""

IndexFn = Callable[[Object], Iterable[str]]
_Objects = list[Object]
_Entries = list[Entry]
_Keys = list[str]


class _Index:
    """From a value to the keys of the objects that have it."""

    def __init__(self, values_of: Callable[[Entry], Iterable[str]]) -> None:
        self.values_of = values_of
        self.keys: dict[str, dict[str, None]] = {}
        self._values: dict[str, tuple[str, ...]] = {}

    def put(self, key: str, entry: Entry) -> None:
        self.drop(key)
        values = tuple(dict.fromkeys(self.values_of(entry)))
        if values:
            self._values[key] = values
        for value in values:
            self.keys.setdefault(value, {})[key] = None

    def drop(self, key: str) -> None:
        for value in self._values.pop(key, ()):
            found = self.keys[value]
            del found[key]
            if not found:
                del self.keys[value]


def _owner_uids(entry: Entry) -> Iterable[str]:
    return (owner.uid for owner in entry.meta.owner_references or ())


def _namespace(entry: Entry) -> Iterable[str]:
    return (entry.meta.namespace,)


class Informer:
    """The copy of one resource, or of those of its objects that selectors choose.

    Readers get objects as of ``resource_version``; what they just wrote may not be in it yet
    (see ``Expectations``). ``trim`` is applied to each object before it is kept.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        trim: Callable[[Object], Object] | None = None,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.resource_version = ""
        self._client = client
        self._clock = clock
        self._labels = labels
        self._fields = fields
        self._trim = trim
        self._entries: dict[str, Entry] = {}
        self._indexes = {"namespace": _Index(_namespace), "owner": _Index(_owner_uids)}
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._needs_list = True
        self.problem = ""

    # -- reading ---------------------------------------------------------------------------

    def get(self, key: str) -> Object | None:
        """A fresh copy of the object with this key (``namespace/name``), if there is one."""
        entry = self._entries.get(key)
        return entry.object if entry else None

    def list(self, namespace: str | None = None) -> _Objects:
        """Fresh copies of all objects, or of those in one namespace."""
        if namespace is None:
            return [entry.object for entry in self._entries.values()]
        return self.by_index("namespace", namespace)

    def by_index(self, name: str, value: str) -> _Objects:
        """Fresh copies of the objects for which index ``name`` yields ``value``."""
        return [self._entries[key].object for key in self.index_keys(name, value)]

    def owned_by(self, uid: str) -> _Objects:
        """Fresh copies of the objects that name this UID among their owners."""
        return self.by_index("owner", uid)

    def select(self, labels: LabelSelector | str, namespace: str | None = None) -> _Objects:
        """Fresh copies of the objects whose labels match; only those are decoded.

        Raises:
            BadRequest: the text is no label selector.
        """
        selector = parse_labels(labels) if isinstance(labels, str) else labels
        return [
            entry.object for entry in self.entries(namespace) if selector.matches(entry.meta.labels)
        ]

    def index_keys(self, name: str, value: str) -> _Keys:
        """The keys of the objects for which index ``name`` yields ``value``."""
        return list(self._indexes[name].keys.get(value, ()))

    def entry(self, key: str) -> Entry | None:
        """The cached bytes and metadata, for readers that need no object."""
        return self._entries.get(key)

    def entries(self, namespace: str | None = None) -> _Entries:
        """Every cached entry, or those of one namespace."""
        if namespace is None:
            return list(self._entries.values())
        return [self._entries[key] for key in self.index_keys("namespace", namespace)]

    def keys(self) -> _Keys:
        """Every key."""
        return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_synced(self) -> bool:
        """Whether the first list has arrived."""
        return self._synced.is_set()

    async def synced(self) -> None:
        """Return once the first list has arrived."""
        await self._synced.wait()

    # -- set-up ----------------------------------------------------------------------------

    def add_index(self, name: str, values_of: IndexFn) -> None:
        """Keep an index: ``values_of(object)`` yields the values it is to be found by."""
        if name in self._indexes:
            return
        index = self._indexes[name] = _Index(lambda entry: values_of(entry.view))
        for key, entry in self._entries.items():
            index.put(key, entry)
            entry.drop_view()

    def add_handler(self, handler: Handler) -> None:
        """Call ``handler`` for each object there is (as ADDED) and then for each change."""
        self._handlers.append(handler)
        for entry in list(self._entries.values()):
            self._call(handler, "ADDED", None, entry)
            entry.drop_view()

    def remove_handler(self, handler: Handler) -> None:
        """Stop calling ``handler``."""
        self._handlers.remove(handler)

    # -- following -------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the resource until cancelled; errors are waited out."""
        failures = 0
        while True:
            try:
                if self._needs_list:
                    await self._list()
                    failures = 0
                if await self._watch():
                    failures = 0
                continue
            except Expired:
                self._needs_list = True
                failures += 1
                if failures == 1:
                    continue
            except UnderwayError as error:
                failures += 1
                self.problem = f"{self.resource.group_resource}: {error}"
                log.log(
                    logging.WARNING if failures == 2 else logging.DEBUG,
                    "cannot follow %s: %s",
                    self.resource.group_resource,
                    error,
                )
            delay_s = min(BASE_BACKOFF_S * 2.0 ** min(failures - 1, 10), MAX_BACKOFF_S)
            await self._clock.sleep(delay_s * random.uniform(1.0, 2.0))  # noqa: S311  # jitter

    async def _list(self) -> None:
        fresh: dict[str, Entry] = {}
        token = version = ""
        while True:
            page = await self._client.list(
                self.resource,
                self.namespace,
                labels=self._labels,
                fields=self._fields,
                limit=PAGE_SIZE,
                continue_token=token,
            )
            for item in page.items:
                fresh[object_key(item)] = self._make_entry(item)
            version = page.resource_version or version
            token = page.continue_token
            if not token:
                break
        self.resource_version = version
        for key in [key for key in self._entries if key not in fresh]:
            self._remove(key, self._entries[key])
        for key, entry in fresh.items():
            current = self._entries.get(key)
            if current and current.meta.uid != entry.meta.uid:
                self._remove(key, current)  # deleted and made anew while nobody looked
            if current is None or current.meta.resource_version != entry.meta.resource_version:
                self._put(key, entry)
        self._needs_list = False
        self.problem = ""
        self._synced.set()

    async def _watch(self) -> bool:
        """Follow one watch to its end; whether it brought anything."""
        progressed = False
        started = self._clock.monotonic()
        async for event in self._client.watch(
            self.resource,
            self.namespace,
            resource_version=self.resource_version,
            labels=self._labels,
            fields=self._fields,
            timeout_s=WATCH_TIMEOUT_S,
        ):
            progressed = True
            self.problem = ""
            self._take(event.type, event.raw)
        if not progressed and self._clock.monotonic() - started < 1.0:
            # A server that ends watches at once must not be asked in a tight loop.
            await self._clock.sleep(BASE_BACKOFF_S)
        return progressed

    def _take(self, kind: str, raw: bytes) -> None:
        if kind == "BOOKMARK":
            self.resource_version = Entry(raw).meta.resource_version or self.resource_version
            return
        entry = Entry(raw) if self._trim is None else self._make_entry(msgspec.json.decode(raw))
        self.resource_version = entry.meta.resource_version or self.resource_version
        key = entry.meta.key
        if kind == "DELETED":
            if key in self._entries:
                self._remove(key, entry)
            return
        self._put(key, entry)

    def _make_entry(self, obj: Object) -> Entry:
        return Entry(msgspec.json.encode(self._trim(obj) if self._trim else obj))

    def _put(self, key: str, entry: Entry) -> None:
        old = self._entries.get(key)
        self._entries[key] = entry
        for index in self._indexes.values():
            index.put(key, entry)
        self._notify("MODIFIED" if old else "ADDED", old, entry)

    def _remove(self, key: str, last: Entry) -> None:
        del self._entries[key]
        for index in self._indexes.values():
            index.drop(key)
        self._notify("DELETED", last, None)

    def _notify(self, kind: EventType, old: Entry | None, new: Entry | None) -> None:
        for handler in list(self._handlers):
            self._call(handler, kind, old, new)
        for entry in (old, new):
            if entry is not None:
                entry.drop_view()

    def _call(
        self, handler: Handler, kind: EventType, old: Entry | None, new: Entry | None
    ) -> None:
        try:
            handler(kind, old, new)
        except Exception:
            # One reader's bug must not stop the copy for the others.
            log.exception("a handler of %s failed", self.resource.group_resource)
