"""HTTP/2 at the front, against httpx, curl and a client that knows no manners."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import shutil
import ssl
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from h2.errors import ErrorCodes

from underway.base.clock import FakeClock
from underway.base.errors import Invalid, TooLarge
from underway.base.home import Home, Settings
from underway.transport import pki
from underway.transport.front import Limits, serve
from underway.wire.http import Response, json_response

BIG = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("pki"))
    pki.ensure_pki(home, Settings())
    return home.pki


@asynccontextmanager
async def serving(keys, handler, **options):
    tls = pki.server_context(keys / "apiserver.crt", keys / "apiserver.key", keys / "ca.crt")
    async with await serve(handler, tls=tls, http2=True, **options) as server:
        try:
            yield server
        finally:
            await server.close(grace_s=0.05)


@asynccontextmanager
async def client(keys, port, **more):
    context = pki.client_context(keys / "ca.crt", keys / "admin.crt", keys / "admin.key")
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}", verify=context, http2=True, trust_env=False, **more
    ) as made:
        yield made


async def echo(request):
    body = await request.read()
    headers = dict(request.headers)
    told = {"method": request.method, "path": request.path, "query": request.query}
    return json_response({**told, "headers": headers, "body": body.decode("latin-1")})


def run(scenario):
    async def bounded():
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


def test_requests_of_one_connection_are_served_side_by_side(keys):
    waiting, all_there = [], asyncio.Event()

    async def handler(request):
        waiting.append(request.path)
        if len(waiting) == 20:
            all_there.set()
        await all_there.wait()
        return json_response({"cn": request.peer.common_name})

    async def scenario():
        async with serving(keys, handler) as server, client(keys, server.port) as http:
            answers = await asyncio.gather(*(http.get(f"/{n}") for n in range(20)))
            assert {answer.http_version for answer in answers} == {"HTTP/2"}
            assert {answer.json()["cn"] for answer in answers} == {"kubernetes-admin"}
            assert len(server._tasks) == 1

    run(scenario)


def test_the_same_request_reaches_the_handler_as_over_http_1(keys):
    async def scenario():
        async with serving(keys, echo) as server, client(keys, server.port) as http:
            got = await http.post("/a%20b?x=1&y", content=b"hi", headers={"X-One": "1"})
            told = got.json()
            assert (told["method"], told["path"], told["query"]) == ("POST", "/a%20b", "x=1&y")
            assert told["headers"]["x-one"] == "1"
            assert told["headers"]["host"] == f"127.0.0.1:{server.port}"
            assert told["body"] == "hi"
            assert "date" in got.headers
            head = await http.head("/")
            assert (head.status_code, head.content) == (200, b"")

    run(scenario)


def test_big_bodies_go_both_ways_through_the_windows(keys):
    async def handler(request):
        digest = hashlib.sha256()
        async for chunk in request.stream():
            digest.update(chunk)
        return Response(200, {"x-digest": digest.hexdigest()}, BIG)

    async def scenario():
        async with serving(keys, handler) as server, client(keys, server.port) as http:
            answers = await asyncio.gather(*(http.post("/", content=BIG) for _ in range(3)))
            for answer in answers:
                assert answer.headers["x-digest"] == hashlib.sha256(BIG).hexdigest()
                assert answer.content == BIG

    run(scenario)


def test_streams_arrive_as_they_come_and_end_with_the_client(keys):
    ended = asyncio.Event()

    async def events():
        try:
            yield b"one\n"
            yield b"two\n"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def handler(request):
        if request.path == "/watch":
            return Response(200, {"content-type": "text/plain"}, events())
        return Response(200, {}, b"ok")

    async def scenario():
        async with serving(keys, handler) as server, client(keys, server.port) as http:
            async with http.stream("GET", "/watch") as answer:
                lines = answer.aiter_lines()
                assert [await anext(lines), await anext(lines)] == ["one", "two"]
                assert (await http.get("/")).text == "ok"  # beside it
            async with raw(keys, server.port) as peer:
                ended.clear()
                peer.request(1, path="/watch")
                await peer.send()
                await peer.until(h2.events.DataReceived)
                peer.h2.reset_stream(1, ErrorCodes.CANCEL)
                await peer.send()
                await ended.wait()

    run(scenario)


def test_errors_gzip_and_unread_bodies(keys):
    async def handler(request):
        if request.path == "/invalid":
            raise Invalid("no")
        if request.path == "/bug":
            raise ValueError("oops")
        if request.path == "/refuse":
            return Response(403, {}, b"not you")
        if request.path == "/large":
            raise TooLarge("too large")
        return json_response({"x": "y" * 200_000})

    async def scenario():
        async with serving(keys, handler) as server, client(keys, server.port) as http:
            assert (await http.get("/invalid")).status_code == 422
            assert (await http.get("/bug")).status_code == 500
            packed = await http.get("/", headers={"accept-encoding": "gzip"})
            assert packed.headers["content-encoding"] == "gzip"
            assert len(packed.json()["x"]) == 200_000
            for _ in range(8):  # more, together, than the connection's window
                assert (await http.post("/refuse", content=BIG[:200_000])).text == "not you"
            assert (await http.get("/invalid")).status_code == 422

    run(scenario)


def test_without_the_offer_http_1_is_spoken(keys):
    async def scenario():
        async with serving(keys, echo) as server:
            context = pki.client_context(keys / "ca.crt")
            async with httpx.AsyncClient(verify=context, trust_env=False) as http:
                answer = await http.get(f"https://127.0.0.1:{server.port}/x")
            assert answer.http_version == "HTTP/1.1"

    run(scenario)


class Raw:
    """A client that sends what it likes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.h2.initiate_connection()
        self.seen = []

    def request(self, number, *, ends=True, path="/", **headers):
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        method = "GET" if ends else "POST"
        fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "a")]
        self.h2.send_headers(number, [*fields, *named], end_stream=ends)

    async def send(self):
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def until(self, wanted):
        """The first event of a kind; None when the server closed before."""
        while True:
            for event in self.seen:
                if isinstance(event, wanted):
                    self.seen.remove(event)
                    return event
            data = await self.reader.read(65536)
            if not data:
                return None
            self.seen += self.h2.receive_data(data)
            await self.send()


