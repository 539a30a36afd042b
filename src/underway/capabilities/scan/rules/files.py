"""What single files say of installed packages: bytes of one file to packages.

``READERS`` maps what a path looks like to the reader of such files. A reader raises ``ValueError``
for a file that is malformed; what it read before that is lost with it.
"""

from __future__ import annotations

import email.parser
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace

from underway.capabilities.scan.model import Distribution, Package
from underway.capabilities.scan.rules import gobinary

PACKAGES_LIMIT = 100_000
"""Packages one file may list; more is no package database but an attack."""

JAR_FILES_LIMIT = 50_000
JAR_DEPTH_LIMIT = 3
JAR_SIZE_LIMIT_BYTES = 256 * 1024 * 1024
_PROPERTIES_LIMIT_BYTES = 64 * 1024


def distribution(text: str) -> Distribution:
    """The distribution that ``/etc/os-release`` names. Source: os-release(5)."""
    values = {
        key: value.strip().strip("\"'")
        for key, mark, value in (line.partition("=") for line in text.splitlines())
        if mark and not key.startswith("#")
    }
    return Distribution(
        values.get("ID", "").lower(),
        values.get("VERSION_ID", ""),
        values.get("VERSION_CODENAME", ""),
        values.get("PRETTY_NAME", ""),
    )


def dpkg_status(data: bytes, location: str) -> Iterator[Package]:
    """Debian's ``status``, or one file of ``status.d``. Source: deb-control(5), dpkg-query(1)."""
    for paragraph in re.split(r"\n\s*\n", data.decode("utf-8", "replace")):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", paragraph, re.MULTILINE))
        if "Package" not in fields or "Version" not in fields:
            continue
        state = fields.get("Status", "install ok installed").split()
        if state[-1] not in ("installed", "half-configured", "unpacked", "triggers-pending"):
            continue
        source = re.fullmatch(r"(\S+)(?:\s+\((\S+)\))?", fields.get("Source", ""))
        yield Package(
            "deb",
            fields["Package"],
            fields["Version"],
            fields.get("Architecture", ""),
            source[1] if source else fields["Package"],
            (source[2] or "") if source else "",
            location,
        )


def apk_installed(data: bytes, location: str) -> Iterator[Package]:
    """Alpine's ``installed``. Source: Alpine wiki "Apk spec", installed database."""
    for paragraph in data.decode("utf-8", "replace").split("\n\n"):
        lines = paragraph.splitlines()
        fields = {line[0]: line[2:] for line in lines if line[1:2] == ":"}
        if fields.get("P") and fields.get("V"):
            yield Package(
                "apk", fields["P"], fields["V"], fields.get("A", ""), fields.get("o", ""),
                "", location,
            )  # fmt: skip


def python_metadata(data: bytes, location: str) -> Iterator[Package]:
    """``METADATA`` of a wheel, ``PKG-INFO`` of an egg. Source: core metadata specification."""
    message = email.parser.BytesHeaderParser().parsebytes(data)
    name, version = message.get("Name"), message.get("Version")
    if not name or not version:
        raise ValueError("no Name and Version")
    yield Package("pypi", str(name).strip(), str(version).strip(), location=location)


