"""Addresses for nodes and pods that have none: each but once, and the same as long as it lives."""

from __future__ import annotations

import ipaddress

from underway.base.errors import ServiceUnavailable

NODES = "100.64.0.0/12"  # RFC 6598: shared addresses, not the machine's own networks
PODS = "10.128.0.0/9"  # of nodes that have no podCIDR


class Pool:
    """The addresses of one network, but its first and its last."""

    def __init__(self, network: str) -> None:
        self._network = ipaddress.ip_network(network, strict=False)
        self._next = 1
        self._free: list[str] = []
        self._taken: set[str] = set()

    def take(self) -> str:
        """An address that nobody has.

        Raises:
            ServiceUnavailable: all are taken.
        """
        while self._free:
            address = self._free.pop()
            if address not in self._taken:
                self._taken.add(address)
                return address
        while self._next < self._network.num_addresses - 1:
            address = str(self._network[self._next])
            self._next += 1
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise ServiceUnavailable(f"all addresses of {self._network} are taken")

    def mark(self, address: str) -> None:
        """Somebody has this address already."""
        self._taken.add(address)

    def release(self, address: str) -> None:
        """Nobody has it any more."""
        if address in self._taken:
            self._taken.remove(address)
            self._free.append(address)


class Addresses:
    """Who has which address, by the owner's name or UID."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._owners: dict[str, tuple[str, str]] = {}

    def take(self, owner: str, network: str) -> str:
        """The owner's address; a new one in the network if it has none."""
        if owner not in self._owners:
            self._owners[owner] = network, self._pool(network).take()
        return self._owners[owner][1]

    def mark(self, owner: str, network: str, address: str) -> None:
        """The owner was seen to have an address."""
        known = self._owners.get(owner)
        if known is None or known[1] != address:
            self.release(owner)
            self._pool(network).mark(address)
            self._owners[owner] = network, address

    def release(self, owner: str) -> None:
        """The owner is gone."""
        known = self._owners.pop(owner, None)
        if known is not None:
            self._pool(known[0]).release(known[1])

    def _pool(self, network: str) -> Pool:
        if network not in self._pools:
            self._pools[network] = Pool(network)
        return self._pools[network]
