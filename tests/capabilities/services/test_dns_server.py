"""The DNS server over real sockets, asked by dig and by a client of our own."""

import asyncio
import contextlib
import os
import shutil
import socket
import struct
from dataclasses import replace

import pytest
from tests.capabilities.services.conftest import catalog_of, endpoint_slice, platform_of, service

from underway.base.clock import FakeClock, SystemClock
from underway.base.errors import ServiceUnavailable
from underway.capabilities.services.backend import upstream as upstream_module
from underway.capabilities.services.backend.dns import DnsServer, Resolver
from underway.capabilities.services.backend.upstream import Upstream, nameservers, question_for
from underway.capabilities.services.rules.names import Zone
from underway.wire import dns
from underway.wire.dns import Message, Question, Rcode, Record, Soa, Type, name_from_text

needs_dig = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("dig"), reason="needs dig (bind9-dnsutils)"),
]
LOOPBACK = "127.0.0.1"
SVC = "default.svc.cluster.local"


class World:
    """A resolver that knows example.com, counting what it is asked."""

    def __init__(self):
        self.asked = []
        self.hold = self.reached = None
        self.rcode = Rcode.NOERROR

    async def respond(self, query):
        question = query.questions[0]
        self.asked.append(dns.name_to_text(question.name))
        if self.hold is not None:
            self.reached.set()
            await self.hold.wait()
        reply = replace(query, response=True, recursion_available=True, rcode=self.rcode)
        soa = Record(question.name[-1:], Type.SOA, 300, Soa((b"a",), (b"b",), 1, 2, 3, 4, 60))
        match question.name[0], question.type:
            case b"many", Type.A:
                found = [
                    Record(question.name, Type.A, 60, bytes([192, 0, 2, n])) for n in range(200)
                ]
                return replace(reply, answers=tuple(found), additionals=())
            case b"gone", _:
                return replace(reply, rcode=Rcode.NXDOMAIN, authorities=(soa,), additionals=())
            case _, Type.A:
                answer = Record(question.name, Type.A, 60, bytes([192, 0, 2, 1]))
                return replace(reply, answers=(answer,), additionals=())
        return replace(reply, authorities=(soa,), additionals=())


@contextlib.asynccontextmanager
async def served(respond, address=LOOPBACK, port=0):
    server = DnsServer(respond, address, port)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve())
        async with asyncio.timeout(10):
            await server.listening.wait()
        try:
            yield server.port
        finally:
            task.cancel()


def zone():
    catalog = catalog_of(
        service(ip="10.96.0.10", ports=[("http", 80, 8080)]),
        service("db", ip="None"),
        endpoint_slice("db", endpoints=[f"10.244.0.{n}" for n in range(2, 120)]),
        service("out", ip="", type="ExternalName", externalName="www.example.com"),
        service("in", ip="", type="ExternalName", externalName=f"web.{SVC}"),
        service("loop", ip="", type="ExternalName", externalName=f"loop.{SVC}"),
    )
    return Zone(catalog, "cluster.local", ("10.96.0.0/16", "10.244.0.0/24"), "10.244.0.1")


@contextlib.asynccontextmanager
async def resolving(tmp_path, world, clock=None):
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"search lan\nnameserver {LOOPBACK}\n")
    async with served(world.respond) as port:
        upstream = Upstream(clock or SystemClock(), conf, port=port)
        async with served(Resolver(zone(), upstream).respond) as own:
            yield own, upstream


async def dig(port, *args, server=LOOPBACK):
    argv = ["dig", f"@{server}", "-p", str(port), "+tries=1", "+time=5", *args]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    return told.decode()


def run(coroutine):
    return asyncio.run(coroutine)