def npm_package(data: bytes, location: str) -> Iterator[Package]:
    """``package.json`` of an installed module; those without name and version are none."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  # of the file, not of the call
    name, version = value.get("name"), value.get("version")
    if isinstance(name, str) and isinstance(version, str) and name and version:
        yield Package("npm", name, version, location=location)


_GEM_FIELD = re.compile(
    r"^\s*s\.(name|version)\s*=\s*(?:Gem::Version\.new\s*\(?)?\s*['\"]([^'\"]+)['\"]", re.MULTILINE
)


def gem_specification(data: bytes, location: str) -> Iterator[Package]:
    """A gemspec as RubyGems writes it on installation."""
    fields = dict(_GEM_FIELD.findall(data.decode("utf-8", "replace")))
    if fields.get("name") and fields.get("version"):
        yield Package("gem", fields["name"], fields["version"], location=location)


def go_binary(data: bytes, location: str) -> Iterator[Package]:
    """The modules a Go program was linked from, and the toolchain as ``stdlib``."""
    found = gobinary.build_info(data)
    if found is None:
        return
    yield Package("golang", "stdlib", found.go_version.removeprefix("go"), location=location)
    for path, version in found.modules:
        yield Package("golang", path, version, location=location)


def jar(data: bytes, location: str) -> Iterator[Package]:
    """What an archive of Java classes, and those inside it, say of their Maven coordinates.

    Source: maven-archiver ``META-INF/maven/*/*/pom.properties``; JAR file specification, manifest.
    """
    yield from _jar(data, location, 0)


def _jar(data: bytes, location: str, depth: int) -> Iterator[Package]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    entries = archive.infolist()
    if len(entries) > JAR_FILES_LIMIT or sum(e.file_size for e in entries) > JAR_SIZE_LIMIT_BYTES:
        raise ValueError(f"an archive of {len(entries)} files, or of too many bytes")
    found = False
    for entry in entries:
        name = entry.filename
        if name.startswith("META-INF/maven/") and name.endswith("/pom.properties"):
            properties = _properties(_read(archive, entry, _PROPERTIES_LIMIT_BYTES))
            if {"groupId", "artifactId", "version"} <= properties.keys():
                coordinates = f"{properties['groupId']}:{properties['artifactId']}"
                found = True
                yield Package("maven", coordinates, properties["version"], location=location)
        elif name.endswith((".jar", ".war")) and depth < JAR_DEPTH_LIMIT:
            inner = _read(archive, entry, JAR_SIZE_LIMIT_BYTES)
            yield from _jar(inner, f"{location}!/{name}", depth + 1)
    if not found and "META-INF/MANIFEST.MF" in archive.namelist():
        yield from _manifest(archive, location)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """An entry's content; its header may lie about the size, so reading is bounded too."""
    try:
        with archive.open(entry) as stream:
            data = stream.read(limit + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{entry.filename}: {error}") from error
    if len(data) > limit:
        raise ValueError(f"{entry.filename} is larger than {limit} bytes")
    return data


def _properties(data: bytes) -> dict[str, str]:
    lines = data.decode("utf-8", "replace").splitlines()
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {key.strip(): value.strip() for key, mark, value in pairs if mark}


def _manifest(archive: zipfile.ZipFile, location: str) -> Iterator[Package]:
    """The name and version the manifest gives, for archives Maven did not make."""
    entry = archive.getinfo("META-INF/MANIFEST.MF")
    text = _read(archive, entry, JAR_FILES_LIMIT * 20).decode("utf-8", "replace")
    text = re.sub(r"\r?\n ", "", text)
    fields = dict(re.findall(r"^([\w-]+): (.*?)\r?$", text, re.MULTILINE))
    name = fields.get("Automatic-Module-Name") or fields.get("Bundle-SymbolicName", "")
    version = fields.get("Implementation-Version") or fields.get("Bundle-Version", "")
    group = fields.get("Implementation-Vendor-Id", "")
    name = name.partition(";")[0].strip()
    file = re.fullmatch(r"(.+?)-(\d[\w.]*(?:-[\w.]+)*)\.(?:jar|war)", location.rpartition("/")[2])
    if file and not (name and version):
        name, version = name or file[1], version or file[2]
    if name and version:
        coordinates = f"{group}:{name}" if group else f"{name}:{name}"
        yield Package("maven", coordinates, version, location=location)


Reader = Callable[[bytes, str], Iterator[Package]]

READERS: tuple[tuple[re.Pattern[str], Reader], ...] = (
    (re.compile(r"var/lib/dpkg/status(\.d/[^/]+(?<!\.md5sums))?"), dpkg_status),
    (re.compile(r"(usr/)?lib/apk/db/installed"), apk_installed),
    (re.compile(r".*\.dist-info/METADATA|.*\.egg-info(/PKG-INFO)?"), python_metadata),
    (re.compile(r"(?:.*/)?node_modules/(?:@[^/]+/)?[^/]+/package\.json"), npm_package),
    (re.compile(r".*/specifications/(?:default/)?[^/]+\.gemspec"), gem_specification),
    (re.compile(r".*\.(?:jar|war|ear|jpi|hpi)"), jar),
)
"""Which files are read, by their path below the root; Go programs are known by their content."""


def reads(path: str) -> bool:
    """Whether a path alone says that the file tells of packages."""
    return any(pattern.fullmatch(path) for pattern, _ in READERS)


def read(path: str, data: bytes) -> list[Package]:
    """The packages a file tells of; none for a file no reader is for.

    Raises:
        ValueError: the file is malformed, or lists more than ``PACKAGES_LIMIT`` packages.
    """
    reader = next((found for pattern, found in READERS if pattern.fullmatch(path)), None)
    if reader is None and data.startswith(b"\x7fELF"):
        reader = go_binary
    if reader is None:
        return []
    packages: list[Package] = []
    for package in reader(data, path):
        packages.append(replace(package, name=package.name[:512], version=package.version[:256]))
        if len(packages) > PACKAGES_LIMIT:
            raise ValueError(f"more than {PACKAGES_LIMIT} packages")
    return packages
