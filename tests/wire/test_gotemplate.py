"""Go templates: what Go's own text/template makes of a table of them, and bounded execution."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.wire.gotemplate import FunctionError, Limits, Template, TemplateError

TABLE = json.loads((Path(__file__).parent / "data" / "gotemplate.json").read_text())
# Where Go's words name its own types or its parser's state, ours say the same in other words.
OTHER_WORDS = json.loads((Path(__file__).parent / "data" / "gotemplate_words.json").read_text())


def _ours(case):
    try:
        template = Template("t", case["template"], missing_key=case.get("missingkey", "default"))
        return {"output": template.execute(case.get("data", TABLE["data"]))}
    except TemplateError as error:
        return {"error": str(error)}


def _comparable(error):
    """Without the column, which Go leaves out of parse errors."""
    return re.sub(r"^template: t:(\d+)(:\d+)?: ", r"template: t:\1: ", error)


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["template"])
def test_templates_give_what_they_give_in_go(case):
    ours = _ours(case)
    if "output" in case:
        assert ours == {"output": case["output"]}
        return
    assert "error" in ours
    if case["template"] not in OTHER_WORDS:
        assert _comparable(ours["error"]) == _comparable(case["error"])


@pytest.mark.parametrize(
    "case",
    [case for case in TABLE["cases"] if "executing" in case.get("error", "")],
    ids=lambda case: case["template"],
)
def test_errors_of_execution_name_the_place_go_names(case):
    place = r"^template: t:(\d+):(\d+): "
    ours = re.match(place, _ours(case)["error"])
    assert ours
    if case["template"] not in OTHER_WORDS:
        assert ours[0] == re.match(place, case["error"])[0]


def test_functions_of_the_caller_are_called_with_their_arguments():
    def join(separator, *parts):
        return separator.join(parts)

    template = Template("t", '{{.a | join "-" "x"}}', {"join": join})
    assert template.execute({"a": "y"}) == "x-y"
    with pytest.raises(TemplateError, match="wrong number of args for join: want at least 1 got 0"):
        Template("t", "{{join}}", {"join": join}).execute({})


def test_a_function_that_fails_says_where_it_was_called():
    def refuse(text):
        raise FunctionError(f"no {text} here")

    with pytest.raises(TemplateError, match=r't:2:2: .* at <no "a">: error calling no: no a here'):
        Template("t", 'x\n{{no "a"}}', {"no": refuse}).execute({})


def test_objects_show_only_what_they_say_they_show():
    class Files:
        secret = "hidden"  # it is the point of the test

        @property
        def template_fields(self):
            return {"Get": lambda name: f"content of {name}", "Count": 2}

    data = {"Files": Files()}
    assert Template("t", '{{.Files.Get "a"}} {{.Files.Count}}').execute(data) == "content of a 2"
    for name in ("secret", "__class__", "template_fields"):
        with pytest.raises(TemplateError, match="can't evaluate field"):
            Template("t", f"{{{{.Files.{name}}}}}").execute(data)


def test_templates_added_later_are_found_by_name_and_replace_those_before():
    template = Template("t", '{{template "a" .}}{{define "a"}}old{{end}}')
    template.add("more", '{{define "a"}}new {{.x}}{{end}}{{define "b"}}b{{end}}')
    assert template.execute({"x": 1}) == "new 1"
    assert template.execute({}, "b") == "b"
    with pytest.raises(TemplateError, match="no template"):
        template.execute({}, "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{{define "a"}}{{template "a"}}{{end}}{{template "a"}}', "maximum template depth"),
        ("{{range 1000}}{{range 1000}}{{end}}{{end}}", "more than 10000 steps"),
        ("{{range 100000000}}{{end}}", "more than is allowed"),
        ("{{range 100}}{{printf `%1000d` 1}}{{end}}", "output is longer than 2000 characters"),
    ],
)
def test_execution_is_bounded(text, message):
    limits = Limits(steps=10_000, depth=20, output=2000)
    with pytest.raises(TemplateError, match=message):
        Template("t", text, limits=limits).execute({})


def test_templates_within_one_another_are_bounded_when_they_are_read():
    with pytest.raises(TemplateError, match="blocks within one another"):
        Template("t", "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}")
    with pytest.raises(TemplateError, match="blocks within one another"):
        Template("t", "{{if true}}" * 5000 + "{{end}}" * 5000)


def test_other_delimiters_leave_the_usual_ones_alone():
    assert Template("t", "[[.a]] {{.a}}", delimiters=("[[", "]]")).execute({"a": 1}) == "1 {{.a}}"


_PIECES = ["{{", "}}", " ", "-", ".a", "$x", ":=", "1", '"s"', "|", "(", ")", "if", "end", "range"]


@given(st.lists(st.sampled_from([*_PIECES, "else", "printf", "\n", "text", "`", "/*", "*/"])))
def test_whatever_is_written_is_read_or_refused_with_a_place(pieces):
    outcome = _ours({"template": "".join(pieces), "data": {"a": [1, 2]}})
    assert outcome.get("error", "template: t:").startswith("template: t:")
