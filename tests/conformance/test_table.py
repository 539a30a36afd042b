"""docs/conformance.md is in step with upstream's names and with the tests it points to."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
NAMES = (Path(__file__).parent / "names.txt").read_text(encoding="utf-8").splitlines()
STATES = ("passing", "partly", "missing")


def rows() -> list[tuple[str, list[str], str]]:
    """Name, test ids and state of every row."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        area, *lines = section.splitlines()
        for line in lines:
            if line.startswith("| ") and not line.startswith("| name |"):
                name, ours, state = (cell.strip() for cell in line.strip("|").split(" | "))
                found.append((f"[{area}] {name}", re.findall(r"`([^`]+)`", ours), state))
    return found


@cache
def functions(file: str) -> tuple[frozenset[str], str]:
    """Names of a file's test functions, and its text."""
    text = (TESTS / file).read_text(encoding="utf-8")
    return frozenset(
        node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)
    ), text


def exists(test_id: str) -> bool:
    match = re.fullmatch(r"([\w/]+\.py)::(\w+)(?:\[(.+)\])?", test_id)
    assert match, test_id
    file, function, parameter = match.groups()
    if not (TESTS / file).is_file():
        return False
    names, text = functions(file)
    return function in names and (parameter is None or f'"{parameter}"' in text)


def test_every_name_has_one_row() -> None:
    assert [name for name, _, _ in rows()] == sorted(NAMES, key=lambda each: each.split("]")[0])
    assert len(set(NAMES)) == len(NAMES)


def test_every_row_points_to_tests_that_are_there() -> None:
    assert [each for _, ids, _ in rows() for each in ids if not exists(each)] == []


def test_a_row_says_what_its_tests_show() -> None:
    for name, ids, state in rows():
        word, _, why = state.partition(": ")
        assert word in STATES, name
        assert bool(ids) == (word != "missing"), name
        assert bool(why) or word != "partly", name


def test_the_sums_are_right() -> None:
    areas = Counter((name[1:].split("]")[0], state.partition(":")[0]) for name, _, state in rows())
    total = Counter(state.partition(":")[0] for _, _, state in rows())
    lines = set(PAGE.splitlines())
    for area in {area for area, _ in areas}:
        counts = [areas[area, state] for state in STATES]
        assert f"| {area} | {sum(counts)} | {' | '.join(map(str, counts))} |" in lines
    counts = [total[state] for state in STATES]
    assert f"| all | {len(NAMES)} | {' | '.join(map(str, counts))} |" in lines
