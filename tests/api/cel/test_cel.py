"""Expressions, their cost, and the rules schemas carry."""

import random
from contextlib import suppress

import pytest

from underway.api import schema as schemas
from underway.api.cel import EvaluationError, compile_expression, cost
from underway.api.cel.rules import RuleSet, problems_of_schema, ratcheted
from underway.base.errors import Cause, Invalid

TRUE = [
    "self.replicas < 3 && self.ratio > 0.5 && self.replicas == 1.0",
    "has(self.name) && !has(self.absent)",
    "self.?absent.orValue('x') == 'x'",
    "self.tags.all(t, t.size() > 0) && self.tags.exists_one(t, t == 'b')",
    "self.tags.map(t, t + '!').filter(t, t != 'a!') == ['b!']",
    "cel.bind(n, self.replicas, n + n == 4)",
    # strings
    "'hello'.charAt(1) == 'e' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
    "'ABC'.lowerAscii() == 'abc' && 'abc'.upperAscii() == 'ABC'",
    "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
    "'abc'.substring(1) == 'bc' && ' a '.trim() == 'a' && 'aa'.replace('a', 'b') == 'bb'",
    "'%s has %d'.format([self.name, self.replicas]) == 'web has 2'",
    "'a1b22'.find('[0-9]+') == '1' && 'a1b22'.findAll('[0-9]+') == ['1', '22']",
    "'a1b22c3'.findAll('[0-9]+', 2) == ['1', '22'] && 'x'.find('[0-9]') == ''",
    # lists
    "[1, 2, 3].sum() == 6 && [2, 1].min() == 1 && [2, 1].max() == 2 && [1, 1, 2].isSorted()",
    "['a', 'b', 'a'].indexOf('a') == 0 && ['a', 'b', 'a'].lastIndexOf('a') == 2",
    "!['b', 'a'].isSorted() && ['b'].indexOf('z') == -1",
    # quantities
    "quantity('1500m').isGreaterThan(quantity('1')) && quantity('1') == quantity('1000m')",
    "quantity('50k').add(20000).compareTo(quantity('70k')) == 0 && quantity('-1').sign() == -1",
    "quantity('2').sub(quantity('500m')).asApproximateFloat() == 1.5",
    "quantity('1Ki').asInteger() == 1024 && !quantity('1m').isInteger() && !isQuantity('1x')",
    # URLs
    "url('https://u@host:8443/a/b?x=1').getHost() == 'host:8443'",
    "url('https://host:8443/a/b?x=1').getPort() == '8443' && isURL('/a') && !isURL('nothing')",
    "url('https://host/a?x=1&x=2').getQuery()['x'] == ['1', '2']",
    "url('https://host/a').getScheme() == 'https' && url('https://h/a').getEscapedPath() == '/a'",
    # addresses
    "isIP('10.0.0.1') && !isIP('10.0.0.01') && !isIP('x') && isCIDR('10.0.0.0/8')",
    "ip('::1').family() == 6 && ip('127.0.0.1').isLoopback() && ip('10.0.0.1').isGlobalUnicast()",
    "ip.isCanonical('::1') && !ip.isCanonical('0:0::1')",
    "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
    "cidr('10.0.0.0/8').containsCIDR('10.4.0.0/16') && cidr('10.1.0.0/8').prefixLength() == 8",
    "cidr('10.1.0.0/8').masked() == cidr('10.0.0.0/8') && string(ip('::1')) == '::1'",
    # the standard library
    "duration('1h') > duration('5m') && timestamp('2020-01-01T00:00:00Z').getFullYear() == 2020",
    "base64.encode(b'hi') == 'aGk=' && math.greatest(1, 3, 2) == 3 && type(self.name) == string",
]
VALUES = {"replicas": 2, "ratio": 0.75, "name": "web", "tags": ["a", "b"], "n": None}


@pytest.mark.parametrize("expression", TRUE[1:])
def test_an_expression_holds(expression):
    assert compile_expression(expression, ("self",)).evaluate({"self": VALUES}) is True


