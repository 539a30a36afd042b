"""JSON patch, merge patch and strategic merge patch."""

import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api.patches import json_patch, merge_patch, same_json, strategic_merge_patch
from underway.api.schema import builtin
from underway.base.errors import BadRequest, Invalid, TooLarge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("abc", max_size=1), below),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text("abc", min_size=1, max_size=1), JSON, max_size=3)


@pytest.mark.parametrize(
    ("doc", "ops", "result"),
    [  # RFC 6902, appendix A
        ({"foo": "bar"}, [("add", "/baz", "qux")], {"foo": "bar", "baz": "qux"}),
        ({"foo": ["bar", "baz"]}, [("add", "/foo/1", "qux")], {"foo": ["bar", "qux", "baz"]}),
        ({"foo": ["bar"]}, [("add", "/foo/-", ["abc"])], {"foo": ["bar", ["abc"]]}),
        ({"baz": "qux", "foo": "bar"}, [("remove", "/baz", None)], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [("remove", "/foo/1", None)], {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, [("replace", "/baz", "boo")], {"baz": "boo"}),
        ({"/": 9, "~1": 10}, [("test", "/~01", 10)], {"/": 9, "~1": 10}),
        ({"a/b": 1}, [("replace", "/a~1b", 2)], {"a/b": 2}),
        ({"": 1}, [("replace", "/", 2)], {"": 2}),
        ({"a": 1}, [("replace", "", {"b": 2})], {"b": 2}),
        ({"a": None}, [("test", "/a", None), ("add", "/b", 1)], {"a": None, "b": 1}),
    ],
)
def test_json_patch_operations(doc: dict, ops: list, result: dict) -> None:
    before = copy.deepcopy(doc)
    assert json_patch(doc, [{"op": o, "path": p, "value": v} for o, p, v in ops]) == result
    assert doc == before


def test_json_patch_moves_and_copies() -> None:
    doc = {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}
    move = [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]
    assert json_patch(doc, move) == {
        "foo": {"bar": "baz"},
        "qux": {"corge": "grault", "thud": "fred"},
    }
    copied = json_patch(doc, [{"op": "copy", "from": "/foo", "path": "/x"}])
    copied["x"]["bar"] = "changed"
    assert copied["foo"]["bar"] == "baz"
    order = [{"op": "move", "from": "/l/1", "path": "/l/3"}]
    assert json_patch({"l": [1, 2, 3, 4]}, order) == {"l": [1, 3, 4, 2]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "test", "path": "/flag", "value": 1},
        {"op": "remove", "path": "/b"},
        {"op": "replace", "path": "/b", "value": 1},
        {"op": "add", "path": "/b/c", "value": 1},
        {"op": "add", "path": "/list/5", "value": 1},
        {"op": "add", "path": "/list/01", "value": 1},
        {"op": "add", "path": "/list/-1", "value": 1},
        {"op": "remove", "path": "/list/-"},
        {"op": "add", "path": "/a/b", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "move", "from": "/obj", "path": "/obj/x"},
        {"op": "replace", "path": "", "value": 5},
        {"op": "remove", "path": ""},
    ],
)
def test_json_patch_operations_that_do_not_fit_are_invalid(operation: dict) -> None:
    doc = {"a": 1, "flag": True, "list": [1], "obj": {"x": 1}}
    with pytest.raises((Invalid, BadRequest)):
        json_patch(doc, [operation])


@pytest.mark.parametrize(
    "ops",
    [{}, None, [1], [{"op": "add"}], [{"op": "what", "path": "/a"}], [{"op": "add", "path": "/a"}]],
)
def test_malformed_json_patches_are_bad_requests(ops: object) -> None:
    with pytest.raises(BadRequest):
        json_patch({}, ops)


def test_json_patches_are_bounded() -> None:
    with pytest.raises(TooLarge):
        json_patch({}, [{"op": "remove", "path": "/a"}] * 10_001)
    doubling = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    with pytest.raises(TooLarge):
        json_patch({"a": [1]}, doubling)


