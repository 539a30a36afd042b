"""What builds keep: layers, their compressed blobs, images, and which step gave which layer."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import NotFound
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.build.backend.digests import Digests
from underway.capabilities.build.model import Image, Layer
from underway.linux.images import ImageStore, verified
from underway.linux.layers import LayerStore

CHUNK_BYTES = 1 << 20


class _Record(msgspec.Struct):
    """A step's result; no layer means that it changed no file."""

    layer: Layer | None


class Shelf:
    """The builder's part of the home directory."""

    def __init__(self, home: Home) -> None:
        self.layers = LayerStore(home.layers)
        self.images = ImageStore(home.builds / "images", self.layers)
        self.blobs = home.builds / "blobs"
        self.caches = home.builds / "caches"
        self.steps = home.builds / "steps"
        self.digests = Digests(home.builds / "digests")

    def blob(self, digest: str) -> Path:
        """Where a layer's compressed blob lies."""
        return self.blobs / digest.removeprefix("sha256:")

    def recall(self, key: str) -> tuple[bool, Layer | None]:
        """Whether a step's result is known and whole, and its layer."""
        file = self.steps / key[:2] / key
        try:
            record = msgspec.json.decode(file.read_bytes(), type=_Record)
            os.utime(file)  # its last use, by which the cache is cleaned
        except (FileNotFoundError, msgspec.MsgspecError):
            return False, None
        if record.layer is None:
            return True, None
        return self.has(record.layer), record.layer

    def records(self) -> Iterator[tuple[Path, Layer | None]]:
        """Every step's record and its layer; broken records are left out."""
        for file in self.steps.glob("??/*"):
            try:
                yield file, msgspec.json.decode(file.read_bytes(), type=_Record).layer
            except (OSError, msgspec.MsgspecError):
                continue

    def remember(self, key: str, layer: Layer | None) -> None:
        """Keep a step's result."""
        if layer is not None:
            self.digests.note(self.blob(layer.digest), layer.digest.removeprefix("sha256:"))
        folder = self.steps / key[:2]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / key, msgspec.json.encode(_Record(layer)), durable=False)

    def has(self, layer: Layer) -> bool:
        """Whether blob and unpacked layer are here, undamaged; a blob alone is unpacked."""
        blob = self.blob(layer.digest)
        try:
            status = blob.stat()
            if status.st_size != layer.size_bytes:
                return False
            # Read again only where the file was touched since it was written.
            if f"sha256:{self.digests.of(str(blob), status)}" != layer.digest:
                blob.unlink(missing_ok=True)
                return False
        except FileNotFoundError:
            return False
        if not self.layers.has(layer.diff_id):
            self.layers.unpack(layer.diff_id, pieces(blob), layer.media_type)
        return True

    def adopt(self, layer: Layer, blob: Path) -> None:
        """Keep a layer whose blob lies in a file that never changes.

        Raises:
            BadRequest: the file is not what the layer's digests say.
        """
        if self.has(layer):
            return
        chunks = verified(pieces(blob), layer.digest)
        self.layers.unpack(layer.diff_id, chunks, layer.media_type)
        self.blobs.mkdir(parents=True, exist_ok=True)
        link_or_copy(blob, self.blob(layer.digest))

    def take(self, layer: Layer, chunks: Iterable[bytes]) -> None:
        """Keep a layer that comes from elsewhere: its blob as it is, and unpacked.

        Raises:
            BadRequest: the bytes are not what the layer's digests say.
        """
        if self.has(layer):
            return
        self.blobs.mkdir(parents=True, exist_ok=True)
        blob = self.blob(layer.digest)
        aside = blob.with_name(f".{secrets.token_hex(6)}")
        try:
            with aside.open("wb") as stream:
                for chunk in verified(chunks, layer.digest):
                    stream.write(chunk)
            aside.replace(blob)
        finally:
            aside.unlink(missing_ok=True)
        self.layers.unpack(layer.diff_id, pieces(blob), layer.media_type)

    def image(self, reference_or_digest: str) -> tuple[Image, str] | None:
        """An image built or fetched before, with its digest."""
        stored = self.images.get(reference_or_digest)
        if stored is None:
            return None
        image = Image.read(stored.manifest, stored.config)
        return (image, stored.digest) if all(map(self.has, image.layers)) else None


def pieces(path: Path) -> Iterator[bytes]:
    """A file in chunks."""
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name, or a copy on another file system."""
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    except OSError:
        aside = target.with_name(f".{secrets.token_hex(6)}")
        shutil.copyfile(source, aside)
        aside.replace(target)


def decode(path: Path) -> Any:
    """A JSON file.

    Raises:
        NotFound: it is missing or broken.
    """
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise NotFound(f"{path}: {error}") from error