def test_numbers_of_different_types_compare():
    program = compile_expression(TRUE[0].replace("== 1.0", "== 2.0"), ("self",))
    assert program.evaluate({"self": VALUES}) is True


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("self.absent", "no such key: absent"),
        ("1 / 0", "divide by zero"),
        ("self.tags[7]", "index=7"),
        ("ip('nowhere') == ip('::1')", "nowhere"),
        ("[].max()", "max called on empty list"),
        ("quantity('x').sign()", "quantities must match"),
        ("'a'.find('(')", "illegal regex"),
    ],
)
def test_an_expression_without_a_value_says_why(expression, message):
    with pytest.raises(EvaluationError, match=message):
        compile_expression(expression, ("self",)).evaluate({"self": VALUES})


@pytest.mark.parametrize(
    "expression",
    ["1 +", "nothing", "'a' < 1", "(" * 5000, "x" * 20_000, "", "self.\x00", "[" * 90 + "]" * 90],
)
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(Invalid):
        compile_expression(expression, ("self",))


def bomb(levels):
    text = "self"
    for level in range(levels):
        text = f"cel.bind(v{level}, {text}, v{level} + v{level} + v{level} + v{level})"
    return f"{text}.size() > 0"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (bomb(12), "a" * 1000),
        (bomb(12), ["a"] * 1000),
        ("self.replace('', self).replace('', self).size() > 0", "a" * 1000),
        ("self.all(x, self.all(y, self.all(z, x + y + z > 0)))", list(range(1000))),
        ("self.map(x, x).map(x, x).map(x, x).size() > 0", list(range(100_000))),
        ("'%s%s%s%s'.format([self, self, self, self]).replace('', self) == ''", ["a" * 10_000] * 9),
    ],
)
def test_a_hostile_expression_is_stopped_before_it_runs(expression, value):
    with pytest.raises(EvaluationError) as caught:
        compile_expression(expression, ("self",)).evaluate({"self": value})
    assert caught.value.exhausted


def test_a_pattern_takes_linear_time():
    program = compile_expression("self.matches('^(a+)+$') || self.find('(a+)+b') != ''", ("self",))
    assert program.evaluate({"self": "a" * 50_000 + "c"}) is False


def test_any_words_end_in_a_value_or_an_error():
    words = [
        "self",
        "self.a",
        "self.l",
        ".",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "&&",
        "||",
        "!",
        "==",
        ">",
        "+",
        "-",
        "*",
        "/",
        "%",
        "'a'",
        "r'x'",
        "b'y'",
        "1",
        "2u",
        "3.5",
        "1e9",
        "true",
        "null",
        "in",
        "has(",
        "all(",
        "size(",
        ".matches(",
        ".replace(",
        ".split(",
        ".map(x,",
        ".all(x,",
        ".find(",
        "cel.bind(",
        "x",
        "quantity(",
        "ip(",
        "cidr(",
        "url(",
        ".sum()",
        ".max()",
        "optional.of(",
        "duration(",
        "string(",
        "type(",
        "9999999999",
    ]
    draw = random.Random(7)  # no secret
    values = {"self": {"a": 2**70, "l": [1, "x", None], "s": "\ud800", "f": 1e308}}
    for _ in range(4000):
        text = " ".join(draw.choice(words) for _ in range(draw.randint(1, 9)))
        with suppress(Invalid):
            compile_expression(text, ("self",)).evaluate(values)


@pytest.mark.parametrize("text", ["self" + ".a" * 4000, "self" + "[0]" * 4000, "1" + "+1" * 4000])
def test_a_deep_expression_is_refused_or_evaluated(text):
    with suppress(Invalid):
        compile_expression(text, ("self",)).evaluate({"self": {"a": 1}})


def test_a_schemas_pattern_takes_linear_time():
    schema = typed(
        {"type": "object", "properties": {"s": {"type": "string", "pattern": "^(a+)+$"}}}
    )
    (found,) = schemas.validate(schema, {"s": "a" * 50_000 + "b"})
    assert "should match" in found.message


# -- schemas -------------------------------------------------------------------------------


def typed(node):
    return schemas.from_openapi(node)


def of(properties, *rules, **more):
    return {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": properties,
                "x-kubernetes-validations": [
                    r if isinstance(r, dict) else {"rule": r} for r in rules
                ],
                **more,
            }
        },
    }


def check(schema, new, old=None):
    rules = RuleSet(typed(schema))
    return [(c.field, c.message, c.reason) for c in rules.check(new, old)]


NUMBERS = {"min": {"type": "integer"}, "max": {"type": "integer"}, "share": {"type": "number"}}


