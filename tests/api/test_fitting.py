"""The quick yes is never given to what the long look would refuse."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underway.api import schema as schemas
from underway.api.fitting import fits

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "labels": {"x": "y"}, "creationTimestamp": "2026-02-28T00:00:00Z"},
    "spec": {
        "containers": [
            {
                "name": "m",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": 5}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
            }
        ],
        "terminationGracePeriodSeconds": 3,
        "hostNetwork": False,
    },
}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "spec": {"versions": [{"schema": {"openAPIV3Schema": {"type": "object"}}}]},
}
JUNK = st.sampled_from(
    [None, True, 0, -1, 1.0, 1.5, "", "x", [], [None], [{}], {}, {"x": 1}, 2**70]
)


def kind_of(obj):
    found = schemas.builtin(obj["apiVersion"], obj["kind"])
    assert found is not None
    return found


def refused(kind, obj):
    causes = schemas.validate(kind, obj)
    return bool(schemas.unknown_fields(kind, obj)) or any(
        cause.reason == "FieldValueTypeInvalid" for cause in causes
    )


def places(value, at=()):
    if at:
        yield at
    children = []
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for step, child in children:
        yield from places(child, (*at, step))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(places(POD))), JUNK, st.sampled_from(["", "nonsense"]))
def test_what_fits_has_nothing_to_be_refused_for(at, junk, more):
    changed = copy.deepcopy(POD)
    target = changed
    for step in at[:-1]:
        target = target[step]
    target[at[-1]] = junk
    if more and isinstance(target, dict):
        target[more] = junk
    if fits(kind_of(POD), changed):
        assert not refused(kind_of(POD), changed)


def test_an_ordinary_object_fits():
    assert fits(kind_of(POD), POD)


def test_kinds_that_hold_themselves_are_looked_at_closely():
    assert not fits(kind_of(CRD), CRD)
    assert not refused(kind_of(CRD), CRD)


@pytest.mark.parametrize("kind", ["Secret", "ConfigMap", "Service", "Node", "Event"])
def test_every_field_a_schema_names_may_be_null(kind):
    found = schemas.builtin("v1", kind)
    assert fits(found, dict.fromkeys(found.properties))


def test_custom_types_are_left_to_their_schema():
    assert not fits(schemas.from_openapi({"type": "object"}), {})


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aB9=+/-_\n é", max_size=9))
def test_bytes_that_fit_are_base64(text):
    secret = {"apiVersion": "v1", "kind": "Secret", "data": {"k": text}}
    if fits(kind_of(secret), secret):
        assert not refused(kind_of(secret), secret)


@pytest.mark.parametrize(
    ("time", "fitting"),
    [
        ("2026-02-28T23:59:59Z", True),
        ("2026-12-31T00:00:00.000001Z", True),
        ("2026-01-01T00:00:00Z\n", False),
        ("2026-02-30T00:00:00Z", False),
        ("2026-01-01T24:00:00Z", False),
        ("0000-01-01T00:00:00Z", False),
        ("\u0662026-01-01T00:00:00Z", False),
    ],
)
def test_times_as_kubernetes_writes_them_fit(time, fitting):
    obj = {**POD, "metadata": {"creationTimestamp": time}}
    assert fits(kind_of(POD), obj) is fitting
    assert not (fitting and refused(kind_of(POD), obj))
