"""The vocabulary of remote command and port-forward: protocols, channels and the final Status.

Source: kubernetes/apimachinery ``pkg/util/remotecommand``, kubernetes/apiserver ``wsstream``,
Kubernetes ``pkg/apis/core`` (``StreamType`` and the header names).
"""

from __future__ import annotations

import base64
import binascii
import enum
from typing import Any

import msgspec

from underway.base.errors import BadRequest

STREAM_PROTOCOL_HEADER = "x-stream-protocol-version"
ACCEPTED_PROTOCOLS_HEADER = "x-accepted-stream-protocol-versions"
STREAM_TYPE, PORT, REQUEST_ID = "streamtype", "port", "requestid"  # headers of SPDY streams

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
COMMAND_PROTOCOLS = (V5, V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
BASE64_PROTOCOLS = ("v4.base64.channel.k8s.io", "base64.channel.k8s.io")
PORT_FORWARD = "portforward.k8s.io"
PORT_FORWARD_TUNNEL = "SPDY/3.1+portforward.k8s.io"

_STATUS_PROTOCOLS = frozenset({V5, V4, BASE64_PROTOCOLS[0]})  # the older ones end with plain text


class Channel(enum.IntEnum):
    """The first byte of a WebSocket message, in digits for the base64 protocols.

    ``CLOSE`` (v5) is followed by the channel that ends.
    """

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4
    CLOSE = 255


def encode_message(protocol: str, channel: int, data: bytes) -> bytes:
    """A WebSocket message of ``protocol``; of a base64 one, as ASCII text."""
    if protocol in BASE64_PROTOCOLS:
        return b"%d" % channel + base64.b64encode(data)
    return bytes([channel]) + data


def decode_message(protocol: str, message: bytes) -> tuple[int, bytes]:
    """Channel and data of a message.

    Raises:
        BadRequest: it is empty, or no base64 where that belongs.
    """
    if not message:
        raise BadRequest("a stream message without a channel")
    if protocol not in BASE64_PROTOCOLS:
        return message[0], message[1:]
    try:
        return int(message[:1]), base64.b64decode(message[1:], validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadRequest("a stream message that is no base64") from error


def exit_status(code: int) -> dict[str, Any]:
    """The ``Status`` for a process that ended with ``code``."""
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
    if code == 0:
        return {**status, "status": "Success"}
    return {
        **status,
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def final_message(protocol: str, status: dict[str, Any]) -> bytes:
    """What goes out last on the error channel; empty for success in the oldest protocols."""
    if protocol in _STATUS_PROTOCOLS:
        return msgspec.json.encode(status)
    return b"" if status.get("status") == "Success" else str(status.get("message", "")).encode()


def decode_resize(text: bytes) -> tuple[int, int]:
    """Width and height, in characters, of a resize message.

    Raises:
        BadRequest: it is no terminal size.
    """
    try:
        size = msgspec.json.decode(text, type=dict[str, int])
        width, height = size["Width"], size["Height"]
    except (msgspec.MsgspecError, KeyError) as error:
        raise BadRequest("no terminal size in a resize message") from error
    if not (0 <= width < 2**16 and 0 <= height < 2**16):
        raise BadRequest("a terminal size out of range")
    return width, height
