"""Blobs and manifests on disk.

    blobs/sha256/ab/<hex>                       content, shared by all repositories
    uploads/<id>                                what has arrived of an upload
    repositories/<name>/_blobs/<digest>         this repository has the blob
    repositories/<name>/_manifests/<digest>     media type of a manifest (its bytes are content)
    repositories/<name>/_tags/<tag>             digest
    repositories/<name>/_referrers/<digest>/<digest>

In names, a digest's colon is a hyphen. A file is written aside, made durable and renamed, so that
what is there is whole. All calls block.

Using content, be it only to tell a client that it need not upload it, renews its modification
time; the garbage collector takes only what was not used for a while. Both sides hold the lock file
``.lock``, users shared and the collector alone, whichever processes they are in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from underway.base.files import fsync_dir, write_atomic
from underway.capabilities.registry.model import (
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    RangeInvalid,
    Stored,
    UploadUnknown,
)
from underway.wire import oci

_LATELY = 512  # manifests, and uploads being hashed, that are kept in memory
_SMALL_BYTES = 64 * 1024  # of a manifest that is

_Stamp = tuple[int, int]  # number and modification time of a file


class Hash(Protocol):
    """What ``hashlib`` makes."""

    @property
    def name(self) -> str:
        """The algorithm."""
        ...

    def update(self, data: bytes | bytearray, /) -> None:
        """Take more bytes in."""

    def hexdigest(self) -> str:
        """The digest of all so far."""
        ...


class Storage:
    """The registry's content below one directory."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.uploads = root / "uploads"
        self._repositories = root / "repositories"
        self._lock = root / ".lock"
        self._hashing: OrderedDict[str, tuple[int, Hash]] = OrderedDict()
        self._lately: OrderedDict[tuple[str, str], tuple[_Stamp, _Stamp, Stored]] = OrderedDict()
        for directory in (self.blobs, self.uploads, self._repositories):
            _make_directory(directory)

    @contextlib.contextmanager
    def locked(self, *, alone: bool = False) -> Iterator[None]:
        """Keep the garbage collector away; or, ``alone``, everybody else."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def repositories(self, project: str = "") -> list[str]:
        """The names of all repositories, or of those of a project, sorted."""
        found = []
        for directory, names, _ in os.walk(self._repositories / project):
            if "_manifests" in names:
                found.append(str(Path(directory).relative_to(self._repositories)))
            names[:] = [name for name in names if not name.startswith("_")]
        return sorted(found)

    def blob_path(self, repository: str, digest: str) -> Path:
        """The file of a blob, which counts as used now.

        Raises:
            DigestInvalid: the digest is malformed.
            BlobUnknown: the repository does not have it.
        """
        with self.locked():
            return self._use_blob(repository, digest)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take a blob over from another repository; False where that one has it not."""
        with self.locked():
            try:
                self._use_blob(source, digest)
            except BlobUnknown:
                return False
            self._add_link(self._link(repository, "_blobs", digest))
            return True

    def mount_from_any(self, repository: str, digest: str, project: str) -> bool:
        """Take a blob over from whichever repository of a project has it; False where none has."""
        if not self._content(digest).exists():
            return False
        for directory, names, _ in os.walk(self._repositories / project):
            if "_blobs" in names and (Path(directory) / "_blobs" / _hex(digest)).exists():
                source = str(Path(directory).relative_to(self._repositories))
                return self.mount(repository, digest, source)
            names[:] = [name for name in names if not name.startswith("_")]
        return False

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob out of a repository.

        Raises:
            BlobUnknown: it is not there.
        """
        try:
            self._link(repository, "_blobs", digest).unlink()
        except FileNotFoundError as error:
            raise BlobUnknown(f"blob {digest} is not in {repository}") from error

    def start_upload(self, algorithm: str = "sha256") -> str:
        """A new upload's id; ``algorithm`` is that of the digest it will probably end with."""
        upload = secrets.token_hex(16)
        (self.uploads / upload).touch()
        self._keep_hash(upload, 0, hashlib.new(algorithm))
        return upload

    def upload_size(self, upload: str) -> int:
        """Bytes that have arrived so far.

        Raises:
            UploadUnknown: there is no such upload.
        """
        try:
            return self._upload(upload).stat().st_size
        except FileNotFoundError as error:
            raise UploadUnknown(f"there is no upload {upload}") from error

    def append(self, upload: str, offset: int, piece: bytes | bytearray) -> None:
        """Add bytes to an upload that holds ``offset`` bytes.

        Raises:
            RangeInvalid: it holds another number of bytes.
        """
        with self._upload(upload).open("r+b") as stream:
            if stream.seek(0, os.SEEK_END) != offset:
                raise RangeInvalid("the upload has moved on")
            stream.write(piece)
        hashed, state = self._hashing.pop(upload, (-1, None))
        if state is not None and hashed == offset:
            state.update(piece)
            self._keep_hash(upload, offset + len(piece), state)

    def truncate_upload(self, upload: str, size: int) -> None:
        """Forget what an upload received beyond ``size`` bytes."""
        self._hashing.pop(upload, None)
        os.truncate(self._upload(upload), size)

    def cancel_upload(self, upload: str) -> None:
        """Throw away what has arrived.

        Raises:
            UploadUnknown: there is no such upload.
        """
        self._hashing.pop(upload, None)
        try:
            self._upload(upload).unlink()
        except FileNotFoundError as error:
            raise UploadUnknown(f"there is no upload {upload}") from error

    def finish_upload(self, repository: str, upload: str, digest: str) -> None:
        """Make an upload a blob, if its content has the digest.

        Raises:
            DigestInvalid: it has not; the upload is thrown away.
        """
        target = self._content(digest)
        path = self._upload(upload)
        hashed, state = self._hashing.pop(upload, (-1, None))
        with path.open("rb") as stream:
            try:
                # Most uploads were hashed as they came; one begun before a restart is read again.
                if state is not None and hashed == os.fstat(stream.fileno()).st_size:
                    _compare(state, digest, stream)
                else:
                    check_digest(stream, digest)
            except DigestInvalid:
                path.unlink()
                raise
            os.fsync(stream.fileno())
        os.utime(path)
        with self.locked():
            _make_directory(target.parent)
            path.replace(target)
            fsync_dir(target.parent)
            self._add_link(self._link(repository, "_blobs", digest))

    def adopt_blob(self, repository: str, digest: str, file: Path) -> None:
        """Store a file's content; a hard link where that is possible.

        Raises:
            DigestInvalid: the content has another digest.
        """
        target = self._content(digest)
        with self.locked():
            if not _use(target):
                _make_directory(target.parent)
                aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
                try:
                    _link_or_copy(file, aside)
                    with aside.open("rb") as stream:
                        check_digest(stream, digest)
                        os.fsync(stream.fileno())
                    os.utime(aside)
                    aside.replace(target)
                finally:
                    aside.unlink(missing_ok=True)
                fsync_dir(target.parent)
            self._add_link(self._link(repository, "_blobs", digest))

    def manifest(self, repository: str, reference: str) -> Stored:
        """A manifest by tag or digest.

        Raises:
            ManifestUnknown: it is not there.
        """
        digest = reference if oci.is_digest(reference) else self._tagged(repository, reference)
        try:
            stamps = self._stamps(repository, reference, digest)
            link = self._link(repository, "_manifests", digest)
            media_type = link.read_text(encoding="utf-8")
            stored = Stored(digest, media_type, self._content(digest).read_bytes())
        except FileNotFoundError as error:
            raise ManifestUnknown(f"{reference} is not in {repository}") from error
        if len(stored.data) <= _SMALL_BYTES:
            self._lately[repository, reference] = (*stamps, stored)
            if len(self._lately) > _LATELY:
                self._lately.popitem(last=False)
        return stored

    def recall(self, repository: str, reference: str) -> Stored | None:
        """A manifest that was read lately and has not changed: two looks at the disk, no reading.

        Cheap enough for the event loop. None where it has to be read, or is not there.
        """
        known = self._lately.get((repository, reference))
        if known is None:
            return None
        try:
            if self._stamps(repository, reference, known[2].digest) == known[:2]:
                return known[2]
        except FileNotFoundError:
            pass
        self._lately.pop((repository, reference), None)
        return None

    def put_manifest(
        self,
        repository: str,
        stored: Stored,
        *,
        tags: Iterable[str] = (),
        blobs: Iterable[str] = (),
        manifests: Iterable[str] = (),
        subject: str = "",
        sparse: bool = False,
    ) -> None:
        """Store a manifest.

        Args:
            repository: where.
            stored: the manifest; its digest is known to be right.
            tags: to point at it.
            blobs: digests of the blobs it names.
            manifests: digests of the manifests it lists.
            subject: digest of the manifest it is about, which need not exist, or empty.
            sparse: whether it may name what is not there.

        Raises:
            ManifestBlobUnknown: the repository lacks one of ``blobs`` or ``manifests``.
        """
        with self.locked():
            self._use_all(repository, blobs, manifests, sparse=sparse)
            target = self._content(stored.digest)
            if not _use(target):
                _make_directory(target.parent)
                write_atomic(target, stored.data)
            link = self._link(repository, "_manifests", stored.digest)
            _make_directory(link.parent)
            write_atomic(link, stored.media_type)
            if subject:
                directory = self._repository(repository) / "_referrers" / _hex(subject)
                self._add_link(directory / _hex(stored.digest))
            for tag in tags:
                directory = self._repository(repository) / "_tags"
                _make_directory(directory)
                write_atomic(directory / tag, stored.digest)
                self._lately.pop((repository, tag), None)

    def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag.

        Raises:
            ManifestUnknown: it is not there.
        """
        self._tagged(repository, tag)
        try:
            (self._repository(repository) / "_tags" / tag).unlink()
        except FileNotFoundError as error:
            raise ManifestUnknown(f"{tag} is not in {repository}") from error

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest, and the tags that point at it.

        Raises:
            ManifestUnknown: it is not there.
        """
        link = self._link(repository, "_manifests", digest)
        try:
            link.unlink()
        except FileNotFoundError as error:
            raise ManifestUnknown(f"{digest} is not in {repository}") from error
        for tag in self.tags(repository):
            if self._points_at(repository, tag, digest):
                with self.locked(alone=True):
                    # Somebody may have moved the tag, or pushed the same manifest again.
                    if self._points_at(repository, tag, digest) and not link.exists():
                        self.delete_tag(repository, tag)

    def delete_repository(self, repository: str) -> None:
        """Remove a repository with all its manifests, tags and uses of blobs.

        Raises:
            NameUnknown: there is no such repository.
        """
        directory = self._repository(repository)
        with self.locked(alone=True):
            if not (directory / "_manifests").is_dir():
                raise NameUnknown(f"there is no repository {repository}")
            for name in ("_tags", "_manifests", "_referrers", "_blobs"):
                shutil.rmtree(directory / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # others lie below it
                while directory != self._repositories:
                    directory.rmdir()
                    directory = directory.parent

    def tags(self, repository: str) -> list[str]:
        """A repository's tags.

        Raises:
            NameUnknown: there is no such repository.
        """
        if not (self._repository(repository) / "_manifests").is_dir():
            raise NameUnknown(f"there is no repository {repository}")
        with contextlib.suppress(FileNotFoundError):
            files = (self._repository(repository) / "_tags").iterdir()
            return sorted(file.name for file in files if oci.is_tag(file.name))
        return []

    def referrers(self, repository: str, subject: str) -> Iterator[Stored]:
        """The manifests that are about another one."""
        directory = self._repository(repository) / "_referrers" / _hex(subject)
        with contextlib.suppress(FileNotFoundError):
            for link in sorted(directory.iterdir()):
                with contextlib.suppress(ManifestUnknown):
                    yield self.manifest(repository, link.name.replace("-", ":"))

    def manifest_links(self, repository: str) -> Iterator[tuple[str, Path]]:
        """Digest and link of every manifest of a repository."""
        return _digests(self._repository(repository) / "_manifests")

    def blob_links(self, repository: str) -> Iterator[tuple[str, Path]]:
        """Digest and link of every blob of a repository."""
        return _digests(self._repository(repository) / "_blobs")

    def contents(self) -> Iterator[tuple[str, Path]]:
        """Digest and file of all content, whichever repository has it."""
        for file in self.blobs.glob("*/??/*"):
            digest = f"{file.parent.parent.name}:{file.name}"
            if oci.is_digest(digest):
                yield digest, file

    def _use_blob(self, repository: str, digest: str) -> Path:
        content = self._content(digest)
        if not _use(self._link(repository, "_blobs", digest)) or not _use(content):
            raise BlobUnknown(f"blob {digest} is not in {repository}")
        return content

    def _use_all(
        self, repository: str, blobs: Iterable[str], manifests: Iterable[str], *, sparse: bool
    ) -> None:
        for digest in blobs:
            try:
                self._use_blob(repository, digest)
            except BlobUnknown as error:
                if not sparse:
                    raise ManifestBlobUnknown(f"blob {digest} is not in {repository}") from error
        for digest in manifests:
            if not _use(self._link(repository, "_manifests", digest)) and not sparse:
                raise ManifestBlobUnknown(f"manifest {digest} is not in {repository}")

    def _points_at(self, repository: str, tag: str, digest: str) -> bool:
        try:
            return self._tagged(repository, tag) == digest
        except ManifestUnknown:
            return False

    def _tagged(self, repository: str, tag: str) -> str:
        # Only a tag's grammar may become part of a path.
        if oci.is_tag(tag):
            with contextlib.suppress(FileNotFoundError):
                file = self._repository(repository) / "_tags" / tag
                return file.read_text(encoding="ascii")
        raise ManifestUnknown(f"{tag} is not in {repository}")

    def _keep_hash(self, upload: str, size: int, state: Hash) -> None:
        self._hashing[upload] = (size, state)
        if len(self._hashing) > _LATELY:
            self._hashing.popitem(last=False)

    def _stamps(self, repository: str, reference: str, digest: str) -> tuple[_Stamp, _Stamp]:
        """What changes when a tag or a manifest's link is written; raises FileNotFoundError."""
        directory = self._repositories / repository
        link = _stamp(directory / "_manifests" / _hex(digest))
        return link, (0, 0) if reference == digest else _stamp(directory / "_tags" / reference)

    def _repository(self, name: str) -> Path:
        return self._repositories / name

    def _link(self, repository: str, kind: str, digest: str) -> Path:
        return self._repository(repository) / kind / _hex(digest)

    def _content(self, digest: str) -> Path:
        name = _hex(digest)
        algorithm, _, value = name.partition("-")
        return self.blobs / algorithm / value[:2] / value

    def _upload(self, upload: str) -> Path:
        path = self.uploads / upload
        if not upload.isalnum() or not path.exists():
            raise UploadUnknown(f"there is no upload {upload}")
        return path

    def _add_link(self, link: Path) -> None:
        if not _use(link):
            _make_directory(link.parent)
            link.touch()  # it has no content: to make its name durable is all
            fsync_dir(link.parent)


def _hex(digest: str) -> str:
    if not oci.is_digest(digest):
        raise DigestInvalid(f"{digest!r} is no digest")
    return digest.replace(":", "-")


def _digests(directory: Path) -> Iterator[tuple[str, Path]]:
    with contextlib.suppress(FileNotFoundError):
        for link in sorted(directory.iterdir()):
            digest = link.name.replace("-", ":")
            if oci.is_digest(digest):
                yield digest, link


def _make_directory(directory: Path) -> None:
    """Make a directory and those above it, so that they survive a power cut."""
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        fsync_dir(directory.parent)


def _use(file: Path) -> bool:
    """Mark a file as used now; whether it is there."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


def check_digest(stream: BufferedReader, digest: str) -> None:
    """Read a stream to its end.

    Raises:
        DigestInvalid: its content has another digest.
    """
    _compare(hashlib.file_digest(stream, digest.partition(":")[0]), digest, stream)


def _compare(state: Hash, digest: str, stream: BufferedReader) -> None:
    algorithm, _, expected = digest.partition(":")
    if state.name != algorithm:
        state = hashlib.file_digest(stream, algorithm)
    if state.hexdigest() != expected:
        actual = f"{algorithm}:{state.hexdigest()}"
        raise DigestInvalid(f"the content has digest {actual}, not {digest}")


def _stamp(file: Path) -> _Stamp:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
