"""The HTTP front over real sockets."""

import asyncio
import gzip
import json
import socket
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from underway.base.clock import FakeClock
from underway.base.errors import Conflict, Invalid, TooManyRequests
from underway.transport.front import Limits, serve
from underway.wire.http import Request, Response, json_response


async def echo(request: Request) -> Response:
    body = await request.read()
    return json_response(
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": dict(request.headers),
            "body": body.decode("latin-1"),
            "whole": isinstance(request.body, bytes),
        }
    )


async def talk(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if half_close:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
    status_line, *lines = head.strip().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while True:
            size = int(await asyncio.wait_for(reader.readuntil(b"\r\n"), 10), 16)
            piece = await reader.readexactly(size + 2)
            if not size:
                break
            body += piece[:-2]
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    return int(status_line.split()[1]), headers, body


def get(path: str = "/", *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


CLOSE = "Connection: close"


def with_server(test, handler=echo, **options):
    async def main():
        async with await serve(handler, **options) as server:
            return await asyncio.wait_for(test(server), 30)

    return asyncio.run(main())


def test_requests_of_one_connection_are_answered_in_order_even_when_pipelined():
    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"".join(get(f"/{n}?q={n}") for n in range(200)))
        for n in range(200):
            status, _, body = await read_answer(reader)
            assert status == 200
            assert (json.loads(body)["path"], json.loads(body)["query"]) == (f"/{n}", f"q={n}")
        writer.close()

    with_server(test)


def test_small_bodies_arrive_whole_and_large_ones_as_a_stream():
    kinds = []

    async def handler(request):
        kinds.append(type(request.body) is bytes)
        return Response(body=str(len(await request.read(1 << 30))).encode())

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for size in (0, 1, 65536, 65537, 3_000_000):
            writer.write(get("/", f"Content-Length: {size}", method="POST"))
            for start in range(0, size, 50_000):
                writer.write(b"x" * min(50_000, size - start))
                await writer.drain()
                await asyncio.sleep(0)
            assert (await read_answer(reader))[2] == str(size).encode()
        writer.write(get("/", "Transfer-Encoding: chunked", method="POST"))
        writer.write(b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n")
        assert (await read_answer(reader))[2] == b"7"
        writer.close()

    with_server(test, handler)
    assert kinds[:3] == [True, True, True]
    assert kinds[4] is False


def test_a_slow_reader_of_a_body_holds_the_sender_back():
    release = asyncio.Event()

    async def handler(request):
        await release.wait()
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return Response(body=str(size).encode())

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        size = 64 * 1024 * 1024
        writer.write(get("/", f"Content-Length: {size}", method="PUT"))
        writer.transport.set_write_buffer_limits(high=65536)
        sent = 0
        block = b"x" * 65536
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while sent < size:
                    writer.write(block)
                    sent += len(block)
                    await writer.drain()
        assert sent < size / 2
        release.set()
        while sent < size:
            writer.write(block)
            sent += len(block)
            await writer.drain()
        assert (await read_answer(reader))[2] == str(size).encode()
        writer.close()

    with_server(test, handler)


def test_expectation_is_met_only_once_the_handler_reads():
    async def handler(request):
        if request.path == "/refuse":
            raise Invalid("no")
        return Response(body=await request.read())

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get("/", "Content-Length: 3", "Expect: 100-continue", method="PUT"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await read_answer(reader))[2] == b"abc"
        writer.write(get("/refuse", "Content-Length: 3", "Expect: 100-continue", method="PUT"))
        status, headers, _ = await read_answer(reader)
        assert (status, headers["connection"]) == (422, "close")
        writer.close()

    with_server(test, handler)


def test_each_chunk_of_a_stream_is_flushed_and_the_head_before_the_first():
    gate = asyncio.Queue()

    async def events():
        while (piece := await gate.get()) is not None:
            yield piece

    async def handler(_request):
        return Response(headers={"content-type": "application/json"}, body=events())

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b"transfer-encoding: chunked" in head
        for piece in (b"one\n", b"two\n"):
            gate.put_nowait(piece)
            assert await reader.readexactly(9) == b"4\r\n" + piece + b"\r\n"
        gate.put_nowait(None)
        assert await reader.readexactly(5) == b"0\r\n\r\n"
        writer.close()

    with_server(test, handler)


def test_http_1_0_clients_get_bodies_that_end_with_the_connection():
    async def body():
        yield b"abc"
        yield b"def"

    async def handler(_request):
        return Response(body=body())

    async def test(server):
        answer = await talk(server.port, b"GET / HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\nabcdef")
        assert b"chunked" not in answer

    with_server(test, handler)


def test_head_tells_the_length_and_sends_no_body():
    closed = []

    async def stream():
        try:
            yield b"never"
        finally:
            closed.append(True)

    async def handler(request):
        if request.path == "/blob":
            return Response(headers={"content-length": "12345"}, body=stream())
        return Response(body=b"hello")

    async def test(server):
        answer = await talk(
            server.port, get("/", method="HEAD") + get("/blob", CLOSE, method="HEAD")
        )
        first, second = answer.split(b"\r\n\r\n")[:2]
        assert b"content-length: 5" in first
        assert b"content-length: 12345" in second
        assert answer.endswith(b"\r\n\r\n")

    with_server(test, handler)


def test_errors_become_status_objects_and_internals_stay_inside(caplog):
    async def handler(request):
        if request.path == "/busy":
            raise TooManyRequests("slow down", retry_after_s=7)
        raise ValueError("the password is swordfish")

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get("/busy"))
        status, headers, body = await read_answer(reader)
        assert (status, headers["retry-after"]) == (429, "7")
        assert json.loads(body)["reason"] == "TooManyRequests"
        writer.write(get("/broken"))
        status, _, body = await read_answer(reader)
        assert (status, json.loads(body)["kind"]) == (500, "Status")
        assert b"swordfish" not in body
        writer.close()

    with_server(test, handler)
    assert "swordfish" in caplog.text


def test_a_stream_that_fails_midway_cuts_the_connection(caplog):
    async def body():
        yield b"abc"
        raise ValueError("disk gone")

    async def handler(_request):
        return Response(body=body())

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await read_answer(reader)
        writer.close()

    with_server(test, handler)
    assert "disk gone" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_leaves_cancels_its_handler(streaming):
    outcome = []

    async def main():
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def work():
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                outcome.append("cancelled")
                cancelled.set()
                raise

        async def body():
            yield b"x"
            await work()

        async def handler(_request):
            if streaming:
                return Response(body=body())
            await work()
            return Response()

        async with await serve(handler) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get())
            await asyncio.wait_for(started.wait(), 10)
            writer.close()
            await asyncio.wait_for(cancelled.wait(), 10)

    asyncio.run(main())
    assert outcome == ["cancelled"]


