"""Verifying a product by its layout and links.

Source: in-toto specification 1.0, section 5.2. Stricter in four points: a layout with a hole
(``layouts.lint``) is refused, a link must bear its step's name, an inspection runs only where it
was allowed by name, and reading is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from underway.capabilities.provenance.rules import artifacts, keys, layouts
from underway.capabilities.provenance.rules.artifacts import Refused
from underway.capabilities.provenance.rules.layouts import ERROR, Layout, Step
from underway.capabilities.provenance.rules.metadata import Link, Metadata, link_file

DEPTH_LIMIT = 8  # of layouts within layouts


class Links(Protocol):
    """Where links lie: a directory, and directories of sublayouts in it."""

    def read(self, name: str) -> Metadata | None:
        """The metadata in a file, or None where there is none. Raises ValueError: malformed."""
        ...

    def below(self, name: str) -> Links:
        """The directory of a sublayout's links."""
        ...


Inspect = Callable[[Step], Link]
"""Runs an inspection's command and gives what was there before and after."""


@dataclass(frozen=True)
class Verified:
    """What was proved. ``summary`` is the whole chain as one link."""

    steps: tuple[str, ...]
    inspections: tuple[str, ...]
    summary: Link
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Terms:
    """How to verify: ``now``, parameters put into the layout, inspections that may run."""

    now: datetime
    parameters: Mapping[str, str] = field(default_factory=dict)
    allowed_inspections: Collection[str] = ()
    inspect: Inspect | None = None


def verify(
    metadata: Metadata,
    owners: Mapping[str, Mapping[str, Any]],
    links: Links,
    terms: Terms,
    depth: int = 0,
) -> Verified:
    """Check the whole chain.

    Args:
        metadata: the layout.
        owners: key id -> key object; every one of them must have signed the layout.
        links: where the steps' links lie.
        terms: how.
        depth: of layouts this one lies within.

    Raises:
        Refused: the product is not what the layout says; the message names step and rule.
    """
    if depth >= DEPTH_LIMIT:
        raise Refused(f"layouts lie within layouts more than {DEPTH_LIMIT} deep")
    _signed_by_all(metadata, owners)
    layout = _read(metadata, terms)
    chain: dict[str, Link] = {}
    for step in layout.steps:
        chain[step.name] = _step_link(step, layout, links, terms, depth)
    warnings = [each.message for each in layouts.lint(layout, terms.now) if each.severity != ERROR]
    for step in layout.steps:
        _apply(step, chain[step.name], chain)
    for inspection in layout.inspections:
        chain[inspection.name] = _inspected(inspection, terms)
        _apply(inspection, chain[inspection.name], chain)
    first, last = chain[layout.steps[0].name], chain[layout.steps[-1].name]
    return Verified(
        tuple(each.name for each in layout.steps),
        tuple(each.name for each in layout.inspections),
        Link("", first.materials, last.products, last.command, last.byproducts),
        tuple(warnings),
    )


def _signed_by_all(metadata: Metadata, owners: Mapping[str, Mapping[str, Any]]) -> None:
    if not owners:
        raise Refused("no key of the layout's owner was given")
    for key_id, key in owners.items():
        if not _signed_by(metadata, key_id, key):
            raise Refused(f"the layout is not signed by key {key_id[:8]}")


def _signed_by(metadata: Metadata, key_id: str, key: Mapping[str, Any]) -> bool:
    try:
        public = keys.load(key)
    except ValueError as error:
        raise Refused(f"key {key_id[:8]}: {error}") from error
    return any(
        each.key_id == key_id and keys.verifies(public, each.value, metadata.signed_bytes)
        for each in metadata.signatures
    )


def _read(metadata: Metadata, terms: Terms) -> Layout:
    try:
        layout = layouts.parse(_filled(metadata.signed, terms.parameters))
    except ValueError as error:
        raise Refused(str(error)) from error
    holes = [each for each in layouts.lint(layout, terms.now) if each.severity == ERROR]
    waived = {f"{name}.run" for name in terms.allowed_inspections}
    open_ = [each for each in holes if each.where not in waived]
    if open_:
        raise Refused(f"the layout proves nothing: {open_[0].where}: {open_[0].message}")
    return layout


def _filled(value: Any, parameters: Mapping[str, str]) -> Any:
    """The layout with ``{NAME}`` replaced, as section 4.3.4 has it."""
    if not parameters:
        return value
    if isinstance(value, str):
        for name, text in parameters.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, Mapping):
        return {
            name: each if name in ("keys", "pubkeys") else _filled(each, parameters)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_filled(each, parameters) for each in value]
    return value


def _step_link(step: Step, layout: Layout, links: Links, terms: Terms, depth: int) -> Link:
    """The one link a step's signers agree on."""
    found: dict[str, Link] = {}
    refusals: list[str] = []
    for key_id in dict.fromkeys(step.key_ids):
        name = link_file(step.name, key_id)
        try:
            metadata = links.read(name)
            if metadata is None:
                continue
            if not _signed_by(metadata, key_id, layout.keys[key_id]):
                refusals.append(f"{name} is not signed by its key")
                continue
            found[key_id] = _link(step, key_id, metadata, layout, links, terms, depth)
        except ValueError as error:
            refusals.append(f"{name}: {error}")
    if len(found) < step.threshold:
        reason = f" ({'; '.join(refusals)})" if refusals else ""
        raise Refused(
            f"{step.name}: {len(found)} of {step.threshold} links needed are valid{reason}"
        )
    first, *others = found.values()
    for other in others:
        if not _agree(first, other):
            raise Refused(f"{step.name}: its signers do not agree on materials and products")
    return first


def _link(
    step: Step,
    key_id: str,
    metadata: Metadata,
    layout: Layout,
    links: Links,
    terms: Terms,
    depth: int,
) -> Link:
    if metadata.type == "layout":
        directory = f"{step.name}.{key_id[:8]}"
        owner = {key_id: layout.keys[key_id]}
        return verify(metadata, owner, links.below(directory), terms, depth + 1).summary
    if metadata.type != "link":
        raise Refused(f"neither link nor layout but {metadata.type or 'nothing'}")
    link = Link.from_dict(metadata.signed)
    if link.name != step.name:
        raise Refused(f"it is the link of step {link.name}")
    return link


def _agree(one: Link, other: Link) -> bool:
    return _digests(one.materials) == _digests(other.materials) and _digests(
        one.products
    ) == _digests(other.products)


def _digests(side: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {path: dict(value) for path, value in side.items()}


def _apply(step: Step, link: Link, chain: Mapping[str, Link]) -> None:
    for side, rules in (("materials", step.materials), ("products", step.products)):
        try:
            artifacts.apply(step.name, side, rules, link, chain)
        except Refused:
            raise
        except ValueError as error:
            raise Refused(f"{step.name}: {error}") from error


def _inspected(step: Step, terms: Terms) -> Link:
    if step.name not in terms.allowed_inspections or terms.inspect is None:
        raise Refused(
            f"the inspection {step.name} would run `{' '.join(step.run)}`, which is not allowed"
        )
    return terms.inspect(step)


def explained(steps: Sequence[str]) -> str:
    """The chain as a line."""
    return " -> ".join(steps)
