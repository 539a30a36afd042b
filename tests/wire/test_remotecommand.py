"""Channels and the final Status of remote commands."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.wire import remotecommand as rc


@given(
    st.sampled_from([*rc.COMMAND_PROTOCOLS, *rc.BASE64_PROTOCOLS]),
    st.integers(0, 4),
    st.binary(max_size=100),
)
def test_messages_survive_their_encoding(protocol, channel, data):
    message = rc.encode_message(protocol, channel, data)
    assert rc.decode_message(protocol, message) == (channel, data)


@given(st.sampled_from([rc.V5, *rc.BASE64_PROTOCOLS]), st.binary(max_size=50))
def test_malformed_messages_raise_bad_request_and_nothing_else(protocol, message):
    try:
        channel, _ = rc.decode_message(protocol, message)
        assert 0 <= channel <= 255
    except BadRequest:
        pass


def test_exit_codes_are_told_as_kubectl_reads_them():
    assert rc.exit_status(0)["status"] == "Success"
    status = json.loads(rc.final_message(rc.V4, rc.exit_status(3)))
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


def test_the_oldest_protocols_end_with_plain_text():
    assert rc.final_message("channel.k8s.io", rc.exit_status(0)) == b""
    assert b"exit status 3" in rc.final_message("channel.k8s.io", rc.exit_status(3))


def test_terminal_sizes_are_read_and_checked():
    assert rc.decode_resize(b'{"Width":80,"Height":24}') == (80, 24)
    for text in (b"", b"[]", b'{"Width":80}', b'{"Width":-1,"Height":1}', b'{"Width":"a"}'):
        with pytest.raises(BadRequest):
            rc.decode_resize(text)
