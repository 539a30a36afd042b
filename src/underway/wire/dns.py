"""DNS messages: bytes to values and back.

A name is a tuple of labels, each as bytes, without the root's empty one: ``(b"svc", b"local")``.
Whatever arrives is bounded by the message it stands in: a compression pointer must lead backwards,
so that reading ends, and a name has at most 255 bytes however it is written.

Source: RFC 1035 section 4 (messages, compression), RFC 2782 (SRV), RFC 3596 (AAAA), RFC 3597
(unknown types), RFC 6891 (EDNS).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field, replace

from underway.base.errors import BadRequest

Name = tuple[bytes, ...]

MESSAGE_LIMIT = 65_535  # bytes, over TCP
UDP_LIMIT = 512  # bytes, for a client that says nothing of EDNS
_LABEL_LIMIT = 63
_NAME_LIMIT = 255  # bytes on the wire, with length bytes and the root's
_POINTER = 0xC0
_POINTER_REACH = 0x4000


class Type(enum.IntEnum):
    """Record types this module knows the inside of, and those that may only be asked for."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    DNAME = 39
    OPT = 41
    ANY = 255


class Rcode(enum.IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


IN = 1  # the class of everything on the Internet

_NAME_TYPES = frozenset({Type.NS, Type.CNAME, Type.PTR, Type.DNAME})


@dataclass(frozen=True, slots=True)
class Soa:
    """A zone's start of authority; times in seconds."""

    mname: Name
    rname: Name
    serial: int
    refresh_s: int
    retry_s: int
    expire_s: int
    minimum_s: int


@dataclass(frozen=True, slots=True)
class Srv:
    """Where a service is to be found."""

    priority: int
    weight: int
    port: int
    target: Name


@dataclass(frozen=True, slots=True)
class Mx:
    """Where a domain's mail goes."""

    preference: int
    exchange: Name


Data = bytes | Name | Soa | Srv | Mx
"""A Name for NS, CNAME, PTR and DNAME; Soa, Srv, Mx; the bytes as they stand for all others."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    name: Name
    type: int
    cls: int = IN


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record."""

    name: Name
    type: int
    ttl_s: int
    data: Data
    cls: int = IN


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``opcode`` 0 is a standard query."""

    id: int = 0
    response: bool = False
    opcode: int = 0
    authoritative: bool = False
    truncated: bool = False
    recursion_desired: bool = False
    recursion_available: bool = False
    authentic: bool = False
    checking_disabled: bool = False
    rcode: int = Rcode.NOERROR
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    authorities: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()

    @property
    def edns(self) -> Record | None:
        """The OPT record, if there is one."""
        return next((record for record in self.additionals if record.type == Type.OPT), None)

    @property
    def udp_limit_bytes(self) -> int:
        """The largest answer the sender takes by UDP."""
        edns = self.edns
        return max(UDP_LIMIT, edns.cls) if edns else UDP_LIMIT


def name_from_text(text: str) -> Name:
    """The name that plain text (``svc.local`` or ``svc.local.``) spells; no escapes.

    Raises:
        BadRequest: a label is empty or too long, or the whole is.
    """
    labels = tuple(part.encode() for part in text.removesuffix(".").split(".")) if text else ()
    if any(not 0 < len(label) <= _LABEL_LIMIT for label in labels) or _size(labels) > _NAME_LIMIT:
        raise BadRequest(f"{text!r} is no DNS name")
    return labels


def name_to_text(name: Name) -> str:
    """The name as people write it, with what is not printable escaped (RFC 4343 section 2.1)."""
    return ".".join("".join(map(_character, label)) for label in name) + "."


def lowered(name: Name) -> Name:
    """The name in lower case: names are compared without regard to case."""
    return tuple(label.lower() for label in name)


def parse(data: bytes) -> Message:
    """The message that bytes hold.

    Raises:
        BadRequest: they hold none, or something behind it.
    """
    if len(data) > MESSAGE_LIMIT:
        raise BadRequest(f"a DNS message has at most {MESSAGE_LIMIT} bytes, not {len(data)}")
    reader = _Reader(data)
    ident, flags, questions, answers, authorities, additionals = reader.unpack("!6H")
    message = Message(
        id=ident,
        response=bool(flags & 0x8000),
        opcode=(flags >> 11) & 0xF,
        authoritative=bool(flags & 0x0400),
        truncated=bool(flags & 0x0200),
        recursion_desired=bool(flags & 0x0100),
        recursion_available=bool(flags & 0x0080),
        authentic=bool(flags & 0x0020),
        checking_disabled=bool(flags & 0x0010),
        rcode=flags & 0xF,
        questions=tuple(reader.question() for _ in range(questions)),
        answers=tuple(reader.record() for _ in range(answers)),
        authorities=tuple(reader.record() for _ in range(authorities)),
        additionals=tuple(reader.record() for _ in range(additionals)),
    )
    if reader.offset != len(data):
        raise BadRequest(f"{len(data) - reader.offset} bytes follow the DNS message")
    return message


def serialize(message: Message) -> bytes:
    """The message as bytes, with names compressed.

    Raises:
        BadRequest: it does not fit into a DNS message, or a name or number in it does not.
    """
    flags = (
        message.response << 15
        | message.opcode << 11
        | message.authoritative << 10
        | message.truncated << 9
        | message.recursion_desired << 8
        | message.recursion_available << 7
        | message.authentic << 5
        | message.checking_disabled << 4
        | message.rcode
    )
    writer = _Writer()
    sections = (message.answers, message.authorities, message.additionals)
    try:
        counts = (len(message.questions), *map(len, sections))
        writer.out += struct.pack("!6H", message.id, flags, *counts)
        for question in message.questions:
            writer.name(question.name)
            writer.out += struct.pack("!2H", question.type, question.cls)
        for section in sections:
            for record in section:
                writer.record(record)
    except struct.error as error:
        raise BadRequest(f"a number does not fit into a DNS message: {error}") from error
    if len(writer.out) > MESSAGE_LIMIT:
        raise BadRequest(f"a DNS message has at most {MESSAGE_LIMIT} bytes")
    return bytes(writer.out)


def serialize_within(message: Message, limit_bytes: int) -> bytes:
    """The message as bytes; marked truncated and without its records if it is longer."""
    data = serialize(message)
    if len(data) <= limit_bytes:
        return data
    kept = tuple(record for record in message.additionals if record.type == Type.OPT)
    cut = replace(message, truncated=True, answers=(), authorities=(), additionals=kept)
    return serialize(cut)


def _size(name: Name) -> int:
    return sum(len(label) + 1 for label in name) + 1


def _character(byte: int) -> str:
    char = chr(byte)
    if char in '."\\':
        return "\\" + char
    return char if 0x21 <= byte <= 0x7E else f"\\{byte:03d}"


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def unpack(self, layout: str) -> tuple[int, ...]:
        try:
            values = struct.unpack_from(layout, self.data, self.offset)
        except struct.error as error:
            raise BadRequest("the DNS message is cut short") from error
        self.offset += struct.calcsize(layout)
        return values

    def question(self) -> Question:
        name = self.name()
        kind, cls = self.unpack("!2H")
        return Question(name, kind, cls)

    def record(self) -> Record:
        name = self.name()
        kind, cls, ttl_s, length = self.unpack("!2HIH")
        end = self.offset + length
        if end > len(self.data):
            raise BadRequest("a DNS record is cut short")
        data = self._data(kind, end)
        if self.offset != end:
            raise BadRequest(f"a DNS record of type {kind} has the wrong length")
        return Record(name, kind, ttl_s, data, cls)

    def _data(self, kind: int, end: int) -> Data:
        if kind in _NAME_TYPES:
            return self.name()
        if kind == Type.SOA:
            mname, rname = self.name(), self.name()
            return Soa(mname, rname, *self.unpack("!5I"))
        if kind == Type.SRV:
            priority, weight, port = self.unpack("!3H")
            return Srv(priority, weight, port, self.name())
        if kind == Type.MX:
            (preference,) = self.unpack("!H")
            return Mx(preference, self.name())
        raw = self.data[self.offset : end]
        self.offset = end
        return raw

    def name(self) -> Name:
        labels: list[bytes] = []
        size = 1
        at = self.offset
        lowest = at  # a pointer must lead before everything this name was read from
        after = 0  # where reading goes on: behind the first pointer
        while True:
            if at >= len(self.data):
                raise BadRequest("a DNS name is cut short")
            length = self.data[at]
            if length & _POINTER == _POINTER:
                if at + 2 > len(self.data):
                    raise BadRequest("a DNS name is cut short")
                target = (length & ~_POINTER) << 8 | self.data[at + 1]
                after = after or at + 2
                if target >= lowest:
                    raise BadRequest("a DNS name points forward")
                at = lowest = target
                continue
            if length & _POINTER:
                raise BadRequest(f"a DNS label of unknown kind {length >> 6}")
            at += 1
            if length == 0:
                break
            size += length + 1
            if size > _NAME_LIMIT:
                raise BadRequest(f"a DNS name has more than {_NAME_LIMIT} bytes")
            label = self.data[at : at + length]
            if len(label) < length:
                raise BadRequest("a DNS name is cut short")
            labels.append(label)
            at += length
        self.offset = after or at
        return tuple(labels)


@dataclass(slots=True)
class _Writer:
    out: bytearray = field(default_factory=bytearray)
    _seen: dict[Name, int] = field(default_factory=dict)

    def name(self, name: Name, *, compress: bool = True) -> None:
        if _size(name) > _NAME_LIMIT:
            raise BadRequest(f"a DNS name has more than {_NAME_LIMIT} bytes")
        for index, label in enumerate(name):
            rest = name[index:]
            known = self._seen.get(rest)
            if known is not None and compress:
                self.out += struct.pack("!H", _POINTER << 8 | known)
                return
            if len(self.out) < _POINTER_REACH:
                self._seen.setdefault(rest, len(self.out))
            if not 0 < len(label) <= _LABEL_LIMIT:
                raise BadRequest(f"a DNS label has 1 to {_LABEL_LIMIT} bytes, not {len(label)}")
            self.out.append(len(label))
            self.out += label
        self.out.append(0)

    def record(self, record: Record) -> None:
        self.name(record.name)
        self.out += struct.pack("!2HI", record.type, record.cls, record.ttl_s)
        at = len(self.out)
        self.out += b"\0\0"
        self._data(record.data)
        struct.pack_into("!H", self.out, at, len(self.out) - at - 2)

    def _data(self, data: Data) -> None:
        match data:
            case bytes():
                self.out += data
            case tuple():
                self.name(data)
            case Soa():
                self.name(data.mname)
                self.name(data.rname)
                times = (data.refresh_s, data.retry_s, data.expire_s, data.minimum_s)
                self.out += struct.pack("!5I", data.serial, *times)
            case Srv():
                self.out += struct.pack("!3H", data.priority, data.weight, data.port)
                self.name(data.target, compress=False)  # RFC 2782: never compressed
            case Mx():
                self.out += struct.pack("!H", data.preference)
                self.name(data.exchange)
