"""Kubernetes protobuf against the bytes that Kubernetes itself wrote, and against garbage."""

import json
import zipfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.wire import kubeproto

CORPUS = Path(__file__).parents[3] / "shared" / "corpora" / "kubernetes-api-roundtrip-HEAD.zip"
WATCH_EVENT = ("v1", "WatchEvent")  # the one kind whose envelope does not name it
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "containers": [
                    {
                        "name": "web",
                        "image": "nginx",
                        "ports": [{"containerPort": 80}],
                        "resources": {"limits": {"cpu": "500m"}},
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            },
        },
    },
}


@cache
def corpus() -> dict[str, tuple[bytes, dict]]:
    if not CORPUS.exists():
        pytest.skip(f"the corpus {CORPUS.name} is not beside the checkout")
    with zipfile.ZipFile(CORPUS) as archive:
        return {
            Path(name).stem: (archive.read(name), json.loads(archive.read(name[:-2] + "json")))
            for name in archive.namelist()
            if name.endswith(".pb")
        }


def test_decodes_every_kind_as_kubernetes_does() -> None:
    wrong = [n for n, (pb, js) in corpus().items() if kubeproto.decode(pb, WATCH_EVENT) != js]
    assert wrong == []
    assert len(corpus()) == 193


def test_encodes_every_kind_to_the_bytes_kubernetes_wrote() -> None:
    wrong = [n for n, (pb, js) in corpus().items() if kubeproto.encode(js, WATCH_EVENT) != pb]
    assert wrong == []


def test_leaves_out_the_zeroes_that_json_leaves_out_and_keeps_those_it_keeps() -> None:
    again = kubeproto.decode(kubeproto.encode(DEPLOYMENT))
    assert again == DEPLOYMENT
    assert again["spec"]["replicas"] == 0
    assert again["spec"]["template"]["spec"]["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    # what a Go client writes for fields that were never set: empty texts, a zero time
    pod = _message((1, _message((1, b"web"), (3, b""), (8, b""))), (2, _message((3, b"Always"))))
    assert kubeproto.decode(_envelope("v1", "Pod", pod)) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"restartPolicy": "Always"},
    }


def test_secret_values_are_base64_and_may_be_empty() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "data": {"a": "aGk=", "empty": ""}}
    assert kubeproto.decode(kubeproto.encode(secret)) == secret


def test_custom_resource_definitions_keep_their_schemas() -> None:
    spec = {
        "group": "example.com",
        "names": {"plural": "widgets", "kind": "Widget"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                        "properties": {
                            "any": {},
                            "list": {"type": "array", "items": {"type": "string"}},
                            "map": {"type": "object", "additionalProperties": True},
                            "closed": {"type": "object", "additionalProperties": False},
                            "size": {"type": "integer", "minimum": 0.5, "default": {"a": [1]}},
                            "level": {"enum": ["a", 1, None]},
                        },
                    }
                },
            }
        ],
    }
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": spec,
    }
    assert kubeproto.decode(kubeproto.encode(crd)) == crd


def test_options_are_known_in_every_group() -> None:
    options = {"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
    assert kubeproto.decode(kubeproto.encode(options)) == options


def test_json_in_the_envelope_is_read() -> None:
    content = _message((2, b'{"spec":1}'), (4, b"application/json"))
    assert kubeproto.decode(kubeproto.MAGIC + content) == {"spec": 1}


def test_unknown_fields_are_skipped() -> None:
    pod = _message((99, b"x")) + b"\xa0\x06\x01"  # field 100, a number
    assert kubeproto.decode(_envelope("v1", "Pod", pod)) == {"apiVersion": "v1", "kind": "Pod"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{}", "does not begin"),
        (b"", "does not begin"),
        (kubeproto.MAGIC + b"\x12\x7f", "cut short"),
        (kubeproto.MAGIC + b"\x12" + b"\xff" * 12, "too long"),
        (kubeproto.MAGIC + b"\x13", "wire type 3"),
        (kubeproto.MAGIC + b"\x10\x01", "another wire type"),
    ],
)
def test_malformed_envelopes_are_bad_requests(data: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        kubeproto.decode(data)


@pytest.mark.parametrize(
    ("kind", "raw", "text"),
    [
        ("Nothing", b"", "no protobuf encoding is known for kind 'Nothing'"),
        ("Pod", b"\x0a\x03\x0a\x01\xff", "no UTF-8"),
        ("Pod", b"\x0a\x0c\x42\x0a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "out of range|cut short"),
    ],
)
def test_malformed_objects_are_bad_requests(kind: str, raw: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        kubeproto.decode(_envelope("v1", kind, raw))


def test_depth_is_bounded() -> None:
    raw = b""
    for _ in range(400):  # JSONSchemaProps.not within itself
        raw = _message((28, raw))
    crd = _message((2, _message((7, _message((1, b"v1"), (4, _message((1, raw))))))))
    with pytest.raises(BadRequest, match="deeper"):
        kubeproto.decode(_envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd))


def test_the_number_of_values_is_bounded() -> None:
    raw = _message((2, b"\x12\x00" * (kubeproto.VALUES_LIMIT + 1)))
    with pytest.raises(BadRequest, match="more than"):
        kubeproto.decode(_envelope("v1", "Pod", raw))


def test_deep_json_within_is_a_bad_request() -> None:
    raw = _message((2, _message((1, b"[" * 100_000))))
    with pytest.raises(BadRequest, match="JSON"):
        kubeproto.decode(_envelope("apps/v1", "ControllerRevision", raw))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"replicas": "3"}, r"Deployment\.spec\.replicas: expected a number"),
        ({"replicas": 1 << 40}, "out of range of int32"),
        ({"replicas": 1.5}, "whole number"),
        ({"paused": 1}, "boolean"),
        ({"template": []}, "expected an object"),
        ({"selector": {"matchLabels": []}}, "expected an object"),
        ({"selector": {"matchExpressions": {}}}, "expected a list"),
        ({"template": {"metadata": {"creationTimestamp": "now"}}}, "no RFC 3339 time"),
    ],
)
def test_values_that_do_not_fit_their_field_are_named(spec: dict, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        kubeproto.encode({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec})


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_only_raise_bad_request(data: bytes) -> None:
    for start in (b"", kubeproto.MAGIC, _envelope("v1", "Pod", b"")):
        _survives(start + data)
    for kind in ("Pod", "Service", "Event", "Secret"):
        _survives(_envelope("v1", kind, data))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_objects_only_raise_bad_request(data: st.DataObject) -> None:
    good = bytearray(kubeproto.encode(DEPLOYMENT))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    _survives(bytes(good[: data.draw(st.integers(4, len(good)))]))


def _survives(data: bytes) -> None:
    try:
        found = kubeproto.decode(data)
    except BadRequest:
        return
    assert isinstance(found, dict)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _message(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(_varint(n << 3 | 2) + _varint(len(c)) + c for n, c in fields)


def _envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    names = _message((1, api_version.encode()), (2, kind.encode()))
    return kubeproto.MAGIC + _message((1, names), (2, raw))