def test_an_upgrade_hands_over_the_connection_with_what_came_early():
    async def upgraded(stream):
        received = b""
        while data := await stream.read():
            received += data
            await stream.write(data.upper())
        await stream.write(b"<%d>" % len(received))
        stream.close()

    async def handler(_request):
        return Response(101, {"upgrade": "shout"}, upgrade=upgraded)

    async def test(server):
        head = get("/", "Upgrade: shout", "Connection: Upgrade")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"early ")
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"upgrade: shout" in answer
        writer.write(b"late")
        writer.write_eof()  # half-close: what is still to be said arrives
        assert await asyncio.wait_for(reader.read(), 10) == b"EARLY LATE<10>"
        writer.close()
        plain = await talk(server.port, get("/", CLOSE))
        assert b" 400 " in plain.splitlines()[0]

    with_server(test, handler)


def test_an_upgrade_the_handler_ignores_is_an_ordinary_request():
    async def test(server):
        answer = await talk(
            server.port,
            get("/", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AA"),
        )
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer

    with_server(test)


MALFORMED = {
    "no request": b"hello\r\n\r\n",
    "two lengths": get("/", "Content-Length: 3", "Content-Length: 3", method="POST") + b"abc",
    "conflicting lengths": get("/", "Content-Length: 3", "Content-Length: 4", method="POST"),
    "list of lengths": get("/", "Content-Length: 3, 3", method="POST") + b"abc",
    "signed length": get("/", "Content-Length: +3", method="POST") + b"abc",
    "length and coding": get("/", "Content-Length: 3", "Transfer-Encoding: chunked", method="POST"),
    "coding not last": get("/", "Transfer-Encoding: chunked, identity", method="POST"),
    "other coding": get("/", "Transfer-Encoding: gzip, chunked", method="POST") + b"0\r\n\r\n",
    "folded header": get("/", "A: b\r\n c"),
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\n",
    "space before colon": get("/", "A : b"),
    "control character": get("/", "A: b\x00c"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": get("/", "Host: y"),
    "no path": get("nonsense"),
    "broken chunk": get("/", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n",
    "unknown expectation": get("/", "Expect: miracles"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused_and_the_connection_closed(name):
    async def test(server):
        answer = await talk(server.port, MALFORMED[name] + get("/smuggled"))
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in answer
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["reason"] == "BadRequest"

    with_server(test)


def test_a_bad_request_after_a_good_one_leaves_the_good_one_its_answer():
    async def test(server):
        answer = await talk(server.port, get("/good") + b"\x00garbage\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 400 " in answer

    with_server(test)


def test_heads_beyond_the_limits_are_refused():
    limits = Limits(header_bytes=2000, header_count=10)

    async def test(server):
        for request in (
            get("/" + "x" * 3000),
            get("/", "A: " + "x" * 3000),
            get("/", *[f"A{n}: x" for n in range(20)]),
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 5000,
        ):
            answer = await talk(server.port, request)
            assert answer.startswith(b"HTTP/1.1 431 "), request

    with_server(test, limits=limits)


def test_connections_beyond_the_limit_are_told_so():
    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get())
        await read_answer(reader)
        assert (await talk(server.port, get())).startswith(b"HTTP/1.1 503 ")
        writer.close()

    with_server(test, limits=Limits(connections=1))


def test_silent_and_trickling_clients_are_dropped():
    clock = FakeClock()

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get())
        await read_answer(reader)
        slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", server.port)
        slow_writer.write(b"GET / HTTP/1.1\r\n")
        served = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, served.set)
        await served.wait()
        await clock.advance(16)
        answer = await asyncio.wait_for(slow_reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 408 ")
        await clock.advance(121)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        slow_writer.close()

    with_server(test, clock=clock)


def test_large_json_is_compressed_for_clients_that_accept_it():
    value = {"items": ["same"] * 50_000}

    async def handler(_request):
        return json_response(value)

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get("/", "Accept-Encoding: gzip"))
        _, headers, body = await read_answer(reader)
        assert headers["content-encoding"] == "gzip"
        assert json.loads(gzip.decompress(body)) == value
        writer.write(get("/", "Accept-Encoding: gzip;q=0"))
        _, headers, body = await read_answer(reader)
        assert "content-encoding" not in headers
        assert json.loads(body) == value
        writer.close()

    with_server(test, handler)


def test_a_body_nobody_read_does_not_spoil_the_next_request():
    async def handler(_request):
        raise Invalid("unread")

    async def test(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(2):
            writer.write(get("/", "Content-Length: 100000", method="POST") + b"x" * 100_000)
            assert (await read_answer(reader))[0] == 422
        writer.write(get("/", "Content-Length: 9000000", method="POST") + b"x" * 70_000)
        status, headers, _ = await read_answer(reader)
        assert (status, headers["connection"]) == (422, "close")
        writer.close()

    with_server(test, handler)


def test_a_taken_port_is_named_together_with_its_holder():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(Conflict, match=rf"port {port} .* taken by process \d+"):
                await serve(echo, port=port)

    asyncio.run(main())


def test_a_unix_socket_is_served_and_a_stale_one_replaced(tmp_path):
    path = tmp_path / "front.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def test(server):
        assert server.address == str(path)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(get("/here"))
        assert json.loads((await read_answer(reader))[2])["path"] == "/here"
        writer.close()
        with pytest.raises(Conflict):
            await serve(echo, unix_path=path)

    with_server(test, unix_path=path)
    assert not path.exists()


def test_closing_lets_running_requests_finish():
    async def main():
        started, release = asyncio.Event(), asyncio.Event()

        async def handler(_request):
            started.set()
            await release.wait()
            return Response(body=b"done")

        server = await serve(handler)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get())
        await started.wait()
        asyncio.get_running_loop().call_later(0.1, release.set)
        await server.close(grace_s=10)
        _, headers, body = await read_answer(reader)
        assert (body, headers["connection"]) == (b"done", "close")
        assert await idle_reader.read() == b""
        writer.close()
        idle_writer.close()

    asyncio.run(main())


def test_response_headers_cannot_be_split():
    async def handler(_request):
        return Response(headers={"x-evil": "a\r\nSet-Cookie: b"})

    async def test(server):
        answer = await talk(server.port, get("/", CLOSE))
        assert b"Set-Cookie" not in answer

    with_server(test, handler)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from(
                [
                    get("/"),
                    b"GET ",
                    b"/x HTTP/1.1\r\n",
                    b"Host: x\r\n",
                    b"Content-Length: 5\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"Upgrade: x\r\nConnection: upgrade\r\n",
                    b"Expect: 100-continue\r\n",
                    b"\r\n",
                    b"5\r\nhello\r\n",
                    b"0\r\n\r\n",
                ]
            ),
        ),
        max_size=12,
    )
)
def test_random_bytes_get_clean_answers(pieces):
    failures = []

    async def test(server):
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: failures.append(context)
        )
        answer = await talk(server.port, b"".join(pieces), half_close=True)
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        assert b" 500 " not in answer

    with_server(test)
    assert not failures
