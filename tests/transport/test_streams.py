"""Remote command, port-forward and the tunnel against clients other than kubectl."""

import asyncio
import base64
import contextlib
import json
import os

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from underway.base.errors import BadRequest, Forbidden, NotFound, ServiceUnavailable
from underway.transport.bytestreams import SocketStream, dial
from underway.transport.front import serve
from underway.transport.streams import port_forward, remote_command
from underway.transport.tunnel import tunnel
from underway.wire import spdy
from underway.wire.http import Request, Response, json_response

HANDSHAKE = [
    "Host: x",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


@contextlib.asynccontextmanager
async def websocket_to(port, target, protocol):
    """(receive, send) of an open WebSocket; receive returns a message, None at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {target} HTTP/1.1", *HANDSHAKE]
    lines += [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 101 "), head + await reader.read(1000)
    connection = Connection(ConnectionType.CLIENT)

    async def messages():
        while data := await asyncio.wait_for(reader.read(65536), 10):
            connection.receive_data(data)
            for event in connection.events():
                if isinstance(event, CloseConnection):
                    writer.write(connection.send(event.response()))
                    yield event.code
                else:
                    yield event.data

    received = messages()

    async def receive():
        return await anext(received, None)

    def send(event):
        writer.write(connection.send(event))

    try:
        yield receive, send
    finally:
        writer.close()


def run(test, handler):
    async def main():
        async with await serve(handler) as server:
            return await asyncio.wait_for(test(server.port), 30)

    return asyncio.run(main())


async def shout(streams):
    async for data in streams.stdin:
        await streams.write_stdout(data.upper())
    return 7


async def command(request):
    return remote_command(request, shout)


@pytest.mark.parametrize("protocol", ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"])
def test_base64_protocols_carry_text_messages(protocol):
    async def test(port):
        async with websocket_to(port, "/exec?stdin=true&stdout=true", protocol) as (receive, send):
            assert await receive() == "1"
            send(TextMessage("0" + base64.b64encode(b"abc").decode()))
            assert await receive() == "1" + base64.b64encode(b"ABC").decode()

    run(test, command)


def test_v5_clients_end_stdin_and_get_the_exit_code_and_a_clean_close():
    async def test(port):
        target = "/exec?input=1&output=1"
        async with websocket_to(port, target, "v5.channel.k8s.io") as (receive, send):
            assert await receive() == b"\x01"
            send(BytesMessage(b"\x00hello"))
            assert await receive() == b"\x01HELLO"
            send(BytesMessage(b"\xff\x00"))
            message = await receive()
            assert message[0] == 3
            status = json.loads(message[1:])
            assert status["details"]["causes"][0]["message"] == "7"
            assert await receive() == 1000
            assert await receive() is None

    run(test, command)


def test_a_malformed_message_ends_the_command_cleanly(caplog):
    async def test(port):
        target = "/exec?stdin=1&stdout=1"
        async with websocket_to(port, target, "v4.channel.k8s.io") as (receive, send):
            assert await receive() == b"\x01"
            send(BytesMessage(b""))
            assert await receive() in {1002, None}

    run(test, command)
    assert "Traceback" not in caplog.text


def test_what_a_command_raises_becomes_its_status(caplog):
    async def handler(request):
        async def fail(_streams):
            if "secret" in request.query:
                raise ValueError("swordfish")
            raise NotFound("no container x")

        return remote_command(request, fail)

    async def test(port):
        for query, reason in (("stdout=1", "NotFound"), ("stdout=1&secret", "InternalError")):
            async with websocket_to(port, f"/?{query}", "v4.channel.k8s.io") as (receive, _):
                await receive()
                message = await receive()
                assert json.loads(message[1:])["reason"] == reason
                assert b"swordfish" not in message

    run(test, handler)


def test_requests_without_a_usable_upgrade_are_refused():
    with pytest.raises(BadRequest, match="at least 1 of"):
        remote_command(Request("POST", "/exec", "command=ls"), shout)
    with pytest.raises(BadRequest, match="needs an upgrade"):
        remote_command(Request("POST", "/exec", "stdout=1"), shout)
    headers = {"upgrade": "SPDY/3.1", "x-stream-protocol-version": "v9.channel.k8s.io"}
    with pytest.raises(Forbidden, match="negotiate"):
        remote_command(Request("POST", "/exec", "stdout=1", headers), shout)
    with pytest.raises(BadRequest, match="needs an upgrade"):
        port_forward(Request("POST", "/portforward"), dial)


async def spdy_to(port, protocol):
    stream = await dial("127.0.0.1", port)
    lines = ["POST /x?stdin=1&stdout=1 HTTP/1.1", "Host: x", "Content-Length: 0"]
    lines += ["Upgrade: SPDY/3.1", "Connection: Upgrade", f"X-Stream-Protocol-Version: {protocol}"]
    await stream.write("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.read()
    assert head.startswith(b"HTTP/1.1 101 ")
    return stream


def test_a_flow_controlled_spdy_peer_is_heeded():
    """A peer that opens windows of 1000 bytes gets no more than it granted."""

    async def flood(streams):
        await streams.write_stdout(b"x" * 5000)
        return 0

    async def handler(request):
        return remote_command(request, flood)

    async def test(port):
        stream = await spdy_to(port, "v4.channel.k8s.io")
        encoder, decoder = spdy.FrameEncoder(), spdy.FrameDecoder()
        frames = [spdy.Settings({spdy.Setting.INITIAL_WINDOW_SIZE: 1000})]
        for stream_id, kind in ((1, "error"), (3, "stdin"), (5, "stdout")):
            frames.append(spdy.SynStream(stream_id, {"streamtype": kind}))
        await stream.write(b"".join(encoder.encode(frame) for frame in frames))
        received, granted, status, done = 0, 1000, b"", False
        while not done:
            for frame in decoder.feed(await asyncio.wait_for(stream.read(), 10)):
                if isinstance(frame, spdy.Data) and frame.stream_id == 5:
                    received += len(frame.data)
                    assert received <= granted
                    if received == granted:
                        granted += 1000
                        await stream.write(encoder.encode(spdy.WindowUpdate(5, 1000)))
                elif isinstance(frame, spdy.Data):
                    status += frame.data
                    done = frame.fin
        assert received == 5000
        assert json.loads(status)["status"] == "Success"
        stream.close()

    run(test, handler)


@pytest.mark.parametrize(
    "garbage",
    [os.urandom(100), b"\x80\x03\x00\x01\x00\xff\xff\xff", b"\x80\x02\x00\x06" + b"\0" * 8],
)
def test_a_spdy_peer_that_talks_nonsense_is_dropped(garbage, caplog):
    async def test(port):
        stream = await spdy_to(port, "v4.channel.k8s.io")
        await stream.write(garbage + b"\xff" * 100_000)
        stream.write_eof()
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(stream.read(), 10):
                pass
        stream.close()

    run(test, command)
    assert "Traceback" not in caplog.text


def test_the_tunnel_passes_answers_on_without_the_users_credentials():
    async def lines():
        yield b"one\n"
        yield b"two\n"

    async def behind(request):
        if request.path == "/logs":
            return Response(headers={"content-type": "text/plain"}, body=lines())
        return json_response(
            {"path": request.path, "query": request.query, "headers": dict(request.headers)}, 418
        )

    async def test(port):
        headers = {"authorization": "Bearer secret", "host": "front", "x-kept": "1"}
        answer = await tunnel(
            Request("GET", "/api/x", "a=b", headers),
            *("127.0.0.1", port, None, "/there", "c=d"),
            headers={"X-Added": "2"},
        )
        assert answer.status == 418
        seen = json.loads(await answer.read())
        assert (seen["path"], seen["query"]) == ("/there", "c=d")
        assert "authorization" not in seen["headers"]
        assert (seen["headers"]["x-kept"], seen["headers"]["x-added"]) == ("1", "2")
        answer = await tunnel(Request("GET", "/"), "127.0.0.1", port, None, "/logs")
        assert await answer.read() == b"one\ntwo\n"

    run(test, behind)


def test_a_tunnel_to_nowhere_says_so():
    async def main():
        with pytest.raises(ServiceUnavailable, match=r"cannot connect to 127\.0\.0\.1:1"):
            await tunnel(Request("GET", "/"), "127.0.0.1", 1, None, "/")

        async def hang_up(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ServiceUnavailable, match="closed the connection"):
                await tunnel(Request("GET", "/"), "127.0.0.1", port, None, "/")

    asyncio.run(main())


def test_an_upgrade_through_the_tunnel_carries_half_closes():
    async def upgraded(stream):
        received = b""
        while data := await stream.read():
            received += data
        await stream.write(received[::-1])
        stream.write_eof()

    async def behind(_request):
        return Response(101, {"upgrade": "reverse"}, upgrade=upgraded)

    async def test(port):
        async def front(request):
            return await tunnel(request, "127.0.0.1", port, None, request.path)

        async with await serve(front) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: reverse\r\n")
            writer.write(b"Connection: Upgrade\r\n\r\nabc")
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            stream = SocketStream(reader, writer)
            await stream.write(b"def")
            stream.write_eof()
            assert await asyncio.wait_for(reader.read(), 10) == b"fedcba"
            writer.close()

    run(test, behind)