class TestDig:
    pytestmark = needs_dig

    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            ([f"web.{SVC}"], "10.96.0.10"),
            ([f"web.{SVC}", "+tcp"], "10.96.0.10"),
            ([f"web.{SVC}", "+noedns"], "10.96.0.10"),
            ([f"_http._tcp.web.{SVC}", "SRV"], f"0 100 80 web.{SVC}."),
            (["-x", "10.96.0.10"], f"web.{SVC}."),
            (["www.example.com"], "192.0.2.1"),
            ([f"out.{SVC}"], "www.example.com.\n192.0.2.1"),
            ([f"in.{SVC}"], f"web.{SVC}.\n10.96.0.10"),
            (["dns-version.cluster.local", "TXT"], '"1.1.0"'),
        ],
    )
    def test_answers(self, tmp_path, args, expected):
        async def go():
            async with resolving(tmp_path, World()) as (port, _):
                return await dig(port, "+short", *args)

        assert run(go()).strip() == expected

    @pytest.mark.parametrize(
        ("args", "status"),
        [
            ([f"nothing.{SVC}"], "NXDOMAIN"),
            ([f"web.{SVC}", "AAAA"], "NOERROR"),
            (["gone.example.com"], "NXDOMAIN"),
            ([f"loop.{SVC}"], "SERVFAIL"),
            (["-c", "CH", "version.bind", "TXT"], "REFUSED"),
            ([f"web.{SVC}", "+opcode=notify"], "NOTIMP"),
            ([f"web.{SVC}", "+edns=1", "+noednsneg"], "BADVERS"),
        ],
    )
    def test_statuses(self, tmp_path, args, status):
        async def go():
            async with resolving(tmp_path, World()) as (port, _):
                return await dig(port, *args)

        told = run(go())
        assert f"status: {status}" in told
        if status == "NXDOMAIN" or "AAAA" in args:
            assert "SOA" in told

    @pytest.mark.parametrize("name", [f"db.{SVC}", "many.example.com"])
    def test_a_long_answer_is_fetched_over_tcp(self, tmp_path, name):
        async def go():
            async with resolving(tmp_path, World()) as (port, _):
                cut = await dig(port, name, "+ignore")
                whole = await dig(port, "+short", name)
                return cut, whole

        cut, whole = run(go())
        assert " tc " in cut
        assert len(whole.split()) == (118 if name.startswith("db") else 200)


