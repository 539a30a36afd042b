"""Which packets go where: Services and endpoints as an nftables ruleset.

A ``Ruleset`` is what the kernel should hold. ``whole`` writes it as a script that replaces
whatever is there; ``change`` writes only the difference between two. Either is one transaction:
no packet ever meets half of it.

The way of a packet: a map from (address, protocol, port) leads to the chain of one Service port,
which picks an endpoint and rewrites the destination. What is still addressed to the Services'
range after that has no endpoint, and is refused at once rather than left to time out.

Source: Kubernetes "Virtual IPs and Service Proxies"; nft(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from underway.capabilities.services.model import Service, ServicePort
from underway.capabilities.services.rules.catalog import Backend, Catalog

PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
# What nft takes as a name; Kubernetes' own names are narrower.
_SAFE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Frame:
    """What of the machine the rules depend on.

    ``local_targets`` leads connections to an address of the bridge on to where a server of this
    machine listens: the API server, which pods find at the gateway but which may listen on
    127.0.0.1 only.
    """

    table: str
    bridge: str
    gateway: str
    service_cidr: str
    node_name: str
    local_targets: Mapping[Backend, Backend] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the kernel should hold, by name.

    ``chains`` are rules by chain, ``sets`` time-outs in seconds by affinity set. ``addressed``
    leads ``ADDRESS . PROTOCOL . PORT`` to a chain, ``node_ports`` ``PROTOCOL . PORT``; those in
    ``refused`` and ``refused_node_ports`` have no endpoint. ``hairpins`` are endpoint addresses,
    ``targets`` those each leading chain spreads over.
    """

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, int] = field(default_factory=dict)
    addressed: dict[str, str] = field(default_factory=dict)
    node_ports: dict[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    refused_node_ports: frozenset[str] = frozenset()
    hairpins: frozenset[str] = frozenset()
    targets: dict[str, frozenset[str]] = field(default_factory=dict)


def of_service(service: Service, catalog: Catalog, frame: Frame) -> Ruleset:
    """One Service's part of the ruleset; empty where it has no virtual address."""
    made = _Maker(service, frame)
    if service.cluster_ip and _SAFE.fullmatch(service.key):
        for port in service.ports:
            if port.protocol in PROTOCOLS and 0 < port.port < 65536:
                made.add_port(port, catalog)
    return made.ruleset()


def of_local_targets(frame: Frame) -> Ruleset:
    """The part of the ruleset that leads from the gateway to this machine's own servers."""
    chains: dict[str, tuple[str, ...]] = {}
    addressed: dict[str, str] = {}
    for seen, real in frame.local_targets.items():
        chain = f"local/{seen.ip}/{seen.port}"
        chains[chain] = (f"meta l4proto tcp dnat ip to {real.ip}:{real.port}",)
        addressed[f"{seen.ip} . tcp . {seen.port}"] = chain
    return Ruleset(chains=chains, addressed=addressed)


def merge(parts: Iterable[Ruleset]) -> Ruleset:
    """All parts as one; where two claim one address and port, the earlier has it."""
    chains: dict[str, tuple[str, ...]] = {}
    sets: dict[str, int] = {}
    addressed: dict[str, str] = {}
    node_ports: dict[str, str] = {}
    refused: set[str] = set()
    refused_node_ports: set[str] = set()
    hairpins: set[str] = set()
    targets: dict[str, frozenset[str]] = {}
    for part in parts:
        chains.update(part.chains)
        targets.update(part.targets)
        sets.update(part.sets)
        for element, chain in part.addressed.items():
            addressed.setdefault(element, chain)
        for element, chain in part.node_ports.items():
            node_ports.setdefault(element, chain)
        refused |= part.refused
        refused_node_ports |= part.refused_node_ports
        hairpins |= part.hairpins
    return Ruleset(
        chains,
        sets,
        addressed,
        node_ports,
        frozenset(refused - addressed.keys()),
        frozenset(refused_node_ports - node_ports.keys()),
        frozenset(hairpins),
        targets,
    )


class _Maker:
    """Builds one Service's chains and elements."""

    def __init__(self, service: Service, frame: Frame) -> None:
        self._service = service
        self._frame = frame
        self._chains: dict[str, tuple[str, ...]] = {}
        self._sets: dict[str, int] = {}
        self._addressed: dict[str, str] = {}
        self._node_ports: dict[str, str] = {}
        self._refused: set[str] = set()
        self._refused_node_ports: set[str] = set()
        self._hairpins: set[str] = set()
        self._targets: dict[str, frozenset[str]] = {}

    def ruleset(self) -> Ruleset:
        return Ruleset(
            self._chains,
            self._sets,
            self._addressed,
            self._node_ports,
            frozenset(self._refused),
            frozenset(self._refused_node_ports),
            frozenset(self._hairpins),
            self._targets,
        )

    def add_port(self, port: ServicePort, catalog: Catalog) -> None:
        service, node = self._service, self._frame.node_name
        protocol = PROTOCOLS[port.protocol]
        near_node = node if service.spec.internal_traffic_policy == "Local" else ""
        far_node = node if service.spec.external_traffic_policy == "Local" else ""
        near = catalog.backends(service, port, near_node)
        far = catalog.backends(service, port, far_node)
        name = f"{service.key}/{protocol}/{port.port}"
        within = self._add_chain(f"svc/{name}", protocol, near)
        beyond = within if far == near else self._add_chain(f"ext/{name}", protocol, far)

        self._lead(f"{service.cluster_ip} . {protocol} . {port.port}", within)
        for address in service.external_ips:
            self._lead(f"{address} . {protocol} . {port.port}", beyond)
        if port.node_port:
            element = f"{protocol} . {port.node_port}"
            if beyond:
                self._node_ports[element] = beyond
            else:
                self._refused_node_ports.add(element)

    def _lead(self, element: str, chain: str) -> None:
        if chain:
            self._addressed[element] = chain
        else:
            self._refused.add(element)

    def _add_chain(self, name: str, protocol: str, backends: tuple[Backend, ...]) -> str:
        """The chain that spreads connections over backends; empty where there are none."""
        if not backends:
            return ""
        targets = [self._frame.local_targets.get(each, each) for each in backends]
        self._targets[name] = frozenset(target.ip for target in targets)
        self._hairpins.update(target.ip for target in targets if not target.ip.startswith("127."))
        if self._service.affinity_s and len(targets) > 1:
            self._chains[name] = self._sticky(name, protocol, targets)
        else:
            self._chains[name] = (_spread(protocol, targets),)
        return name

    def _sticky(self, name: str, protocol: str, targets: list[Backend]) -> tuple[str, ...]:
        """A client goes where it went within the time-out, else anywhere."""
        known, anywhere = [], []
        for number, target in enumerate(targets):
            suffix = f"{name}/{target.ip}/{target.port}"
            members, chain = f"from/{suffix}", f"to/{suffix}"
            self._sets[members] = self._service.affinity_s
            self._chains[chain] = (
                f"update @{members} {{ ip saddr }}",
                f"meta l4proto {protocol} dnat ip to {target.ip}:{target.port}",
            )
            known.append(f"ip saddr @{members} goto {chain}")
            anywhere.append(f"{number} : goto {chain}")
        choice = f"numgen random mod {len(targets)} vmap {{ {', '.join(anywhere)} }}"
        return (*known, choice)


def _spread(protocol: str, targets: list[Backend]) -> str:
    if len(targets) == 1:
        return f"meta l4proto {protocol} dnat ip to {targets[0].ip}:{targets[0].port}"
    choices = ", ".join(f"{n} : {each.ip} . {each.port}" for n, each in enumerate(targets))
    where = f"numgen random mod {len(targets)} map {{ {choices} }}"
    return f"meta l4proto {protocol} dnat ip to {where}"


@dataclass(frozen=True, slots=True)
class StaleFlows:
    """UDP flows that a change leaves without a partner: endpoints gone, by where they led from."""

    addressed: dict[tuple[str, int], frozenset[str]]
    node_ports: dict[int, frozenset[str]]

    def __bool__(self) -> bool:
        return bool(self.addressed or self.node_ports)

    def covers(self, sent_to: tuple[str, int], answered_by: str) -> bool:
        """Whether a flow is one of them."""
        gone = self.addressed.get(sent_to) or self.node_ports.get(sent_to[1]) or ()
        return answered_by in gone


def stale_udp(old: Ruleset, new: Ruleset) -> StaleFlows:
    """The flows that must be forgotten when ``new`` takes the place of ``old``."""
    addressed, node_ports = {}, {}
    for element, chain in old.addressed.items():
        address, protocol, port = element.split(" . ")
        gone = _gone(old, new, chain, new.addressed.get(element, ""))
        if protocol == "udp" and gone:
            addressed[address, int(port)] = gone
    for element, chain in old.node_ports.items():
        protocol, port = element.split(" . ")
        gone = _gone(old, new, chain, new.node_ports.get(element, ""))
        if protocol == "udp" and gone:
            node_ports[int(port)] = gone
    return StaleFlows(addressed, node_ports)


def _gone(old: Ruleset, new: Ruleset, before: str, after: str) -> frozenset[str]:
    return old.targets.get(before, frozenset()) - new.targets.get(after, frozenset())


def whole(ruleset: Ruleset, frame: Frame) -> str:
    """The script that makes the table hold exactly ``ruleset``."""
    table = frame.table
    head = f"table ip {table}\ndelete table ip {table}\n{_skeleton(frame)}"
    return head + change(Ruleset(), ruleset, frame)


def change(old: Ruleset, new: Ruleset, frame: Frame) -> str:
    """The script that leads from one ruleset to another; empty where they are the same."""
    table = frame.table
    lines: list[str] = []
    fresh_chains = [name for name in new.chains if new.chains[name] != old.chains.get(name)]
    stale_chains = [name for name in old.chains if name not in new.chains]
    stale_sets = [n for n in old.sets if old.sets[n] != new.sets.get(n)]
    if any(name in new.sets for name in stale_sets):
        # A set cannot change its time-out, and cannot go while rules use it.
        fresh_chains = list(new.chains)

    lines += [f"flush chain ip {table} {name}" for name in fresh_chains if name in old.chains]
    lines += [f"flush chain ip {table} {name}" for name in stale_chains]
    for map_name in ("addressed", "node_ports"):
        before, after = getattr(old, map_name), getattr(new, map_name)
        gone = [f"{key} : goto {chain}" for key, chain in before.items() if after.get(key) != chain]
        lines += _elements("delete", table, map_name, gone)
    for set_name in ("refused", "refused_node_ports"):
        gone = sorted(getattr(old, set_name) - getattr(new, set_name))
        lines += _elements("delete", table, set_name, gone)
    lines += _elements("delete", table, "hairpins", _pairs(old.hairpins - new.hairpins))
    lines += [f"delete chain ip {table} {name}" for name in stale_chains]
    lines += [f"delete set ip {table} {name}" for name in stale_sets]

    for name, timeout_s in new.sets.items():
        if old.sets.get(name) != timeout_s:
            options = f"type ipv4_addr; flags dynamic, timeout; timeout {timeout_s}s;"
            lines.append(f"add set ip {table} {name} {{ {options} }}")
    lines += [f"add chain ip {table} {name}" for name in fresh_chains if name not in old.chains]
    for name in fresh_chains:
        lines += [f"add rule ip {table} {name} {rule}" for rule in new.chains[name]]
    for map_name in ("addressed", "node_ports"):
        before, after = getattr(old, map_name), getattr(new, map_name)
        made = [f"{key} : goto {chain}" for key, chain in after.items() if before.get(key) != chain]
        lines += _elements("add", table, map_name, made)
    for set_name in ("refused", "refused_node_ports"):
        made = sorted(getattr(new, set_name) - getattr(old, set_name))
        lines += _elements("add", table, set_name, made)
    lines += _elements("add", table, "hairpins", _pairs(new.hairpins - old.hairpins))
    return "".join(f"{line}\n" for line in lines)


def _elements(verb: str, table: str, name: str, elements: list[str]) -> list[str]:
    return [f"{verb} element ip {table} {name} {{ {', '.join(elements)} }}"] if elements else []


def _pairs(addresses: Iterable[str]) -> list[str]:
    return [f"{ip} . {ip}" for ip in sorted(addresses)]


def _skeleton(frame: Frame) -> str:
    bridge = f'"{frame.bridge}"'
    return f"""
table ip {frame.table} {{
    map addressed {{
        type ipv4_addr . inet_proto . inet_service : verdict
    }}
    map node_ports {{
        type inet_proto . inet_service : verdict
    }}
    set refused {{
        type ipv4_addr . inet_proto . inet_service
    }}
    set refused_node_ports {{
        type inet_proto . inet_service
    }}
    set hairpins {{
        type ipv4_addr . ipv4_addr
    }}
    chain services {{
        ip daddr . meta l4proto . th dport vmap @addressed
        fib daddr type local meta l4proto . th dport vmap @node_ports
    }}
    chain from_links {{
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }}
    chain from_machine {{
        type nat hook output priority -100; policy accept;
        jump services
    }}
    chain sources {{
        type nat hook postrouting priority srcnat - 1; policy accept;
        ip saddr . ip daddr @hairpins snat to {frame.gateway} comment "to itself, by the gateway"
        ip saddr 127.0.0.0/8 oifname {bridge} snat to {frame.gateway} comment "from the loopback"
    }}
    chain refuse {{
        ip daddr {frame.service_cidr} goto reject_it
        ip daddr . meta l4proto . th dport @refused goto reject_it
        fib daddr type local meta l4proto . th dport @refused_node_ports goto reject_it
    }}
    chain reject_it {{
        meta l4proto tcp reject with tcp reset
        reject with icmp type port-unreachable
    }}
    chain refuse_forwarded {{
        type filter hook forward priority filter; policy accept;
        jump refuse
    }}
    chain refuse_arriving {{
        type filter hook input priority filter; policy accept;
        jump refuse
    }}
    chain refuse_leaving {{
        type filter hook output priority filter; policy accept;
        jump refuse
    }}
}}
"""