@asynccontextmanager
async def raw(keys, port):
    context = pki.client_context(keys / "ca.crt")
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def test_a_client_that_resets_what_it_asks_for_is_sent_away(keys):
    asked = []

    async def handler(request):
        asked.append(request)
        await asyncio.Event().wait()

    async def scenario():
        async with serving(keys, handler) as server, raw(keys, server.port) as attacker:
            for number in range(1, 1001, 2):
                attacker.request(number)
                attacker.h2.reset_stream(number, ErrorCodes.CANCEL)
            await attacker.send()
            ended = await attacker.until(h2.events.ConnectionTerminated)
            assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
            assert len(asked) <= 201

    run(scenario)


def test_a_flood_of_pings_is_cut_off(keys):
    async def scenario():
        async with serving(keys, echo) as server, raw(keys, server.port) as attacker:
            for _ in range(400):
                attacker.h2.ping(b"12345678")
            await attacker.send()
            ended = await attacker.until(h2.events.ConnectionTerminated)
            assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM

    run(scenario)


def test_no_more_streams_than_announced(keys):
    async def scenario():
        async with serving(keys, echo) as server, raw(keys, server.port) as peer:
            await peer.send()
            await peer.until(h2.events.RemoteSettingsChanged)
            assert peer.h2.remote_settings.max_concurrent_streams == 100
            assert peer.h2.remote_settings.max_header_list_size == 64 * 1024
            peer.h2.remote_settings.update({3: 1000})  # what was announced does not bind it
            peer.h2.remote_settings.acknowledge()
            for number in range(1, 260, 2):
                peer.request(number, ends=False)
            await peer.send()
            ended = await peer.until(h2.events.ConnectionTerminated)
            assert ended.error_code != ErrorCodes.NO_ERROR

    run(scenario)


