"""What scan, signature and attestations found, as a passage tells it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from underway.api.objects import Object
from underway.kit.ports import ScanSummary, Signed

_WORST_FIRST = ("Critical", "High", "Medium", "Low", "Negligible", "Unknown")


def scan_status(scan: ScanSummary) -> Object:
    """The scan as it stands in ``Passage.status.image.scan``."""
    value: Object = {
        "status": scan.status,
        "packages": scan.packages,
        "severities": {name: count for name, count in scan.severities.items() if count},
        "fixable": scan.fixable,
    }
    if scan.advisories_updated_at:
        value["advisoriesUpdatedAt"] = scan.advisories_updated_at
    if scan.sbom_digest:
        value["sbomDigest"] = scan.sbom_digest
    return value


def signed_status(signed: Signed) -> Object:
    """A signature or attestation as it stands in the Passage's status."""
    value: Object = {"digest": signed.digest, "keyID": signed.key_id}
    if signed.identity:
        value["identity"] = signed.identity
    return value


def scan_message(scan: ScanSummary) -> str:
    """One line; only a complete scan may say that nothing is known."""
    return described(scan_status(scan))


def described(scan: Object) -> str:
    """The same from a Passage's status."""
    found = scan.get("severities") or {}
    counts = ", ".join(f"{found[name]} {name.lower()}" for name in _WORST_FIRST if found.get(name))
    complete = scan["status"] == "complete"
    known = counts or ("nothing known" if complete else "nothing found, which proves nothing")
    note = "" if complete else f" ({_REASONS.get(scan['status'], scan['status'])})"
    fixable = f", {scan['fixable']} with a fix" if scan.get("fixable") else ""
    return f"{scan.get('packages', 0)} packages: {known}{fixable}{note}"


_REASONS = {
    "stale": "the advisories are old: underway scan db update",
    "unsupported": "no advisories for this distribution",
}


def attest_message(attached: Sequence[Signed]) -> str:
    """One line."""
    if not attached:
        return "provenance kept here; nobody signs"
    return f"{len(attached)} attestations by {attached[0].key_id[:16]}"


def lines(image: Object) -> Iterator[str]:
    """What is proved of an image, for people."""
    if scan := image.get("scan"):
        yield f"scan     {described(scan)}"
    for each in image.get("signatures") or ():
        yield f"signed   {each['digest']} by {each.get('identity') or each['keyID'][:16]}"
    for each in image.get("attestations") or ():
        yield f"attested {each['digest']} by {each.get('identity') or each['keyID'][:16]}"
