"""The DNS server of the pods: the cluster's names from the zone, all others from upstream.

Answers over UDP and TCP on one address. What it holds at a time is bounded: questions under way,
connections, and how long a connection may be silent.

Source: RFC 1035 section 4.2, RFC 7766 (TCP), RFC 6891 (EDNS).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace

from underway.base.errors import BadRequest, UnderwayError
from underway.capabilities.services.backend.upstream import Upstream, question_for
from underway.capabilities.services.rules.names import Answer, Zone
from underway.wire.dns import (
    IN,
    MESSAGE_LIMIT,
    Message,
    Name,
    Question,
    Rcode,
    Record,
    Type,
    parse,
    serialize_within,
)

log = logging.getLogger(__name__)

DNS_PORT = 53
QUESTIONS_LIMIT = 1024  # by UDP and under way; further ones are dropped, and asked again
CONNECTIONS_LIMIT = 128
IDLE_TIMEOUT_S = 10.0
UDP_BYTES = 1232  # our own limit for an answer by UDP
_ALIAS_DEPTH = 8  # how far an ExternalName may lead to another
_DNSSEC_OK = 0x8000
_CLASS_ANY = 255

Respond = Callable[[Message], Awaitable[Message]]


class Resolver:
    """From a query to its response."""

    def __init__(self, zone: Zone, upstream: Upstream) -> None:
        self._zone = zone
        self._upstream = upstream

    async def respond(self, query: Message) -> Message:
        """The response to a query; failures become response codes."""
        if query.opcode != 0:
            return _response(query, Answer(Rcode.NOTIMP))
        if len(query.questions) != 1:
            return _response(query, Answer(Rcode.FORMERR))
        if query.edns and query.edns.ttl_s >> 16 & 0xFF:
            return _bad_version(query)
        question = query.questions[0]
        if question.cls not in (IN, _CLASS_ANY):
            return _response(query, Answer(Rcode.REFUSED))
        try:
            known = self._zone.answer(question)
            if known is None:
                return await self._foreign(query, question)
            if known.alias:
                known = await self._follow(question, known)
        except UnderwayError as error:
            log.info("dns: %s", error)
            return _response(query, Answer(Rcode.SERVFAIL))
        return _response(query, _shuffled(known), authoritative=True)

    async def _foreign(self, query: Message, question: Question) -> Message:
        dnssec = bool(query.edns and query.edns.ttl_s & _DNSSEC_OK)
        found = await self._upstream.resolve(
            question, dnssec=dnssec, unchecked=query.checking_disabled
        )
        answer = Answer(
            found.rcode,
            found.answers,
            found.authorities,
            tuple(record for record in found.additionals if record.type != Type.OPT),
        )
        return replace(_response(query, answer), authentic=found.authentic)

    async def _follow(self, question: Question, known: Answer) -> Answer:
        """Add what the alias stands for: clients expect to be told all at once."""
        records: tuple[Record, ...] = known.answers
        target: Name = known.alias
        for _ in range(_ALIAS_DEPTH):
            asked = question_for(target, question.type)
            found = self._zone.answer(asked)
            if found is None:
                foreign = await self._upstream.resolve(asked)
                return Answer(foreign.rcode, records + foreign.answers, foreign.authorities)
            records += found.answers
            if not found.alias:
                return Answer(found.rcode, records, found.authorities, found.additionals)
            target = found.alias
        return Answer(Rcode.SERVFAIL)


def _response(query: Message, answer: Answer, *, authoritative: bool = False) -> Message:
    additionals = answer.additionals
    if query.edns:
        kept = query.edns.ttl_s & _DNSSEC_OK
        additionals += (Record((), Type.OPT, kept, b"", UDP_BYTES),)
    return Message(
        id=query.id,
        response=True,
        opcode=query.opcode,
        authoritative=authoritative,
        recursion_desired=query.recursion_desired,
        recursion_available=True,
        checking_disabled=query.checking_disabled,
        rcode=answer.rcode,
        questions=query.questions,
        answers=answer.answers,
        authorities=answer.authorities,
        additionals=additionals,
    )


def _bad_version(query: Message) -> Message:
    """BADVERS, 16: its upper eight bits stand in the OPT record, its lower four are zero."""
    bare = _response(query, Answer())
    return replace(bare, additionals=(Record((), Type.OPT, 1 << 24, b"", UDP_BYTES),))


def _shuffled(answer: Answer) -> Answer:
    """Addresses in random order, so that clients that take the first spread out."""
    records = list(answer.answers)
    if any(record.type == Type.CNAME for record in records):
        return answer
    random.shuffle(records)
    return replace(answer, answers=tuple(records))


class DnsServer:
    """Serves one resolver on one address.

    ``serve`` runs until it is cancelled; ``port`` 0 takes a free one, found in ``port`` once
    ``listening`` is set.
    """

    def __init__(self, respond: Respond, address: str, port: int = DNS_PORT) -> None:
        self._respond = respond
        self._address = address
        self.port = port
        self.listening = asyncio.Event()
        self._under_way = 0
        self._connections = 0

    async def serve(self) -> None:
        """Answer until cancelled.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            with socket.create_server((self._address, self.port)) as listener:
                listener.setblocking(False)
                self.port = listener.getsockname()[1]
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self, group), local_addr=(self._address, self.port)
                )
                try:
                    self.listening.set()
                    while True:
                        connection, _ = await loop.sock_accept(listener)
                        group.create_task(self._on_connection(connection))
                finally:
                    self.listening.clear()
                    transport.close()

    def on_datagram(
        self,
        group: asyncio.TaskGroup,
        transport: asyncio.DatagramTransport,
        data: bytes,
        peer: tuple[str, int],
    ) -> None:
        """Take one query that came by UDP."""
        query = _query(data)
        if query is None or self._under_way >= QUESTIONS_LIMIT:
            return
        self._under_way += 1
        group.create_task(self._answer_datagram(transport, query, peer))

    async def _answer_datagram(
        self, transport: asyncio.DatagramTransport, query: Message, peer: tuple[str, int]
    ) -> None:
        try:
            data = await self._safely(query, min(query.udp_limit_bytes, UDP_BYTES))
            if not transport.is_closing():
                transport.sendto(data, peer)
        finally:
            self._under_way -= 1

    async def _on_connection(self, connection: socket.socket) -> None:
        if self._connections >= CONNECTIONS_LIMIT:
            connection.close()
            return
        self._connections += 1
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                with contextlib.suppress(OSError, EOFError, TimeoutError):
                    while await self._answer_next(reader, writer):
                        pass
            finally:
                writer.close()
        finally:
            self._connections -= 1

    async def _answer_next(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            query = _query(await reader.readexactly(length))
        if query is None:
            return False
        data = await self._safely(query, MESSAGE_LIMIT)
        writer.write(struct.pack("!H", len(data)) + data)
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            await writer.drain()
        return True

    async def _safely(self, query: Message, limit_bytes: int) -> bytes:
        try:
            return serialize_within(await self._respond(query), limit_bytes)
        except Exception:
            # One question must not take the server from all the others.
            log.exception("dns: answering %s failed", query.questions)
            return serialize_within(_response(query, Answer(Rcode.SERVFAIL)), limit_bytes)


def _query(data: bytes) -> Message | None:
    try:
        message = parse(data)
    except BadRequest:
        if len(data) < 12 or data[2] & 0x80:
            return None
        # What can be read of it is the id: enough to say that the rest cannot be.
        return Message(id=int.from_bytes(data[:2], "big"))
    return None if message.response else message


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer, group: asyncio.TaskGroup) -> None:
        self._server = server
        self._group = group
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._server.on_datagram(self._group, self._transport, data, addr)
