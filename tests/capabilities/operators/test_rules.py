"""Pure decisions: apply, children, revisions, related objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api.resources import CONFIGMAPS, NAMESPACES, PODS
from underway.base.errors import BadRequest, Invalid
from underway.capabilities.operators.backend import duration_s
from underway.capabilities.operators.model import ChildId, ChildRule, RelatedRule, UpdateStrategy
from underway.capabilities.operators.rules import merge, rolling
from underway.capabilities.operators.rules.children import (
    ChildKind,
    desired_children,
    grouped,
    plan,
)
from underway.capabilities.operators.rules.related import related
from underway.capabilities.operators.rules.rolling import Revision

PODS_KIND = ChildKind(ChildRule("v1", "pods"), PODS)


def pod(name: str, image: str = "a:1", **more) -> dict:
    spec = {"containers": [{"name": "main", "image": image}]}
    header = {"name": name, "namespace": "x"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": header, "spec": spec, **more}


def stored(desired: dict) -> dict:
    """What the API makes of a child: uid, defaults, status."""
    made = merge.remembered(desired)
    made["metadata"]["uid"] = "u"
    made["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    made["spec"]["restartPolicy"] = "Always"
    made["status"] = {"phase": "Running"}
    return made


def test_applying_the_same_changes_nothing():
    observed = stored(pod("a"))
    assert merge.applied(observed, pod("a")) == observed


def test_fields_no_longer_named_go_and_what_others_set_stays():
    before = pod("a")
    before["metadata"]["labels"] = {"mine": "1", "old": "1"}
    before["spec"]["containers"].append({"name": "side", "image": "s:1"})
    observed = stored(before)
    observed["metadata"]["labels"]["theirs"] = "1"
    observed["spec"]["containers"].append({"name": "injected", "image": "i:1"})
    after = pod("a", "a:2")
    after["metadata"]["labels"] = {"mine": "2"}
    found = merge.applied(observed, after)
    assert found["metadata"]["labels"] == {"mine": "2", "theirs": "1"}
    containers = {each["name"]: each for each in found["spec"]["containers"]}
    assert set(containers) == {"main", "injected"}
    assert containers["main"] == {"name": "main", "image": "a:2", "imagePullPolicy": "Always"}
    assert found["status"] == {"phase": "Running"}
    assert merge.applied(found, after) == found


values = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from("abc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)
specs = st.dictionaries(st.sampled_from("pqr"), values, max_size=3)


@given(specs, specs, specs)
def test_applying_is_idempotent_and_reaches_what_is_desired(first, second, others):
    def child(spec):
        return {"apiVersion": "v1", "kind": "T", "metadata": {"name": "n"}, "spec": spec}

    observed = merge.remembered(child(first))
    for name, value in others.items():
        observed["spec"].setdefault(name, value)
    once = merge.applied(observed, child(second))
    assert merge.applied(once, child(second)) == once
    for name, value in second.items():
        if not isinstance(value, dict | list):
            assert once["spec"][name] == value
    for name in first:
        assert name in second or name not in once["spec"]


@pytest.mark.parametrize(
    ("method", "verbs"),
    [
        ("OnDelete", []),
        ("Recreate", ["delete"]),
        ("RollingRecreate", ["delete"]),
        ("InPlace", ["update"]),
        ("RollingInPlace", ["update"]),
    ],
)
def test_each_strategy_changes_a_child_in_its_way(method, verbs):
    which = ChildId.of(pod("a"))
    same = plan({which: stored(pod("a"))}, {which: pod("a")}, lambda _: method)
    changed = plan({which: stored(pod("a"))}, {which: pod("a", "a:2")}, lambda _: method)
    assert same == []
    assert [each.verb for each in changed] == verbs


def test_children_come_and_go_and_those_going_are_left_alone():
    going = stored(pod("going"))
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    observed = {ChildId.of(each): each for each in (stored(pod("old")), going)}
    desired = {ChildId.of(each): each for each in (pod("new"), pod("going", "a:2"))}
    found = [(each.verb, each.object["metadata"]["name"]) for each in plan(observed, desired, _in)]
    assert found == [("delete", "old"), ("create", "new")]


def _in(_which):
    return "InPlace"


def test_children_are_keyed_as_the_hooks_version_says():
    home = {"metadata": {"name": "p", "namespace": "x"}}
    cluster_wide = {"metadata": {"name": "p"}}
    kinds = [PODS_KIND]
    assert list(grouped(home, kinds, [pod("a")], "v1")["Pod.v1"]) == ["a"]
    assert list(grouped(home, kinds, [pod("a")], "v2")["Pod.v1"]) == ["x/a"]
    assert list(grouped(cluster_wide, kinds, [pod("a")], "v1")["Pod.v1"]) == ["x/a"]
    assert grouped(home, kinds, [], "v1") == {"Pod.v1": {}}


@pytest.mark.parametrize(
    ("child", "why"),
    [
        ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}, "none of the child"),
        ({"apiVersion": "v1", "kind": "Pod"}, "no name"),
        (pod("a") | {"metadata": {"name": "a", "namespace": "y"}}, "another namespace"),
    ],
)
def test_a_child_that_cannot_be_is_refused(child, why):
    with pytest.raises(Invalid, match=why):
        desired_children({"metadata": {"name": "p", "namespace": "x"}}, [PODS_KIND], [child])


def test_a_child_named_twice_is_refused():
    parent = {"metadata": {"name": "p", "namespace": "x"}}
    with pytest.raises(Invalid, match="twice"):
        desired_children(parent, [PODS_KIND], [pod("a"), pod("a")])


@given(st.integers(1, 6), st.integers(0, 5))
def test_a_rollout_moves_one_child_a_step_and_ends(count, stalled_after):
    how = {("", "Pod"): UpdateStrategy(method="RollingRecreate")}
    names = [f"p{number}" for number in range(count)]
    observed = {ChildId.of(pod(name)): stored(pod(name)) for name in names}
    latest = Revision({"v": 2}, {})
    latest.desired = {ChildId.of(pod(name)): pod(name, "a:2") for name in names}
    older = Revision({"v": 1}, {}, {}, list(observed))
    older.desired = {ChildId.of(pod(name)): pod(name) for name in names}
    for step in range(1, count + 1):
        condition = rolling.advance(latest, [older], observed, how)
        assert len(latest.members) == step
        assert condition["reason"] == "RolloutProgressing"
        wanted = rolling.merged_children(latest, [older])
        moved = latest.members[-1]
        assert wanted[moved] == latest.desired[moved]
        if step == stalled_after:
            del observed[moved]
            waiting = rolling.advance(latest, [older], observed, how)
            assert waiting["status"] == ("True" if step == count else "False")
            assert len(latest.members) == step
        observed[moved] = stored(latest.desired[moved])
    assert rolling.advance(latest, [older], observed, how)["status"] == "True"
    assert older.members == []


def test_the_parent_of_a_revision_differs_only_in_its_fields():
    parent = {"spec": {"image": "2", "replicas": 3}}
    patch = rolling.patch_of({"spec": {"image": "1", "replicas": 1}}, ["spec.image"])
    assert patch == {"spec": {"image": "1"}}
    assert rolling.parent_at(parent, patch, ["spec.image"])["spec"] == {"image": "1", "replicas": 3}
    assert rolling.parent_at(parent, {}, ["spec.image"])["spec"] == {"replicas": 3}


def test_related_rules_keep_to_their_namespace_and_their_form():
    parent = {"metadata": {"name": "p", "namespace": "x"}}
    own = related(RelatedRule("v1", "configmaps"), CONFIGMAPS, parent, "v1")
    assert own.namespace == "x"
    everywhere = related(RelatedRule("v1", "configmaps"), CONFIGMAPS, parent, "v2")
    assert everywhere.namespace == ""
    spaces = related(RelatedRule("v1", "namespaces", names=("a",)), NAMESPACES, parent, "v1")
    assert spaces.matches({"metadata": {"name": "a"}}, None)
    with pytest.raises(Invalid, match="not the parent's"):
        related(RelatedRule("v1", "configmaps", namespace="y"), CONFIGMAPS, parent, "v1")
    wrong = RelatedRule("v1", "configmaps", names=("a",), label_selector={})
    with pytest.raises(Invalid, match="selector"):
        related(wrong, CONFIGMAPS, parent, "v2")
    both = RelatedRule("v1", "configmaps", namespace="y", namespace_selector={})
    with pytest.raises(Invalid, match="namespaceSelector"):
        related(both, CONFIGMAPS, parent, "v2")


def test_durations_are_those_of_go():
    assert [duration_s(text) for text in ("10s", "1m30s", "500ms", "1.5h")] == [10, 90, 0.5, 5400]
    for wrong in ("", "10", "s", "10s5", "-1s", "0s", "1d"):
        with pytest.raises(BadRequest):
            duration_s(wrong)
