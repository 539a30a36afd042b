"""WebSocket: the handshake and messages, against wsproto's own client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong

from underway.base.errors import BadRequest, TooLarge
from underway.wire import websocket

HANDSHAKE = {
    "upgrade": "WebSocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "v9.channel.k8s.io, v5.channel.k8s.io,v4.channel.k8s.io",
}


def test_the_handshake_answers_as_the_specification_shows():
    chosen, headers = websocket.accept(HANDSHAKE, ["v4.channel.k8s.io", "v5.channel.k8s.io"])
    assert chosen == "v5.channel.k8s.io"
    assert headers == {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # RFC 6455 section 1.3
        "sec-websocket-protocol": "v5.channel.k8s.io",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sec-websocket-version": "8"}, "version 13"),
        ({"sec-websocket-key": "short"}, "Sec-WebSocket-Key"),
        ({"sec-websocket-protocol": "chat"}, "no common subprotocol; spoken here: v4"),
        ({"sec-websocket-protocol": ""}, "no common subprotocol"),
    ],
)
def test_a_handshake_that_cannot_be_accepted_says_why(change, message):
    with pytest.raises(BadRequest, match=message):
        websocket.accept(HANDSHAKE | change, ["v4"])


def test_a_client_without_subprotocol_is_accepted_where_that_is_allowed():
    chosen, headers = websocket.accept(HANDSHAKE | {"sec-websocket-protocol": ""}, ["v4", ""])
    assert chosen == ""
    assert "sec-websocket-protocol" not in headers


def test_fragmented_messages_pings_and_the_close_are_handled():
    client, server = Connection(ConnectionType.CLIENT), websocket.WebSocket()
    data = client.send(BytesMessage(b"ab", message_finished=False))
    assert server.feed(data) == []
    data = (
        client.send(BytesMessage(b"cd"))
        + client.send(Ping(b"x"))
        + client.send(CloseConnection(1000))
    )
    assert server.feed(data) == [b"abcd"]
    assert server.closed
    client.receive_data(server.replies())
    kinds = [type(event) for event in client.events()]
    assert kinds == [Pong, CloseConnection]
    assert server.replies() == b""
    assert server.feed(b"more") == []


def test_what_the_server_sends_the_client_understands():
    client, server = Connection(ConnectionType.CLIENT), websocket.WebSocket()
    client.receive_data(server.message(b"\x01out") + server.message(b"1abc", text=True))
    client.receive_data(server.close(1002, "because"))
    binary, text, close = client.events()
    assert (bytes(binary.data), text.data, close.code) == (b"\x01out", "1abc", 1002)
    assert server.close() == b""


def test_a_message_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(websocket, "MESSAGE_LIMIT", 1000)
    client, server = Connection(ConnectionType.CLIENT), websocket.WebSocket()
    with pytest.raises(TooLarge):
        server.feed(client.send(BytesMessage(b"x" * 1001)))


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_malformed_bytes_raise_bad_request_and_nothing_else(pieces):
    server = websocket.WebSocket()
    try:
        for piece in pieces:
            server.feed(piece)
    except BadRequest:
        pass
