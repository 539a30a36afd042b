"""Artifact rules: which of a step's files are accounted for.

Source: in-toto specification 1.0, sections 4.3.3 and 5.2 ("apply artifact rules").
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from underway.capabilities.provenance.rules.metadata import Link
from underway.capabilities.provenance.rules.patterns import matches_path

_SIMPLE = ("CREATE", "DELETE", "MODIFY", "ALLOW", "DISALLOW", "REQUIRE")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; the last four are MATCH's alone. ``side`` is materials or products."""

    kind: str
    pattern: str
    source_prefix: str = ""
    side: str = ""
    target_prefix: str = ""
    step: str = ""

    def __str__(self) -> str:
        if self.kind != "MATCH":
            return f"{self.kind} {self.pattern}"
        within = f" IN {self.source_prefix}" if self.source_prefix else ""
        there = f" IN {self.target_prefix}" if self.target_prefix else ""
        return f"MATCH {self.pattern}{within} WITH {self.side.upper()}{there} FROM {self.step}"


class Refused(ValueError):
    """What was found is not what the layout says; the message names step and rule."""


def parse(words: Sequence[str]) -> Rule:
    """A rule from its words.

    Raises:
        ValueError: it is none.
    """
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"no artifact rule: {words!r}")
    kind = words[0].upper()
    if kind in _SIMPLE and len(words) == 2:
        return Rule(kind, words[1])
    if kind != "MATCH" or len(words) < 2:
        raise ValueError(f"no artifact rule: {' '.join(words)}")
    rest = list(words[2:])
    source_prefix = target_prefix = ""
    if rest[:1] and rest[0].upper() == "IN" and len(rest) > 1:
        source_prefix, rest = rest[1], rest[2:]
    if len(rest) < 2 or rest[0].upper() != "WITH":
        raise ValueError(f"no artifact rule: {' '.join(words)}")
    side, rest = rest[1].lower(), rest[2:]
    if rest[:1] and rest[0].upper() == "IN" and len(rest) > 1:
        target_prefix, rest = rest[1], rest[2:]
    if side not in ("materials", "products") or len(rest) != 2 or rest[0].upper() != "FROM":
        raise ValueError(f"no artifact rule: {' '.join(words)}")
    return Rule(kind, words[1], source_prefix.rstrip("/"), side, target_prefix.rstrip("/"), rest[1])


def apply(
    name: str, side: str, rules: Iterable[Rule], link: Link, links: Mapping[str, Link]
) -> frozenset[str]:
    """Apply a list of rules to one side of a link; gives the files no rule has accounted for.

    Args:
        name: of the step or inspection, for messages.
        side: ``materials`` or ``products``.
        rules: in order.
        link: the step's own.
        links: all, by step, which MATCH looks up.

    Raises:
        Refused: a DISALLOW matched something, or a REQUIRE found nothing.
    """
    artifacts = link.materials if side == "materials" else link.products
    left = set(artifacts)
    for rule in rules:
        if rule.kind == "REQUIRE":
            if rule.pattern not in left:
                raise Refused(f"{name}: {side} lack {rule.pattern} ({rule})")
            continue
        hit = _matching(rule, left, artifacts, link, links)
        if rule.kind == "DISALLOW" and hit:
            shown = ", ".join(sorted(hit)[:5])
            raise Refused(f"{name}: {side} {shown}: not accounted for ({rule})")
        left -= hit
    return frozenset(left)


def _matching(
    rule: Rule,
    left: set[str],
    artifacts: Mapping[str, Mapping[str, str]],
    link: Link,
    links: Mapping[str, Link],
) -> set[str]:
    if rule.kind == "MATCH":
        return {path for path in left if _same_there(rule, path, artifacts[path], links)}
    hit = {path for path in left if matches_path(rule.pattern, path)}
    before, after = link.materials, link.products
    if rule.kind == "CREATE":
        return {path for path in hit if path in after and path not in before}
    if rule.kind == "DELETE":
        return {path for path in hit if path in before and path not in after}
    if rule.kind == "MODIFY":
        return {
            path
            for path in hit
            if path in before and path in after and not same(before[path], after[path])
        }
    return hit


def _same_there(
    rule: Rule, path: str, digest: Mapping[str, str], links: Mapping[str, Link]
) -> bool:
    other = links.get(rule.step)
    if other is None:
        return False
    relative = path
    if rule.source_prefix:
        if not path.startswith(f"{rule.source_prefix}/"):
            return False
        relative = path[len(rule.source_prefix) + 1 :]
    if not matches_path(rule.pattern, relative):
        return False
    there = posixpath.join(rule.target_prefix, relative) if rule.target_prefix else relative
    artifacts = other.materials if rule.side == "materials" else other.products
    return there in artifacts and same(digest, artifacts[there])


def same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two digest sets agree in all algorithms they share, of which there is one."""
    shared = one.keys() & other.keys()
    return bool(shared) and all(one[each].lower() == other[each].lower() for each in shared)
