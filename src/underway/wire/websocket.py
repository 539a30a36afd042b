"""The server's side of a WebSocket: the opening handshake as headers, then messages as values.

Source: RFC 6455. Framing is wsproto's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

from wsproto.connection import Connection, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from underway.base.errors import BadRequest, TooLarge

MESSAGE_LIMIT = 16 * 1024 * 1024  # bytes of one received message
NORMAL_CLOSURE, PROTOCOL_ERROR, TOO_BIG = 1000, 1002, 1009

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_KEY_BYTES = 16


def is_upgrade(headers: Mapping[str, str]) -> bool:
    """Whether a request asks for a WebSocket."""
    return headers.get("upgrade", "").strip().lower() == "websocket"


def offered_protocols(headers: Mapping[str, str]) -> list[str]:
    """The subprotocols the client speaks, in its order of preference."""
    offered = headers.get("sec-websocket-protocol", "").split(",")
    return [name.strip() for name in offered if name.strip()]


def accept(headers: Mapping[str, str], protocols: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Answer the opening handshake.

    Args:
        headers: the request's, names in lower case.
        protocols: what we speak; ``""`` among them allows a client that names none.

    Returns:
        The first protocol of the client's that is among ours, and the headers for status 101.

    Raises:
        BadRequest: the handshake is malformed, or no protocol is common to both.
    """
    if headers.get("sec-websocket-version", "").strip() != "13":
        raise BadRequest("WebSocket: only version 13 is spoken here")
    key = headers.get("sec-websocket-key", "").strip()
    try:
        valid = len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except (ValueError, binascii.Error):
        valid = False
    if not valid:
        raise BadRequest("WebSocket: Sec-WebSocket-Key is missing or malformed")
    offered = offered_protocols(headers)
    chosen = next((name for name in offered if name in protocols), None)
    if chosen is None:
        if offered or "" not in protocols:
            ours = ", ".join(name for name in protocols if name)
            raise BadRequest(f"WebSocket: no common subprotocol; spoken here: {ours}")
        chosen = ""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    answer = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": base64.b64encode(digest).decode(),
    }
    if chosen:
        answer["sec-websocket-protocol"] = chosen
    return chosen, answer


class WebSocket:
    """An open WebSocket, as the server sees it."""

    def __init__(self) -> None:
        self._connection = Connection(ConnectionType.SERVER)
        self._parts: list[bytes] = []
        self._size = 0
        self._replies = b""
        self.closed = False  # the client sent its closing frame

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes; text ones as UTF-8.

        Pings and the closing frame are answered: send ``replies()`` afterwards.

        Raises:
            BadRequest: the client broke the protocol.
            TooLarge: a message beyond MESSAGE_LIMIT.
        """
        if self.closed:
            return []
        messages: list[bytes] = []
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, BytesMessage | TextMessage):
                    self._collect(event, messages)
                elif isinstance(event, Ping):
                    with suppress(LocalProtocolError):  # our closing frame is out: no more pongs
                        self._replies += self._connection.send(event.response())
                elif isinstance(event, CloseConnection):
                    self._close(event)
                    break
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise BadRequest(f"WebSocket: {error}") from error
        return messages

    def replies(self) -> bytes:
        """What is due to the client by itself: pongs, the answer to its closing frame."""
        data, self._replies = self._replies, b""
        return data

    def message(self, data: bytes, *, text: bool = False) -> bytes:
        """A message's frame; ``text`` must be valid UTF-8."""
        if text:
            return self._connection.send(TextMessage(data.decode()))
        return self._connection.send(BytesMessage(data))

    def ping(self) -> bytes:
        """A ping's frame; empty when the connection is closed already."""
        try:
            return self._connection.send(Ping())
        except LocalProtocolError:
            return b""

    def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> bytes:
        """The closing frame; empty when the connection is closed already."""
        try:
            return self._connection.send(CloseConnection(code, reason[:120]))
        except LocalProtocolError:
            return b""

    def _collect(self, event: Message, messages: list[bytes]) -> None:  # type: ignore[type-arg]
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        self._size += len(data)
        if self._size > MESSAGE_LIMIT:
            raise TooLarge(f"WebSocket: a message beyond {MESSAGE_LIMIT} bytes")
        self._parts.append(data)
        if event.message_finished:
            messages.append(b"".join(self._parts))
            self._parts.clear()
            self._size = 0

    def _close(self, event: CloseConnection) -> None:
        self.closed = True
        with suppress(LocalProtocolError):  # this may be the answer to our own closing frame
            self._replies += self._connection.send(event.response())
