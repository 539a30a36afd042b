"""Which advisories apply to a package.

Source: OSV schema 1.6, "Evaluation".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from underway.capabilities.scan.model import Advisory, Affected, Match, Package, Range
from underway.capabilities.scan.rules import ecosystems
from underway.capabilities.scan.rules.versions import ORDERS, Key

_LOWEST = "0"


def matches(
    package: Package, ecosystem: str, advisories: Iterable[Advisory]
) -> tuple[list[Match], list[str]]:
    """The advisories that apply, each once, and what could not be decided.

    A version that is none in its ecosystem's order is reported, never passed over.
    """
    found: list[Match] = []
    problems: list[str] = []
    for advisory in advisories:
        if advisory.withdrawn:
            continue
        for name, version in ecosystems.names_of(package):
            if (ecosystem, name) in advisory.not_affected:
                break
            hit = _hit(advisory, ecosystem, name, version, problems)
            if hit is not None:
                found.append(Match(advisory, package, hit))
                break
    return found, problems


def _hit(
    advisory: Advisory, ecosystem: str, name: str, version: str, problems: list[str]
) -> str | None:
    """The version that mends it (empty: none), or None where the advisory does not apply."""
    for each in advisory.affected:
        if each.name != name or not _same_ecosystem(each.ecosystem, ecosystem):
            continue
        try:
            if affects(each, version):
                return remedy(each, version)
        except ValueError as error:
            problems.append(f"{advisory.id}: {name}: {error}")
    return None


def _same_ecosystem(published: str, wanted: str) -> bool:
    """Whether an advisory for ``published`` is one for ``wanted``; without a release, for all."""
    if published == wanted:
        return True
    base, _, release = published.partition(":")
    return base == wanted.partition(":")[0] and (
        not release or release.removesuffix(":LTS") == wanted.partition(":")[2]
    )


def affects(affected: Affected, version: str) -> bool:
    """Whether a version is affected: it is listed, or lies in a range.

    Raises:
        ValueError: the version, or one of the range, is none in the range's order.
    """
    return version in affected.versions or any(_within(each, version) for each in affected.ranges)


def _within(range_: Range, version: str) -> bool:
    order = ORDERS.get(range_.order)
    if order is None:
        return False
    key = order(version)
    vulnerable = False
    for kind, text in sorted(range_.events, key=lambda event: _event_key(order, event)):
        if kind == "introduced":
            if text == _LOWEST or key >= order(text):
                vulnerable = True
        elif kind == "fixed":
            if key >= order(text):
                vulnerable = False
        elif kind == "last_affected":
            if key > order(text):
                vulnerable = False
        elif kind == "limit" and text != "*" and key >= order(text):
            vulnerable = False
    return vulnerable


_SAME_VERSION = {"fixed": 0, "limit": 0, "introduced": 1, "last_affected": 2}


def _event_key(order: Callable[[str], Key], event: tuple[str, str]) -> tuple[int, Key, int]:
    """Events by version; ``0`` before all, ``*`` after all; at one, ends come first."""
    kind, text = event
    if text == _LOWEST:
        return 0, (), _SAME_VERSION[kind]
    return (2, (), 0) if text == "*" else (1, order(text), _SAME_VERSION[kind])


def remedy(affected: Affected, version: str) -> str:
    """The least version that mends it and is newer than this one; empty where there is none."""
    best, best_key = "", None
    for each in affected.ranges:
        order = ORDERS.get(each.order)
        if order is None:
            continue
        here = order(version)
        for kind, text in each.events:
            if (
                kind == "fixed"
                and order(text) > here
                and (best_key is None or order(text) < best_key)
            ):
                best, best_key = text, order(text)
    return best
