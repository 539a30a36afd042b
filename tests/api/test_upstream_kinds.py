"""Defaults, rules and tables of built-in kinds against what Kubernetes itself answered."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from underway.api import kinds
from underway.api.defaults import apply_defaults
from underway.api.objects import Object
from underway.api.resources import BUILTIN
from underway.api.tables import table
from underway.base.errors import Cause

RESOURCES = {resource.group_resource: resource for resource in BUILTIN}
ANSWERS = [
    json.loads(line)
    for line in (Path(__file__).parent / "upstream/answers.jsonl").read_text().splitlines()
]
# Cells that count from the moment of the recording.
PASSING = ("Age", "Last Seen", "First Seen", "Last Schedule", "Duration", "Restarts")
# Fields that Kubernetes writes although they say nothing.
SILENT = ("deprecated.daemonset.template.generation", "reportingComponent", "reportingInstance")


def recorded(operation: str) -> Any:
    chosen = [answer for answer in ANSWERS if answer["op"] == operation]
    names = [f"{number}-{answer['resource']}" for number, answer in enumerate(chosen)]
    return pytest.mark.parametrize("answer", chosen, ids=names)


def plain(value: Any) -> Any:
    """Without nulls, silent fields and what they leave empty."""
    if isinstance(value, dict):
        kept = {
            name: plain(each)
            for name, each in value.items()
            if each is not None and name not in SILENT
        }
        return {name: each for name, each in kept.items() if each not in ({}, [])}
    return [plain(each) for each in value] if isinstance(value, list) else value


def spoken(causes: list[Cause]) -> set[tuple[str, str]]:
    # After the first line Kubernetes shows a difference in Go's notation.
    return {(cause.field, cause.message.split("\n")[0]) for cause in causes}


@recorded("default")
def test_defaults(answer):
    obj: Object = copy.deepcopy(answer["object"])
    apply_defaults(RESOURCES[answer["resource"]], obj)
    wanted = answer["answer"]
    for each in (obj, wanted):
        each.pop("status", None)  # the strategy's business
    assert plain(obj) == plain(wanted)


@recorded("validate")
def test_rules(answer):
    found = kinds.validate_create(RESOURCES[answer["resource"]], answer["object"])
    assert spoken(found) == {tuple(each) for each in answer["answer"]}


@recorded("update")
def test_rules_of_changes(answer):
    resource = RESOURCES[answer["resource"]]
    found = kinds.validate_update(resource, answer["object"], answer["old"])
    assert spoken(found) == {tuple(each) for each in answer["answer"]}


@recorded("table")
def test_tables(answer):
    now = datetime(2026, 1, 2, tzinfo=UTC)
    made = table(RESOURCES[answer["resource"]], [answer["object"]], {}, now)
    columns = made["columnDefinitions"]
    shown = [f"{each['name']}/{each['type']}/{each['priority']}" for each in columns]
    assert shown == answer["answer"]["columns"]
    cells = zip(columns, made["rows"][0]["cells"], answer["answer"]["row"], strict=True)
    for column, ours, theirs in cells:
        if column["name"] == "Restarts":
            assert ours.split(" ")[0] == theirs.split(" ")[0]
        elif column["name"] not in PASSING:
            assert ours == theirs, column["name"]
