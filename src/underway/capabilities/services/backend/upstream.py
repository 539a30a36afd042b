"""Questions about the rest of the world, put to the resolvers this machine uses itself.

Answers are kept as long as they may be, within bounds; the same question asked by many at once is
put once. UDP first; what does not fit is asked again over TCP.

Source: RFC 1035 section 4.2, RFC 2308 (negative caching), RFC 5452 (matching answers).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import struct
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from underway.base.clock import Clock
from underway.base.errors import BadRequest, ServiceUnavailable
from underway.wire.dns import (
    IN,
    Message,
    Question,
    Rcode,
    Record,
    Soa,
    Type,
    lowered,
    name_to_text,
    parse,
    serialize,
)

log = logging.getLogger(__name__)

DNS_PORT = 53
ATTEMPT_TIMEOUT_S = 2.0
ATTEMPTS = 2  # rounds through all servers
CACHE_ENTRIES = 4096
CACHE_MAX_TTL_S = 300
CONCURRENCY = 256  # questions under way; more wait
_UDP_BYTES = 1232  # fits any path whole (DNS flag day 2020)
_EDNS = Record((), Type.OPT, 0, b"", _UDP_BYTES)
_SERVERS_LIMIT = 3  # as the C library


def nameservers(path: Path, own: str) -> tuple[str, ...]:
    """The resolvers a ``resolv.conf`` names, without the address we answer on ourselves."""
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text("utf-8", "replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and words[1] != own:
                found.append(words[1])
    return tuple(found[:_SERVERS_LIMIT])


@dataclass(frozen=True, slots=True)
class _Kept:
    message: Message
    stored_s: float
    expires_s: float


_Key = tuple[tuple[bytes, ...], int, int, bool, bool]


class Upstream:
    """Asks the servers that ``resolv.conf`` names, reading it anew when it changes.

    Args:
        clock: for how long answers may be kept.
        resolv_conf: the file.
        own: our own address, never asked.
        port: where the servers listen.
    """

    def __init__(
        self, clock: Clock, resolv_conf: Path, own: str = "", *, port: int = DNS_PORT
    ) -> None:
        self._clock = clock
        self._path = resolv_conf
        self._own = own
        self._port = port
        self._stamp: tuple[int, int] | None = None
        self._servers: tuple[str, ...] = ()
        self._cache: OrderedDict[_Key, _Kept] = OrderedDict()
        self._asking: dict[_Key, asyncio.Future[Message]] = {}
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def resolve(
        self, question: Question, *, dnssec: bool = False, unchecked: bool = False
    ) -> Message:
        """The answer of one of the servers.

        Args:
            question: what is asked.
            dnssec: whether signatures are wanted with it (EDNS ``DO``).
            unchecked: whether answers that fail validation are wanted too (``CD``).

        Raises:
            ServiceUnavailable: no server answered.
        """
        key = (lowered(question.name), question.type, question.cls, dnssec, unchecked)
        if kept := self._kept(key):
            return kept
        if key not in self._asking:
            return await self._lead(key, question, dnssec, unchecked)
        try:
            return await asyncio.shield(self._asking[key])
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The one who asked was cancelled, not we.
            return await self.resolve(question, dnssec=dnssec, unchecked=unchecked)

    async def _lead(self, key: _Key, question: Question, dnssec: bool, unchecked: bool) -> Message:
        """Ask, on behalf of all who want to know the same meanwhile."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asking[key] = future
        try:
            async with self._slots:
                message = await self._ask_all(question, dnssec, unchecked)
            self._keep(key, message)
            future.set_result(message)
            return message
        except ServiceUnavailable as error:
            future.set_exception(error)
            future.exception()  # nobody may be waiting
            raise
        finally:
            del self._asking[key]
            future.cancel()

    async def _ask_all(self, question: Question, dnssec: bool, unchecked: bool) -> Message:
        servers = self._current_servers()
        failures: list[str] = []
        refusal: Message | None = None
        for server in servers * ATTEMPTS:
            query = _query(question, dnssec, unchecked)
            try:
                async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                    message = await self._ask(server, query)
            except TimeoutError:
                failures.append(f"{server}: no answer within {ATTEMPT_TIMEOUT_S:g} s")
                continue
            except (OSError, EOFError, BadRequest) as error:
                failures.append(f"{server}: {error}")
                continue
            if message.rcode in (Rcode.NOERROR, Rcode.NXDOMAIN):
                return message
            refusal = message
        if refusal is not None:
            return refusal
        what = name_to_text(question.name)
        if not servers:
            raise ServiceUnavailable(f"{what}: {self._path} names no resolver")
        raise ServiceUnavailable(f"{what}: {'; '.join(dict.fromkeys(failures))}")

    async def _ask(self, server: str, query: Message) -> Message:
        answer = await self._ask_udp(server, query)
        return await self._ask_tcp(server, query) if answer.truncated else answer

    async def _ask_udp(self, server: str, query: Message) -> Message:
        loop = asyncio.get_running_loop()
        # A socket of its own for each question: a forger must guess its port too.
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _Waiter(query), remote_addr=(server, self._port)
        )
        try:
            transport.sendto(serialize(query))
            return await protocol.answer
        finally:
            transport.close()

    async def _ask_tcp(self, server: str, query: Message) -> Message:
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            data = serialize(query)
            writer.write(struct.pack("!H", len(data)) + data)
            await writer.drain()
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = parse(await reader.readexactly(length))
        finally:
            writer.close()
        if not _matches(query, answer):
            raise BadRequest("the answer is to another question")
        return answer

    # -- servers and cache --------------------------------------------------------------------

    def _current_servers(self) -> tuple[str, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return self._servers
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp
            self._servers = nameservers(self._path, self._own)
        return self._servers

    def _kept(self, key: _Key) -> Message | None:
        kept = self._cache.get(key)
        now = self._clock.monotonic()
        if kept is None or kept.expires_s <= now:
            return None
        self._cache.move_to_end(key)
        return _aged(kept.message, int(now - kept.stored_s))

    def _keep(self, key: _Key, message: Message) -> None:
        ttl_s = _lifetime_s(message)
        if ttl_s <= 0:
            return
        now = self._clock.monotonic()
        self._cache[key] = _Kept(message, now, now + ttl_s)
        self._cache.move_to_end(key)
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)


