"""Scanning: index what is new, combine, match, and say how much that is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from underway.base.clock import Clock, SystemClock, rfc3339
from underway.base.errors import BadRequest
from underway.base.home import Home
from underway.capabilities.scan.backend import images
from underway.capabilities.scan.backend.database import Advisories, Indexes
from underway.capabilities.scan.backend.layers import (
    INDEX_STATE,
    index_directory,
    index_layer,
)
from underway.capabilities.scan.model import Inventory, Match, Report, Source
from underway.capabilities.scan.rules import ecosystems, matching, sbom
from underway.capabilities.scan.rules.layering import combined

MAX_AGE_DAYS = 14
"""How old advisories may be before a report based on them is called stale."""

SBOM_LIMIT_BYTES = 256 * 1024 * 1024
_NOTHING_LIKE_IT = "there are no advisories for {}"

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Subject:
    """What was indexed: its name, its digest (empty for a directory), and what is in it."""

    name: str
    digest: str
    inventory: Inventory


class Scanner:
    """Indexes and matches; keeps both below the platform's directory."""

    def __init__(self, home: Home, clock: Clock | None = None) -> None:
        self._home = home
        self._clock = clock or SystemClock()
        self.indexes = Indexes(home.scan / "layers.db", INDEX_STATE)
        self.advisories = Advisories(home.scan / "advisories.db")

    def index_image(self, name: str, tell: Tell) -> Subject:
        """Index an image: only layers that were never indexed are fetched.

        Raises:
            NotFound, BadRequest, Unauthorized, ServiceUnavailable: it cannot be read.
        """
        found = []
        with images.opened(name, self._home, self._home.load_settings()) as place:
            image = place.image()
            for number, layer in enumerate(image.layers, 1):
                index = self.indexes.get(layer.diff_id)
                if index is None:
                    tell(f"indexing layer {number} of {len(image.layers)}, {layer.digest[:19]}")
                    index = index_layer(place.blob(layer.digest), layer.digest)
                    self.indexes.put(layer.diff_id, index)
                found.append((layer.diff_id, index))
        self.indexes.keep_manifest(image.digest, [each.diff_id for each in image.layers])
        return Subject(name, image.digest, combined(found))

    def known(self, digest: str) -> Subject | None:
        """An image that was indexed before, or None where it has to be indexed anew."""
        layers = self.indexes.manifest(digest)
        if layers is None:
            return None
        found = [(layer, self.indexes.get(layer)) for layer in layers]
        present = [(layer, index) for layer, index in found if index is not None]
        return Subject(digest, digest, combined(present)) if len(present) == len(found) else None

    def index_directory(self, root: Path) -> Subject:
        """Index a directory as a root file system."""
        return Subject(str(root), "", combined([("", index_directory(root))]))

    def read_sbom(self, file: Path) -> Subject:
        """Take what a bill of materials lists.

        Raises:
            BadRequest: it is too large, no JSON, or neither CycloneDX nor SPDX.
        """
        if file.stat().st_size > SBOM_LIMIT_BYTES:
            raise BadRequest(f"{file} is larger than {SBOM_LIMIT_BYTES >> 20} MiB")
        try:
            inventory, name = sbom.parse(json.loads(file.read_bytes()))
        except (ValueError, RecursionError, AttributeError, TypeError) as error:
            raise BadRequest(f"{file} is no bill of materials: {error}") from error
        except BadRequest as error:
            raise BadRequest(f"{file}: {error.message}") from error
        return Subject(name or str(file), "", inventory)

    def match(self, subject: Subject, max_age_days: float = MAX_AGE_DAYS) -> Report:
        """Match what was indexed with the advisories there are now."""
        inventory = subject.inventory
        wanted: dict[str, list[int]] = {}
        for number, package in enumerate(inventory.packages):
            ecosystem = ecosystems.ecosystem_of(package, inventory.distribution)
            wanted.setdefault(ecosystem, []).append(number)
        matches: list[Match] = []
        problems: list[str] = []
        for ecosystem, numbers in wanted.items():
            if not ecosystem:
                continue
            packages = [inventory.packages[number] for number in numbers]
            names = {name for each in packages for name, _ in ecosystems.names_of(each)}
            about = self.advisories.about(ecosystem.partition(":")[0], sorted(names))
            for package in packages:
                relevant = {
                    advisory.id: advisory
                    for name, _ in ecosystems.names_of(package)
                    for advisory in about.get(name, ())
                }
                hits, unclear = matching.matches(package, ecosystem, relevant.values())
                matches += hits
                problems += unclear
        status, reasons, updated_at = self._worth(wanted, inventory, max_age_days)
        if problems:
            reasons.append(f"{len(problems)} comparisons could not be made: {problems[0]}")
            status = "unsupported" if status == "complete" else status
        return Report(
            subject.name, subject.digest, inventory, tuple(matches), status, tuple(reasons),
            updated_at,
        )  # fmt: skip

    def _worth(
        self, wanted: dict[str, list[int]], inventory: Inventory, max_age_days: float
    ) -> tuple[str, list[str], str]:
        """Status, reasons, and the age of the oldest source that was needed."""
        known = self.advisories.ecosystems()
        by_name = {source.name: source for source in self.advisories.sources()}
        reasons: list[str] = []
        needed: set[str] = set()
        if "" in wanted:
            name = inventory.distribution.name or inventory.distribution.id or "no distribution"
            count = len(wanted[""])
            reasons.append(f"{count} packages of {name}, which nobody is known to watch")
        for ecosystem in sorted(filter(None, wanted)):
            sources = known.get(ecosystem) or known.get(ecosystem.partition(":")[0])
            if not sources:
                reasons.append(_NOTHING_LIKE_IT.format(ecosystem))
            needed |= sources or set()
        updated = [by_name[each] for each in needed if each in by_name]
        oldest = min((each.newest or each.imported_at for each in updated), default="")
        if reasons:
            return "unsupported", reasons, oldest
        limit = rfc3339(self._clock.now() - timedelta(days=max_age_days))
        stale = sorted(each.name for each in updated if _is_older(each, limit))
        if stale:
            reasons.append(f"older than {max_age_days:g} days: {', '.join(stale)}")
            return "stale", reasons, oldest
        return "complete", reasons, oldest


def _is_older(source: Source, limit: str) -> bool:
    """Whether a source's youngest advisory is older; a source without times by its import."""
    text = source.newest or source.imported_at
    try:
        return datetime.fromisoformat(text) < datetime.fromisoformat(limit)
    except ValueError:
        return True
