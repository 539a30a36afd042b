"""nftables through ``nft``: scripts are applied whole or not at all.

Source: nft(8); linux/netfilter/nfnetlink.h and nf_tables.h for the notifications.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator

from underway.base.errors import InternalError
from underway.linux import command

_APPLY_TIMEOUT_S = 60


def apply(script: str) -> None:
    """Make all the changes of a script in one transaction.

    Raises:
        InternalError: the kernel or the parser refused it; nothing changed.
    """
    command.output(["nft", "-f", "-"], script, timeout_s=_APPLY_TIMEOUT_S)


def tables() -> list[str]:
    """Names of this namespace's tables of family ``ip``."""
    listed = json.loads(command.output(["nft", "-j", "list", "tables", "ip"]))
    return [entry["table"]["name"] for entry in listed["nftables"] if "table" in entry]


def delete_tables(names: list[str]) -> None:
    """Remove tables of family ``ip`` in one transaction; missing ones are as good."""
    present = set(tables())
    script = "".join(f"delete table ip {name}\n" for name in names if name in present)
    if script:
        apply(script)


def dropping_forward_chains() -> list[str]:
    """Chains of this machine that drop forwarded IPv4 packets no rule accepts (``ip/filter/X``)."""
    try:
        listed = json.loads(command.output(["nft", "-j", "list", "chains"]))
    except InternalError:
        return []
    found = []
    for entry in listed["nftables"]:
        chain = entry.get("chain", {})
        drops = chain.get("hook") == "forward" and chain.get("policy") == "drop"
        if drops and chain["family"] in ("ip", "inet"):
            found.append(f"{chain['family']}/{chain['table']}/{chain['name']}")
    return found


class TableLoss:
    """A socket that becomes readable when a table of this network namespace is deleted.

    Raises:
        OSError: on construction, where the kernel has no nfnetlink.
    """

    _NETLINK_NETFILTER = 12
    _GROUP_NFTABLES = 1 << 6  # NFNLGRP_NFTABLES is 7; groups count from one
    _DELETE_TABLE = (10 << 8) | 2  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
    _ATTR_NAME = 1
    _HEADERS_BYTES = 16 + 4  # nlmsghdr, nfgenmsg

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, self._NETLINK_NETFILTER)
        try:
            self._socket.bind((0, self._GROUP_NFTABLES))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def deleted(self) -> set[str] | None:
        """Names of the tables deleted since the last call; None where some went unheard."""
        names: set[str] = set()
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                return names
            except OSError:  # ENOBUFS: the kernel had more to say than the socket could hold
                return None
            names.update(self._names(data))

    def _names(self, data: bytes) -> Iterator[str]:
        offset = 0
        while offset + self._HEADERS_BYTES <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            if length < self._HEADERS_BYTES:
                return
            if kind == self._DELETE_TABLE:
                attributes = data[offset + self._HEADERS_BYTES : offset + length]
                yield from self._name(attributes)
            offset += (length + 3) & ~3

    def _name(self, attributes: bytes) -> Iterator[str]:
        offset = 0
        while offset + 4 <= len(attributes):
            length, kind = struct.unpack_from("=HH", attributes, offset)
            if length < 4:
                return
            if kind & 0x3FFF == self._ATTR_NAME:
                yield attributes[offset + 4 : offset + length].rstrip(b"\0").decode()
            offset += (length + 3) & ~3
