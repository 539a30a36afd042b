"""Forgetting connections the kernel tracks.

UDP has no end of connection: a client that keeps sending from one port stays tied to an endpoint
that has gone, until its entry is deleted.

Source: linux/netfilter/nfnetlink_conntrack.h, nfnetlink.h, netlink(7).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from underway.base.errors import InternalError

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID = 1, 2, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SRC, _IP_DST = 1, 2
_PROTO_NUM, _PROTO_DST = 1, 3
_TIMEOUT_S = 10
_ENOENT = 2

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Flow:
    """One tracked UDP flow: where it was sent to, and who answers it.

    ``original`` and ``id`` are the attributes the kernel names it by.
    """

    sent_to: Address
    answered_by: str
    original: bytes
    id: bytes


def forget_udp(unwanted: Callable[[Flow], bool]) -> int:
    """Delete the tracked UDP flows that ``unwanted`` says yes to.

    Returns:
        How many were deleted.

    Raises:
        InternalError: the kernel refused to list or delete.
    """
    count = 0
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(_TIMEOUT_S)
            netlink.bind((0, 0))
            for flow in list(_flows(netlink)):
                if unwanted(flow):
                    count += _delete(netlink, flow)
    except OSError as error:
        raise InternalError(f"cannot drop tracked UDP flows: {error}") from error
    return count


def _flows(netlink: socket.socket) -> Iterator[Flow]:
    netlink.send(_message(_GET, _REQUEST | _DUMP, b""))
    while True:
        for kind, payload in _messages(netlink.recv(1 << 20)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                _check(payload)
                return
            flow = _flow(dict(_attributes(payload[4:])))
            if flow is not None:
                yield flow


def _flow(attributes: dict[int, bytes]) -> Flow | None:
    try:
        original, reply = attributes[_CTA_TUPLE_ORIG], attributes[_CTA_TUPLE_REPLY]
        there, back = dict(_attributes(original)), dict(_attributes(reply))
        protocol = dict(_attributes(there[_TUPLE_PROTO]))
        if protocol[_PROTO_NUM][0] != socket.IPPROTO_UDP:
            return None
        sent_to = str(ipaddress.IPv4Address(dict(_attributes(there[_TUPLE_IP]))[_IP_DST]))
        answered_by = str(ipaddress.IPv4Address(dict(_attributes(back[_TUPLE_IP]))[_IP_SRC]))
        (port,) = struct.unpack("!H", protocol[_PROTO_DST])
    except (KeyError, ValueError, struct.error):
        return None
    return Flow((sent_to, port), answered_by, original, attributes.get(_CTA_ID, b""))


def _delete(netlink: socket.socket, flow: Flow) -> int:
    # The id makes sure that it is this flow and not a later one between the same ports.
    body = _attribute(_CTA_TUPLE_ORIG | 0x8000, flow.original)
    if flow.id:
        body += _attribute(_CTA_ID, flow.id)
    netlink.send(_message(_DELETE, _REQUEST | _ACK, body))
    for kind, payload in _messages(netlink.recv(1 << 16)):
        if kind == _ERROR:
            return _check(payload)
    return 0


def _check(payload: bytes) -> int:
    (code,) = struct.unpack_from("=i", payload)
    if code not in (0, -_ENOENT):
        raise OSError(-code, "netlink")
    return 1 if code == 0 else 0


def _message(kind: int, flags: int, body: bytes) -> bytes:
    family = struct.pack("=BBH", socket.AF_INET, 0, 0)
    length = 16 + len(family) + len(body)
    return struct.pack("=IHHII", length, kind, flags, 1, 0) + family + body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            return
        yield kind, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    padding = b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