@pytest.mark.parametrize(
    ("doc", "patch", "result"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({"a": "foo"}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(doc: dict, patch: dict, result: dict) -> None:
    assert merge_patch(doc, patch) == result


@given(OBJECTS, OBJECTS)
def test_merge_patch_is_pure_and_settles(doc: dict, patch: dict) -> None:
    before = copy.deepcopy((doc, patch))
    once = merge_patch(doc, patch)
    assert (doc, patch) == before
    assert same_json(merge_patch(once, patch), once)


@given(OBJECTS, OBJECTS)
def test_strategic_patches_of_any_shape_only_raise_bad_request(doc: dict, patch: dict) -> None:
    before = copy.deepcopy((doc, patch))
    pod = builtin("v1", "Pod")
    keys = {"a": "spec", "b": "$setElementOrder/containers", "c": "containers"}
    renamed = {keys[k]: v for k, v in patch.items()}
    with contextlib.suppress(BadRequest):
        strategic_merge_patch({"spec": doc}, {"spec": renamed}, pod)
    assert (doc, patch) == before


def pod(*containers: dict, **spec: object) -> dict:
    return {"spec": {"containers": list(containers), **spec}}


def patched(doc: dict, patch: dict) -> dict:
    before = copy.deepcopy((doc, patch))
    result = strategic_merge_patch(doc, patch, builtin("v1", "Pod"))
    assert (doc, patch) == before
    return result


A, B, C = ({"name": n, "image": n} for n in "abc")


def test_lists_merge_by_their_key() -> None:
    assert patched(pod(A, B), pod({"name": "b", "image": "new", "tty": True})) == pod(
        A, {"name": "b", "image": "new", "tty": True}
    )
    ports = {"name": "a", "ports": [{"containerPort": 80, "name": "x"}, {"containerPort": 81}]}
    assert patched(
        pod(ports), pod({"name": "a", "ports": [{"containerPort": 81, "name": "y"}]})
    ) == pod(
        {
            "name": "a",
            "ports": [{"containerPort": 80, "name": "x"}, {"containerPort": 81, "name": "y"}],
        }
    )


def test_lists_without_a_merge_strategy_are_replaced() -> None:
    doc = pod({**A, "args": ["1", "2"]})
    assert patched(doc, pod({"name": "a", "args": ["3"]})) == pod({**A, "args": ["3"]})


def test_items_are_deleted_by_directive() -> None:
    assert patched(pod(A, B), pod({"$patch": "delete", "name": "a"})) == pod(B)
    assert patched(pod(A), pod({"$patch": "delete", "name": "zz"})) == pod(A)


def test_lists_and_maps_are_replaced_by_directive() -> None:
    assert patched(pod(A, B), pod(C, {"$patch": "replace"})) == pod(C)
    doc = {"metadata": {"labels": {"a": "1"}}}
    assert patched(doc, {"metadata": {"labels": {"$patch": "replace", "b": "2"}}}) == {
        "metadata": {"labels": {"b": "2"}}
    }
    assert patched(doc, {"metadata": {"labels": {"$patch": "delete"}}}) == {
        "metadata": {"labels": {}}
    }


def test_the_element_order_is_set() -> None:
    order = {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}
    assert patched(pod(A, B), {"spec": {**order, "containers": [C]}}) == pod(C, A, B)
    swap = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    assert patched(pod(A, B), swap) == pod(B, A)


def test_items_only_the_server_has_keep_their_place() -> None:
    order = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    assert patched(pod(C, A, B), order) == pod(C, B, A)


def test_primitive_lists_merge_and_lose_items() -> None:
    doc = {"metadata": {"finalizers": ["a", "b"]}}
    assert patched(doc, {"metadata": {"finalizers": ["c"]}})["metadata"]["finalizers"] in (
        ["a", "b", "c"],
        ["c", "a", "b"],
    )
    gone = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}
    assert patched(doc, gone) == {"metadata": {"finalizers": ["b"]}}


def test_retain_keys_clears_the_other_members_of_a_union() -> None:
    deployment = builtin("apps/v1", "Deployment")
    doc = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge_patch(doc, patch, deployment) == {
        "spec": {"strategy": {"type": "Recreate"}}
    }


def test_nulls_remove_and_are_not_stored() -> None:
    doc = {"metadata": {"labels": {"a": "1", "b": "2"}}}
    patch = {"metadata": {"labels": {"a": None}, "annotations": {"x": None, "y": "1"}}}
    assert patched(doc, patch) == {"metadata": {"labels": {"b": "2"}, "annotations": {"y": "1"}}}


@pytest.mark.parametrize(
    "patch",
    [
        [],
        {"spec": {"$patch": "what"}},
        pod({"image": "no name"}),
        pod({"name": None}),
        pod({"$patch": "delete"}),
        pod({"$patch": "merge", "name": "a"}),
        {"spec": {"containers": ["a"]}},
        {"spec": {"$retainKeys": "x"}},
        {"spec": {"$retainKeys": ["x"], "y": 1}},
        {"spec": {"$setElementOrder/containers": "x"}},
        {"spec": {"$setElementOrder/containers": [{}]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": [{}]}},
    ],
)
def test_malformed_strategic_patches_are_bad_requests(patch: object) -> None:
    with pytest.raises(BadRequest):
        strategic_merge_patch({"metadata": {}, **pod(A)}, patch, builtin("v1", "Pod"))