def test_a_client_that_does_not_read_holds_no_memory(keys):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 65536
            yield bytes(65536)

    async def handler(_request):
        return Response(200, {}, endless())

    async def scenario():
        async with serving(keys, handler) as server, raw(keys, server.port) as slow:
            slow.request(1)
            await slow.send()
            await slow.until(h2.events.ResponseReceived)
            await asyncio.sleep(0.2)  # as much as it likes
            assert sent <= 4 * 65536

    run(scenario)


def test_a_body_that_stops_coming_ends_in_a_timeout(keys):
    clock = FakeClock()

    async def scenario():
        limits = Limits(body_timeout_s=5.0)
        async with (
            serving(keys, echo, clock=clock, limits=limits) as server,
            raw(keys, server.port) as slow,
        ):
            slow.request(1, ends=False, content_length="100000")
            slow.h2.send_data(1, b"x")
            await slow.send()
            async with asyncio.TaskGroup() as group:
                answered = group.create_task(slow.until(h2.events.ResponseReceived))
                while not answered.done():
                    await asyncio.sleep(0.01)
                    await clock.advance(1.0)
            fields = dict(answered.result().headers)
            assert fields[":status"] == "504"

    run(scenario)


def test_headers_beyond_the_limit_are_refused(keys):
    async def scenario():
        async with serving(keys, echo) as server:
            async with client(keys, server.port) as http:
                many = {f"x-{n}": "1" for n in range(200)}
                assert (await http.get("/", headers=many)).status_code == 431
            async with raw(keys, server.port) as peer:
                for number in range(1, 3):
                    named = {f"x_{number}_{n}": "v" * 4000 for n in range(20)}
                peer.request(1, **named)
                await peer.send()
                assert await peer.until(h2.events.ConnectionTerminated)

    run(scenario)


def test_closing_lets_what_is_under_way_finish(keys):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_request):
        begun.set()
        await go_on.wait()
        return Response(200, {}, b"done")

    async def go_on_soon():
        go_on.set()

    async def scenario():
        async with serving(keys, handler) as server, client(keys, server.port) as http:
            async with asyncio.TaskGroup() as group:
                answer = group.create_task(http.get("/"))
                await begun.wait()
                group.create_task(go_on_soon())
                await server.close(grace_s=10)
            assert answer.result().text == "done"

    run(scenario)


@pytest.mark.peer
def test_curl_speaks_it(keys):
    assert shutil.which("curl"), "curl is missing"

    async def scenario():
        async with serving(keys, echo) as server:
            process = await asyncio.create_subprocess_exec(
                *("curl", "-s", "--http2", "--compressed", "--cacert", str(keys / "ca.crt")),
                *("-w", "\\n%{http_version}", "-d", "x=1", f"https://127.0.0.1:{server.port}/p?q"),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            body, version = out.decode().rsplit("\n", 1)
            assert version == "2"
            assert json.loads(body)["body"] == "x=1"

    run(scenario)


def test_contexts_offer_both(keys):
    async def scenario():
        async with serving(keys, echo) as server:
            context = ssl.create_default_context(cafile=keys / "ca.crt")
            context.set_alpn_protocols(["http/1.1", "h2"])
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            writer.close()
            del reader

    run(scenario)


def test_gzip_is_for_those_who_accept_it(keys):
    async def handler(_request):
        return json_response({"x": "y" * 200_000})

    async def scenario():
        async with serving(keys, handler) as server, raw(keys, server.port) as peer:
            peer.request(1, accept_encoding="gzip")
            await peer.send()
            fields = dict((await peer.until(h2.events.ResponseReceived)).headers)
            data = (await peer.until(h2.events.DataReceived)).data
            assert fields["content-encoding"] == "gzip"
            assert gzip.decompress(data).startswith(b'{"x":"yyy')

    run(scenario)
