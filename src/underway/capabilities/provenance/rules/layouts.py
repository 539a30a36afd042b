"""in-toto layouts: read, and looked over for holes before anybody relies on one.

Source: in-toto specification 1.0, section 4.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from underway.base.clock import parse_rfc3339
from underway.capabilities.provenance.rules import artifacts, keys
from underway.capabilities.provenance.rules.artifacts import Rule

ERROR = "error"
WARNING = "warning"
_LONG = timedelta(days=730)
_ANYTHING = frozenset(("sh", "bash", "dash", "zsh", "env", "python", "python3", "perl", "eval"))
_EVERYTHING = frozenset(("*", "**"))
_PASSES = frozenset(("ALLOW", "CREATE", "MODIFY"))


@dataclass(frozen=True, slots=True)
class Step:
    """A step, or with ``run`` an inspection."""

    name: str
    materials: tuple[Rule, ...]
    products: tuple[Rule, ...]
    key_ids: tuple[str, ...] = ()
    threshold: int = 1
    run: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """``keys`` are securesystemslib key objects by id."""

    expires: datetime
    keys: Mapping[str, Mapping[str, Any]]
    steps: tuple[Step, ...]
    inspections: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A hole in a layout: ``severity`` is error or warning."""

    severity: str
    where: str
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """The problem for ``-o json``."""
        return {
            "severity": self.severity,
            "where": self.where,
            "message": self.message,
            "remedy": self.remedy,
        }


class _Step(msgspec.Struct):
    name: str
    expected_materials: list[list[str]] = []
    expected_products: list[list[str]] = []
    pubkeys: list[str] = []
    threshold: int = 1
    run: list[str] = []


class _Layout(msgspec.Struct):
    expires: str
    keys: dict[str, dict[str, Any]] = {}
    steps: list[_Step] = []
    inspect: list[_Step] = []


def parse(signed: Mapping[str, Any]) -> Layout:
    """A layout from what was signed.

    Raises:
        ValueError: it is none, or one of its rules is malformed.
    """
    if signed.get("_type") != "layout":
        raise ValueError(f"no layout but a {signed.get('_type')}")
    try:
        read = msgspec.convert(signed, _Layout)
        expires = parse_rfc3339(read.expires)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"no layout: {error}") from error
    return Layout(
        expires,
        read.keys,
        tuple(_step(each) for each in read.steps),
        tuple(_step(each) for each in read.inspect),
    )


def _step(read: _Step) -> Step:
    if not read.name or "/" in read.name or read.name.startswith("."):
        raise ValueError(f"{read.name!r} is no name of a step")
    return Step(
        read.name,
        tuple(artifacts.parse(words) for words in read.expected_materials),
        tuple(artifacts.parse(words) for words in read.expected_products),
        tuple(read.pubkeys),
        read.threshold,
        tuple(read.run),
    )


def lint(layout: Layout, now: datetime) -> list[Problem]:
    """Every hole found, errors first: with an error left, the layout proves nothing."""
    found = [
        *_times(layout, now),
        *_names(layout),
        *(problem for step in layout.steps for problem in _authority(layout, step)),
        *(problem for each in (*layout.steps, *layout.inspections) for problem in _rules(each)),
        *_openings(layout),
        *_references(layout),
        *(problem for each in layout.inspections for problem in _inspection(each)),
    ]
    return sorted(found, key=lambda each: each.severity != ERROR)


def _times(layout: Layout, now: datetime) -> Iterator[Problem]:
    if layout.expires <= now:
        yield Problem(ERROR, "expires", f"the layout expired on {layout.expires:%Y-%m-%d}")
    elif layout.expires - now > _LONG:
        yield Problem(WARNING, "expires", "it is good for more than two years", "renew it yearly")


def _names(layout: Layout) -> Iterator[Problem]:
    if not layout.steps:
        yield Problem(ERROR, "steps", "a layout without steps proves nothing")
    if not layout.inspections:
        yield Problem(
            WARNING, "inspect", "nothing compares the delivered product with the last step's"
        )
    counted = Counter(each.name for each in (*layout.steps, *layout.inspections))
    for name, count in counted.items():
        if count > 1:
            yield Problem(ERROR, name, f"the name is used {count} times")


