"""Every decoder a request reaches, fed with nonsense: declared errors come out and nothing else."""

import contextlib
import copy
import json

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from underway.api import apply, fieldsets, patches, schema, selectors
from underway.api.cel.program import compile_expression
from underway.base.errors import BadRequest, UnderwayError
from underway.server import negotiation, patching

POD = schema.builtin("v1", "Pod")
LIVE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["f/1"]},
    "spec": {
        "containers": [{"name": "m", "image": "i", "env": [{"name": "A", "value": "1"}]}],
        "tolerations": [{"key": "k"}],
    },
}
NAMES = st.sampled_from(
    ["metadata", "spec", "containers", "labels", "env", "name", "finalizers", "$patch",
     "$retainKeys", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers", "", "x",
     "f:spec", "k:{}", 'k:{"name":"m"}', "v:1", ".", "op", "path", "value", "from"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["m", "a", "delete", "replace", "merge", "A", "\0", "\U0010ffff", ""])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
POINTERS = st.sampled_from(
    ["", "/", "/metadata", "/metadata/labels/x", "/spec/containers/0", "/spec/containers/-",
     "/spec/containers/01", "/spec/containers/-1", "/spec/containers/9" + "9" * 30, "/a~2", "/a~",
     "~", "/spec/containers/0/env/0/name", "metadata"]
)  # fmt: skip
OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x", None]),
            "path": POINTERS,
            "from": POINTERS,
            "value": JSON,
        },
    ),
    max_size=6,
)
bounded = settings(max_examples=150, deadline=2000)  # a single case that takes seconds is a bug


def whole(value):
    """JSON still: no cycles, nothing msgspec cannot write."""
    assert msgspec.json.decode(msgspec.json.encode(value)) is not Ellipsis


@bounded
@given(OPERATIONS | JSON)
def test_json_patches(ops):
    live = copy.deepcopy(LIVE)
    with contextlib.suppress(UnderwayError):
        whole(patches.json_patch(live, ops))
    assert live == LIVE


@bounded
@given(JSON)
@example({"spec": {"containers": [{"$patch": "delete"}]}})
@example({"spec": {"$setElementOrder/containers": 7, "containers": None}})
def test_merge_and_strategic_patches(patch):
    live = copy.deepcopy(LIVE)
    for change in (
        lambda: patches.merge_patch(live, patch),
        lambda: patches.strategic_merge_patch(live, patch, POD),
    ):
        with contextlib.suppress(UnderwayError):
            whole(change())
        assert live == LIVE


@bounded
@given(JSON, JSON, st.booleans())
def test_applied_configurations(config, other, force):
    live = None
    for applied in (
        LIVE,
        {**LIVE, "spec": config},
        other,
        {"metadata": other, "spec": {"containers": [config]}},
    ):
        if not isinstance(applied, dict):
            continue
        try:
            live = apply.apply(
                live, applied, manager="m", force=force, schema=POD, now="2026-01-01T00:00:00Z"
            )
            whole(live)
        except UnderwayError:
            pass


@bounded
@given(JSON)
def test_recorded_field_owners(node):
    try:
        found = fieldsets.from_fields_v1(node)
    except BadRequest:
        return
    assert fieldsets.from_fields_v1(fieldsets.to_fields_v1(found)) == found


@bounded
@given(st.text(alphabet="ab=!,()<>in notx.-/\\ \0é", max_size=40))
def test_selectors(text):
    for read in (selectors.parse_labels, selectors.parse_fields):
        with contextlib.suppress(BadRequest):
            read(text)


@bounded
@given(
    st.binary(max_size=200)
    | JSON.map(lambda v: json.dumps(v).encode())
    | JSON.map(lambda v: yaml.safe_dump(v).encode())
)
@example(b"\xff\xfe")
@example(b"&a [*a]")
@example(b"? {a: b}\n: c")
@example(b"!!python/object:os.system x")
@example(b"1e999")
@example(b"{<<: 1}")
@example(b"0x" + b"f" * 64)
@example(b"a: 2026-01-01T00:00:00Z")
@example(b"- !!binary x")
@example(b"!!timestamp 99")
@example(b"!!int x")
@example(b"!!float x")
@example(b"\x00")
def test_json_and_yaml(data):
    for read in (negotiation.parse_json, negotiation.parse_yaml, patching.read_config):
        with contextlib.suppress(UnderwayError):
            whole(read(data))


@pytest.mark.parametrize(
    "read", [negotiation.parse_json, negotiation.parse_yaml, patching.read_config]
)
@pytest.mark.parametrize("piece", [b"[", b'{"a":', b"- "])
def test_depth_is_a_bad_request(read, piece):
    with pytest.raises(BadRequest):
        read(piece * 50_000)


@pytest.mark.parametrize("levels", [10, 200])
def test_alias_bombs_are_refused_before_they_unfold(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    with pytest.raises(BadRequest, match=r"large|well-formed"):
        negotiation.parse_yaml("\n".join(lines).encode())


@pytest.mark.parametrize("text", ["!!timestamp 99", "!!bool x", "!!int ''", "!!float x", "!!int x"])
def test_a_scalar_that_is_not_of_its_tag_is_a_bad_request(text):
    with pytest.raises(BadRequest, match="not well-formed YAML"):
        negotiation.parse_yaml(text.encode())


def test_deep_yaml_does_not_end_the_process():
    with pytest.raises(BadRequest, match="nested deeper"):
        negotiation.parse_yaml(b"[" * 1_000_000)


CEL = st.lists(
    st.sampled_from(
        ["self", "oldSelf", ".", "x", "(", ")", "[", "]", "{", "}", "+", "-", "*", "/", "%", "==", "<",
         "&&", "||", "!", "?", ":", ",", "in", "1", "-1", "1u", "1.5", "9" * 30, "'a'", '"', "b'\\xff'",
         "r'\\'", "true", "null", ".all(x, x)", ".map(y, y)", ".exists(z, true)", "size(", "has(",
         ".matches('(a+)+$')", "duration('x')", "timestamp('x')", "dyn(", "quantity('1Gi')", "\0", "é"]
    ),
    max_size=14,
).map(" ".join)  # fmt: skip


@bounded
@given(CEL, JSON)
@example("(" * 5000, None)
@example("self" + ".a" * 5000, None)
@example("[" * 200 + "]" * 200, None)
@example("self.all(x, self.all(y, self.all(z, x == y)))", ["m"] * 3)
def test_rules_in_cel(text, value):
    with contextlib.suppress(UnderwayError):
        compile_expression(text, ("self", "oldSelf")).evaluate({"self": value, "oldSelf": None})
