"""The pods' network on this machine: one bridge, and a namespace with one address per pod.

Every pod has a /32 address and reaches everything, its neighbours too, through the bridge's own
address. So all its packets are routed, and translated, by this machine's IP layer: a Service
works the same whether or not the bridge hands frames to netfilter.

The kernel's own state is the only record. A pod's host-side link carries the pod's uid and
address as its alias, written last; a link without one is an attachment that was cut short and is
made anew. Nothing here touches a link, sysctl, table or namespace that this platform did not make.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from underway.base.errors import Conflict, InternalError, ServiceUnavailable
from underway.linux import command, links, nft

POD_LINK = "eth0"  # the link's name inside a pod
_LOCKS = Path("/run")
_RESOLV_CONF = Path("/etc/resolv.conf")

# What a container runtime gives every pod: unprivileged users may bind low ports and ping, and
# routes are those given here, whatever a router on the way suggests.
_POD_SYSCTLS = """
set -e
cd /proc/sys/net/ipv4
echo 0 > ip_unprivileged_port_start
echo '0 2147483647' > ping_group_range
for link in all default eth0; do echo 0 > conf/$link/accept_redirects; done
"""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's place in the network: the file that names its namespace, and its IPv4 address."""

    netns: Path
    ip: str


class PodNetwork:
    """The bridge ``uw<id>`` of one platform and the pods on it. All calls block.

    Args:
        platform_id: the six characters of ``Home.id``.
        pod_cidr: the pods' addresses, such as ``10.244.0.0/24``; the first is the bridge's.
    """

    def __init__(self, platform_id: str, pod_cidr: str) -> None:
        self.bridge = f"uw{platform_id}"
        self.table = f"underway_{platform_id}"
        self.cidr = ipaddress.IPv4Network(pod_cidr)
        self.gateway = str(self.cidr[1])
        self._id = platform_id
        self._thread_lock = threading.RLock()
        self._lock_depth = 0
        self._last: ipaddress.IPv4Address | None = None
        self._ensured = False

    def ensure(self) -> None:
        """Make the bridge and the rules of this network, or mend what is missing of them.

        Raises:
            Conflict: another link of this machine has addresses in the pods' range.
        """
        with self._exclusive():
            if not links.exists(self.bridge):
                self._check_unused()
                mac = _mac(self._id)
                links.batch([f"link add {self.bridge} address {mac} type bridge forward_delay 0"])
            links.batch(
                [
                    f"link set {self.bridge} mtu {links.default_mtu()} addrgenmode none up",
                    f"link set {self.bridge} type bridge mcast_snooping 0",
                    f"address replace {self.gateway}/{self.cidr.prefixlen} dev {self.bridge}",
                ]
            )
            # Routing between pods; and answers from 127.0.0.1, where the API server listens.
            for key, value in (("forwarding", 1), ("route_localnet", 1), ("send_redirects", 0)):
                links.set_sysctl(self.bridge, key, value)
            nft.apply(self._rules())
            self._ensured = True

    def route(self, cidr: str) -> str:
        """Lead a range that only rules answer for (the Services') to this bridge.

        Packets to it have a source address and a way out even on a machine without a default
        route, and those that no rule takes end here and not on the machine's own network.

        Returns:
            The name of another link that has the same route, or empty. The machine's own processes
            then reach whichever platform's rules come first; pods reach their own.
        """
        self._ready()
        # A metric of its own, so that another platform's route to the same range is not replaced.
        metric = 1024 + int(hashlib.sha256(self._id.encode()).hexdigest()[:5], 16)
        where = f"dev {self.bridge} src {self.gateway} metric {metric}"
        links.batch([f"route replace {cidr} {where}"])
        known = [str(entry.get("dev")) for entry in links.show("-4", "route", "show", cidr)]
        return next((link for link in known if link != self.bridge), "")

    def attach(self, pod_uid: str) -> Attachment:
        """The pod's namespace and address, made if need be.

        Raises:
            ServiceUnavailable: every address is taken.
        """
        with self._exclusive():
            self._ready()
            records = self._records()
            if pod_uid in records:
                return records[pod_uid]
            netns, link = self._names(pod_uid)
            self._discard(netns, link)
            ip = self._free_address({each.ip for each in records.values()})
            try:
                self._connect(netns, link, ip)
                # Last, so that it exists only on attachments that are complete.
                alias = self._alias(pod_uid, ip)
                command.output(["ip", "link", "set", "dev", link, "alias", alias])
            except BaseException:
                self._discard(netns, link)
                raise
            return Attachment(links.NETNS_DIR / netns, ip)

    def detach(self, pod_uid: str) -> None:
        """Take the pod's link and namespace away; one that is not attached is as good."""
        with self._exclusive():
            self._discard(*self._names(pod_uid))

    def attachments(self) -> dict[str, Attachment]:
        """Every complete attachment by pod uid, whoever made it."""
        with self._exclusive():
            return self._records()

    def remove(self) -> None:
        """Take everything of this platform's network away."""
        with self._exclusive():
            for entry in links.show("link", "show"):
                if entry["ifname"].startswith(f"v{self._id}"):
                    links.delete(entry["ifname"])
            prefix = self._netns_prefix()
            for path in sorted(links.NETNS_DIR.glob(f"{prefix}*")):
                self._delete_netns(path.name)
            links.delete(self.bridge)
            nft.delete_tables([name for name in nft.tables() if name.startswith(self.table)])
            self._ensured = False
            self._lock_file().unlink(missing_ok=True)

    def _check_unused(self) -> None:
        for link, taken in links.addresses():
            if link != self.bridge and taken.overlaps(self.cidr):
                raise Conflict(
                    f"the pods' range {self.cidr} overlaps {taken} of the link {link}",
                    hint="choose another pod_cidr in settings.json",
                )

    def _ready(self) -> None:
        if not self._ensured or not links.exists(self.bridge):
            self.ensure()

    def _connect(self, netns: str, link: str, ip: str) -> None:
        command.output(["ip", "netns", "add", netns])
        mtu = links.default_mtu()
        links.batch(
            [
                f"link add {link} mtu {mtu} type veth peer name {POD_LINK} mtu {mtu} netns {netns}",
                f"link set {link} addrgenmode none master {self.bridge} up",
                # A pod that reaches itself through its Service gets the frame back on its port.
                f"link set {link} type bridge_slave hairpin on",
            ]
        )
        links.batch(
            [
                "link set lo up",
                f"link set {POD_LINK} addrgenmode none up",
                f"address add {ip}/32 dev {POD_LINK}",
                f"route add {self.gateway} dev {POD_LINK} scope link",
                f"route add default via {self.gateway} dev {POD_LINK}",
            ],
            netns=netns,
        )
        command.output(["ip", "netns", "exec", netns, "sh", "-c", _POD_SYSCTLS])

    def _discard(self, netns: str, link: str) -> None:
        links.delete(link)  # first: processes may keep the namespace alive beyond its name
        self._delete_netns(netns)

    def _delete_netns(self, netns: str) -> None:
        path = links.NETNS_DIR / netns
        if not path.exists():
            return
        try:
            command.output(["ip", "netns", "delete", netns])
        except InternalError:
            # Cut short between making the file and mounting on it: a plain file remains.
            path.unlink(missing_ok=True)

    def _records(self) -> dict[str, Attachment]:
        found: dict[str, Attachment] = {}
        if not links.exists(self.bridge):
            return found
        for entry in links.show("link", "show", "master", self.bridge):
            magic, _, rest = str(entry.get("ifalias", "")).partition(" ")
            pod_uid, _, ip = rest.rpartition(" ")
            netns = links.NETNS_DIR / self._names(pod_uid)[0]
            if magic == self.table and netns.exists():
                found[pod_uid] = Attachment(netns, ip)
        return found

    def _alias(self, pod_uid: str, ip: str) -> str:
        return f"{self.table} {pod_uid} {ip}"

    def _names(self, pod_uid: str) -> tuple[str, str]:
        """Namespace and host-side link of a pod; link names have at most 15 characters."""
        short = hashlib.sha256(pod_uid.encode()).hexdigest()[:8]
        return f"{self._netns_prefix()}{short}", f"v{self._id}{short}"

    def _netns_prefix(self) -> str:
        return f"uw-{self._id}-"

    def _free_address(self, taken: set[str]) -> str:
        """The next free address after the last one given, so that none is reused at once."""
        first, last = self.cidr[2], self.cidr[-2]
        if self._last is None:
            known = [ipaddress.IPv4Address(ip) for ip in taken]
            self._last = max([ip for ip in known if ip in self.cidr], default=self.cidr[1])
        candidate = self._last
        for _ in range(int(last) - int(first) + 1):
            candidate = candidate + 1 if candidate < last else first
            if str(candidate) not in taken:
                self._last = candidate
                return str(candidate)
        raise ServiceUnavailable(
            f"no free address in {self.cidr}: {len(taken)} pods are attached",
            hint="delete pods, or start a platform with a larger pod_cidr",
        )

    def _rules(self) -> str:
        bridge = f'"{self.bridge}"'
        return f"""
table ip {self.table}
delete table ip {self.table}
table ip {self.table} {{
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname {bridge} ip saddr != {self.cidr} drop comment "pods speak for themselves only"
        iifname {bridge} ip daddr 127.0.0.0/8 drop comment "the machine's loopback is its own"
        iifname != {{ "lo", {bridge} }} ip daddr {self.gateway} drop comment "reached by pods only"
    }}
    chain quiet {{
        type filter hook output priority filter; policy accept;
        oifname {bridge} icmp type redirect drop comment "every pod's way leads through here"
    }}
    chain leave {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {self.cidr} oifname != {{ "lo", {bridge} }} masquerade
    }}
}}
"""

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One change at a time, among this process's threads and among processes."""
        with self._thread_lock:
            if self._lock_depth:
                yield
                return
            descriptor = os.open(self._lock_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._lock_depth = 1
                yield
            finally:
                self._lock_depth = 0
                os.close(descriptor)

    def _lock_file(self) -> Path:
        return _LOCKS / f"{self.table}.lock"


def _mac(platform_id: str) -> str:
    """A locally administered address, fixed so that it does not change as pods come and go."""
    digest = hashlib.sha256(platform_id.encode()).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def free_pod_cidr(taken_hint: Iterable[str] = ()) -> str:
    """A 10.244.X.0/24 that no route or address of this machine, nor ``taken_hint``, overlaps.

    Raises:
        ServiceUnavailable: all 256 are taken.
    """
    return _free((f"10.244.{third}.0/24" for third in range(256)), taken_hint)


def claim(platform_id: str, pod_cidr: str, service_cidr: str = "") -> tuple[str, str]:
    """Take a platform's ranges: make its bridge and its Services' route, one platform at a time.

    Args:
        platform_id: the six characters of ``Home.id``.
        pod_cidr: the range it had; replaced by a free one if its bridge is gone and somebody
            else has taken the range.
        service_cidr: the range it has for good; empty to choose a free one.

    Returns:
        The pods' and the Services' range.

    Raises:
        ServiceUnavailable: no range is free.
    """
    with (_LOCKS / "underway_claim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not links.exists(PodNetwork(platform_id, pod_cidr).bridge):
            wanted = ipaddress.IPv4Network(pod_cidr)
            if any(wanted.overlaps(other) for other in links.networks_in_use()):
                pod_cidr = free_pod_cidr()
        service_cidr = service_cidr or free_service_cidr()
        network = PodNetwork(platform_id, pod_cidr)
        network.ensure()
        network.route(service_cidr)
    return pod_cidr, service_cidr


def free_service_cidr(taken_hint: Iterable[str] = ()) -> str:
    """A 10.X.0.0/16, X from 96 to 127, that nothing on this machine overlaps.

    Raises:
        ServiceUnavailable: all are taken.
    """
    return _free((f"10.{second}.0.0/16" for second in range(96, 128)), taken_hint)


def _free(candidates: Iterable[str], taken_hint: Iterable[str]) -> str:
    taken = [ipaddress.IPv4Network(text, strict=False) for text in taken_hint]
    taken += links.networks_in_use()
    taken += [ipaddress.IPv4Network(server) for server in _nameservers()]
    for candidate in candidates:
        network = ipaddress.IPv4Network(candidate)
        if not any(network.overlaps(other) for other in taken):
            return candidate
    raise ServiceUnavailable(
        "every network a platform may use overlaps one of this machine's routes",
        hint="name a free one in settings.json: pod_cidr, service_cidr",
    )


def _nameservers() -> list[ipaddress.IPv4Address]:
    found = []
    with contextlib.suppress(OSError):
        for line in _RESOLV_CONF.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    found.append(ipaddress.IPv4Address(words[1]))
    return found


def egress_problem() -> str | None:
    """Why pods cannot reach beyond the machine, or None where nothing is in their way."""
    device = links.default_device()
    if not device:
        return "there is no default route: pods reach only the cluster"
    if not links.get_sysctl(device, "forwarding"):
        return f"net.ipv4.conf.{device}.forwarding (ip_forward) is 0: pods reach only the cluster"
    chains = nft.dropping_forward_chains()
    if chains:
        return f"the machine's firewall drops forwarded packets by default ({', '.join(chains)})"
    return None