def ask(port, message, timeout_s=5.0):
    """One question by UDP; the raw answer, or None where none came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        client.sendto(
            message if isinstance(message, bytes) else dns.serialize(message), (LOOPBACK, port)
        )
        try:
            return dns.parse(client.recv(65535))
        except TimeoutError:
            return None


def query(text, kind=Type.A, **more):
    return Message(
        id=7, recursion_desired=True, questions=(Question(name_from_text(text), kind),), **more
    )


def test_what_cannot_be_read_is_answered_with_a_format_error(tmp_path):
    async def go():
        async with resolving(tmp_path, World()) as (port, _):
            return await asyncio.to_thread(ask, port, dns.serialize(query("a.b"))[:-3])

    answer = run(go())
    assert (answer.id, answer.rcode, answer.response) == (7, Rcode.FORMERR, True)


def test_a_response_sent_to_the_server_is_not_answered(tmp_path):
    async def go():
        async with resolving(tmp_path, World()) as (port, _):
            return await asyncio.to_thread(ask, port, query("a.b", response=True), 0.2)

    assert run(go()) is None


def test_answers_are_kept_for_their_time_to_live_and_age(tmp_path):
    world, clock = World(), FakeClock()

    async def go():
        async with resolving(tmp_path, world, clock) as (_, upstream):
            question = question_for(name_from_text("www.example.com"), Type.A)
            first = await upstream.resolve(question)
            await clock.advance(20)
            second = await upstream.resolve(question)
            await clock.advance(41)
            await upstream.resolve(question)
            return first, second

    first, second = run(go())
    assert world.asked == ["www.example.com."] * 2
    assert [each.answers[0].ttl_s for each in (first, second)] == [60, 40]


def test_that_a_name_is_missing_is_kept_for_the_zones_minimum(tmp_path):
    world, clock = World(), FakeClock()

    async def go():
        async with resolving(tmp_path, world, clock) as (_, upstream):
            question = question_for(name_from_text("gone.example.com"), Type.A)
            for _ in range(3):
                await upstream.resolve(question)
                await clock.advance(25)
            await upstream.resolve(question)

    run(go())
    assert len(world.asked) == 2


def test_the_same_question_of_many_is_asked_once(tmp_path):
    world = World()

    async def go():
        world.hold, world.reached = asyncio.Event(), asyncio.Event()
        async with resolving(tmp_path, world) as (_, upstream):
            question = question_for(name_from_text("www.example.com"), Type.A)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(upstream.resolve(question)) for _ in range(20)]
                await world.reached.wait()
                tasks[0].cancel()  # the one who leads goes away; the others still get to know
                world.hold.set()
            return [task.result().answers for task in tasks[1:]]

    answers = run(go())
    assert len(answers) == 19
    assert all(answers)
    assert len(world.asked) <= 2


def test_a_server_that_is_silent_gives_way_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(upstream_module, "ATTEMPT_TIMEOUT_S", 0.2)
    world = World()

    async def go():
        async with served(world.respond, "127.0.0.2") as port:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind((LOOPBACK, port))
                conf = tmp_path / "resolv.conf"
                conf.write_text(f"nameserver {LOOPBACK}\nnameserver 127.0.0.2\n")
                upstream = Upstream(SystemClock(), conf, port=port)
                question = question_for(name_from_text("www.example.com"), Type.A)
                return await upstream.resolve(question)

    assert run(go()).answers


def test_no_server_answering_is_a_server_failure_that_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(upstream_module, "ATTEMPT_TIMEOUT_S", 0.1)

    async def go():
        conf = tmp_path / "resolv.conf"
        conf.write_text("")
        with socket.socket() as reserved:
            reserved.bind((LOOPBACK, 0))
            upstream = Upstream(SystemClock(), conf, port=reserved.getsockname()[1])
            question = question_for(name_from_text("www.example.com"), Type.A)
            with pytest.raises(ServiceUnavailable, match="names no resolver"):
                await upstream.resolve(question)
            conf.write_text(f"nameserver {LOOPBACK}\n# changed\n")
            with pytest.raises(ServiceUnavailable, match=LOOPBACK):
                await upstream.resolve(question)
            answer = await Resolver(zone(), upstream).respond(query("www.example.com"))
            return answer.rcode

    assert run(go()) == Rcode.SERVFAIL


def test_an_answer_to_another_question_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(upstream_module, "ATTEMPT_TIMEOUT_S", 0.2)

    async def forger(query):
        forged = Question((b"evil",), Type.A)
        return replace(query, response=True, questions=(forged,), additionals=())

    async def go():
        conf = tmp_path / "resolv.conf"
        conf.write_text(f"nameserver {LOOPBACK}\n")
        async with served(forger) as port:
            upstream = Upstream(SystemClock(), conf, port=port)
            await upstream.resolve(question_for((b"www",), Type.A))

    with pytest.raises(ExceptionGroup) as caught:
        run(go())
    assert caught.group_contains(ServiceUnavailable, match="no answer")


def test_several_questions_on_one_connection_are_answered_in_turn(tmp_path):
    async def go():
        async with resolving(tmp_path, World()) as (port, _):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            for text in (f"web.{SVC}", "www.example.com"):
                data = dns.serialize(query(text))
                writer.write(struct.pack("!H", len(data)) + data)
            found = []
            for _ in range(2):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                found.append(dns.parse(await reader.readexactly(length)))
            writer.write(b"\0\3abc")  # no DNS: the connection ends
            assert await reader.read() == b""
            writer.close()
            return found

    assert [len(each.answers) for each in run(go())] == [1, 1]


def test_own_address_and_too_many_servers_are_left_out(tmp_path):
    conf = tmp_path / "resolv.conf"
    conf.write_text("".join(f"nameserver 192.0.2.{n}\n" for n in range(9)) + "nameserver\n")
    assert nameservers(conf, "192.0.2.0") == ("192.0.2.1", "192.0.2.2", "192.0.2.3")


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("way", ["+notcp", "+tcp"])
@pytest.mark.skipif(not shutil.which("dig"), reason="needs dig (bind9-dnsutils)")
def test_a_pod_asks_the_gateway_or_the_service_in_front_of_it(tmp_path, way):
    async def go(platform):
        pod = await asyncio.to_thread(platform.pod, "client")
        gateway = platform.net.gateway
        dns_service = service("kube-dns", ip="10.127.0.53", ports=[("dns", 53, 53)])
        dns_service["spec"]["ports"] = [
            {"name": protocol, "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")
        ]
        piece = endpoint_slice("kube-dns", endpoints=[gateway])
        piece["ports"] = [
            {"name": protocol, "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")
        ]
        platform.apply(dns_service, piece)
        upstream = Upstream(SystemClock(), tmp_path / "none", gateway)
        found = []
        async with served(Resolver(zone(), upstream).respond, gateway, 53):
            for server in (gateway, "10.127.0.53"):
                argv = ["ip", "netns", "exec", pod.netns.name, "dig", f"@{server}", way]
                process = await asyncio.create_subprocess_exec(
                    *argv, "+short", "+tries=1", f"web.{SVC}", stdout=asyncio.subprocess.PIPE
                )
                told, _ = await process.communicate()
                found.append(told.decode().strip())
        return found

    with platform_of() as platform:
        assert run(go(platform)) == ["10.96.0.10", "10.96.0.10"]
