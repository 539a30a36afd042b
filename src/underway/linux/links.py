"""Links, addresses and routes through iproute2 (``ip``), in this or a named network namespace."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from underway.base.errors import InternalError
from underway.linux import command

NETNS_DIR = Path("/run/netns")
_SYSCTL = Path("/proc/sys/net/ipv4/conf")
_ETHERNET_MTU = 1500  # bytes


def show(*args: str) -> list[dict[str, Any]]:
    """The objects ``ip -json ARGS`` prints; ``args`` is such as ``-4 route show``."""
    text = command.output(["ip", "-json", "-details", *args])
    # Where a list is empty, some versions print nothing and some print empty objects.
    return [entry for entry in json.loads(text or "[]") if entry]


def batch(lines: Iterable[str], *, netns: str = "") -> None:
    """Run ``ip`` commands in one process, in order, stopping at the first that fails.

    Raises:
        InternalError: one failed; those before it took effect.
    """
    where = ["-netns", netns] if netns else []
    command.output(["ip", *where, "-batch", "-"], "".join(f"{line}\n" for line in lines))


def delete(name: str) -> None:
    """Remove a link of ours; one that is not there is as good."""
    if not exists(name):
        return
    try:
        command.output(["ip", "link", "delete", name])
    except InternalError:
        if exists(name):
            raise


def exists(name: str) -> bool:
    """Whether this namespace has a link of that name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def set_sysctl(link: str, key: str, value: int) -> None:
    """Set ``net.ipv4.conf.LINK.KEY``; only ever called for links of our own."""
    (_SYSCTL / link / key).write_text(f"{value}\n")


def get_sysctl(link: str, key: str) -> int:
    """``net.ipv4.conf.LINK.KEY``."""
    return int((_SYSCTL / link / key).read_text())


def default_device() -> str:
    """The link of the IPv4 default route with the lowest metric, or empty."""
    routes = [route for route in show("-4", "route", "show", "default") if route.get("dev")]
    routes.sort(key=lambda route: int(route.get("metric", 0)))
    return str(routes[0]["dev"]) if routes else ""


def default_mtu() -> int:
    """The largest packet, in bytes, that leaves the machine whole."""
    device = default_device()
    if not device:
        return _ETHERNET_MTU
    found = show("link", "show", "dev", device)
    return int(found[0].get("mtu", _ETHERNET_MTU)) if found else _ETHERNET_MTU


def addresses() -> list[tuple[str, ipaddress.IPv4Network]]:
    """The networks this machine has an IPv4 address in, each with its link's name."""
    return [
        (str(link["ifname"]), _network(f"{address['local']}/{address['prefixlen']}"))
        for link in show("-4", "address", "show")
        for address in link.get("addr_info", ())
    ]


def networks_in_use() -> list[ipaddress.IPv4Network]:
    """Every IPv4 network a route or an address of this machine covers, but the default route."""
    routes = (str(route.get("dst", "")) for route in show("-4", "route", "show", "table", "all"))
    found = [_network(target) for target in routes if target not in ("", "default")]
    return found + [network for _, network in addresses()]


def _network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text, strict=False)
