"""Objects out of captured bytes, whole or damaged."""

import base64
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.wire import captures, kubeproto

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web"},
    "spec": {"containers": [{"name": "main", "image": "nginx"}]},
}
STORED = kubeproto.encode(POD)
STREAM = captures.watch_frame("ADDED", POD) + captures.watch_frame("DELETED", POD)
EVENTS = [{"type": "ADDED", "object": POD}, {"type": "DELETED", "object": POD}]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (STORED, [POD]),
        (STORED + b"\n", [POD]),
        (b"/registry/pods/default/web\n" + STORED + b"\n", [POD]),
        (gzip.compress(STORED), [POD]),
        (STREAM, EVENTS),
        (gzip.compress(STREAM), EVENTS),
        (json.dumps(POD).encode(), [POD]),
        (b"\n".join(json.dumps(each).encode() for each in EVENTS), EVENTS),
        (
            json.dumps(
                {"kvs": [{"key": "aw==", "value": base64.b64encode(STORED).decode()}] * 2}
            ).encode(),
            [POD, POD],
        ),
    ],
    ids=[
        "stored",
        "line break",
        "key before",
        "gzip",
        "watch",
        "gzip watch",
        "json",
        "json watch",
        "etcdctl",
    ],
)
def test_each_form_gives_its_objects(data, found):
    assert captures.objects(data) == found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" \n", "nothing to decode"),
        (b"[1]", "no object"),
        (b"{", "malformed JSON"),
        (b"\x1f\x8bnonsense", "gzip"),
        (gzip.compress(STORED)[:-9], "gzip"),
        (b"k8s:enc:aescbc:v1:key1:xxxx", "encrypted"),
        (b"/registry/secrets/default/a\nk8s:enc:secretbox:v1:k:x", "encrypted"),
        (b"GET / HTTP/1.1\r\n\r\n", "neither JSON nor"),
        (STREAM[:-1], "neither JSON nor"),
        (b"\0\0\0\x02\x08\x01", "damaged"),
        (b"\0\0\0\x03\x0a\x01A", "no object"),
        (b'{"kvs": [{"value": "?"}]}', "base64"),
        (b'{"kvs": [7]}', "base64"),
    ],
)
def test_what_cannot_be_read_is_said(data, message):
    with pytest.raises(BadRequest, match=message):
        captures.objects(data)


def test_a_gzip_bomb_is_stopped(monkeypatch):
    monkeypatch.setattr(captures, "SIZE_LIMIT_BYTES", 1000)
    with pytest.raises(BadRequest, match="too large"):
        captures.objects(gzip.compress(b" " * 100_000))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_gives_objects_or_a_bad_request(data):
    whole = data.draw(st.sampled_from([STORED, STREAM, gzip.compress(STREAM)]))
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, 8))
    damaged = whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + cut :]
    try:
        found = captures.objects(damaged)
    except BadRequest:
        return
    assert all(isinstance(each, dict) for each in found)