class _Waiter(asyncio.DatagramProtocol):
    """Waits for the one datagram that answers the question."""

    def __init__(self, query: Message) -> None:
        self.answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._query = query

    def datagram_received(self, data: bytes, addr: object) -> None:
        try:
            message = parse(data)
        except BadRequest:
            return
        if not self.answer.done() and _matches(self._query, message):
            self.answer.set_result(message)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def _query(question: Question, dnssec: bool, unchecked: bool) -> Message:
    edns = replace(_EDNS, ttl_s=0x8000 if dnssec else 0)
    return Message(
        id=secrets.randbits(16),
        recursion_desired=True,
        checking_disabled=unchecked,
        questions=(question,),
        additionals=(edns,),
    )


def _matches(query: Message, answer: Message) -> bool:
    if not answer.response or answer.id != query.id or len(answer.questions) != 1:
        return False
    asked, told = query.questions[0], answer.questions[0]
    same = (asked.type, asked.cls) == (told.type, told.cls)
    return same and lowered(asked.name) == lowered(told.name)


def _lifetime_s(message: Message) -> int:
    """How long an answer may be kept; 0 for one that may not be."""
    if message.truncated or message.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return 0
    if message.answers and message.rcode == Rcode.NOERROR:
        return min(CACHE_MAX_TTL_S, *(record.ttl_s for record in message.answers))
    for record in message.authorities:
        if isinstance(record.data, Soa):
            return min(CACHE_MAX_TTL_S, record.ttl_s, record.data.minimum_s)
    return 0


def _aged(message: Message, seconds: int) -> Message:
    def aged(records: tuple[Record, ...]) -> tuple[Record, ...]:
        return tuple(
            record
            if record.type == Type.OPT
            else replace(record, ttl_s=max(0, record.ttl_s - seconds))
            for record in records
        )

    return replace(
        message,
        answers=aged(message.answers),
        authorities=aged(message.authorities),
        additionals=aged(message.additionals),
    )


def question_for(name: tuple[bytes, ...], kind: int) -> Question:
    """A question of class IN."""
    return Question(name, kind, IN)
