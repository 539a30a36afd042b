"""Packages, advisories and what comes of matching them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SEVERITIES = ("Unknown", "Negligible", "Low", "Medium", "High", "Critical")
"""From the least to the worst; the words Clair and Harbor use."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What ``/etc/os-release`` says: ``id`` is debian, alpine, …; ``version`` is its VERSION_ID."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package.

    ``type`` is the package URL's: deb, apk, rpm, pypi, npm, golang, maven, gem. A Maven name is
    ``group:artifact``. ``source`` and ``source_version`` name what a distribution built it from.
    ``location`` is the file that says so, ``layer`` the layer's diff id.
    """

    type: str
    name: str
    version: str
    arch: str = ""
    source: str = ""
    source_version: str = ""
    location: str = ""
    layer: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of affected versions: ``events`` are (kind, version) pairs in the file's order.

    Kinds are introduced, fixed, last_affected and limit; ``order`` names one of the version orders.
    Source: OSV schema 1.6, ``affected[].ranges``.
    """

    order: str
    events: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Affected:
    """Which versions of one package of one ecosystem an advisory is about."""

    ecosystem: str
    name: str
    ranges: tuple[Range, ...] = ()
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Advisory:
    """One advisory. ``severity`` is one of ``SEVERITIES``; times are RFC 3339.

    ``not_affected`` are packages its publisher says have nothing to do with it (VEX).
    """

    id: str
    summary: str = ""
    aliases: tuple[str, ...] = ()
    severity: str = "Unknown"
    score: float = 0.0
    modified: str = ""
    withdrawn: str = ""
    link: str = ""
    affected: tuple[Affected, ...] = ()
    not_affected: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """One advisory that applies to one package; ``fixed`` is empty where there is no remedy yet."""

    advisory: Advisory
    package: Package
    fixed: str = ""


@dataclass(frozen=True)
class Inventory:
    """What one image, directory or SBOM contains, and what could not be read of it."""

    distribution: Distribution = field(default_factory=Distribution)
    packages: tuple[Package, ...] = ()
    problems: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerIndex:
    """What one layer tells, path by path, so that the layers above can hide it.

    ``removed`` are paths it deletes from the layers below, ``opaque`` directories of which it
    hides all that was below. ``release`` is the text of its os-release file, or empty.
    """

    packages: Mapping[str, tuple[Package, ...]] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    opaque: frozenset[str] = frozenset()
    release: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where advisories came from. ``newest`` is the time of its youngest advisory (RFC 3339),
    ``fingerprint`` the digest of what was imported, ``place`` the path or address.
    """

    name: str
    imported_at: str
    newest: str = ""
    fingerprint: str = ""
    count: int = 0
    place: str = ""


@dataclass(frozen=True)
class Report:
    """What a scan found. ``status`` is complete, stale or unsupported, ``reasons`` say why."""

    name: str
    digest: str
    inventory: Inventory
    matches: tuple[Match, ...]
    status: str
    reasons: tuple[str, ...]
    advisories_updated_at: str
