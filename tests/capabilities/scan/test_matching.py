"""Which advisories apply: OSV's evaluation, on cases of its own and on PyPA's advisories."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
import yaml

from underway.base.errors import BadRequest
from underway.capabilities.scan.model import Advisory, Affected, Distribution, Package, Range
from underway.capabilities.scan.rules import cvss, ecosystems, matching, osv
from underway.capabilities.scan.rules.versions import pep440

CORPUS = Path(__file__).parents[4] / "shared" / "corpora" / "pypa-advisories.zip"
DEBIAN = Distribution("debian", "12", "bookworm")


def affected(
    *events: tuple[str, str], order: str = "dpkg", versions: tuple[str, ...] = ()
) -> Affected:
    ecosystem = "Debian:12" if order == "dpkg" else "PyPI"
    return Affected(ecosystem, "curl", (Range(order, events),), versions)


@pytest.mark.parametrize(("version", "hit"), [
    ("7.88.1-10", True), ("7.88.1-10+deb12u1", True), ("7.88.1-10+deb12u5", False), ("1:1", False),
])  # fmt: skip
def test_before_the_fix_is_affected(version, hit):
    found = affected(("introduced", "0"), ("fixed", "7.88.1-10+deb12u5"))
    assert matching.affects(found, version) is hit


@pytest.mark.parametrize(("version", "hit"), [
    ("1.0", False), ("1.5", True), ("2.0", False), ("2.5", False), ("3.0", True), ("3.1", True),
    ("3.2", False),
])  # fmt: skip
def test_several_stretches_in_any_order_of_events(version, hit):
    events = (
        ("last_affected", "3.1"),
        ("introduced", "3"),
        ("fixed", "2.0"),
        ("introduced", "1.5"),
    )
    assert matching.affects(affected(*events, order="pep440"), version) is hit


def test_an_enumerated_version_is_affected_whatever_the_ranges_say():
    found = affected(("introduced", "5"), order="pep440", versions=("1.0",))
    assert matching.affects(found, "1.0")


def test_the_least_newer_fix_is_the_remedy():
    events = (("introduced", "0"), ("fixed", "1.4"), ("introduced", "2"), ("fixed", "2.3"))
    found = affected(*events, order="pep440")
    assert matching.remedy(found, "1.0") == "1.4"
    assert matching.remedy(found, "2.1") == "2.3"
    assert matching.remedy(affected(("introduced", "0")), "1") == ""


def advisory(each: Affected, **fields: object) -> Advisory:
    return Advisory("CVE-1", affected=(each,), **fields)


def test_a_binary_package_is_matched_by_its_source_package_and_version():
    package = Package("deb", "libcurl4", "99", source="curl", source_version="7.0-1")
    found, problems = matching.matches(
        package, "Debian:12", [advisory(affected(("introduced", "0"), ("fixed", "7.1-1")))]
    )
    assert [(each.advisory.id, each.fixed) for each in found] == [("CVE-1", "7.1-1")]
    assert problems == []


@pytest.mark.parametrize("fields", [
    {"withdrawn": "2024-01-01T00:00:00Z"}, {"not_affected": (("Debian:12", "curl"),)},
])  # fmt: skip
def test_withdrawn_and_not_affected_never_match(fields):
    package = Package("deb", "curl", "7.0-1")
    found = advisory(affected(("introduced", "0")), **fields)
    assert matching.matches(package, "Debian:12", [found]) == ([], [])


def test_another_release_of_the_distribution_does_not_match():
    package = Package("deb", "curl", "7.0-1")
    found = advisory(affected(("introduced", "0")))
    assert matching.matches(package, "Debian:11", [found]) == ([], [])


def test_what_is_no_version_is_reported():
    package = Package("pypi", "curl", "not a version")
    found = advisory(affected(("introduced", "0"), ("fixed", "1"), order="pep440"))
    matched, problems = matching.matches(package, "PyPI", [found])
    assert matched == []
    assert problems[0].startswith("CVE-1: curl:")


@pytest.mark.parametrize(("distribution", "package", "ecosystem"), [
    (DEBIAN, Package("deb", "a", "1"), "Debian:12"),
    (Distribution("alpine", "3.18.4"), Package("apk", "a", "1"), "Alpine:v3.18"),
    (Distribution("ubuntu", "22.04"), Package("deb", "a", "1"), "Ubuntu:22.04"),
    (Distribution("almalinux", "9.3"), Package("rpm", "a", "1"), "AlmaLinux:9"),
    (Distribution("gentoo", "1"), Package("deb", "a", "1"), ""),
    (Distribution(), Package("npm", "a", "1"), "npm"),
])  # fmt: skip
def test_where_advisories_are_published(distribution, package, ecosystem):
    assert ecosystems.ecosystem_of(package, distribution) == ecosystem


@pytest.mark.parametrize(("package", "purl"), [
    (Package("deb", "libc6", "2.36-9", "amd64", "glibc"),
     "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=glibc"),
    (Package("npm", "@scope/name", "1.0.0"), "pkg:npm/%40scope/name@1.0.0"),
    (Package("pypi", "Zope.Interface", "5"), "pkg:pypi/zope-interface@5"),
    (Package("maven", "org.x:y", "1"), "pkg:maven/org.x/y@1"),
    (Package("golang", "github.com/a/b", "v1.2.3"), "pkg:golang/github.com/a/b@v1.2.3"),
])  # fmt: skip
def test_package_urls(package, purl):
    assert ecosystems.purl(package, DEBIAN) == purl


@pytest.mark.parametrize(("vector", "score", "word"), [
    ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8, "Critical"),
    ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0, "Critical"),
    ("CVSS:3.0/AV:L/AC:H/PR:L/UI:R/S:U/C:L/I:N/A:N", 2.2, "Low"),
    ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:N/I:N/A:N", 0.0, "Unknown"),
    ("nonsense", 0.0, "Unknown"),
])  # fmt: skip
def test_cvss_scores(vector, score, word):
    assert (cvss.score(vector), cvss.rating(score)) == (score, word)


@pytest.mark.parametrize("document", [
    [], {}, {"id": 7}, {"id": "a", "affected": [1]}, {"id": "a", "affected": [{"package": {"name": "x"}}]},
])  # fmt: skip
def test_what_is_no_osv_document_is_refused(document):
    with pytest.raises(BadRequest):
        osv.parse(document)


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpora are not here")
def test_ranges_agree_with_what_pypa_enumerates():
    """Each advisory's ranges, judged by the versions it lists and those others list besides."""
    with zipfile.ZipFile(CORPUS) as archive:
        names = [name for name in archive.namelist() if name.endswith(".yaml")]
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        advisories = [osv.parse(yaml.load(archive.read(name), loader)) for name in names]
    known: dict[str, set[str]] = {}
    for each in advisories:
        for part in each.affected:
            known.setdefault(part.name, set()).update(filter(_is_release, part.versions))
    hits = misses = silent = wrong = 0
    for each in advisories:
        for part in each.affected:
            if not part.versions or not any(r.order == "pep440" for r in part.ranges):
                continue
            ranges = dataclasses.replace(part, versions=())
            for version in known[part.name]:
                found = matching.affects(ranges, version)
                if version in part.versions:
                    hits, misses = hits + found, misses + (not found)
                else:
                    silent, wrong = silent + (not found), wrong + found
    assert len(advisories) == 2661
    assert hits / (hits + misses) >= 0.9999
    # Lists leave out versions published after them, and tensorflow's leave out candidates.
    assert silent / (silent + wrong) >= 0.985


def _is_release(text: str) -> bool:
    try:
        pep440(text)
    except ValueError:
        return False
    return True
