"""Cluster IPs and node ports of Services. What is taken stands in the Services themselves.

Source: Kubernetes "Service ClusterIP allocation" (the lower band is left to fixed addresses);
``--service-node-port-range`` default 30000-32767.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable
from itertools import chain

from underway.api.objects import Object, name_of, uid_of
from underway.base.errors import Cause, InternalError, Invalid

NODE_PORTS = range(30000, 32768)
_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")
Release = Callable[[], None]


class Addresses:
    """Hands out addresses. A request that fails gives back what it was given."""

    def __init__(self, service_cidr: str) -> None:
        self._network = ipaddress.ip_network(service_cidr)
        self._ips: dict[str, str] = {}
        self._ports: dict[int, str] = {}
        # Deterministic tests do not need this to be a secret.
        self._random = random.Random()  # noqa: S311

    @property
    def first(self) -> str:
        """The address of the ``kubernetes`` Service."""
        return str(self._network[1])

    def load(self, services: Iterable[Object]) -> None:
        """Note what existing Services hold."""
        for service in services:
            self.note(service)

    def note(self, service: Object) -> None:
        """Note what a Service holds, and forget what it no longer holds."""
        self.forget(uid_of(service))
        ips, ports = held(service)
        self._ips.update(dict.fromkeys(ips, uid_of(service)))
        self._ports.update(dict.fromkeys(ports, uid_of(service)))

    def forget(self, uid: str) -> None:
        """A Service is gone."""
        self._ips = {ip: owner for ip, owner in self._ips.items() if owner != uid}
        self._ports = {port: owner for port, owner in self._ports.items() if owner != uid}

    def assign(self, service: Object, before: Object | None = None) -> Release:
        """Fill in the addresses a Service's type wants, in place.

        Returns:
            Undoes the assignment.

        Raises:
            Invalid: an address asked for is taken or lies outside the ranges.
        """
        uid = uid_of(service)
        self.forget(uid)
        try:
            self._assign(service, uid)
        except Invalid:
            self._restore(uid, before)
            raise
        return lambda: self._restore(uid, before)

    def _restore(self, uid: str, before: Object | None) -> None:
        self.forget(uid)
        if before is not None:
            self.note(before)

    def _assign(self, service: Object, uid: str) -> None:
        spec = service.setdefault("spec", {})
        kind = spec.get("type") or "ClusterIP"
        if kind == "ExternalName":
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(name, None)
        else:
            self._assign_ip(service, spec, uid)
        if kind in _WITH_NODE_PORTS and spec.get("allocateLoadBalancerNodePorts", True):
            self._assign_ports(service, spec, uid)
        elif kind not in _WITH_NODE_PORTS:
            for port in spec.get("ports") or ():
                port.pop("nodePort", None)
        local = spec.get("externalTrafficPolicy") == "Local"
        if kind == "LoadBalancer" and local and not spec.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = self._free_port(uid)

    def _assign_ip(self, service: Object, spec: Object, uid: str) -> None:
        wanted = spec.get("clusterIP") or ((spec.get("clusterIPs") or [""])[0])
        family = "IPv6" if self._network.version == 6 else "IPv4"
        if wanted != "None":
            if wanted:
                self._take_ip(service, wanted, uid)
            else:
                wanted = self._free_ip(uid)
        spec["clusterIP"] = wanted
        spec["clusterIPs"] = [wanted]
        if "ipFamilies" in spec and spec["ipFamilies"] != [family] and wanted != "None":
            raise _invalid(
                service,
                "spec.ipFamilies[0]",
                f"Invalid value: {spec['ipFamilies']}: not configured on this cluster",
            )
        spec.setdefault("ipFamilies", [family])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    def _take_ip(self, service: Object, ip: str, uid: str) -> None:
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            text = f'Invalid value: ["{ip}"]: must be empty, "None", or a valid IP address'
            raise _invalid(service, "spec.clusterIPs", text) from None
        if address not in self._network:
            text = (
                f'Invalid value: ["{ip}"]: failed to allocate IP {ip}: the provided network does'
                " not match the current range"
            )
            raise _invalid(service, "spec.clusterIPs", text)
        if self._ips.get(ip, uid) != uid:
            text = (
                f'Invalid value: ["{ip}"]: failed to allocate IP {ip}: provided IP is already'
                " allocated"
            )
            raise _invalid(service, "spec.clusterIPs", text)
        self._ips[ip] = uid

    def _free_ip(self, uid: str) -> str:
        size = self._network.num_addresses
        # The band below is for addresses people choose; it is used last.
        band = min(max(16, size // 16), 256) if size > 32 else 1
        last = size - 2  # without the broadcast address
        start = self._random.randint(band, last)
        order = [range(start, last + 1), range(band, start), range(2, band)]
        for offsets in order:
            for offset in offsets:
                ip = str(self._network[offset])
                if ip not in self._ips:
                    self._ips[ip] = uid
                    return ip
        raise InternalError(f"no address is free in {self._network}")

    def _assign_ports(self, service: Object, spec: Object, uid: str) -> None:
        given: dict[int, int] = {}  # one node port may serve TCP and UDP of one port
        for index, port in enumerate(spec.get("ports") or ()):
            wanted = port.get("nodePort")
            if wanted:
                field = f"spec.ports[{index}].nodePort"
                if wanted not in NODE_PORTS:
                    text = (
                        f"Invalid value: {wanted}: provided port is not in the valid range."
                        f" The range of valid ports is {NODE_PORTS[0]}-{NODE_PORTS[-1]}"
                    )
                    raise _invalid(service, field, text)
                if self._ports.get(wanted, uid) != uid:
                    text = f"Invalid value: {wanted}: provided port is already allocated"
                    raise _invalid(service, field, text)
                self._ports[wanted] = uid
            else:
                same = given.get(port.get("port"))
                port["nodePort"] = same if same else self._free_port(uid)
            given[port.get("port")] = port["nodePort"]

    def _free_port(self, uid: str) -> int:
        start = self._random.randrange(NODE_PORTS.start, NODE_PORTS.stop)
        for port in chain(range(start, NODE_PORTS.stop), range(NODE_PORTS.start, start)):
            if port not in self._ports:
                self._ports[port] = uid
                return port
        raise InternalError("no node port is free")


def held(service: Object) -> tuple[list[str], list[int]]:
    """The cluster IPs and node ports in a Service."""
    spec = service.get("spec") or {}
    ips = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    ports = [port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        ports.append(spec["healthCheckNodePort"])
    return ips, ports


def _invalid(service: Object, field: str, message: str) -> Invalid:
    name = name_of(service)
    return Invalid(
        f'Service "{name}" is invalid: {field}: {message}',
        details={"name": name, "kind": "Service"},
        causes=[Cause(field, message)],
    )
