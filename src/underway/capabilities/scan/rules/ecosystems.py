"""From a package to the ecosystem its advisories are published for, and the order of its versions.

Source: OSV schema 1.6, "Defined ecosystems"; package-url PURL-TYPES.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from underway.capabilities.scan.model import Distribution, Package

_LANGUAGES = {
    "pypi": ("PyPI", "pep440"), "npm": ("npm", "semver"), "golang": ("Go", "semver"),
    "maven": ("Maven", "maven"), "gem": ("RubyGems", "gem"), "cargo": ("crates.io", "semver"),
}  # fmt: skip
_DISTRIBUTIONS = {
    "debian": "Debian", "alpine": "Alpine", "ubuntu": "Ubuntu", "almalinux": "AlmaLinux",
    "rocky": "Rocky Linux", "rhel": "Red Hat", "opensuse-leap": "openSUSE", "wolfi": "Wolfi",
    "chainguard": "Chainguard",
}  # fmt: skip
_TYPES = {"deb": "dpkg", "apk": "apk", "rpm": "rpm"}
_ORDERS = {
    "Debian": "dpkg", "Ubuntu": "dpkg", "Alpine": "apk", "Wolfi": "apk", "Chainguard": "apk",
    "AlmaLinux": "rpm", "Rocky Linux": "rpm", "Red Hat": "rpm", "openSUSE": "rpm",
    **dict(_LANGUAGES.values()),
}  # fmt: skip


def order_of(ecosystem: str) -> str:
    """The version order of an ecosystem (``Debian:12`` has Debian's); empty for an unknown one."""
    return _ORDERS.get(ecosystem.partition(":")[0], "")


def ecosystem_of(package: Package, distribution: Distribution) -> str:
    """Where advisories about a package are published; empty where nobody is known to."""
    if package.type in _LANGUAGES:
        return _LANGUAGES[package.type][0]
    name = _DISTRIBUTIONS.get(distribution.id, "")
    if not name or package.type not in _TYPES:
        return ""
    return f"{name}:{release_of(distribution)}" if release_of(distribution) else name


def release_of(distribution: Distribution) -> str:
    """A distribution's release as OSV writes it: ``12``, ``v3.18``, ``22.04``, ``9``."""
    parts = distribution.version.split(".")
    if distribution.id == "alpine":
        return f"v{'.'.join(parts[:2])}" if len(parts) > 1 else ""
    if distribution.id == "ubuntu":
        return ".".join(parts[:2])
    return parts[0]


def names_of(package: Package) -> tuple[tuple[str, str], ...]:
    """The (name, version) pairs under which advisories may be: source package, then binary."""
    own = (normalised(package.type, package.name), package.version)
    if not package.source:
        return (own,)
    return ((package.source, package.source_version or package.version), own)


def normalised(type_: str, name: str) -> str:
    """A package's name as its ecosystem compares it. Source: PEP 503 for Python."""
    return re.sub(r"[-_.]+", "-", name).lower() if type_ == "pypi" else name


def purl(package: Package, distribution: Distribution) -> str:
    """The package URL. Source: package-url PURL-SPECIFICATION."""
    name, namespace = normalised(package.type, package.name), ""
    if package.type in _TYPES:
        namespace = distribution.id or "unknown"
    elif package.type == "maven":
        namespace, _, name = name.rpartition(":")
    elif package.type in ("npm", "golang"):
        namespace, _, name = name.rpartition("/")
    segments = [package.type, *(quote(each, safe="") for each in namespace.split("/") if each)]
    text = f"pkg:{'/'.join(segments)}/{quote(name, safe='')}@{quote(package.version, safe=':')}"
    qualifiers = {}
    if package.type in _TYPES:
        qualifiers["arch"] = package.arch
        if distribution.id and distribution.version:
            qualifiers["distro"] = f"{distribution.id}-{distribution.version}"
        if package.source and package.source != package.name:
            qualifiers["upstream"] = package.source
    words = [f"{key}={quote(value, safe='')}" for key, value in sorted(qualifiers.items()) if value]
    return f"{text}?{'&'.join(words)}" if words else text
