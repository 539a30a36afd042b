"""Which language a source is of.

A Dockerfile wins; then Python, Node and Go, each only when there is something to run; then a
static site.
"""

from __future__ import annotations

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import Lacking, Listing, Plan
from underway.capabilities.packs.rules import dockerfile, golang, node, python, static

_LOOKED_FOR = (
    "a Dockerfile; requirements.txt, pyproject.toml, Pipfile, app.py or main.py; package.json; "
    "go.mod; index.html in the directory itself or in public, dist, build or _site"
)


def detect(listing: Listing, port: int | None = None) -> Plan:
    """How to make an image of a source.

    Args:
        listing: its files.
        port: the port the application shall listen on; otherwise its language's habit.

    Raises:
        BadRequest: nothing was recognised, or what was lacks something to run.
    """
    if "Dockerfile" in listing.files:
        return dockerfile.detect(listing, port)
    lacking: list[Lacking] = []
    for rules in (python, node, golang, static):
        found = rules.detect(listing, port)
        if isinstance(found, Plan):
            return found
        if found is not None:
            lacking.append(found)
    if lacking:
        raise BadRequest(
            "; ".join(f"{each.language}: {each.reason}" for each in lacking),
            hint=lacking[0].hint or "write a Dockerfile",
        )
    raise BadRequest(
        f"nothing here that can be shipped; looked for {_LOOKED_FOR}",
        hint="write a Dockerfile, or name the directory that holds the application",
    )
