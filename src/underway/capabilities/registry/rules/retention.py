"""Which artifacts a project keeps.

An artifact is kept if any rule keeps it; a rule keeps some of those whose repository and tags it
selects. Source: goharbor/harbor src/pkg/retention (policy, rule templates, selectors).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from underway.base.errors import BadRequest
from underway.capabilities.registry.rules import selectors

_DAY_S = 86_400
TEMPLATES = {
    "latestPushedK": "the most recently pushed # artifacts",
    "latestPulledN": "the most recently pulled # artifacts",
    "nDaysSinceLastPush": "pushed within the last # days",
    "nDaysSinceLastPull": "pulled within the last # days",
    "always": "always",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An artifact; times in seconds since 1970, ``pulled_s`` 0 for never."""

    digest: str
    tags: tuple[str, ...]
    pushed_s: float
    pulled_s: float


def covered(rules: Iterable[Mapping[str, Any]], repository: str) -> list[Mapping[str, Any]]:
    """The rules that are about a repository, named without its project."""
    found = []
    for rule in rules:
        chosen = (rule.get("scope_selectors") or {}).get("repository") or []
        if not rule.get("disabled") and selectors.all_select(chosen, repository):
            found.append(rule)
    return found


def kept(
    candidates: Sequence[Candidate], rules: Iterable[Mapping[str, Any]], now: datetime
) -> set[str]:
    """The digests of those that stay."""
    digests: set[str] = set()
    for rule in rules:
        chosen = [each for each in candidates if _selects(rule, each)]
        digests |= {each.digest for each in _apply(rule, chosen, now.timestamp())}
    return digests


def check(policy: Mapping[str, Any]) -> None:
    """Raise BadRequest unless a policy can be followed."""
    if policy.get("algorithm", "or") != "or":
        raise BadRequest(f"{policy['algorithm']!r} is no algorithm of retention: or")
    for rule in policy.get("rules") or []:
        if rule.get("template") not in TEMPLATES:
            raise BadRequest(f"{rule.get('template')!r} is no template of a retention rule")
        if rule.get("action", "retain") != "retain":
            raise BadRequest(f"{rule['action']!r} is no action of a retention rule: retain")
        if rule["template"] != "always" and _number(rule) < 0:
            raise BadRequest(f"{rule['template']}: the number is negative")
        for each in rule.get("tag_selectors") or []:
            selectors.matches(str(each.get("pattern", "")), "")


def _selects(rule: Mapping[str, Any], candidate: Candidate) -> bool:
    chosen = rule.get("tag_selectors") or []
    if not candidate.tags:
        return all(_takes_untagged(each) for each in chosen)
    return any(selectors.all_select(chosen, tag) for tag in candidate.tags)


def _takes_untagged(selector: Mapping[str, Any]) -> bool:
    try:
        extras = msgspec.json.decode(str(selector.get("extras") or "{}"))
    except msgspec.DecodeError as error:
        raise BadRequest(f"extras {selector.get('extras')!r} are no JSON") from error
    return bool(isinstance(extras, dict) and extras.get("untagged"))


def _apply(rule: Mapping[str, Any], chosen: list[Candidate], now_s: float) -> list[Candidate]:
    match rule.get("template"):
        case "always":
            return chosen
        case "latestPushedK":
            return sorted(chosen, key=lambda each: -each.pushed_s)[: _number(rule)]
        case "latestPulledN":
            return sorted(chosen, key=lambda each: -each.pulled_s)[: _number(rule)]
        case "nDaysSinceLastPush":
            return [each for each in chosen if each.pushed_s >= now_s - _number(rule) * _DAY_S]
        case "nDaysSinceLastPull":
            return [each for each in chosen if each.pulled_s >= now_s - _number(rule) * _DAY_S]
    return chosen  # an unknown rule deletes nothing


def _number(rule: Mapping[str, Any]) -> int:
    params = rule.get("params") or {}
    value = params.get(rule.get("template"), next(iter(params.values()), 0))
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"{rule.get('template')}: {value!r} is no number") from error
