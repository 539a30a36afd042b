"""SPDY/3.1 framing."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.wire import spdy

IDS = st.integers(1, 2**31 - 1)
HEADERS = st.dictionaries(
    st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20), st.text(max_size=50)
)
FRAMES = st.one_of(
    st.builds(
        spdy.SynStream,
        IDS,
        HEADERS,
        st.booleans(),
        st.booleans(),
        st.integers(0, 2**31 - 1),
        st.integers(0, 7),
    ),
    st.builds(spdy.SynReply, IDS, HEADERS, st.booleans()),
    st.builds(spdy.Headers, IDS, HEADERS, st.booleans()),
    st.builds(spdy.RstStream, IDS, st.integers(0, 2**32 - 1)),
    st.builds(spdy.Settings, st.dictionaries(st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1))),
    st.builds(spdy.Ping, st.integers(0, 2**32 - 1)),
    st.builds(spdy.GoAway, st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1)),
    st.builds(spdy.WindowUpdate, st.integers(0, 2**31 - 1), IDS),
    st.builds(spdy.Data, IDS, st.binary(max_size=300), st.booleans()),
)


def test_the_dictionary_is_the_one_of_the_specification():
    assert len(spdy.DICTIONARY) == 1423
    # A SPDY/3 header block begins with a zlib header naming the dictionary's checksum.
    block = spdy.FrameEncoder().encode(spdy.SynReply(1, {"a": "b"}))[12:]
    assert block[2:6] == bytes.fromhex("e3c6a7c2")


@given(st.lists(FRAMES, max_size=8), st.integers(1, 40))
def test_frames_survive_the_wire_however_it_is_cut(frames, cut):
    encoder, decoder = spdy.FrameEncoder(), spdy.FrameDecoder()
    data = b"".join(encoder.encode(frame) for frame in frames)
    received = []
    for start in range(0, len(data), cut):
        received += decoder.feed(data[start : start + cut])
    assert [f for f in received if not isinstance(f, spdy.Data)] == [
        f for f in frames if not isinstance(f, spdy.Data)
    ]
    for stream_id in {f.stream_id for f in frames if isinstance(f, spdy.Data)}:

        def content(of, stream_id=stream_id):
            mine = [f for f in of if isinstance(f, spdy.Data) and f.stream_id == stream_id]
            return b"".join(f.data for f in mine), sum(f.fin for f in mine)

        assert content(received) == content(frames)


@settings(max_examples=300)
@given(st.lists(st.one_of(st.binary(max_size=60), FRAMES), max_size=8), st.data())
def test_malformed_bytes_raise_bad_request_and_nothing_else(pieces, data):
    encoder, decoder = spdy.FrameEncoder(), spdy.FrameDecoder()
    for piece in pieces:
        raw = bytearray(piece if isinstance(piece, bytes) else encoder.encode(piece))
        if raw and data.draw(st.booleans()):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        try:
            decoder.feed(bytes(raw))
        except BadRequest:
            return


def control(kind, payload, flags=0, version=3):
    return struct.pack("!HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def block(plain):
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    return deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (control(6, b"\0\0\0\1", version=2), "version 2"),
        (control(6, b"\0"), "too short"),
        (control(2, b"\0\0\0\0" + block(b"\0\0\0\0")), "a zero"),
        (control(2, b"\0\0\0\1nonsense"), "does not decompress"),
        (control(2, b"\0\0\0\1" + block(b"\xff\xff\xff\xff")), "announces more"),
        (control(2, b"\0\0\0\1" + block(b"\0\0\0\1\0\0\0\x09ab\0\0")), "runs past the end"),
        (control(2, b"\0\0\0\1" + block(b"\0\0\0\0rest")), "bytes follow"),
        (control(2, b"\0\0\0\1" + block(b"\0" * 70_000)), "beyond 65536 bytes"),
        (control(4, b"\0\0\0\5"), "wrong length"),
        (struct.pack("!HHI", 0x8003, 6, 0xFFFFFF), "control frame of 16777215 bytes"),
        (struct.pack("!II", 0, 5) + b"hello", "stream 0"),
    ],
)
def test_what_breaks_the_format_is_named(data, message):
    with pytest.raises(BadRequest, match=message):
        spdy.FrameDecoder().feed(data)


def test_a_header_block_bomb_is_stopped_before_it_unfolds():
    bomb = block(b"\0" * 20_000_000)
    assert len(bomb) < spdy.CONTROL_LIMIT
    with pytest.raises(BadRequest, match="beyond"):
        spdy.FrameDecoder().feed(control(2, b"\0\0\0\1" + bomb))


def test_data_is_passed_on_as_it_comes():
    decoder = spdy.FrameDecoder()
    frame = spdy.FrameEncoder().encode(spdy.Data(5, b"abcdef", fin=True))
    assert decoder.feed(frame[:10]) == [spdy.Data(5, b"ab")]
    assert decoder.feed(frame[10:]) == [spdy.Data(5, b"cdef", fin=True)]


def test_unknown_control_frames_are_ignored():
    decoder = spdy.FrameDecoder()
    assert decoder.feed(control(99, b"whatever") + control(6, b"\0\0\0\3")) == [spdy.Ping(3)]


def test_windows_are_spent_and_granted_within_their_bound():
    window = spdy.Window()
    window.spend(spdy.INITIAL_WINDOW)
    assert window.available == 0
    window.grant(10)
    assert window.available == 10
    with pytest.raises(BadRequest, match="overflows"):
        window.grant(spdy.MAX_WINDOW)