def _authority(layout: Layout, step: Step) -> Iterator[Problem]:
    if step.threshold < 1:
        yield Problem(ERROR, step.name, f"a threshold of {step.threshold} needs no signature")
    if not step.key_ids:
        yield Problem(ERROR, step.name, "nobody may carry it out", "name the keys in pubkeys")
    if len(set(step.key_ids)) < step.threshold:
        yield Problem(
            ERROR, step.name, f"{len(set(step.key_ids))} keys can never meet {step.threshold}"
        )
    for key_id in step.key_ids:
        key = layout.keys.get(key_id)
        if key is None:
            yield Problem(ERROR, step.name, f"key {key_id[:8]} is not among the layout's keys")
            continue
        try:
            keys.load(key)
        except ValueError as error:
            yield Problem(ERROR, step.name, f"key {key_id[:8]}: {error}")


def _rules(step: Step) -> Iterator[Problem]:
    for side, rules in (("materials", step.materials), ("products", step.products)):
        where = f"{step.name}.expected_{side}"
        for index, rule in enumerate(rules):
            try:
                artifacts.matches_path(rule.pattern, "")
            except ValueError as error:
                yield Problem(ERROR, where, f"{rule}: {error}")
            if rule.kind == "DISALLOW" and rule.pattern == "*" and index < len(rules) - 1:
                yield Problem(WARNING, where, f"nothing after {rule} is ever reached")
            if rule.kind == "REQUIRE" and any(char in rule.pattern for char in "*?["):
                yield Problem(ERROR, where, f"{rule}: REQUIRE takes a file's name, no pattern")


def _openings(layout: Layout) -> Iterator[Problem]:
    first = layout.steps[0].name if layout.steps else ""
    for step in (*layout.steps, *layout.inspections):
        inspection = step in layout.inspections
        for side, rules in (("materials", step.materials), ("products", step.products)):
            # What the first step starts from comes from outside; nothing earlier accounts for it.
            from_outside = step.name == first and side == "materials" and not inspection
            for message in _open(rules, created=not inspection):
                yield Problem(
                    WARNING if from_outside else ERROR,
                    f"{step.name}.expected_{side}",
                    message,
                    'end the list with ["DISALLOW", "*"]',
                )


def _open(rules: Iterable[Rule], *, created: bool) -> Iterator[str]:
    """Why a list lets files through that nothing accounts for; ``created``: a step makes files."""
    for rule in rules:
        if rule.kind == "DISALLOW" and rule.pattern == "*":
            return
        if rule.pattern in _EVERYTHING and rule.kind in _PASSES:
            # CREATE * in a step only says it makes new files: changed ones still go on to DISALLOW.
            if rule.kind == "CREATE" and created:
                continue
            yield f"{rule} lets every file through"
            return
    yield "the list is open: a tampered file that no rule matches passes"


def _references(layout: Layout) -> Iterator[Problem]:
    seen: list[str] = []
    known = [each.name for each in layout.steps]
    for step in (*layout.steps, *layout.inspections):
        for rule in (*step.materials, *step.products):
            if rule.kind != "MATCH":
                continue
            if rule.step not in known:
                yield Problem(ERROR, step.name, f"{rule}: there is no step {rule.step}")
            elif rule.step not in seen and rule.step != step.name:
                yield Problem(WARNING, step.name, f"{rule}: {rule.step} comes later")
        seen.append(step.name)


def _inspection(step: Step) -> Iterator[Problem]:
    if not step.run:
        yield Problem(ERROR, f"{step.name}.run", "an inspection without a command")
        return
    where, program = f"{step.name}.run", step.run[0].rpartition("/")[2]
    if program in _ANYTHING:
        yield Problem(ERROR, where, f"{program} runs anything", "name one program instead")
    else:
        yield Problem(
            WARNING,
            where,
            f"it runs `{' '.join(step.run)}` where the layout is verified",
            f"it is refused unless allowed: --allow-inspection {step.name}",
        )
