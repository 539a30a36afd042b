"""Debian's formats as text and values: control paragraphs, package records, locks, inventories.

Source: deb-control(5), Debian Policy 5; dpkg's status file; CycloneDX 1.6 JSON.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from underway.base.clock import rfc3339
from underway.base.errors import BadRequest

LOCK_VERSION = "base.underway.dev/v1alpha1"
LOCK_KIND = "BaseImageLock"
_FIELD = re.compile(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", re.M)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILENAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9+.~:_/%-]*\.deb")


class LockedPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One .deb: ``filename`` is its path below the archive that has ``suite``."""

    name: str
    version: str
    architecture: str
    suite: str
    filename: str
    size: int
    sha256: str


class LockedLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The packages that one declaration adds to those below."""

    declaration: str
    packages: list[LockedPackage]


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed Release that versions were chosen from; ``sha256`` is that of its text."""

    suite: str
    date: str
    sha256: str


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly what an image is made of. ``epoch`` is the newest Release's time in Unix seconds."""

    apiVersion: str  # noqa: N815  # as in Kubernetes
    kind: str
    architecture: str
    epoch: int
    releases: list[Release]
    layers: list[LockedLayer]
    declarationDigest: str = ""  # noqa: N815

    def packages(self) -> list[LockedPackage]:
        """All packages, those below first."""
        return [each for layer in self.layers for each in layer.packages]


def read_lock(data: bytes, file: str) -> Lock:
    """Read a lock.

    Raises:
        BadRequest: it is none, or one that could lead elsewhere.
    """
    try:
        lock = msgspec.json.decode(data, type=Lock)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{file}: {error}", hint="write it with: underway base lock") from error
    if (lock.apiVersion, lock.kind) != (LOCK_VERSION, LOCK_KIND):
        raise BadRequest(f"{file} is no {LOCK_KIND} of {LOCK_VERSION}")
    for each in lock.packages():
        if not _SHA256.fullmatch(each.sha256) or not _FILENAME.fullmatch(each.filename):
            raise BadRequest(f"{file}: the file name or digest of {each.name} is malformed")
    return lock


def write_lock(lock: Lock) -> bytes:
    """A lock as a file people can compare line by line."""
    return msgspec.json.format(msgspec.json.encode(lock), indent=2) + b"\n"


def fields(paragraph: str) -> dict[str, str]:
    """A control paragraph's fields; the first line's text, and further lines as they are."""
    return {match[1]: match[2] for match in _FIELD.finditer(paragraph)}


def status_entry(control: str, conffiles: Iterable[tuple[str, str]]) -> str:
    """A package's record in dpkg's status: installed, with its configuration files' MD5 sums."""
    listed = "".join(f"\n {path} {digest}" for path, digest in conffiles)
    lines = control.strip("\n").split("\n")
    first = next(at for at, line in enumerate(lines) if line.startswith("Package:"))
    lines.insert(0, lines.pop(first))
    lines.insert(1, "Status: install ok installed")
    if listed:
        lines.insert(2, f"Conffiles:{listed}")
    return "\n".join(lines) + "\n"


def installed(status: str) -> list[dict[str, str]]:
    """The installed packages' fields in a status file."""
    found = (fields(each) for each in re.split(r"\n\s*\n", status) if each.strip())
    return [each for each in found if each.get("Status", "").endswith(" installed")]


def cyclonedx(
    name: str, epoch_s: int, suite: str, packages: Iterable[Mapping[str, str]]
) -> dict[str, Any]:
    """A bill of materials; the same packages give the same document.

    ``packages`` are their fields, with ``SHA256`` where the .deb is known.
    """
    components = []
    for each in sorted(packages, key=lambda each: each["Package"]):
        source, _, version = each.get("Source", "").partition(" ")
        upstream = f"&upstream={quote(source + ('@' + version.strip('()') if version else ''))}"
        url = (
            f"pkg:deb/debian/{quote(each['Package'])}@{quote(each['Version'])}"
            f"?arch={each['Architecture']}&distro=debian-{suite}{upstream if source else ''}"
        )
        component: dict[str, Any] = {
            "type": "library", "bom-ref": url, "name": each["Package"],
            "version": each["Version"], "purl": url,
        }  # fmt: skip
        if each.get("SHA256"):
            component["hashes"] = [{"alg": "SHA-256", "content": each["SHA256"]}]
        components.append(component)
    told = hashlib.sha256(msgspec.json.encode([name, epoch_s, components])).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(told[:32], version=5)}",
        "version": 1,
        "metadata": {
            "timestamp": rfc3339(datetime.fromtimestamp(epoch_s, UTC)),
            "tools": {"components": [{"type": "application", "name": "underway"}]},
            "component": {"type": "container", "bom-ref": "subject", "name": name},
        },
        "components": [
            {"type": "operating-system", "bom-ref": "os", "name": "debian", "version": suite},
            *components,
        ],
    }
