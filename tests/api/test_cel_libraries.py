"""The functions and macros Kubernetes adds to CEL."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api.cel import EvaluationError, compile_expression
from underway.api.cel.authorizer import authorizer_of, deciding
from underway.api.cel.rewriting import rewritten
from underway.base.errors import Invalid


def value(text, **values):
    return compile_expression(text, tuple(sorted(values))).evaluate(values)


@pytest.mark.parametrize(
    "text",
    [
        "sets.contains([1, 2, 3], [2, 2])",
        "!sets.contains([1], [true])",
        "sets.equivalent([1, 1], [1])",
        "!sets.intersects([1], [2]) && sets.intersects([1, 2], [2, 3])",
        "semver('1.2.3').isLessThan(semver('1.10.0'))",
        "semver('1.0.0-alpha.1').isLessThan(semver('1.0.0-alpha.beta'))",
        "semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1",
        "semver('1.0.0+a').compareTo(semver('1.0.0+b')) == 0",
        "isSemver('1.2.3') && !isSemver('1.2') && isSemver('v1.2', true) && !isSemver('01.2.3')",
        "semver('v1.2', true).major() == 1 && semver('1.2.3').patch() == 3",
        "quantity('1Gi').isGreaterThan(quantity('1G'))",
        "!format.dns1123Label().validate('a-b').hasValue()",
        "format.dns1123Label().validate('A_').value().size() > 0",
        "!format.dns1123LabelPrefix().validate('web-').hasValue()",
        "format.named('uuid').hasValue() && !format.named('none').hasValue()",
        "format.date().validate('2024-02-30').hasValue()",
        "!format.datetime().validate('2024-02-29T10:00:00Z').hasValue()",
        "[1, 2].all(i, v, i < v) && !{'a': 1}.all(k, v, k == 'b')",
        "[5, 6].exists(i, v, i == 1 && v == 6)",
        "[5, 6].existsOne(i, v, v > 5)",
        "[5, 6].transformList(i, v, i + v) == [5, 7]",
        "[5, 6].transformList(i, v, i > 0, v) == [6]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "[3, 4].transformMap(i, v, v > 3, v) == {1: 4}",
        "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}",
        "{'a': [1, 2]}.all(k, list, list.all(i, v, v > i))",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
        "'object.all(i, v, x)' == 'object' + '.all(i, v, x)'",
    ],
)
def test_an_expression_holds(text):
    assert value(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "semver('1.2').major() == 1",
        "semver('1.2.3').isLessThan(quantity('1'))",
        "['a', 'a'].transformMapEntry(i, v, {v: i}) == {}",
        "authorizer.path('/healthz').check('get').allowed()",
        "authorizer.requestResource.resource('pods').path('/x').check('get').allowed()",
    ],
)
def test_an_expression_has_no_value(text):
    with pytest.raises(EvaluationError):
        value(text, authorizer=authorizer_of({"username": "jo"}))


def test_two_variables_work_over_values_from_outside():
    given = {"list": [3, 4], "map": {"a": "b"}}
    assert value("object.list.all(i, v, v == i + 3)", object=given) is True
    assert value("object.map.transformList(k, v, k + v)", object=given) == ["ab"]


@pytest.mark.parametrize(
    "text", ["a.all(", "a.all(i, v, (]", "Object{spec: ", "'", '"""', "{[(" * 200]
)
def test_what_is_no_expression_is_refused_and_not_crashed_on(text):
    with pytest.raises(Invalid):
        compile_expression(text, ("a",))


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "Object",
                    "JSONPatch",
                    "{",
                    "}",
                    "(",
                    ")",
                    "[",
                    "]",
                    ",",
                    ":",
                    "?",
                    ".",
                    "a",
                    "i",
                ),
                *('"', "'", '"""', "r'", "//", "\n", " ", ".all(i, v, ", ".transformMap(", "\\"),
                *(".validate(", "1", "\x00", "\u20ac"),
            ]
        ),
        max_size=60,
    )
)
def test_whatever_is_written_is_rewritten_or_refused(words):
    with suppress(Invalid):
        assert isinstance(rewritten("".join(words)), str)


@pytest.mark.parametrize(
    "unit", ["JSONPatch{value: ", "x.all(i, v, ", "(", "Object{a: Object.a{b: "]
)
def test_deep_nesting_is_refused(unit):
    with pytest.raises(Invalid):
        compile_expression(unit * 300, ("x",))
    closing = "".join({"{": "}", "(": ")"}[c] for c in reversed(unit * 300) if c in "{(")
    with pytest.raises(Invalid):
        compile_expression(unit * 300 + "1" + closing, ("x",))


def test_expressions_without_extras_stay_as_they_are_written():
    text = "self.items.all(x, x.name != '') && has(self.Object)"
    assert rewritten(text) == text


def test_the_authorizer_asks_whoever_decides():
    asked = []

    def decide(user, attributes):
        asked.append((user["username"], attributes))
        return attributes.get("resourceAttributes", {}).get("verb") == "get", "because"

    user = {"username": "jo", "groups": ["devs"]}
    text = (
        "authorizer.group('apps').resource('deployments').subresource('scale').namespace('x')"
        ".name('web').check('get')"
    )
    request = {"group": "", "resource": "pods"}
    with deciding(decide):
        given = authorizer_of(user, request)
        assert value(f"{text}.allowed()", authorizer=given) is True
        assert value(f"{text}.reason()", authorizer=given) == "because"
        assert (
            value("authorizer.requestResource.check('list').allowed()", authorizer=given) is False
        )
        account = "authorizer.serviceAccount('ns', 'robot').path('/x').check('get').allowed()"
        assert value(account, authorizer=given) is False
    wanted = {
        "group": "apps",
        "resource": "deployments",
        "subresource": "scale",
        "namespace": "x",
        "name": "web",
        "verb": "get",
    }
    assert asked[0] == ("jo", {"resourceAttributes": wanted})
    assert asked[2] == ("jo", {"resourceAttributes": {**request, "verb": "list"}})
    assert asked[3][0] == "system:serviceaccount:ns:robot"


def test_loops_over_pairs_are_part_of_the_cost():
    cheap = compile_expression("self.all(i, v, v > 0)", ("self",))
    dear = compile_expression("self.all(i, v, self.all(j, w, v > w || j > i))", ("self",))
    assert dear.cost_of((10, 10_000)) > 1000 * cheap.cost_of((10, 10_000))
