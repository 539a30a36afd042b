"""DNS messages: known bytes, round trips, and whatever else may arrive."""

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.wire import dns
from underway.wire.dns import Message, Mx, Question, Record, Soa, Srv, Type

LABELS = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABELS, max_size=8).map(tuple).filter(lambda n: sum(len(x) + 1 for x in n) < 255)
U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
RECORDS = st.one_of(
    st.builds(Record, NAMES, st.just(Type.CNAME), U32, NAMES),
    st.builds(Record, NAMES, st.just(Type.SRV), U32, st.builds(Srv, U16, U16, U16, NAMES)),
    st.builds(Record, NAMES, st.just(Type.MX), U32, st.builds(Mx, U16, NAMES)),
    st.builds(
        Record, NAMES, st.just(Type.SOA), U32, st.builds(Soa, NAMES, NAMES, U32, U32, U32, U32, U32)
    ),
    st.builds(
        Record, NAMES, st.sampled_from([1, 16, 28, 46, 64, 257]), U32, st.binary(max_size=40)
    ),
)
SECTION = st.lists(RECORDS, max_size=4).map(tuple)
MESSAGES = st.builds(
    Message,
    id=U16,
    response=st.booleans(),
    opcode=st.integers(0, 15),
    authoritative=st.booleans(),
    truncated=st.booleans(),
    recursion_desired=st.booleans(),
    recursion_available=st.booleans(),
    authentic=st.booleans(),
    checking_disabled=st.booleans(),
    rcode=st.integers(0, 15),
    questions=st.lists(st.builds(Question, NAMES, U16, U16), max_size=2).map(tuple),
    answers=SECTION,
    authorities=SECTION,
    additionals=SECTION,
)
# A query for example.com A, as RFC 1035 lays it out.
QUERY = bytes.fromhex("beef01000001000000000000076578616d706c6503636f6d0000010001")


def test_a_query_is_read_and_written_as_the_rfc_lays_it_out():
    message = Message(
        id=0xBEEF,
        recursion_desired=True,
        questions=(Question((b"example", b"com"), Type.A),),
    )
    assert dns.parse(QUERY) == message
    assert dns.serialize(message) == QUERY


def test_repeated_names_are_written_once():
    name = dns.name_from_text("web.default.svc.cluster.local")
    answers = tuple(Record(name, Type.A, 5, bytes([10, 0, 0, n])) for n in range(3))
    data = dns.serialize(Message(questions=(Question(name, Type.A),), answers=answers))
    assert data.count(b"cluster") == 1
    assert len(data) == 12 + 31 + 4 + 3 * (2 + 10 + 4)
    assert dns.parse(data).answers == answers


@given(MESSAGES)
def test_what_is_written_is_read_back_the_same(message):
    assert dns.parse(dns.serialize(message)) == message


@given(st.binary(max_size=300))
@example(QUERY[:12] + b"\xc0\x0c\x00\x01\x00\x01")  # a name that points at itself
@example(QUERY[:12] + b"\x01a\xc0\x0e\x00\x01\x00\x01")
@example(QUERY[:12] + b"\x80\x00\x01\x00\x01")  # a label of a kind there is none of
@example(b"\0" * 4 + b"\xff" * 8)
def test_any_bytes_give_a_message_or_a_bad_request(data):
    try:
        message = dns.parse(data)
    except BadRequest:
        return
    assert dns.parse(dns.serialize(message)) == message


@given(MESSAGES, st.data())
def test_damaged_messages_give_a_message_or_a_bad_request(message, data):
    raw = bytearray(dns.serialize(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadRequest):
        dns.parse(bytes(raw))


def test_a_chain_of_pointers_cannot_make_a_name_longer_than_a_name():
    # Each label points at the one before: 100 labels of 3 bytes would be 301 bytes.
    data = bytearray(QUERY[:4] + struct.pack("!4H", 101, 0, 0, 0))
    data += b"\0" + b"\0\1\0\1"
    last = 12
    for _ in range(100):
        here = len(data)
        data += b"\2ab" + struct.pack("!H", 0xC000 | last) + b"\0\1\0\1"
        last = here
    with pytest.raises(BadRequest, match="255"):
        dns.parse(bytes(data))


@pytest.mark.parametrize("cut", range(len(QUERY)))
def test_a_message_cut_short_is_said_to_be(cut):
    with pytest.raises(BadRequest):
        dns.parse(QUERY[:cut])


def test_bytes_behind_the_message_are_refused():
    with pytest.raises(BadRequest, match="follow"):
        dns.parse(QUERY + b"\0")


def test_a_record_whose_length_lies_is_refused():
    record = b"\0" + struct.pack("!2HIH", Type.CNAME, 1, 5, 9) + b"\1a\0"
    with pytest.raises(BadRequest):
        dns.parse(QUERY[:4] + struct.pack("!4H", 0, 1, 0, 0) + record)


def test_an_answer_too_long_for_udp_is_marked_and_emptied():
    name = dns.name_from_text("web.default.svc.cluster.local")
    edns = Record((), Type.OPT, 0, b"", 1232)
    answers = tuple(Record(name, Type.A, 5, bytes([10, 0, 0, n])) for n in range(100))
    message = Message(questions=(Question(name, Type.A),), answers=answers, additionals=(edns,))
    cut = dns.parse(dns.serialize_within(message, 512))
    assert (cut.truncated, cut.answers, cut.edns) == (True, (), edns)
    assert dns.parse(dns.serialize_within(message, 4096)).answers == answers


def test_the_size_a_client_takes_is_read_from_edns():
    assert Message().udp_limit_bytes == 512
    assert Message(additionals=(Record((), Type.OPT, 0, b"", 1232),)).udp_limit_bytes == 1232
    assert Message(additionals=(Record((), Type.OPT, 0, b"", 100),)).udp_limit_bytes == 512


@pytest.mark.parametrize("text", ["a..b", "x" * 64, ".".join(["abcdefgh"] * 30), ".a"])
def test_text_that_is_no_name_is_refused(text):
    with pytest.raises(BadRequest):
        dns.name_from_text(text)


def test_names_are_shown_with_what_is_not_printable_escaped():
    assert dns.name_to_text((b"a.b", b"c d", b"\xff")) == "a\\.b.c\\032d.\\255."
    assert dns.name_to_text(()) == "."
    assert dns.name_from_text("svc.local.") == (b"svc", b"local")


def test_numbers_and_names_out_of_range_cannot_be_written():
    with pytest.raises(BadRequest):
        dns.serialize(Message(answers=(Record((), 1, -1, b""),)))
    with pytest.raises(BadRequest):
        dns.serialize(Message(questions=(Question((b"x" * 64,), 1),)))
