"""Sets of field paths: their JSON, what an object owns, how two versions differ."""

import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api import fieldsets
from underway.api.fieldsets import compare, fields_of, from_fields_v1, merge, to_fields_v1, without
from underway.api.schema import builtin
from underway.base.errors import BadRequest

POD = builtin("v1", "Pod")
ELEMENTS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"', "v:1", "i:0"])
SETS = st.sets(st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple), max_size=8)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("abc")},
        optional={
            "image": st.sampled_from(["x", "y"]),
            "args": st.lists(st.sampled_from("12"), max_size=2),
            "env": st.lists(
                st.fixed_dictionaries({"name": st.sampled_from("EF"), "value": st.text("v")}),
                max_size=2,
                unique_by=lambda e: e["name"],
            ),
        },
    ),
    max_size=3,
    unique_by=lambda c: c["name"],
)
PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(st.sampled_from("kl"), st.sampled_from("12")),
                "finalizers": st.lists(st.sampled_from("fg"), unique=True),
            },
        ),
        "spec": st.fixed_dictionaries({}, optional={"containers": CONTAINERS}),
    }
)


@given(SETS)
def test_fields_v1_keeps_every_path(paths: set) -> None:
    assert from_fields_v1(to_fields_v1(paths)) == paths


def test_fields_v1_is_read_as_upstream_writes_it() -> None:
    node = {"f:spec": {"f:containers": {'k:{"name": "a"}': {".": {}, "f:image": {}}}}}
    item = ("f:spec", "f:containers", 'k:{"name":"a"}')
    assert from_fields_v1(node) == {item, (*item, "f:image")}


@pytest.mark.parametrize("node", [[], {"x": {}}, {"f:a": 1}, {"k:{": {}}, {"f:a": {"v:": {}}}])
def test_malformed_fields_v1_is_a_bad_request(node: object) -> None:
    with pytest.raises(BadRequest):
        from_fields_v1(node)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda below: (
        st.lists(below, max_size=2)
        | st.dictionaries(
            st.sampled_from([".", "f:a", "k:{}", "v:1", "k:[1]", "x", "", "k:"]), below
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_fields_v1_of_any_shape_only_raises_bad_request(node: object) -> None:
    with contextlib.suppress(BadRequest):
        paths = from_fields_v1(node)
        for path in paths:
            fieldsets.path_text(path)
        to_fields_v1(paths)


def test_paths_are_shown_as_upstream_shows_them() -> None:
    path = ("f:spec", "f:ports", 'k:{"containerPort":80,"protocol":"TCP"}', "f:name")
    assert fieldsets.path_text(path) == '.spec.ports[containerPort=80,protocol="TCP"].name'
    assert fieldsets.path_text(("f:finalizers", 'v:"x"')) == '.finalizers[="x"]'


def test_an_object_owns_leaves_list_items_map_keys_and_empty_maps() -> None:
    pod = {
        "metadata": {"labels": {"a": "1"}, "finalizers": ["f"]},
        "spec": {
            "containers": [{"name": "c", "args": ["1"], "ports": [{"containerPort": 80}]}],
            "nodeSelector": {"x": "y"},
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    }
    assert to_fields_v1(fields_of(POD, pod)) == {
        "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {'v:"f"': {}}},
        "f:spec": {
            "f:containers": {
                'k:{"name":"c"}': {
                    ".": {},
                    "f:name": {},
                    "f:args": {},
                    "f:ports": {
                        'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}
                    },
                }
            },
            "f:nodeSelector": {},
            "f:volumes": {'k:{"name":"v"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
        },
    }


@given(PODS)
def test_nothing_differs_from_itself(pod: dict) -> None:
    assert compare(POD, pod, copy.deepcopy(pod)) == fieldsets.Comparison()


@given(PODS, PODS)
def test_a_difference_is_the_reverse_difference_mirrored(one: dict, other: dict) -> None:
    there, back = compare(POD, one, other), compare(POD, other, one)
    assert (there.added, there.removed, there.modified) == (
        back.removed,
        back.added,
        back.modified,
    )


@given(PODS, PODS)
def test_merging_yields_everything_applied_and_is_idempotent(live: dict, applied: dict) -> None:
    before = copy.deepcopy((live, applied))
    merged = merge(POD, live, applied)
    assert (live, applied) == before
    assert merge(POD, merged, applied) == merged
    found = compare(POD, merged, applied)
    assert not found.modified
    assert not found.added & fields_of(POD, applied)


@given(PODS)
def test_removing_what_an_object_owns_leaves_nothing_owned(pod: dict) -> None:
    owned = fieldsets.with_named_fields(POD, fields_of(POD, pod))
    assert fields_of(POD, without(POD, pod, owned)) == set()


def test_merging_keeps_the_applied_order_and_the_live_items_between() -> None:
    def pods(names: str) -> dict:
        return {"spec": {"containers": [{"name": name} for name in names]}}

    def merged(live: str, applied: str) -> str:
        result = merge(POD, pods(live), pods(applied))
        return "".join(c["name"] for c in result["spec"]["containers"])

    assert merged("ab", "ba") == "ba"
    assert merged("axb", "ab") == "axb"
    assert merged("a", "ba") == "ba"
    assert merged("abc", "cd") == "abcd"


def test_applied_lists_may_not_repeat_an_item() -> None:
    pod = {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}
    with pytest.raises(BadRequest, match=r'duplicate entries for key \[name="a"\]'):
        merge(POD, {"spec": {"containers": []}}, pod)
    assert compare(POD, pod, pod) == fieldsets.Comparison()
