"""Reading advisories from files, directories, archives and addresses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable, TooLarge
from underway.capabilities.scan.backend.database import Advisories
from underway.capabilities.scan.model import Advisory, Source
from underway.capabilities.scan.rules import distributions, osv
from underway.capabilities.scan.rules.versions import dpkg

FILE_LIMIT_BYTES = 256 * 1024 * 1024
FILES_LIMIT = 1_000_000
TOTAL_LIMIT_BYTES = 8 * 1024 * 1024 * 1024
_TIMEOUT_S = 60.0
_SUFFIXES = (".json", ".yaml", ".yml", "changelog.Debian.gz", "changelog.gz")
DEBIAN_RELEASES = {
    "buster": "10",
    "bullseye": "11",
    "bookworm": "12",
    "trixie": "13",
    "forky": "14",
}
_CHANGELOG_LIMIT_BYTES = 64 * 1024 * 1024

File = tuple[str, Callable[[], bytes]]


def import_from(
    place: str, name: str, advisories: Advisories, clock: Clock, tell: Callable[[str], object]
) -> tuple[int, list[str]]:
    """Import a source of advisories in the place of what it had.

    Args:
        place: a file, a directory, a zip or tar archive, or an http(s) address of one of these.
        name: the source's name; otherwise the place's last part.
        advisories: where they go.
        clock: says when it was.
        tell: called with what was passed over, and with progress.

    Returns:
        How many advisories the source has now, and the ids of those new or changed.

    Raises:
        NotFound: there is nothing there.
        BadRequest: it holds no advisories, or a file is malformed; the file is named.
        TooLarge: it is larger than an import may be.
        ServiceUnavailable: an address does not answer.
    """
    gathered = _Gathered(tell)
    with _local(place) as path:
        for count, (file, load) in enumerate(_files(path), 1):
            gathered.add(file, load())
            if count % 5000 == 0:
                tell(f"{count} files read")
    found = gathered.done()
    if not found:
        raise BadRequest(
            f"{place} holds no advisories",
            hint="OSV, Alpine's secdb, Debian's tracker, CSAF and Debian changelogs are read",
        )
    source = Source(
        name or Path(place.rstrip("/")).name,
        rfc3339(clock.now()),
        fingerprint=gathered.fingerprint.hexdigest(),
        place=place,
    )
    return advisories.replace(source, found)


class _Gathered:
    """The advisories of all files, those of one id joined."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.fingerprint = hashlib.sha256()
        self._tell = tell
        self._by_id: dict[str, Advisory] = {}
        self._changelogs: dict[tuple[str, str], str] = {}

    def add(self, file: str, data: bytes) -> None:
        self.fingerprint.update(hashlib.sha256(data).digest())
        if file.endswith(".gz"):
            _changelog(data, file, self._changelogs)
            return
        self._join(_parsed(data, file, self._tell))

    def done(self) -> list[Advisory]:
        self._join(distributions.from_changelogs(self._changelogs, "Debian"))
        return list(self._by_id.values())

    def _join(self, advisories: Iterable[Advisory]) -> None:
        for each in advisories:
            known = self._by_id.get(each.id)
            self._by_id[each.id] = _joined(known, each) if known else each


def _joined(one: Advisory, other: Advisory) -> Advisory:
    """One advisory that stands in several files, as Alpine's do: once for each release."""
    return replace(
        one,
        affected=tuple(dict.fromkeys((*one.affected, *other.affected))),
        not_affected=tuple(dict.fromkeys((*one.not_affected, *other.not_affected))),
    )


def _changelog(data: bytes, file: str, found: dict[tuple[str, str], str]) -> None:
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            text = stream.read(_CHANGELOG_LIMIT_BYTES).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise BadRequest(f"{file}: {error}") from error
    for source, version, id_ in distributions.debian_changelog(text):
        known = found.get((source, id_))
        try:
            if known is None or dpkg(version) < dpkg(known):
                found[source, id_] = version
        except ValueError:
            continue


def _parsed(data: bytes, file: str, tell: Callable[[str], object]) -> list[Advisory]:
    try:
        document = json.loads(data) if file.endswith(".json") else _yaml(data)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise BadRequest(f"{file}: {error}") from error
    documents = document if isinstance(document, list) else [document]
    found: list[Advisory] = []
    for each in documents:
        try:
            found += _document(each)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"{file}: not of the form its kind has: {error!r}") from error
        except BadRequest as error:
            raise BadRequest(f"{file}: {error.message}") from error
    if not found:
        tell(f"{file}: no advisory in it")
    return found


def _document(document: Any) -> list[Advisory]:
    """The advisories of one document, whichever form it has; none for another kind of document."""
    if not isinstance(document, dict):
        return []
    if "distroversion" in document and "packages" in document:
        return list(distributions.alpine(document))
    if "csaf_version" in (document.get("document") or {}):
        return list(distributions.csaf(document))
    if "id" in document and ("affected" in document or "withdrawn" in document):
        return [osv.parse(document)]
    first = next(iter(document.values()), None)
    if isinstance(first, dict) and all(
        isinstance(each, dict) and "releases" in each for each in list(first.values())[:3]
    ):
        return list(distributions.debian_tracker(document, DEBIAN_RELEASES))
    return []


def _yaml(data: bytes) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(data, loader)  # noqa: S506  # safe either way


def _files(path: Path) -> Iterator[File]:
    """Files worth reading, bounded in number and size."""
    left = TOTAL_LIMIT_BYTES
    for count, (name, size, load) in enumerate(_all_files(path)):
        if count > FILES_LIMIT:
            raise TooLarge(f"{path} holds more than {FILES_LIMIT} files")
        if not name.endswith(_SUFFIXES):
            continue
        left -= size
        if size > FILE_LIMIT_BYTES or left < 0:
            raise TooLarge(f"{path}: {name} has {size} bytes, more than an import may hold")
        yield name, load


def _all_files(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            if each.is_file() and not each.is_symlink():
                yield str(each), each.stat().st_size, each.read_bytes
    elif not path.is_file():
        raise NotFound(f"{path} is not there")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                yield (
                    f"{path.name}/{entry.filename}",
                    entry.file_size,
                    lambda e=entry: archive.read(e),
                )
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as opened:
            for member in opened:
                if member.isreg():
                    stream = opened.extractfile(member)
                    assert stream is not None
                    yield f"{path.name}/{member.name}", member.size, stream.read
    else:
        yield str(path), path.stat().st_size, path.read_bytes


@contextmanager
def _local(place: str) -> Iterator[Path]:
    if not place.startswith(("http://", "https://")):
        yield Path(place)
        return
    import httpx

    with TemporaryDirectory(prefix="underway-advisories-") as folder:
        target = Path(folder) / (Path(httpx.URL(place).path).name or "advisories")
        size = 0
        try:
            with (
                httpx.stream("GET", place, timeout=_TIMEOUT_S, follow_redirects=True) as response,
                target.open("wb") as file,
            ):
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > TOTAL_LIMIT_BYTES:
                        raise TooLarge(f"{place} is larger than {TOTAL_LIMIT_BYTES} bytes")
                    file.write(chunk)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"{place}: {error}") from error
        yield target
