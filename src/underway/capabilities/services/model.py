"""Services and EndpointSlices as this capability reads them: typed, read-only, IPv4.

Source: Kubernetes API reference, core/v1 Service and discovery.k8s.io/v1 EndpointSlice.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
AFFINITY_TIMEOUT_S = 10_800  # sessionAffinityConfig.clientIP.timeoutSeconds where it is not set


class _Camel(msgspec.Struct, frozen=True, rename="camel"):
    """Fields in the API's spelling; unknown ones are skipped."""


class Meta(_Camel, frozen=True):
    """The part of ``metadata`` that counts here."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class ServicePort(_Camel, frozen=True):
    """One port of a Service; ``node_port`` is 0 where it has none."""

    port: int = 0
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


class _ClientIP(_Camel, frozen=True):
    timeout_seconds: int | None = None


class _AffinityConfig(_Camel, frozen=True):
    client_ip: _ClientIP | None = msgspec.field(default=None, name="clientIP")


class _ServiceSpec(_Camel, frozen=True):
    type: str = "ClusterIP"
    ports: tuple[ServicePort, ...] | None = None
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")
    external_ips: tuple[str, ...] | None = msgspec.field(default=None, name="externalIPs")
    external_name: str = ""
    session_affinity: str = "None"
    session_affinity_config: _AffinityConfig | None = None
    publish_not_ready_addresses: bool = False
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None


class _Ingress(_Camel, frozen=True):
    ip: str = ""


class _LoadBalancer(_Camel, frozen=True):
    ingress: tuple[_Ingress, ...] | None = None


class _ServiceStatus(_Camel, frozen=True):
    load_balancer: _LoadBalancer | None = None


class Service(_Camel, frozen=True):
    """A Service. Addresses that are no IPv4 addresses are left out by the properties below."""

    metadata: Meta = Meta()
    spec: _ServiceSpec = _ServiceSpec()
    status: _ServiceStatus | None = None

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return self.metadata.key

    @property
    def ports(self) -> tuple[ServicePort, ...]:
        """Its ports."""
        return self.spec.ports or ()

    @property
    def headless(self) -> bool:
        """Whether clients get the endpoints' own addresses."""
        return self.spec.cluster_ip == "None" and not self.external_name

    @property
    def external_name(self) -> str:
        """The name this Service is an alias of, or empty."""
        return self.spec.external_name if self.spec.type == "ExternalName" else ""

    @property
    def cluster_ip(self) -> str:
        """Its virtual address, or empty."""
        if self.external_name:
            return ""
        found = ipv4(self.spec.cluster_ips or (self.spec.cluster_ip,))
        return found[0] if found else ""

    @property
    def external_ips(self) -> tuple[str, ...]:
        """Addresses from outside that lead here: externalIPs and the load balancer's."""
        addresses = list(self.spec.external_ips or ())
        balancer = self.status.load_balancer if self.status else None
        if self.spec.type == "LoadBalancer" and balancer:
            addresses += [ingress.ip for ingress in balancer.ingress or ()]
        return ipv4(addresses)

    @property
    def affinity_s(self) -> int:
        """Seconds a client stays with its endpoint, or 0 for no affinity."""
        if self.spec.session_affinity != "ClientIP":
            return 0
        config = self.spec.session_affinity_config
        timeout_s = config.client_ip.timeout_seconds if config and config.client_ip else None
        return timeout_s or AFFINITY_TIMEOUT_S


class Conditions(_Camel, frozen=True):
    """What an endpoint is ready for; a missing ``ready`` counts as true."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(_Camel, frozen=True):
    """One endpoint; its first address counts, as the others are its equals.

    An address that would mean this machine itself, such as its loopback, is none: whoever may
    write slices must not get at what listens there for the machine alone.
    """

    addresses: tuple[str, ...] = ()
    conditions: Conditions | None = None
    hostname: str | None = None
    node_name: str | None = None

    @property
    def address(self) -> str:
        """The address, or empty where it is no IPv4 address."""
        found = ipv4(self.addresses[:1])
        return found[0] if found and _can_be_endpoint(found[0]) else ""

    @property
    def ready(self) -> bool:
        """Whether it takes new connections."""
        return self.conditions is None or self.conditions.ready is not False

    @property
    def last_resort(self) -> bool:
        """Whether it is on its way out but still serves."""
        found = self.conditions
        return bool(found and found.serving and found.terminating)


class EndpointPort(_Camel, frozen=True):
    """A port of a slice; it belongs to the Service's port of the same name."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class Slice(_Camel, frozen=True):
    """An EndpointSlice."""

    metadata: Meta = Meta()
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None

    @property
    def service_key(self) -> str:
        """The Service it belongs to, or empty."""
        name = (self.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")
        return f"{self.metadata.namespace}/{name}" if name else ""


def _can_be_endpoint(address: str) -> bool:
    ip = ipaddress.IPv4Address(address)
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


_service = msgspec.json.Decoder(Service, strict=False)
_slice = msgspec.json.Decoder(Slice, strict=False)


def service_of(raw: bytes) -> Service:
    """The Service that JSON bytes hold.

    Raises:
        msgspec.MsgspecError: they hold something else.
    """
    return _service.decode(raw)


def slice_of(raw: bytes) -> Slice:
    """The EndpointSlice that JSON bytes hold.

    Raises:
        msgspec.MsgspecError: they hold something else.
    """
    return _slice.decode(raw)


def ipv4(addresses: Any) -> tuple[str, ...]:
    """Those of some texts that are IPv4 addresses, in their plain form."""
    found = []
    for text in addresses:
        try:
            found.append(str(ipaddress.IPv4Address(text)))
        except ValueError:
            continue
    return tuple(found)