def test_a_broken_rule_names_its_place_and_says_its_message():
    schema = of(NUMBERS, {"rule": "self.min <= self.max", "message": "min must not exceed max"})
    assert check(schema, {"spec": {"min": 1, "max": 2}}) == []
    assert check(schema, {"spec": {"min": 3, "max": 2}}) == [
        ("spec", 'Invalid value: "object": min must not exceed max', "FieldValueInvalid")
    ]


def test_a_rule_without_a_message_shows_itself():
    (found,) = check(of(NUMBERS, "self.min <= self.max"), {"spec": {"min": 3, "max": 2}})
    assert found[1] == 'Invalid value: "object": failed rule: self.min <= self.max'


def test_message_expression_field_path_and_reason():
    rule = {
        "rule": "self.min <= self.max",
        "message": "fallback",
        "messageExpression": "'min ' + string(self.min) + ' exceeds ' + string(self.max)",
        "fieldPath": ".min",
        "reason": "FieldValueForbidden",
    }
    assert check(of(NUMBERS, rule), {"spec": {"min": 3, "max": 2}}) == [
        ("spec.min", "Forbidden: min 3 exceeds 2", "FieldValueForbidden")
    ]
    rule["messageExpression"] = "'a\\nb'"
    assert check(of(NUMBERS, rule), {"spec": {"min": 3, "max": 2}})[0][1] == "Forbidden: fallback"


def test_a_rule_that_cannot_be_evaluated_fails():
    (found,) = check(of(NUMBERS, "self.min <= self.max"), {"spec": {"min": 3}})
    assert found[1] == (
        'Invalid value: "object": no such key: max evaluating rule: self.min <= self.max'
    )


def test_numbers_are_doubles_and_reserved_names_are_escaped():
    fields = {**NUMBERS, "namespace": {"type": "string"}, "a-b": {"type": "string"}}
    schema = of(fields, "self.share + 0.5 == 1.5 && self.__namespace__ == self.a__dash__b")
    assert problems_of_schema(typed(schema), "x") == []
    assert check(schema, {"spec": {"share": 1, "namespace": "n", "a-b": "n"}}) == []


def test_rules_on_items_values_and_scalars_apply_to_each():
    schema = of(
        {
            "ports": {
                "type": "array",
                "maxItems": 9,
                "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]},
            },
            "limits": {
                "type": "object",
                "maxProperties": 9,
                "additionalProperties": {
                    "type": "string",
                    "maxLength": 20,
                    "x-kubernetes-validations": [{"rule": "isQuantity(self)"}],
                },
            },
        }
    )
    assert problems_of_schema(typed(schema), "x") == []
    found = check(schema, {"spec": {"ports": [1, 0], "limits": {"cpu": "1", "memory": "lots"}}})
    assert found == [
        ("spec.ports[1]", 'Invalid value: "integer": failed rule: self > 0', "FieldValueInvalid"),
        (
            "spec.limits.memory",
            'Invalid value: "string": failed rule: isQuantity(self)',
            "FieldValueInvalid",
        ),
    ]


def test_transition_rules_run_on_updates_only():
    schema = of({"size": {"type": "integer"}}, "self.size >= oldSelf.size")
    assert check(schema, {"spec": {"size": 1}}) == []
    assert check(schema, {"spec": {"size": 2}}, {"spec": {"size": 1}}) == []
    assert check(schema, {"spec": {"size": 1}}, {"spec": {"size": 2}})[0][0] == "spec"


def test_an_optional_old_self_runs_on_creation_too():
    rule = {"rule": "oldSelf.hasValue() || self.size == 1", "optionalOldSelf": True}
    schema = of({"size": {"type": "integer"}}, rule)
    assert check(schema, {"spec": {"size": 1}}) == []
    assert len(check(schema, {"spec": {"size": 2}})) == 1
    assert check(schema, {"spec": {"size": 2}}, {"spec": {"size": 1}}) == []


def test_items_of_map_lists_keep_their_old_selves():
    item = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "value": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.value == oldSelf.value"}],
    }
    lists = {"type": "array", "maxItems": 5, "items": item}
    lists |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    schema = of({"list": lists})
    old = {"spec": {"list": [{"name": "a", "value": 1}, {"name": "b", "value": 2}]}}
    new = {"spec": {"list": [{"name": "b", "value": 3}, {"name": "c", "value": 9}]}}
    assert [found[0] for found in check(schema, new, old)] == ["spec.list[0]"]
    del lists["x-kubernetes-list-type"]
    (problem,) = problems_of_schema(typed(of({"list": lists})), "x")
    assert "uncorrelatable" in problem.message


