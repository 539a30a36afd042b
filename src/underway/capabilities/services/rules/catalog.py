"""All Services with their endpoints, kept current one object at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from underway.capabilities.services.model import Endpoint, Service, ServicePort, Slice


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """Where a connection can end: an endpoint's address and port."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint of a headless Service as DNS shows it: ``label`` is its host name there."""

    label: str
    ip: str


class Catalog:
    """Services and slices by key; each change says which Service it concerns."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self._slices: dict[str, Slice] = {}
        self._of_service: dict[str, dict[str, Slice]] = {}
        self._by_cluster_ip: dict[str, str] = {}
        self._by_endpoint: dict[str, dict[str, int]] = {}
        self._namespaces: dict[str, int] = {}

    def put_service(self, service: Service) -> str:
        """Add or replace a Service; returns its key."""
        self.remove_service(service.key)
        self.services[service.key] = service
        namespace = service.metadata.namespace
        self._namespaces[namespace] = self._namespaces.get(namespace, 0) + 1
        if service.cluster_ip:
            self._by_cluster_ip[service.cluster_ip] = service.key
        return service.key

    def remove_service(self, key: str) -> str:
        """Forget a Service; returns its key."""
        old = self.services.pop(key, None)
        if old is not None:
            _count_down(self._namespaces, old.metadata.namespace)
            if self._by_cluster_ip.get(old.cluster_ip) == key:
                del self._by_cluster_ip[old.cluster_ip]
        return key

    def put_slice(self, piece: Slice) -> list[str]:
        """Add or replace a slice; returns the keys of the Services it belongs and belonged to."""
        concerned = self.remove_slice(piece.metadata.key)
        owner = piece.service_key
        if piece.address_type == "IPv4" and owner:
            self._slices[piece.metadata.key] = piece
            self._of_service.setdefault(owner, {})[piece.metadata.key] = piece
            for endpoint in piece.endpoints or ():
                counts = self._by_endpoint.setdefault(endpoint.address, {})
                counts[owner] = counts.get(owner, 0) + 1
            concerned = [*concerned, owner]
        return concerned

    def remove_slice(self, key: str) -> list[str]:
        """Forget a slice; returns the keys of the Services it belonged to."""
        old = self._slices.pop(key, None)
        if old is None:
            return []
        owner = old.service_key
        of_service = self._of_service[owner]
        del of_service[key]
        if not of_service:
            del self._of_service[owner]
        for endpoint in old.endpoints or ():
            counts = self._by_endpoint[endpoint.address]
            _count_down(counts, owner)
            if not counts:
                del self._by_endpoint[endpoint.address]
        return [owner]

    def has_namespace(self, namespace: str) -> bool:
        """Whether any Service lives there."""
        return namespace in self._namespaces

    def by_cluster_ip(self, ip: str) -> Service | None:
        """The Service whose virtual address this is."""
        return self.services.get(self._by_cluster_ip.get(ip, ""))

    def headless_with(self, ip: str) -> list[Service]:
        """The headless Services an address is an endpoint of, by key."""
        keys = sorted(self._by_endpoint.get(ip, ()))
        return [
            self.services[key]
            for key in keys
            if key in self.services and self.services[key].headless
        ]

    def backends(self, service: Service, port: ServicePort, node: str = "") -> tuple[Backend, ...]:
        """Where new connections to a port may go, sorted.

        Ready endpoints; where there are none, those that serve while they terminate. With
        ``node``, only endpoints on that node (the traffic policy ``Local``).

        Source: Kubernetes "Virtual IPs and Service Proxies", traffic policies and
        "Traffic to terminating endpoints".
        """
        ready: set[Backend] = set()
        leaving: set[Backend] = set()
        for piece, endpoint in self._endpoints(service.key):
            if not endpoint.address or (node and endpoint.node_name != node):
                continue
            usable = endpoint.ready or service.spec.publish_not_ready_addresses
            if not usable and not endpoint.last_resort:
                continue
            for number in _numbers(piece, port):
                (ready if usable else leaving).add(Backend(endpoint.address, number))
        return tuple(sorted(ready or leaving))

    def members(self, service: Service) -> tuple[Member, ...]:
        """The endpoints DNS shows of a headless Service, by label."""
        found = {
            Member(endpoint.hostname or endpoint.address.replace(".", "-"), endpoint.address)
            for _, endpoint in self._endpoints(service.key)
            if endpoint.address and (endpoint.ready or service.spec.publish_not_ready_addresses)
        }
        return tuple(sorted(found, key=lambda member: (member.label, member.ip)))

    def member_ports(self, service: Service) -> tuple[tuple[str, str, int, Member], ...]:
        """``(port name, protocol, number, member)`` of a headless Service, for SRV records."""
        shown = {member.ip: member for member in self.members(service)}
        found = set()
        for piece, endpoint in self._endpoints(service.key):
            if endpoint.address not in shown:
                continue
            for port in piece.ports or ():
                member = Member(
                    endpoint.hostname or endpoint.address.replace(".", "-"), endpoint.address
                )
                found.add((port.name or "", port.protocol or "TCP", port.port or 0, member))
        return tuple(sorted(found, key=lambda each: (each[0], each[1], each[3].label, each[2])))

    def _endpoints(self, key: str) -> Iterator[tuple[Slice, Endpoint]]:
        for piece in self._of_service.get(key, {}).values():
            for endpoint in piece.endpoints or ():
                yield piece, endpoint


def _numbers(piece: Slice, port: ServicePort) -> Iterable[int]:
    for each in piece.ports or ():
        same = (each.name or "") == port.name and (each.protocol or "TCP") == port.protocol
        if same and each.port:
            yield each.port


def _count_down(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
