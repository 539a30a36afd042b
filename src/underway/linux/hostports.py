"""Ports of this machine that lead to pods, by nftables. All calls block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from underway.base.errors import Conflict
from underway.linux import nft


@dataclass(frozen=True, slots=True)
class HostPort:
    """One port; ``address`` is the machine's address it is for, empty for all of them."""

    protocol: str
    address: str
    port: int
    target: str
    target_port: int


class HostPorts:
    """The table ``underway_ID_hostports`` of one platform.

    Args:
        platform_id: the six characters of ``Home.id``.
        bridge: the link that pods are behind.
        holder_of: process id and name of whoever listens on a TCP port of this machine.
    """

    def __init__(
        self, platform_id: str, bridge: str, holder_of: Callable[[int], tuple[int, str] | None]
    ) -> None:
        self.table = f"underway_{platform_id}_hostports"
        self._bridge = bridge
        self._holder_of = holder_of
        self._known = False  # whether the table is this object's doing
        self._ports: dict[str, tuple[HostPort, ...]] = {}
        self._lock = threading.Lock()

    def set(self, pod_uid: str, ports: Iterable[HostPort]) -> None:
        """Lead these ports to a pod, and no others.

        Raises:
            Conflict: a port is taken; the message says by whom.
        """
        wanted = tuple(ports)
        with self._lock:
            if self._ports.get(pod_uid, ()) == wanted and (wanted or self._known):
                return
            for each in wanted:
                self._check(pod_uid, each)
            if wanted:
                self._ports[pod_uid] = wanted
            else:
                self._ports.pop(pod_uid, None)
            if self._ports:
                nft.apply(self._rules())
            else:
                nft.delete_tables([self.table])
            self._known = True

    def _check(self, pod_uid: str, wanted: HostPort) -> None:
        for uid, ports in self._ports.items():
            for each in ports:
                same = (each.protocol, each.port) == (wanted.protocol, wanted.port)
                if uid != pod_uid and same and _overlap(each.address, wanted.address):
                    raise Conflict(f"host port {wanted.port} is taken by the pod {each.target}")
        if wanted.protocol != "tcp" or wanted in self._ports.get(pod_uid, ()):
            return
        if holder := self._holder_of(wanted.port):
            raise Conflict(f"host port {wanted.port} is taken by process {holder[0]} ({holder[1]})")

    def _rules(self) -> str:
        lines = "\n".join(
            f"        {_match(each)} {each.protocol} dport {each.port} "
            f"dnat to {each.target}:{each.target_port}"
            for ports in self._ports.values()
            for each in ports
        )
        bridge = f'"{self._bridge}"'
        return f"""
table ip {self.table}
delete table ip {self.table}
table ip {self.table} {{
    chain ports {{
{lines}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump ports
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        fib daddr type local jump ports
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname {bridge} ip saddr 127.0.0.0/8 masquerade comment "pods answer the bridge"
    }}
}}
"""


def _match(port: HostPort) -> str:
    return f"ip daddr {port.address}" if port.address else "meta l4proto " + port.protocol


def _overlap(one: str, other: str) -> bool:
    return not one or not other or one == other
