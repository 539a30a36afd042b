"""Which Stage comes next and what it asks for."""

import random
from datetime import UTC, datetime

import pytest

from underway.base.errors import Invalid
from underway.capabilities.simulation.controller import default_stages
from underway.capabilities.simulation.model import stage_of
from underway.capabilities.simulation.rules import actions, selection
from underway.capabilities.simulation.rules.addresses import Addresses
from underway.capabilities.simulation.rules.queries import compile_query
from underway.capabilities.simulation.rules.rendering import Renderer, as_yaml, quote

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "p",
        "uid": "u",
        "labels": {"app": "web"},
        "annotations": {
            "weight": "7",
            "delay": "1m30s",
            "at": "2026-01-01T00:00:05Z",
            "x.y/z": "1",
        },
        "ownerReferences": [{"kind": "Job"}, {"kind": "Other"}],
        "finalizers": ["a", "b"],
    },
    "spec": {"nodeName": "n", "hostNetwork": True, "containers": [{"name": "c"}], "priority": 3},
    "status": {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}],
    },
}


def stage(name="s", **spec):
    spec.setdefault("selector", {})
    found = {"resourceRef": {"apiGroup": "v1", "kind": "Pod"}, **spec}
    return stage_of({"metadata": {"name": name}, "spec": found})


@pytest.mark.parametrize(
    "query",
    [
        ".",
        ".status.phase",
        ".status.conditions.[].type",
        ".status.conditions[].type",
        '.status.conditions.[] | select( .type == "Ready" ) | .status',
        '.status.conditions[] | select(.type != "Ready") | .status',
        '.metadata.annotations["x.y/z"]',
        '.metadata.annotations."x.y/z"',
        ".spec.priority",
        ".spec.hostNetwork",
        ".metadata.nothing.more",
        ".metadata.nothing.[]",
        ".status.phase.deeper",
        ".metadata.finalizers",
        ".metadata.ownerReferences.[].kind",
        ".metadata.labels[]",
        '.status.conditions | map(select(.status == "True")) | length',
        '[.spec.containers[].name] | join(",")',
        ".spec.containers | length > 0",
        '.metadata | select(.name == "p") | .uid',
        ".status.conditions[0].type",
    ],
)
def test_queries_find_what_jq_finds(query):
    import jq

    try:
        expected = [each for each in jq.compile(query).input_value(POD).all() if each is not None]
    except ValueError:
        expected = []
    assert compile_query(query)(POD) == expected


def test_what_is_no_query_is_refused():
    with pytest.raises(Invalid, match="not a jq"):
        compile_query(".a | | .b")


@pytest.mark.parametrize(
    ("key", "operator", "values", "expected"),
    [
        (".status.phase", "In", ["Pending", "Running"], True),
        (".status.phase", "In", ["Running"], False),
        (".status.phase", "NotIn", ["Running"], True),
        (".status.podIP", "NotIn", ["10.0.0.1"], True),
        (".status.podIP", "In", ["10.0.0.1"], False),
        (".status.podIP", "Exists", [], False),
        (".status.podIP", "DoesNotExist", [], True),
        (".metadata.finalizers", "Exists", [], True),
        (".spec.hostNetwork", "In", ["true"], True),
        (".spec.priority", "In", ["3"], True),
        (".metadata.ownerReferences.[].kind", "In", ["Job"], True),
        (".status.phase.deeper", "DoesNotExist", [], True),
    ],
)
def test_requirements(key, operator, values, expected):
    written = {"key": key, "operator": operator, "values": values}
    for each in (written, {"jq": written}):
        assert selection.matches(stage(selector={"matchExpressions": [each]}), POD) == expected


def test_labels_annotations_and_cel_are_all_required():
    assert selection.matches(stage(selector={"matchLabels": {"app": "web"}}), POD)
    assert not selection.matches(stage(selector={"matchLabels": {"app": "db"}}), POD)
    assert selection.matches(stage(selector={"matchAnnotations": {"weight": "7"}}), POD)
    assert not selection.matches(stage(selector={"matchAnnotations": {"none": ""}}), POD)
    cel = {"cel": {"expression": "self.status.phase == 'Pending' && !has(self.status.podIP)"}}
    assert selection.matches(stage(selector={"matchExpressions": [cel]}), POD)
    assert not selection.matches(
        stage(selector={"matchLabels": {"app": "db"}, "matchExpressions": [cel]}), POD
    )


def test_without_a_selector_nothing_matches_and_an_empty_one_matches_all():
    assert not selection.matches(stage(selector=None), POD)
    assert selection.matches(stage(selector={}), POD)


@pytest.mark.parametrize(
    "expression", [{"key": ".a", "operator": "Like"}, {"key": ".a", "operator": "In"}]
)
def test_a_requirement_that_means_nothing_is_refused(expression):
    with pytest.raises(Invalid, match="stage s: spec"):
        stage(selector={"matchExpressions": [expression]})


def test_weights_decide_between_stages_that_match():
    chance = random.Random(1)
    heavy = stage("heavy", weight=3)
    light = stage("light", weight=1)
    never = stage("never", weight=0)
    counts = {"heavy": 0, "light": 0, "never": 0}
    for _ in range(1000):
        counts[selection.choose([heavy, light, never], POD, chance).name] += 1
    assert counts["never"] == 0
    assert 600 < counts["heavy"] < 900
    from_pod = stage("from-pod", weightFrom={"expressionFrom": '.metadata.annotations["weight"]'})
    assert selection.choose([from_pod, never], POD, chance) is from_pod
    alone = {selection.choose([never, stage("other")], POD, chance).name for _ in range(50)}
    assert alone == {"never", "other"}


