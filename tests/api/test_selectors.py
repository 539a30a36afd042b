import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api import selectors
from underway.api.resources import CONFIGMAPS, EVENTS_CORE, JOBS, NODES, PODS, SECRETS, Resource
from underway.base.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (b,c)", {"a": "c"}, True),
        ("a in (b, c)", {}, False),
        ("a notin (b)", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("a=", {"a": ""}, True),
        ("a>3", {"a": "4"}, True),
        ("a<3", {"a": "x"}, False),
        ("x.io/a=b,c!=d,e in (x,y),!f,g", {"x.io/a": "b", "e": "y", "g": "1"}, True),
        ("in=in", {"in": "in"}, True),
    ],
)
def test_label_selectors_match_as_kubernetes_does(text, labels, matches):
    assert selectors.parse_labels(text).matches(labels) is matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=b,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a in b", "found 'b' expected: '('"),
        ("a>x", "the value must be an integer"),
        ("-a=b", "name part must consist of"),
        ("a=-b", "a valid label must be an empty string or consist of"),
        ("a=" + "b" * 64, "must be no more than 63 characters"),
        ("a in (b", "expected: ',' or ')'"),
    ],
)
def test_broken_label_selectors_say_what_was_expected(text, message):
    with pytest.raises(BadRequest) as caught:
        selectors.parse_labels(text)
    assert message in caught.value.message


def test_selector_objects():
    assert not selectors.from_object(None).matches({})
    assert selectors.from_object({}).matches({})
    found = selectors.from_object(
        {
            "matchLabels": {"b": "1"},
            "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["x", "y"]},
                {"key": "c", "operator": "DoesNotExist"},
            ],
        }
    )
    assert found.matches({"b": "1", "a": "y"})
    assert not found.matches({"b": "1", "a": "y", "c": ""})
    assert str(found) == "a in (x,y),b=1,!c"
    with pytest.raises(BadRequest, match="not a valid label selector operator"):
        selectors.from_object({"matchExpressions": [{"key": "a", "operator": "Like"}]})


def test_a_services_selector_without_labels_selects_nothing():
    assert not selectors.from_labels(None).matches({"a": "b"})
    assert selectors.from_labels({"a": "b"}).matches({"a": "b", "c": "d"})


WORD = st.from_regex(r"[a-z]{1,5}", fullmatch=True)


@given(st.dictionaries(WORD, WORD, max_size=4))
def test_what_is_written_reads_the_same(labels):
    selector = selectors.from_object({"matchLabels": labels})
    assert selectors.parse_labels(str(selector)).matches(labels)


@given(st.text(alphabet="ab=!,()<> in", max_size=20))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(BadRequest):
        selectors.parse_labels(text)


def fields(text: str, **values: str) -> bool:
    named = {name.replace("_", "."): value for name, value in values.items()}
    return selectors.parse_fields(text).matches(lambda path: named.get(path, ""))


def test_field_selectors_match_and_escape():
    assert fields("metadata.name=x,status.phase!=Running", metadata_name="x")
    assert not fields("metadata.name==y", metadata_name="x")
    assert fields(r"a=b\,c\=d\\", a="b,c=d\\")
    assert fields("a=", b="x")
    assert selectors.parse_fields("metadata.name=x").exact("metadata.name") == "x"
    assert str(selectors.parse_fields(r"a=b\,c")) == r"a=b\,c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("a=b=c", "unescaped character in value: 61"),
        (r"a=\x", r"invalid escape sequence: \x"),
    ],
)
def test_broken_field_selectors_are_refused(text, message):
    with pytest.raises(BadRequest) as caught:
        selectors.parse_fields(text)
    assert message in caught.value.message


def test_fields_by_kind():
    pod = {
        "metadata": {"name": "p", "namespace": "d"},
        "spec": {"nodeName": "n", "hostNetwork": True},
        "status": {"phase": "Running", "podIPs": [{"ip": "1.1.1.1"}, {"ip": "::1"}]},
    }
    value = selectors.field_value
    assert value(PODS, pod, "metadata.name") == "p"
    assert value(PODS, pod, "spec.nodeName") == "n"
    assert value(PODS, pod, "spec.hostNetwork") == "true"
    assert value(PODS, pod, "status.podIPs") == "1.1.1.1,::1"
    assert value(PODS, pod, "spec.schedulerName") == ""
    assert value(NODES, {"spec": {}}, "spec.unschedulable") == "false"
    assert value(JOBS, {"status": {"succeeded": 2}}, "status.successful") == "2"
    assert value(JOBS, {}, "status.successful") == "0"
    assert value(SECRETS, {"type": "Opaque"}, "type") == "Opaque"
    event = {"involvedObject": {"name": "p"}, "source": {"component": "kubelet"}}
    assert value(EVENTS_CORE, event, "involvedObject.name") == "p"
    assert value(EVENTS_CORE, event, "source") == "kubelet"


def test_fields_a_kind_cannot_be_selected_by():
    def refused(resource: Resource, path: str) -> str:
        with pytest.raises(BadRequest) as caught:
            selectors.check_fields(resource, selectors.parse_fields(f"{path}=x"))
        return caught.value.message

    assert refused(PODS, "spec.foo") == "field label not supported: spec.foo"
    known = 'only "metadata.name", "metadata.namespace"'
    assert refused(CONFIGMAPS, "data") == f'"data" is not a known field selector: {known}'


def test_custom_resources_say_what_they_can_be_selected_by():
    custom = Resource("x.io", "v1", "things", "Thing")
    selector = selectors.parse_fields("spec.color=red")
    selectors.check_fields(custom, selector, ["spec.color"])
    got = selectors.field_value(custom, {"spec": {"color": "red"}}, "spec.color", ["spec.color"])
    assert got == "red"
