"""Patches and applies against the outcomes Kubernetes' own libraries gave for the same writes.

``golden/upstream.json`` is written by tools/gen_upstream_golden.py.
"""

import copy
import json
from pathlib import Path
from typing import Any

from underway.api.apply import apply, track
from underway.api.patches import strategic_merge_patch
from underway.api.schema import builtin
from underway.base.errors import BadRequest, Conflict

CASES = json.loads((Path(__file__).parent / "golden" / "upstream.json").read_bytes())
DEPLOYMENT = builtin("apps/v1", "Deployment")
NOW = "2026-01-02T03:04:05Z"


def without_nothing(value: Any) -> Any:
    """Without nulls and what is empty: upstream's untyped objects hold more of those."""
    if isinstance(value, dict):
        cleaned = {name: without_nothing(child) for name, child in value.items()}
        return {name: child for name, child in cleaned.items() if child not in (None, {}, [])}
    if isinstance(value, list):
        return [without_nothing(child) for child in value]
    return value


def comparable(obj: dict) -> tuple[dict, list]:
    """The object without times, and who owns what."""
    obj = copy.deepcopy(obj)
    metadata = obj.get("metadata") or {}
    metadata.pop("creationTimestamp", None)
    entries = metadata.pop("managedFields", None) or []
    for entry in entries:
        entry.pop("time", None)
    entries.sort(key=lambda e: (e["manager"], e["operation"]))
    return without_nothing(obj), entries


def without_directives(value: Any) -> Any:
    """Without the directives upstream leaves in values that are new."""
    if isinstance(value, dict):
        return {k: without_directives(v) for k, v in value.items() if not k.startswith("$")}
    return [without_directives(v) for v in value] if isinstance(value, list) else value


def patched(case: dict) -> tuple[dict | None, bool]:
    try:
        return strategic_merge_patch(case["original"], case["patch"], DEPLOYMENT), False
    except BadRequest:
        return None, True


def test_strategic_merge_patches_give_what_upstream_gives() -> None:
    cases = [case for case in CASES if "patch" in case]
    assert len(cases) > 100
    for case in cases:
        result, failed = patched(case)
        upstream = case["upstream"]
        assert failed == ("error" in upstream), case
        if not failed:
            assert without_directives(result) == without_directives(upstream["object"]), case


def write(live: dict | None, step: dict) -> tuple[dict | None, str]:
    if step["op"] == "update":
        new = copy.deepcopy(step["obj"])
        track(live, new, manager=step["manager"], schema=DEPLOYMENT, now=NOW)
        return new, ""
    options = {"manager": step["manager"], "force": step["force"]}
    try:
        return apply(live, step["obj"], schema=DEPLOYMENT, now=NOW, **options), ""
    except Conflict as error:
        return live, error.message


def test_applies_and_updates_give_what_upstream_gives() -> None:
    cases = [case for case in CASES if "steps" in case]
    steps = 0
    for case in cases:
        live: dict | None = None
        for step, upstream in zip(case["steps"], case["upstream"], strict=True):
            live, message = write(live, step)
            assert message == upstream.get("error", ""), case
            if live is not None:
                assert comparable(live) == comparable(upstream["object"]), case
            steps += 1
    assert steps > 120
