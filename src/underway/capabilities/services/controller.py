"""Glue: follow Services and EndpointSlices, and keep packet rules and names in step with them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path

from underway.api.objects import Object
from underway.api.resources import ENDPOINTSLICES, SERVICES
from underway.base.errors import AlreadyExists, UnderwayError
from underway.base.home import Home, Settings
from underway.base.threads import run_blocking
from underway.capabilities.services.backend.dns import DNS_PORT, DnsServer, Resolver
from underway.capabilities.services.backend.packets import PacketRules
from underway.capabilities.services.backend.upstream import Upstream
from underway.capabilities.services.model import service_of, slice_of
from underway.capabilities.services.rules import own, packets
from underway.capabilities.services.rules.catalog import Backend, Catalog
from underway.capabilities.services.rules.names import Zone
from underway.linux.network import PodNetwork
from underway.linux.nft import TableLoss
from underway.reconcile import Controller, Entry, Manager, Request

log = logging.getLogger(__name__)

SETTLE_S = 0.05  # changes come in bursts: wait this long for the rest of one
RETRY_S = 2.0
RESOLV_CONF = Path("/etc/resolv.conf")


def serve(manager: Manager, home: Home) -> None:
    """On the node: packet rules and DNS."""
    settings = home.load_settings()
    network = PodNetwork(home.id, settings.pod_cidr)
    catalog = Catalog()
    frame = frame_of(home, settings, network)
    proxy = Proxy(manager, catalog, PacketRules(network, frame), frame)
    manager.add_runnable(proxy.run, "service rules")

    networks = (settings.service_cidr, settings.pod_cidr)
    zone = Zone(catalog, settings.cluster_domain, networks, network.gateway)
    upstream = Upstream(manager.clock, RESOLV_CONF, network.gateway)
    resolver = Resolver(zone, upstream)

    async def dns() -> None:
        # Names are answered for once they are known, and once there is a bridge to listen on.
        await proxy.ready.wait()
        await DnsServer(resolver.respond, network.gateway, DNS_PORT).serve()

    manager.add_runnable(dns, "dns")


def frame_of(home: Home, settings: Settings, network: PodNetwork) -> packets.Frame:
    """What the rules depend on, of this platform on this machine.

    Pods find the API server and the registry on the gateway's address; where those listen
    elsewhere, connections are led on to it.
    """
    local_targets = {}
    if not ipaddress.ip_address(settings.bind_address).is_unspecified:
        for port in (settings.api_port, settings.registry_port):
            seen = Backend(network.gateway, port)
            local_targets[seen] = Backend(settings.bind_address, port)
    return packets.Frame(
        table=f"{network.table}_services",
        bridge=network.bridge,
        gateway=network.gateway,
        service_cidr=settings.service_cidr,
        node_name=settings.node_name,
        local_targets=local_targets,
    )


class Proxy:
    """Keeps the kernel's rules in step with the catalog, and the catalog with the cluster.

    ``ready`` is set once the rules of everything known at the start are in force.
    """

    def __init__(
        self, manager: Manager, catalog: Catalog, rules: PacketRules, frame: packets.Frame
    ) -> None:
        self.ready = asyncio.Event()
        self._clock = manager.clock
        self._catalog = catalog
        self._rules = rules
        self._frame = frame
        self._parts: dict[str, packets.Ruleset] = {}
        self._dirty: set[str] = set()
        self._changed = asyncio.Event()
        self._tables_lost = asyncio.Event()
        self._services = manager.informer(SERVICES)
        self._slices = manager.informer(ENDPOINTSLICES)
        self._services.add_handler(self._on_service)
        self._slices.add_handler(self._on_slice)

    async def run(self) -> None:
        """Apply changes until cancelled."""
        await run_blocking(self._rules.prepare)
        await self._services.synced()
        await self._slices.synced()
        loop = asyncio.get_running_loop()
        loss = TableLoss()
        self._tables_lost.clear()
        loop.add_reader(loss.fileno(), self._on_table_deleted, loss)
        try:
            await self._apply()
            self.ready.set()
            while True:
                await self._changed.wait()
                await self._clock.sleep(SETTLE_S)
                await self._apply()
        finally:
            loop.remove_reader(loss.fileno())
            loss.close()

    def _on_service(self, kind: str, old: Entry | None, new: Entry | None) -> None:
        del kind
        if new is not None:
            self._mark([self._catalog.put_service(service_of(new.raw))])
        elif old is not None:
            self._mark([self._catalog.remove_service(old.meta.key)])

    def _on_slice(self, kind: str, old: Entry | None, new: Entry | None) -> None:
        del kind
        if new is not None:
            self._mark(self._catalog.put_slice(slice_of(new.raw)))
        elif old is not None:
            self._mark(self._catalog.remove_slice(old.meta.key))

    def _mark(self, keys: list[str]) -> None:
        self._dirty.update(keys)
        if keys:
            self._changed.set()

    def _on_table_deleted(self, loss: TableLoss) -> None:
        names = loss.deleted()
        # Our own replacements delete tables too; whether one is missing is looked up later.
        if names is None or self._rules.tables & names:
            self._tables_lost.set()
            self._changed.set()

    async def _apply(self) -> None:
        self._changed.clear()
        dirty, self._dirty = self._dirty, set()
        for key in dirty:
            service = self._catalog.services.get(key)
            if service is None:
                self._parts.pop(key, None)
            else:
                self._parts[key] = packets.of_service(service, self._catalog, self._frame)
        local = packets.of_local_targets(self._frame)
        wanted = packets.merge([local, *(self._parts[key] for key in sorted(self._parts))])
        try:
            if self._tables_lost.is_set():
                self._tables_lost.clear()
                if await run_blocking(self._rules.restore):
                    log.warning("the table %s was deleted; writing it again", self._frame.table)
            await run_blocking(self._rules.apply, wanted)
        except UnderwayError:
            self._changed.set()
            raise


def publish(manager: Manager, home: Home) -> None:
    """In the control plane: the Services through which pods find the API server and DNS."""
    settings = home.load_settings()
    wanted = own.published(settings)

    async def reconcile(request: Request) -> None:
        for service, piece in wanted:
            if request.key != _key(service):
                continue
            await _ensure(manager, service, own.service_differs)
            await _ensure(manager, piece, own.slice_differs)

    keys = [_key(service) for service, _ in wanted]

    def owner(piece: Object) -> list[Request]:
        return [Request.of(key) for key in own.owner_keys(piece) if key in keys]

    controller = Controller(
        "cluster-services",
        reconcile,
        primary=SERVICES,
        watches=((ENDPOINTSLICES, owner),),
        predicates=(lambda _, old, new: _key(new or old or {}) in keys,),
    )
    manager.add(controller)
    for key in keys:
        controller.enqueue(Request.of(key))


def _key(obj: Object) -> str:
    found = obj.get("metadata") or {}
    return f"{found.get('namespace', '')}/{found.get('name', '')}"


async def _ensure(
    manager: Manager, wanted: Object, differs: Callable[[Object, Object], bool]
) -> None:
    """Create the object, or bring what matters of it back."""
    resource = SERVICES if wanted["kind"] == "Service" else ENDPOINTSLICES
    current = manager.informer(resource).get(_key(wanted))
    if current is None:
        try:
            await manager.client.create(resource, wanted)
        except AlreadyExists:
            current = await manager.client.get(
                resource, wanted["metadata"]["name"], wanted["metadata"]["namespace"]
            )
    if current is not None and differs(current, wanted):
        merged = {
            **current,
            **{name: value for name, value in wanted.items() if name != "metadata"},
        }
        if "spec" in wanted:
            merged["spec"] = {**current.get("spec", {}), **wanted["spec"]}
        await manager.client.replace(resource, merged)
