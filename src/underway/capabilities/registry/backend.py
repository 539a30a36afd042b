"""Blobs and manifests on disk.

    blobs/sha256/ab/<hex>                    content, shared by all repositories
    uploads/<id>                             what has arrived of an upload
    repositories/<name>/_blobs/<hex>         this repository has the blob
    repositories/<name>/_manifests/<hex>     media type of a manifest (its bytes are a blob)
    repositories/<name>/_tags/<tag>          digest
    repositories/<name>/_referrers/<hex>/<hex>

A file is written aside, made durable and renamed, so that what is there is whole. All calls block.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from underway.base.files import fsync_dir, write_atomic
from underway.capabilities.registry.model import (
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameUnknown,
    RangeInvalid,
    Stored,
    UploadUnknown,
)
from underway.wire import oci

_PIECE = 1024 * 1024


class Storage:
    """The registry's content below one directory."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self._repositories = root / "repositories"
        for directory in (self._blobs, self._uploads, self._repositories):
            directory.mkdir(parents=True, exist_ok=True)

    def repositories(self) -> list[str]:
        """The names of all repositories, sorted."""
        found = []
        for directory, names, _ in os.walk(self._repositories):
            if "_manifests" in names:
                found.append(str(Path(directory).relative_to(self._repositories)))
            names[:] = [name for name in names if not name.startswith("_")]
        return sorted(found)

    def blob_path(self, repository: str, digest: str) -> Path:
        """The file of a blob.

        Raises:
            DigestInvalid: the digest is malformed.
            BlobUnknown: the repository does not have it.
        """
        if not (self._link(repository, "_blobs", digest)).exists():
            raise BlobUnknown(f"blob {digest} is not in {repository}")
        return self._content(digest)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take a blob over from another repository; False where that one has it not."""
        try:
            self.blob_path(source, digest)
        except BlobUnknown:
            return False
        self._add_link(self._link(repository, "_blobs", digest))
        return True

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob out of a repository.

        Raises:
            BlobUnknown: it is not there.
        """
        self.blob_path(repository, digest)
        self._link(repository, "_blobs", digest).unlink()

    def start_upload(self) -> str:
        """A new upload's id."""
        upload = secrets.token_hex(16)
        (self._uploads / upload).touch()
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

    def append(self, upload: str, offset: int, piece: bytes) -> None:
        """Add bytes to an upload that holds ``offset`` bytes.

        Raises:
            RangeInvalid: it holds another number of bytes.
        """
        with self._upload(upload).open("r+b") as stream:
            if stream.seek(0, os.SEEK_END) != offset:
                raise RangeInvalid("the upload has moved on")
            stream.write(piece)

    def cancel_upload(self, upload: str) -> None:
        """Throw away what has arrived.

        Raises:
            UploadUnknown: there is no such upload.
        """
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
        with path.open("rb") as stream:
            actual = hashlib.file_digest(stream, digest.partition(":")[0]).hexdigest()
            if actual != digest.partition(":")[2]:
                path.unlink()
                raise DigestInvalid(f"the content has digest {actual}, not {digest}")
            os.fsync(stream.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        fsync_dir(target.parent)
        self._add_link(self._link(repository, "_blobs", digest))

    def put_blob(self, repository: str, digest: str, data: bytes) -> None:
        """Store bytes whose digest is known."""
        target = self._content(digest)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, data)
        self._add_link(self._link(repository, "_blobs", digest))

    def adopt_blob(self, repository: str, digest: str, file: Path) -> None:
        """Store a file's content, which has the digest; a hard link where that is possible."""
        target = self._content(digest)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            try:
                aside.hardlink_to(file)
            except OSError:
                _copy(file, aside)
            aside.replace(target)
            fsync_dir(target.parent)
        self._add_link(self._link(repository, "_blobs", digest))

    def manifest(self, repository: str, reference: str) -> Stored:
        """A manifest by tag or digest.

        Raises:
            ManifestUnknown: it is not there.
        """
        digest = reference if oci.is_digest(reference) else self._tagged(repository, reference)
        try:
            link = self._link(repository, "_manifests", digest)
            media_type = link.read_text(encoding="utf-8")
            return Stored(digest, media_type, self._content(digest).read_bytes())
        except FileNotFoundError as error:
            raise ManifestUnknown(f"{reference} is not in {repository}") from error

    def put_manifest(self, repository: str, digest: str, media_type: str, data: bytes) -> None:
        """Store a manifest under its digest."""
        target = self._content(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            write_atomic(target, data)
        link = self._link(repository, "_manifests", digest)
        link.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(link, media_type)

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """Point a tag at a manifest."""
        directory = self._repository(repository) / "_tags"
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / tag, digest)

    def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag.

        Raises:
            ManifestUnknown: it is not there.
        """
        self._tagged(repository, tag)
        (self._repository(repository) / "_tags" / tag).unlink()

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest, and the tags that point at it.

        Raises:
            ManifestUnknown: it is not there.
        """
        link = self._link(repository, "_manifests", digest)
        if not link.exists():
            raise ManifestUnknown(f"{digest} is not in {repository}")
        for tag in self.tags(repository):
            if self._tagged(repository, tag) == digest:
                self.delete_tag(repository, tag)
        link.unlink()

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

    def add_referrer(self, repository: str, subject: str, digest: str) -> None:
        """Note that the manifest ``digest`` is about the manifest ``subject``."""
        directory = self._repository(repository) / "_referrers" / _hex(subject)
        self._add_link(directory / _hex(digest))

    def referrers(self, repository: str, subject: str) -> Iterator[Stored]:
        """The manifests that are about another one."""
        directory = self._repository(repository) / "_referrers" / _hex(subject)
        with contextlib.suppress(FileNotFoundError):
            for link in sorted(directory.iterdir()):
                with contextlib.suppress(ManifestUnknown):
                    yield self.manifest(repository, link.name.replace("-", ":"))

    def _tagged(self, repository: str, tag: str) -> str:
        # Only a tag's grammar may become part of a path.
        if oci.is_tag(tag):
            with contextlib.suppress(FileNotFoundError):
                file = self._repository(repository) / "_tags" / tag
                return file.read_text(encoding="ascii")
        raise ManifestUnknown(f"{tag} is not in {repository}")

    def _repository(self, name: str) -> Path:
        return self._repositories / name

    def _link(self, repository: str, kind: str, digest: str) -> Path:
        return self._repository(repository) / kind / _hex(digest)

    def _content(self, digest: str) -> Path:
        name = _hex(digest)
        algorithm, _, value = name.partition("-")
        return self._blobs / algorithm / value[:2] / value

    def _upload(self, upload: str) -> Path:
        path = self._uploads / upload
        if not upload.isalnum() or not path.exists():
            raise UploadUnknown(f"there is no upload {upload}")
        return path

    def _add_link(self, link: Path) -> None:
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(link, b"")


def _hex(digest: str) -> str:
    if not oci.is_digest(digest):
        raise DigestInvalid(f"{digest!r} is no digest")
    return digest.replace(":", "-")


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_PIECE):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
