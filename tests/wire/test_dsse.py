import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.wire import dsse
from underway.wire.dsse import Envelope, Signature


def test_the_encoding_of_the_specifications_example():
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.text(max_size=30), st.binary(), st.text(max_size=10), st.binary(min_size=1))
def test_envelopes_come_back(payload_type, payload, key_id, value):
    envelope = Envelope(payload_type, payload, (Signature(key_id, value),))
    assert dsse.decode(dsse.encode(envelope)) == envelope


def test_the_url_safe_alphabet_is_read_too():
    data = b'{"payload":"-_-_","payloadType":"t","signatures":[{"sig":"_w=="}]}'
    assert dsse.decode(data).payload == base64.b64decode("+/+/")


@pytest.mark.parametrize("data", [
    b"", b"[]", b"{}", b'{"payload":"","payloadType":"t","signatures":[]}',
    b'{"payload":"!","payloadType":"t","signatures":[{"sig":""}]}',
    b'{"payload":"YQ","payloadType":"t","signatures":[{"sig":"YQ=="}]}',
    b'{"payload":1,"payloadType":"t","signatures":[{"sig":"YQ=="}]}',
])  # fmt: skip
def test_what_is_no_envelope_is_refused(data):
    with pytest.raises(ValueError, match=r"DSSE"):
        dsse.decode(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_envelope_or_refused(data):
    try:
        dsse.decode(data)
    except ValueError:
        return


def test_statements_come_back():
    subjects = {"image": {"sha256": "0" * 64}}
    payload = dsse.statement(subjects, "https://slsa.dev/provenance/v1", {"a": 1})
    found = dsse.parse_statement(Envelope(dsse.PAYLOAD_TYPE, payload))
    assert found["subject"] == [{"name": "image", "digest": {"sha256": "0" * 64}}]
    assert found["predicate"] == {"a": 1}


@pytest.mark.parametrize("payload", [
    b"", b"[]", b"{}", b'{"_type":"https://in-toto.io/Statement/v1"}',
    b'{"_type":"https://in-toto.io/Statement/v1","subject":[1],"predicateType":"x"}',
    b'{"_type":"https://in-toto.io/Statement/v1","subject":[]}',
    b"[" * 100_000,
])  # fmt: skip
def test_what_is_no_statement_is_refused(payload):
    with pytest.raises(ValueError, match=r"statement|JSON"):
        dsse.parse_statement(Envelope(dsse.PAYLOAD_TYPE, payload))


def test_a_payload_of_another_type_is_refused():
    with pytest.raises(ValueError, match="text/plain"):
        dsse.parse_statement(Envelope("text/plain", b"{}"))
