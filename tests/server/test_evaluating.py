"""Expensive expressions are evaluated where nobody waits for them."""

import asyncio

import pytest
import yaml
from tests.server.running import configmap, request, serve
from tests.server.test_cel import WIDGETS, bind, configmaps, widget

from underway.api.cel import compile_expression
from underway.api.cel.program import EvaluationError, Outcome, evaluate_payload
from underway.api.resources import CONFIGMAPS, CUSTOMRESOURCEDEFINITIONS, Resource
from underway.base.errors import Invalid
from underway.server.evaluating import Evaluations

WIDGET = Resource("example.com", "v1", "widgets", "Widget")
TEXT = "x" * 800_000
HEAVY = "self.split('').size()"


def heavy():
    return compile_expression(HEAVY, ("self",)).evaluate({"self": TEXT})


def test_an_expensive_expression_is_evaluated_by_another_process():
    async def scenario():
        evaluations = Evaluations()
        try:
            assert await evaluations.run(heavy) == len(TEXT)
            first = evaluations._process.pid
            assert await evaluations.run(lambda: heavy() + heavy()) == 2 * len(TEXT)
            assert evaluations._process.pid == first
            assert heavy() == len(TEXT)  # outside of a run: here
        finally:
            await evaluations.aclose()
        assert evaluations._process is None

    asyncio.run(scenario())


def test_a_cheap_expression_stays_in_this_process():
    async def scenario():
        evaluations = Evaluations()
        cheap = compile_expression("self + 1", ("self",))
        assert await evaluations.run(lambda: cheap.evaluate({"self": 1})) == 2
        assert evaluations._process is None

    asyncio.run(scenario())


def test_an_evaluation_that_takes_too_long_has_no_value_and_the_next_one_has():
    async def scenario():
        evaluations = Evaluations(time_limit_s=0.0)
        with pytest.raises(EvaluationError) as caught:
            await evaluations.run(heavy)
        assert caught.value.exhausted
        assert evaluations._process is None
        evaluations._time_limit_s = 30.0
        assert await evaluations.run(heavy) == len(TEXT)
        await evaluations.aclose()

    asyncio.run(scenario())


def test_a_process_that_was_killed_is_started_again():
    async def scenario():
        evaluations = Evaluations()
        assert await evaluations.run(heavy) == len(TEXT)
        evaluations._process.kill()
        await evaluations._process.wait()
        assert await evaluations.run(heavy) == len(TEXT)
        await evaluations.aclose()

    asyncio.run(scenario())


def test_errors_and_values_that_are_no_json_come_back_as_what_they_are():
    import msgspec

    def outcome(text, **values):
        return evaluate_payload(msgspec.msgpack.encode([text, list(values), values]))

    assert outcome("1 + 1") == Outcome(2)
    assert "divi" in outcome("1 / a", a=0).error
    assert not outcome("timestamp('2024-01-01T00:00:00Z')").portable


def test_a_policy_and_a_rule_with_hostile_objects_let_others_be_served(tmp_path):
    async def scenario(server, admin):
        judged = {"expression": "object.data.text.split('').size() < 10"}
        await bind(admin, configmaps(judged))
        crd = yaml.safe_load(WIDGETS)
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        rule = {"rule": "self.split('').size() < 500000"}
        schema["properties"]["note"] = {
            "type": "string",
            "maxLength": 900_000,
            "x-kubernetes-validations": [rule],
        }
        await admin.create(CUSTOMRESOURCEDEFINITIONS, crd)
        evaluations = server._admission.evaluations
        with pytest.raises(Invalid, match="denied request"):
            await admin.create(CONFIGMAPS, configmap("a", text=TEXT), "default")
        assert evaluations._process is not None  # it was not decided here
        await evaluations.aclose()
        with pytest.raises(Invalid, match="failed rule"):
            await admin.create(WIDGET, {**widget("one"), "note": TEXT}, namespace="default")
        assert evaluations._process is not None
        writing = asyncio.gather(
            *(admin.create(CONFIGMAPS, configmap(f"c{n}", text=TEXT), "default") for n in range(3)),
            return_exceptions=True,
        )
        answered = 0
        while not writing.done():
            assert (await server.handle(request("GET", "/healthz"))).status == 200
            answered += 1
            await asyncio.sleep(0)
        assert all(isinstance(each, Invalid) for each in await writing)
        assert answered > 10

    serve(tmp_path, scenario)