def test_what_was_wrong_and_stays_passes():
    schema = of(
        {
            "a": {
                "type": "string",
                "maxLength": 9,
                "x-kubernetes-validations": [{"rule": "self=='x'"}],
            }
        }
    )
    old = {"spec": {"a": "bad"}, "n": 1}
    assert check(schema, {**old, "n": 2}, old) == []
    assert len(check(schema, {"spec": {"a": "worse"}}, old)) == 1


def test_problems_of_the_schema_are_ratcheted_where_nothing_changes():
    schema = typed(of({"a": {"type": "integer"}, "list": {"type": "array", "items": {}}}))
    old = {"spec": {"a": 1, "list": [{"v": 1}]}, "x.y": {"z": 1}}
    new = {"spec": {"a": 1, "list": [{"v": 1}, 2], "b": 2}, "x.y": {"z": 1}}
    fields = ["spec.a", "spec.b", "spec.c", "spec.list[0].v", "x.y.z", "spec"]
    left = ratcheted(schema, [Cause(f, "wrong") for f in fields], new, old)
    assert [c.field for c in left] == ["spec.b", "spec.c", "spec.list[0].v", "spec"]


@pytest.mark.parametrize(
    ("rule", "where", "message"),
    [
        ({"rule": "self.min <="}, "rule", "compilation failed: ERROR: <input>:1:"),
        ({"rule": "self.mni < 1"}, "rule", "undefined field 'mni'"),
        ({"rule": "size(self)"}, "rule", "must evaluate to a bool"),
        ({"rule": " "}, "rule", "Required value: rule is not specified"),
        ({"rule": "true", "messageExpression": "1"}, "messageExpression", "evaluate to a string"),
        ({"rule": "self.names.all(n, n.all(m, m.contains(n[0])))"}, "rule", "more than 100x"),
        ({"rule": "self.text.matches('a+b')"}, "rule", None),
    ],
)
def test_what_is_wrong_with_a_rule(rule, where, message):
    names = {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}
    schema = of({**NUMBERS, "names": names, "text": {"type": "string"}}, rule)
    at = "spec.versions[0].schema.openAPIV3Schema"
    found = problems_of_schema(typed(schema), at)
    if message is None:
        assert found == []
        return
    problem = found[0]
    assert problem.field == f"{at}.properties[spec].x-kubernetes-validations[0].{where}"
    assert message in problem.message


def test_cost_counts_how_often_a_rule_runs():
    item = {"type": "string", "maxLength": 100, "x-kubernetes-validations": [{"rule": "self > ''"}]}
    unbounded = of({"list": {"type": "array", "items": item}})
    problem = problems_of_schema(typed(unbounded), "s")[0]
    assert problem.reason == "FieldValueForbidden"
    assert problem.message.startswith("Forbidden: estimated rule cost exceeds budget by factor of")
    bounded = of({"list": {"type": "array", "maxItems": 100, "items": item}})
    assert problems_of_schema(typed(bounded), "s") == []


def test_the_sum_of_all_rules_is_bounded():
    text = {"type": "string", "maxLength": 1000}
    text["x-kubernetes-validations"] = [{"rule": "self.replace('', self).size() > 0"}] * 1200
    found = problems_of_schema(typed(of({"text": text})), "s")
    assert [c.field for c in found] == ["s"]
    assert "entire OpenAPIv3 schema exceeds budget by factor of 2.4x" in found[0].message


def test_an_object_too_large_for_a_rule_is_refused_quickly():
    schema = of(
        {"l": {"type": "array", "maxItems": 9, "items": {"type": "integer"}}},
        "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c > 0)))",
        "true",
    )
    (found,) = check(schema, {"spec": {"l": list(range(3000))}})
    assert "no further validation rules will be run due to call cost exceeds limit" in found[1]


def test_estimates_know_schemas():
    schema = typed(
        of({"s": {"type": "string", "maxLength": 50}, "e": {"type": "string", "enum": ["a", "bb"]}})
    )
    bound = cost.Typed(schema).field("spec")
    assert (bound.field("s").text, bound.field("e").text) == (50, 2)
    with pytest.raises(cost.UndefinedFieldError):
        bound.field("t")