def test_a_weight_that_is_no_number_makes_way_for_one_that_is():
    broken = stage("broken", weightFrom={"expressionFrom": ".metadata.name"})
    plain = stage("plain")
    for seed in range(5):
        assert selection.choose([broken, plain], POD, random.Random(seed)) is plain


@pytest.mark.parametrize(
    ("delay", "least", "most"),
    [
        (None, 0, 0),
        ({"durationMilliseconds": 1500}, 1.5, 1.5),
        ({"durationMilliseconds": 1000, "jitterDurationMilliseconds": 5000}, 1, 5),
        ({"durationMilliseconds": 1000, "jitterDurationMilliseconds": 500}, 0.5, 0.5),
        ({"durationFrom": {"expressionFrom": ".metadata.annotations.delay"}}, 90, 90),
        ({"durationFrom": {"jq": {"expression": ".metadata.annotations.at"}}}, 5, 5),
        (
            {"durationMilliseconds": 7, "durationFrom": {"jq": {"expression": ".none"}}},
            0.007,
            0.007,
        ),
        ({"durationFrom": {"cel": {"expression": "self.metadata.annotations.delay"}}}, 90, 90),
        ({"jitterDurationMilliseconds": 500}, 0, 0),
    ],
)
def test_delays(delay, least, most):
    made = stage(**({} if delay is None else {"delay": delay}))
    for seed in range(20):
        found = selection.delay_s(made, POD, NOW, random.Random(seed))
        assert least <= found <= most


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1h", 3.6e6), ("1.5s", 1500), ("-2ms", -2), ("0", 0), ("", None), ("5", None), ("1x", None)],
)
def test_durations_as_go_writes_them(text, expected):
    assert selection.go_duration_ms(text) == expected


def render(text, obj):
    return Renderer(lambda: "2026-01-01T00:00:00Z", {})(text, obj)


def steps(**spec):
    found = []
    for step in stage(**spec).steps:
        found += actions.actions(step, POD, render)
    return found


def test_next_means_steps_in_their_order():
    found = steps(
        next={
            "event": {"reason": "R", "message": "m"},
            "finalizers": {"empty": True},
            "statusTemplate": "phase: {{ .metadata.name }}",
            "delete": True,
        }
    )
    assert found == [
        actions.Tell("Normal", "R", "m"),
        actions.Modify([{"op": "remove", "path": "/metadata/finalizers"}], "json"),
        actions.Modify({"status": {"phase": "p"}}, "strategic", "status"),
        actions.Delete(),
    ]


def test_patches_of_every_type():
    patch = {"root": "metadata", "template": 'labels: {a: "1"}', "type": "merge"}
    assert steps(next={"patches": [patch]}) == [
        actions.Modify({"metadata": {"labels": {"a": "1"}}}, "merge")
    ]
    operations = {"root": "spec", "template": "[{op: add, path: /x, value: 1}]", "type": "json"}
    assert steps(steps=[{"patch": operations}]) == [
        actions.Modify([{"op": "add", "path": "/spec/x", "value": 1}], "json")
    ]
    with pytest.raises(Invalid, match="list of operations"):
        steps(steps=[{"patch": {"template": "a: 1", "type": "json"}}])


def test_apply_makes_another_object():
    template = "{apiVersion: v1, kind: ConfigMap, metadata: {name: of-{{ .metadata.name }}}}"
    (found,) = steps(steps=[{"apply": {"template": template}}])
    assert found.how == "apply"
    assert found.body["metadata"]["name"] == "of-p"
    with pytest.raises(Invalid, match="apiVersion and kind"):
        steps(steps=[{"apply": {"template": "a: 1"}}])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"add": [{"value": "c"}]}, ["a", "b", "c"]),
        ({"add": [{"value": "a"}]}, None),
        ({"remove": [{"value": "a"}]}, ["b"]),
        ({"remove": [{"value": "a"}, {"value": "b"}]}, []),
        ({"remove": [{"value": "x"}]}, None),
        ({"empty": True}, []),
        ({"empty": True, "add": [{"value": "z"}]}, ["z"]),
    ],
)
def test_finalizers(change, expected):
    operations = actions.finalizer_operations(["a", "b"], change)
    if expected is None:
        assert operations == []
    elif not expected:
        assert operations == [{"op": "remove", "path": "/metadata/finalizers"}]
    else:
        assert operations[0] == {"op": "test", "path": "/metadata/finalizers", "value": ["a", "b"]}
        assert operations[1]["value"] == expected


def test_the_functions_of_templates():
    assert quote('a"b') == '"a\\"b"'
    assert quote(3) == '"3"'
    assert as_yaml({"b": 1, "a": [1]}, 1) == "\n  a:\n  - 1\n  b: 1\n  "
    text = """
    {{ $x := or .metadata.none dict }}
    a: {{ Now | Quote }}
    b: {{ index $x "k" | default "d" }}
    conditions: {{ len NodeConditions }}
    at: 2026-01-01T00:00:00Z
    """
    found = render(text, POD)
    assert found == {
        "a": "2026-01-01T00:00:00Z",
        "b": "d",
        "conditions": 5,
        "at": "2026-01-01T00:00:00Z",
    }
    with pytest.raises(Invalid, match="no YAML"):
        render("a: [", POD)


def test_each_owner_has_an_address_of_its_own_until_it_goes():
    addresses = Addresses()
    addresses.mark("old", "10.0.0.0/29", "10.0.0.2")
    first, second = addresses.take("a", "10.0.0.0/29"), addresses.take("b", "10.0.0.0/29")
    assert len({first, second, "10.0.0.2"}) == 3
    assert addresses.take("a", "10.0.0.0/29") == first
    addresses.release("a")
    assert addresses.take("c", "10.0.0.0/29") == first


def test_the_default_stages_are_sound():
    for stages in default_stages().values():
        for each in stages:
            selection.check(each)
