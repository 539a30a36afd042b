"""What the names of a cluster stand for.

Source: Kubernetes DNS-Based Service Discovery, schema version 1.1.0; negative answers after
RFC 2308 (a name that exists without the type asked for is NOERROR, one that does not exist is
NXDOMAIN, both with the zone's SOA).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from underway.base.errors import BadRequest
from underway.capabilities.services.model import Service
from underway.capabilities.services.rules.catalog import Catalog
from underway.wire.dns import (
    Data,
    Name,
    Question,
    Rcode,
    Record,
    Soa,
    Srv,
    Type,
    lowered,
    name_from_text,
)

TTL_S = 5  # short, because endpoints come and go
SCHEMA_VERSION = b"1.1.0"
_PROTOCOLS = {b"_tcp": "TCP", b"_udp": "UDP", b"_sctp": "SCTP"}
_ARPA: Name = (b"in-addr", b"arpa")
_ALIAS_TYPES = frozenset({Type.CNAME, Type.ANY})


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a question. An ``alias`` is to be looked up and added by the asker."""

    rcode: int = Rcode.NOERROR
    answers: tuple[Record, ...] = ()
    authorities: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()
    alias: Name = ()


class Zone:
    """The names of one cluster, over a catalog of its Services.

    Args:
        catalog: the Services; read at each question.
        domain: the cluster's domain, such as ``cluster.local``.
        networks: CIDRs whose reverse names belong to the cluster: Services' and pods'.
        server: the address this is answered from.
    """

    def __init__(
        self, catalog: Catalog, domain: str, networks: tuple[str, ...], server: str
    ) -> None:
        self._catalog = catalog
        self._domain = lowered(name_from_text(domain))
        self._networks = [ipaddress.IPv4Network(cidr) for cidr in networks]
        self._server = server
        self._reverse = {_reverse_name(server): (b"ns", b"dns", *self._domain)}

    def answer(self, question: Question) -> Answer | None:
        """The answer, or None where the name is no name of this cluster."""
        name = lowered(question.name)
        if _below(name, self._domain):
            return self._forward(question, name[: len(name) - len(self._domain)])
        if _below(name, _ARPA):
            return self._backward(question, name)
        return None

    # -- names to addresses -------------------------------------------------------------------

    def _forward(self, question: Question, rest: Name) -> Answer:
        if not rest:
            return self._apex(question)
        match rest[-1]:
            case b"svc":
                return self._service_name(question, rest[:-1])
            case b"pod":
                return self._pod_name(question, rest[:-1])
            case b"dns":
                return self._server_name(question, rest[:-1])
            case b"dns-version" if len(rest) == 1:
                return self._text(question, SCHEMA_VERSION)
        return self._missing()

    def _apex(self, question: Question) -> Answer:
        if question.type == Type.SOA:
            return Answer(answers=(self._soa(),))
        if question.type == Type.NS:
            return Answer(answers=(self._record(question, Type.NS, self._nameserver),))
        return self._empty()

    def _server_name(self, question: Question, rest: Name) -> Answer:
        if rest == (b"ns",):
            return self._addresses(question, [self._server])
        return self._empty() if not rest else self._missing()

    def _service_name(self, question: Question, rest: Name) -> Answer:
        """``rest`` stands before ``svc``: [[_port, _protocol | endpoint], service, namespace]."""
        if not rest:
            return self._empty()
        labels = [_text(label) for label in rest]
        namespace = labels[-1]
        if len(rest) == 1:
            return self._empty() if self._catalog.has_namespace(namespace) else self._missing()
        service = self._catalog.services.get(f"{namespace}/{labels[-2]}")
        if service is None:
            return self._missing()
        if len(rest) == 2:
            return self._service(question, service)
        if service.external_name:
            return self._missing()
        return self._below_service(question, service, rest[:-2])

    def _service(self, question: Question, service: Service) -> Answer:
        if service.external_name:
            return self._alias(question, service.external_name)
        if question.type == Type.SRV:
            return self._ports(question, service, "", "")
        if service.headless:
            addresses = [member.ip for member in self._catalog.members(service)]
            return self._addresses(question, list(dict.fromkeys(addresses)))
        return self._addresses(question, [service.cluster_ip] if service.cluster_ip else [])

    def _below_service(self, question: Question, service: Service, rest: Name) -> Answer:
        if len(rest) == 1 and rest[0] in _PROTOCOLS:
            return self._empty()
        if len(rest) == 2 and rest[1] in _PROTOCOLS and rest[0].startswith(b"_"):
            protocol = _PROTOCOLS[rest[1]]
            return self._ports(question, service, _text(rest[0][1:]), protocol)
        if len(rest) == 1 and service.headless:
            label = _text(rest[0])
            found = [m.ip for m in self._catalog.members(service) if m.label == label]
            return self._addresses(question, found) if found else self._missing()
        return self._missing()

    def _ports(self, question: Question, service: Service, port: str, protocol: str) -> Answer:
        """SRV records of a named port, or of all ports where no name is given."""
        base = self._service_domain(service)
        if service.headless:
            known = [
                (name, kind, number, (member.label.encode(), *base), member.ip)
                for name, kind, number, member in self._catalog.member_ports(service)
            ]
        else:
            known = [(p.name, p.protocol, p.port, base, service.cluster_ip) for p in service.ports]
        found = [
            (number, target, ip)
            for name, kind, number, target, ip in known
            if not protocol or (name == port and kind == protocol)
        ]
        if not found:
            return self._missing() if protocol else self._empty()
        if question.type not in (Type.SRV, Type.ANY):
            return self._empty()
        weight = max(1, 100 // len(found))
        answers = [
            self._record(question, Type.SRV, Srv(0, weight, number, target))
            for number, target, _ in found
        ]
        extra = {(target, ip): None for _, target, ip in found if ip}
        additionals = [Record(target, Type.A, TTL_S, _packed(ip)) for target, ip in extra]
        return Answer(answers=tuple(answers), additionals=tuple(additionals))

    def _pod_name(self, question: Question, rest: Name) -> Answer:
        """``a-b-c-d.namespace.pod``: the address is in the name."""
        if len(rest) < 2:
            return self._empty()
        try:
            address = ipaddress.IPv4Address(_text(rest[0]).replace("-", "."))
        except ValueError:
            return self._missing()
        if len(rest) > 2 or not any(address in network for network in self._networks):
            return self._missing()
        return self._addresses(question, [str(address)])

    # -- addresses to names -------------------------------------------------------------------

    def _backward(self, question: Question, name: Name) -> Answer | None:
        address = _reverse_address(name)
        if address is None or not any(address in network for network in self._networks):
            return None
        targets = self._names_of(str(address))
        if not targets:
            return self._missing()
        if question.type not in (Type.PTR, Type.ANY):
            return self._empty()
        return Answer(answers=tuple(self._record(question, Type.PTR, each) for each in targets))

    def _names_of(self, ip: str) -> list[Name]:
        if known := self._reverse.get(_reverse_name(ip)):
            return [known]
        service = self._catalog.by_cluster_ip(ip)
        if service is not None:
            return [self._service_domain(service)]
        return [
            (member.label.encode(), *self._service_domain(headless))
            for headless in self._catalog.headless_with(ip)
            for member in self._catalog.members(headless)
            if member.ip == ip
        ]

    # -- parts of answers ---------------------------------------------------------------------

    def _addresses(self, question: Question, addresses: list[str]) -> Answer:
        if question.type not in (Type.A, Type.ANY) or not addresses:
            return self._empty()
        records = [self._record(question, Type.A, _packed(ip)) for ip in addresses]
        return Answer(answers=tuple(records))

    def _alias(self, question: Question, target_text: str) -> Answer:
        try:
            target = name_from_text(target_text)
        except BadRequest:
            return Answer(Rcode.SERVFAIL)
        record = self._record(question, Type.CNAME, target)
        alias = () if question.type in _ALIAS_TYPES else target
        return Answer(answers=(record,), alias=alias)

    def _text(self, question: Question, text: bytes) -> Answer:
        if question.type not in (Type.TXT, Type.ANY):
            return self._empty()
        return Answer(answers=(self._record(question, Type.TXT, bytes([len(text)]) + text),))

    def _record(self, question: Question, kind: int, data: Data) -> Record:
        return Record(question.name, kind, TTL_S, data)

    def _service_domain(self, service: Service) -> Name:
        meta = service.metadata
        return (meta.name.encode(), meta.namespace.encode(), b"svc", *self._domain)

    @property
    def _nameserver(self) -> Name:
        return (b"ns", b"dns", *self._domain)

    def _soa(self) -> Record:
        soa = Soa(self._nameserver, (b"hostmaster", *self._domain), 1, 7200, 1800, 86400, TTL_S)
        return Record(self._domain, Type.SOA, TTL_S, soa)

    def _empty(self) -> Answer:
        return Answer(Rcode.NOERROR, authorities=(self._soa(),))

    def _missing(self) -> Answer:
        return Answer(Rcode.NXDOMAIN, authorities=(self._soa(),))


def _below(name: Name, zone: Name) -> bool:
    return name[len(name) - len(zone) :] == zone if len(name) >= len(zone) else False


def _text(label: bytes) -> str:
    # Labels that are no ASCII name nothing in a cluster; they must only not break the look-up.
    return label.decode("ascii", "replace")


def _packed(ip: str) -> bytes:
    return ipaddress.IPv4Address(ip).packed


def _reverse_name(ip: str) -> Name:
    return (*(part.encode() for part in reversed(ip.split("."))), *_ARPA)


def _reverse_address(name: Name) -> ipaddress.IPv4Address | None:
    parts = [_text(label) for label in name[: -len(_ARPA)]]
    try:
        return ipaddress.IPv4Address(".".join(reversed(parts)))
    except ValueError:
        return None
