"""Tags that may be neither moved nor deleted."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from underway.capabilities.registry.backend.database import Reader
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import Immutable
from underway.capabilities.registry.rules import selectors

RULES = Table("immutable_rules", "immutable rule")


def is_immutable(reader: Reader, project_id: int, repository: str, tag: str) -> bool:
    """Whether a rule of the project covers a tag. ``repository`` is its full name."""
    return any(_covered(reader, project_id, repository, [tag]))


def check(reader: Reader, project_id: int, repository: str, tags: Iterable[str]) -> None:
    """Refuse to touch tags that a rule covers.

    Raises:
        Immutable: one is covered; Harbor's code for it is PRECONDITION.
    """
    for tag in _covered(reader, project_id, repository, tags):
        raise Immutable(f"{repository}:{tag} is immutable: a rule of its project covers it")


def _covered(
    reader: Reader, project_id: int, repository: str, tags: Iterable[str]
) -> Iterable[str]:
    rows = reader.all(
        "SELECT tag_selectors, scope_selectors FROM immutable_rules "
        "WHERE project_id = ? AND disabled = 0",
        project_id,
    )
    if not rows:
        return
    inside = repository.partition("/")[2]
    for row in rows:
        scopes = msgspec.json.decode(row["scope_selectors"]) or {}
        chosen = [selector for each in scopes.values() for selector in each]
        if not selectors.all_select(chosen, inside):
            continue
        wanted = msgspec.json.decode(row["tag_selectors"]) or []
        yield from (tag for tag in tags if selectors.all_select(wanted, tag))
