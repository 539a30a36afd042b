"""What files say of packages: real files of this machine, and made ones that are hostile."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.capabilities.scan.model import Package
from underway.capabilities.scan.rules import files, rpmheader

STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-8)
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Version: 1

Package: plain
Version: 1.0
"""


def test_dpkg_lists_what_is_installed_with_its_source():
    found = files.read("var/lib/dpkg/status", STATUS)
    assert [(p.name, p.version, p.source, p.source_version) for p in found] == [
        ("libc6", "2.36-9", "glibc", "2.36-8"), ("plain", "1.0", "plain", ""),
    ]  # fmt: skip
    assert files.read("var/lib/dpkg/status.d/base", b"Package: a\nVersion: 2\n")[0].name == "a"


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg on this machine")
def test_dpkg_itself_lists_the_same():
    query = [
        "dpkg-query",
        "-W",
        "-f",
        "${db:Status-Status} ${Package} ${Version} ${source:Package}\\n",
    ]
    done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60)
    said = {
        tuple(line.split()[1:])
        for line in done.stdout.splitlines()
        if line.startswith("installed ")
    }
    data = Path("/var/lib/dpkg/status").read_bytes()
    assert {(p.name, p.version, p.source) for p in files.read("var/lib/dpkg/status", data)} == said


def test_other_package_databases():
    apk = b"C:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\no:musl\n\nP:ssl_client\nV:1.36-r1\no:busybox\n"
    found = files.read("lib/apk/db/installed", apk)
    assert [(p.name, p.version, p.source) for p in found] == [
        ("musl", "1.2.4-r2", "musl"), ("ssl_client", "1.36-r1", "busybox"),
    ]  # fmt: skip
    path = "usr/lib/python3/dist-packages/x-1.dist-info/METADATA"
    assert files.read(path, b"Name: X_y\nVersion: 1.0\n\nbody")[0] == Package(
        "pypi", "X_y", "1.0", location=path
    )
    assert (
        files.read("app/node_modules/@a/b/package.json", b'{"name":"@a/b","version":"1.2"}')[0].name
        == "@a/b"
    )
    gem = b'Gem::Specification.new do |s|\n  s.name = "rack".freeze\n  s.version = "2.2.4"\nend\n'
    assert files.read("usr/share/gems/specifications/rack-2.2.4.gemspec", gem)[0].version == "2.2.4"
    assert files.read("app/package.json", b'{"name":"a","version":"1"}') == []


def archive(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in entries.items():
            made.writestr(name, data)
    return buffer.getvalue()


def test_jars_within_jars():
    pom = b"#x\ngroupId=org.a\nartifactId=b\nversion=1.0\n"
    inner = archive({"META-INF/maven/org.a/b/pom.properties": pom})
    manifest = (
        b"Implementation-Title: c\r\nBundle-SymbolicName: org.c;x=y\r\nBundle-Version: 2.0\r\n"
    )
    outer = archive({"BOOT-INF/lib/b.jar": inner, "META-INF/MANIFEST.MF": manifest})
    assert [(p.name, p.version) for p in files.read("app.jar", outer)] == [
        ("org.a:b", "1.0"), ("org.c:org.c", "2.0"),
    ]  # fmt: skip


def test_an_archive_that_unpacks_into_too_much_is_refused():
    bomb = archive({f"{n}.jar": bytes(60 * 1024 * 1024) for n in range(5)})
    assert len(bomb) < 1024 * 1024
    with pytest.raises(ValueError, match="too many bytes"):
        files.read("bomb.jar", bomb)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("go") is None, reason="no Go toolchain on this machine")
@pytest.mark.timeout(300)
def test_modules_of_a_go_program(tmp_path):
    for name, text in {
        "go.mod": "module example.org/app\n\ngo 1.19\n\nrequire example.org/lib v1.2.3\n\nreplace example.org/lib v1.2.3 => ./lib\n",
        "main.go": 'package main\n\nimport "example.org/lib"\n\nfunc main() { lib.Do() }\n',
        "lib/go.mod": "module example.org/lib\n\ngo 1.19\n",
        "lib/lib.go": "package lib\n\nfunc Do() {}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    command = ["go", "build", "-o", "app", "."]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=240)
    found = files.read("app", (tmp_path / "app").read_bytes())
    said = subprocess.run(
        ["go", "version", tmp_path / "app"], capture_output=True, text=True, check=True, timeout=60
    )
    assert found[0].name == "stdlib"
    assert f"go{found[0].version}" in said.stdout


def go_blob(text: str) -> bytes:
    def counted(data: bytes) -> bytes:
        length, out = len(data), b""
        while length >= 0x80:
            out, length = out + bytes([length & 0x7F | 0x80]), length >> 7
        return out + bytes([length]) + data

    mark = b"m" * 16
    header = b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16)
    return (
        b"\x7fELF"
        + bytes(28)
        + header
        + counted(b"go1.22.1")
        + counted(mark + text.encode() + mark)
    )


def test_modules_that_were_replaced_are_named_by_their_replacement():
    text = "path\tx\nmod\tx\t(devel)\t\ndep\ta\tv1.0.0\th1:x=\ndep\tb\tv2.0.0\n=>\tfork/b\tv2.0.1\th1:y=\n"
    found = files.read("app", go_blob(text))
    assert [(p.name, p.version) for p in found] == [
        ("stdlib", "1.22.1"), ("a", "v1.0.0"), ("fork/b", "v2.0.1"),
    ]  # fmt: skip


def header(tags: dict[int, str | int]) -> bytes:
    index, store = b"", b""
    for tag, value in tags.items():
        kind, data = (
            (4, struct.pack(">I", value)) if isinstance(value, int) else (6, value.encode() + b"\0")
        )
        store += bytes(-len(store) % 4) if kind == 4 else b""
        index += struct.pack(">IIII", tag, kind, len(store), 1)
        store += data
    return struct.pack(">II", len(tags), len(store)) + index + store


def test_an_rpm_header():
    blob = header(
        {
            1000: "bash",
            1001: "5.1",
            1002: "6.el9",
            1003: 2,
            1022: "x86_64",
            1044: "bash-src-5.1-6.el9.src.rpm",
        }
    )
    found = rpmheader.package(blob, "rpmdb.sqlite")
    assert (found.name, found.version, found.arch) == ("bash", "2:5.1-6.el9", "x86_64")
    assert (found.source, found.source_version) == ("bash-src", "2:5.1-6.el9")


PATHS = ["var/lib/dpkg/status", "lib/apk/db/installed", "a.jar", "node_modules/a/package.json",
         "x.dist-info/METADATA", "a/specifications/b.gemspec", "bin/app"]  # fmt: skip
BEGINNINGS = [
    b"",
    b"\x7fELF" + bytes(28) + b"\xff Go buildinf:\x08\x02",
    b"PK\x03\x04",
    b"Package: a\n",
]


@given(st.sampled_from(PATHS), st.sampled_from(BEGINNINGS), st.binary(max_size=400))
def test_malformed_files_are_refused_by_value_error_alone(path, beginning, data):
    try:
        files.read(path, beginning + data)
    except ValueError:
        return


@given(st.binary(max_size=200))
def test_malformed_rpm_headers_are_refused(blob):
    with pytest.raises(ValueError, match=r"."):
        rpmheader.package(blob, "x")
