"""What the server itself does after a commit: keep the catalog in step with definitions, furnish
namespaces, show what is used of quotas, clear away the objects of definitions being deleted, and
let old events go.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from underway.api.objects import Object, deleting, meta
from underway.api.resources import (
    CERTIFICATESIGNINGREQUESTS,
    CUSTOMRESOURCEDEFINITIONS,
    RESOURCEQUOTAS,
)
from underway.base.clock import Clock, parse_rfc3339
from underway.base.errors import NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.server import bootstrap_tokens, certificates, crds
from underway.server.addresses import Addresses
from underway.server.admission.quota import QUOTAS, Quotas
from underway.server.bootstrap import ROOT_CA, SYSTEM, Bootstrap
from underway.server.catalog import Catalog
from underway.server.deleting import DeleteOptions, Deleter
from underway.server.store import Change, Key, Store
from underway.server.versions import Ask
from underway.server.watch import Hub
from underway.server.writing import By, Writer

log = logging.getLogger(__name__)

EVENT_LIFE = timedelta(hours=1)
_SWEEP_S = 300.0


class Caretaker:
    """Reacts to commits; ``run`` does what takes writes of its own."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        catalog: Catalog,
        writer: Writer,
        deleter: Deleter,
        bootstrap: Bootstrap,
        addresses: Addresses,
        quotas: Quotas,
        signer: certificates.Signer,
        approver: certificates.Approver,
        ask: Ask,
        clock: Clock,
    ) -> None:
        self._store = store
        self._hub = hub
        self._catalog = catalog
        self._writer = writer
        self._deleter = deleter
        self._bootstrap = bootstrap
        self._addresses = addresses
        self._quotas = quotas
        self._counting: set[str] = set()  # namespaces whose quotas are about to be counted
        self._signer = signer
        self._approver = approver
        self._ask = ask
        self._clock = clock
        self._terminating: dict[str, str] = {}
        self._work: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def start(self) -> None:
        """Take in what is stored and listen from now on."""
        for row in self._store.rows(crds.STORAGE):
            self._serve(row.decode())
        self._addresses.load(row.decode() for row in self._store.rows("services"))
        for row in self._store.rows(certificates.STORAGE):
            request = row.decode()
            if certificates.awaits_signing(request) or certificates.awaits_approval(request):
                self._work.put_nowait(("sign", row.key.name))
        for row in self._store.rows(QUOTAS):
            self._count(row.key)
        self._store.subscribe(self._notice)

    def _notice(self, change: Change) -> None:
        resource, namespace, name = change.row.key
        gone = change.type == "DELETED"
        if gone:
            self._quotas.forget(change.row.key)
        self._count(change.row.key)
        if resource == crds.STORAGE:
            self._definition_changed(change)
        elif resource == certificates.STORAGE and not gone:
            request = change.row.decode()
            if certificates.awaits_signing(request) or certificates.awaits_approval(request):
                self._work.put_nowait(("sign", name))
        elif resource == "services" and gone:
            self._addresses.forget(change.row.uid)
        elif gone and (resource, name) in (("serviceaccounts", "default"), ("configmaps", ROOT_CA)):
            self._work.put_nowait(("furnish", namespace))
        elif gone and resource in self._terminating:
            self._work.put_nowait(("clear", self._terminating[resource]))

    def _count(self, key: Key) -> None:
        namespace = key.namespace
        if namespace and namespace not in self._counting and self._quotas.concerned(key):
            self._counting.add(namespace)
            self._work.put_nowait(("count", namespace))

    def _definition_changed(self, change: Change) -> None:
        crd = change.row.decode()
        name = change.row.key.name
        if change.type == "DELETED":
            self._catalog.set_custom(name, [])
            self._terminating.pop(_storage(crd), None)
            self._hub.end_watches(_storage(crd))
            for row in self._store.rows(crds.STORAGE):
                if not crds.is_established(row.decode()):  # the names may be free now
                    self._work.put_nowait(("name", row.key.name))
            return
        self._serve(crd)
        before = change.previous.decode() if change.previous else crd
        if before.get("spec") != crd.get("spec"):
            self._hub.end_watches(_storage(crd))

    def _serve(self, crd: Object) -> None:
        name = meta(crd)["name"]
        self._catalog.set_custom(name, crds.served_versions(crd, self._ask))
        if deleting(crd):
            self._terminating[_storage(crd)] = name
            self._work.put_nowait(("clear", name))

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            while True:
                what, name = await self._work.get()
                try:
                    if what == "furnish":
                        await self._bootstrap.furnish(name)
                    elif what == "count":
                        await self._show_usage(name)
                    elif what == "name":
                        await self._name(name)
                    elif what == "sign":
                        await self._sign(name)
                    else:
                        await self._clear(name)
                except UnderwayError as error:
                    log.warning("cannot %s %s: %s", what, name, error)

    async def _name(self, definition: str) -> None:
        """Decide anew whether a definition gets its names; writing it does."""
        key = Key(crds.STORAGE, "", definition)

        def unchanged(crd: Object | None) -> Object:
            if crd is None:
                raise LookupError(definition)
            return crd

        try:
            served = self._catalog.of(CUSTOMRESOURCEDEFINITIONS)
            await self._writer.modify(served, key, unchanged, By(SYSTEM, "", raw=True))
        except NotFound:
            return  # deleted meanwhile

    async def _sign(self, name: str) -> None:
        """Answer an approved certificate signing request; approve it first, if that may be."""
        key = Key(certificates.STORAGE, "", name)
        row = self._store.latest(key)
        if row is not None and certificates.awaits_approval(row.decode()):
            approved = self._approver.approval(row.decode())
            if approved is not None:
                served = self._catalog.of(CERTIFICATESIGNINGREQUESTS)
                by = By(SYSTEM, "underway", "approval", raw=True)
                await self._writer.modify(served, key, approved, by)
            return  # that change brings us back
        if row is None or not certificates.awaits_signing(row.decode()):
            return
        served = self._catalog.of(CERTIFICATESIGNINGREQUESTS)
        answered = await run_blocking(self._signer.answered, row.decode())
        by = By(SYSTEM, "underway", "status", raw=True)
        await self._writer.modify(served, key, answered, by)

    async def _show_usage(self, namespace: str) -> None:
        """Write into a namespace's quotas what is used of them."""
        self._counting.discard(namespace)
        served = self._catalog.of(RESOURCEQUOTAS)
        for row in self._store.rows(QUOTAS, namespace):

            def counted(quota: Object | None) -> Object:
                if quota is None:
                    raise LookupError(namespace)
                quota["status"] = self._quotas.status(quota)
                return quota

            try:
                await self._writer.modify(served, row.key, counted, By(SYSTEM, "", raw=True))
            except NotFound:
                continue  # deleted meanwhile

    async def _clear(self, definition: str) -> None:
        """Delete the objects of a definition, then let the definition go."""
        key = Key(crds.STORAGE, "", definition)
        row = self._store.latest(key)
        served = next(iter(crds.served_versions(row.decode(), self._ask)), None) if row else None
        if row is None:
            return
        storage = _storage(row.decode())
        for each in self._store.rows(storage):
            if served is not None and not deleting(each.decode()):
                await self._deleter.delete(served, each.key, DeleteOptions(), SYSTEM)
        if self._store.rows(storage):
            return  # finalizers hold the rest; the last one's end brings us back
        definitions = self._catalog.by_group_resource(
            "apiextensions.k8s.io", "customresourcedefinitions"
        )
        assert definitions is not None

        def released(crd: Object | None) -> Object:
            if crd is None:
                raise LookupError(definition)
            finalizers = meta(crd).get("finalizers") or []
            meta(crd)["finalizers"] = [f for f in finalizers if f != crds.CLEANUP]
            return crd

        await self._writer.modify(definitions, key, released, By(SYSTEM, "", raw=True))

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(_SWEEP_S)
            await self.drop_old_events()
            await self.drop_old_requests()
            await self.drop_expired_tokens()

    async def drop_old_events(self) -> None:
        """Remove the events nobody added to for an hour."""
        served = self._catalog.find("", "v1", "events")
        assert served is not None
        limit = self._clock.now() - EVENT_LIFE
        for row in self._store.rows("events"):
            if _last_seen(row.decode()) < limit.timestamp():
                try:
                    await self._deleter.delete(served, row.key, DeleteOptions(), SYSTEM)
                except UnderwayError as error:
                    log.warning("cannot drop the event %s: %s", row.key.name, error)

    async def drop_expired_tokens(self) -> None:
        """Remove the bootstrap tokens whose time is over."""
        served = self._catalog.find("", "v1", "secrets")
        assert served is not None
        for row in self._store.rows("secrets", bootstrap_tokens.NAMESPACE):
            if bootstrap_tokens.expired(row.decode(), self._clock.now()):
                try:
                    await self._deleter.delete(served, row.key, DeleteOptions(), SYSTEM)
                except UnderwayError as error:
                    log.warning("cannot drop the token %s: %s", row.key.name, error)

    async def drop_old_requests(self) -> None:
        """Remove the certificate signing requests that nobody waits for any more."""
        served = self._catalog.of(CERTIFICATESIGNINGREQUESTS)
        for row in self._store.rows(certificates.STORAGE):
            request = row.decode()
            created = parse_rfc3339(meta(request)["creationTimestamp"])
            if certificates.expired(request, self._clock.now(), created):
                try:
                    await self._deleter.delete(served, row.key, DeleteOptions(), SYSTEM)
                except UnderwayError as error:
                    log.warning("cannot drop the request %s: %s", row.key.name, error)


def _storage(crd: Object) -> str:
    spec = crd["spec"]
    return f"{spec['names']['plural']}.{spec['group']}"


def _last_seen(event: Object) -> float:
    series = event.get("series") or {}
    metadata = meta(event)
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        metadata.get("creationTimestamp"),
    )
    seen = [parse_rfc3339(text).timestamp() for text in times if text]
    return max(seen, default=0.0)
