"""Images: a manifest and a config by digest, and the names they go by.

Source: OCI image-spec ``manifest.md``, ``config.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from underway.base.errors import BadRequest
from underway.base.files import write_atomic
from underway.linux.layers import LayerStore

OpenBlob = Callable[[str, int], Iterable[bytes]]
"""``(digest, size in bytes) -> the blob in chunks``; a negative size means unknown."""

DOCUMENT_BYTES_MAX = 4 << 20
SETTLE_AGE_S = 300.0


@dataclass(frozen=True)
class StoredImage:
    """An image whose layers are all unpacked. ``digest`` is its manifest's."""

    reference: str
    digest: str
    manifest: dict[str, Any]
    config: dict[str, Any]

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The layers, bottom first."""
        return tuple(self.config["rootfs"]["diff_ids"])

    @property
    def runtime(self) -> dict[str, Any]:
        """The config's ``config``: Env, Entrypoint, Cmd, User, WorkingDir and so on."""
        return self.config.get("config") or {}


class ImageStore:
    """Images below one directory. Safe to use from several processes at once."""

    def __init__(self, root: Path, layers: LayerStore) -> None:
        self._documents = root / "sha256"
        self._names = root / "names"
        self._layers = layers

    def add(self, reference: str, manifest: bytes, config: bytes) -> StoredImage:
        """Keep an image whose layers are in the layer store, under a name.

        Raises:
            BadRequest: the documents are not an image's, do not belong together, or a layer is
                missing.
        """
        image = _read(reference, manifest, config)
        for diff_id in image.diff_ids:
            if not self._layers.has(diff_id):
                raise BadRequest(f"{reference}: layer {diff_id} is not in the store")
        self._layers.settle(SETTLE_AGE_S)
        self._documents.mkdir(parents=True, exist_ok=True)
        self._names.mkdir(parents=True, exist_ok=True)
        # What a power cut damages no longer has its digest, and counts as missing.
        for digest, data in (
            (image.manifest["config"]["digest"], config),
            (image.digest, manifest),
        ):
            write_atomic(self._documents / _hex(digest), data, durable=False)
        write_atomic(self._name(reference), image.digest, durable=False)
        return image

    def get(self, reference_or_digest: str) -> StoredImage | None:
        """The image of that name or digest, if all of it is here."""
        digest = reference_or_digest
        if not digest.startswith("sha256:"):
            try:
                digest = self._name(reference_or_digest).read_text()
            except FileNotFoundError:
                return None
        try:
            manifest = (self._documents / _hex(digest)).read_bytes()
            config_digest = msgspec.json.decode(manifest)["config"]["digest"]
            config = (self._documents / _hex(config_digest)).read_bytes()
            image = _read(reference_or_digest, manifest, config)
        except (FileNotFoundError, msgspec.DecodeError, KeyError, TypeError, BadRequest):
            return None
        whole = image.digest == digest and all(map(self._layers.has, image.diff_ids))
        return image if whole else None

    def pull(
        self, reference: str, manifest: bytes, config: bytes, open_blob: OpenBlob
    ) -> StoredImage:
        """Fetch the layers that are missing and keep the image.

        Raises:
            BadRequest: a document or blob is broken or not what its digest says.
        """
        image = _read(reference, manifest, config)
        for diff_id, layer in zip(image.diff_ids, image.manifest["layers"], strict=True):
            if not self._layers.has(diff_id):
                size = int(layer.get("size", -1))
                chunks = verified(open_blob(layer["digest"], size), layer["digest"])
                self._layers.unpack(diff_id, chunks, layer["mediaType"])
        return self.add(reference, manifest, config)

    def list(self) -> list[StoredImage]:
        """Every named image that is whole."""
        if not self._names.is_dir():
            return []
        names = sorted(unquote(p.name) for p in self._names.iterdir() if p.name[0] != ".")
        return [image for image in map(self.get, names) if image]

    def diff_ids(self) -> set[str]:
        """The layers of every image ever kept here, also of those whose name is gone.

        A container may still run from one of them.
        """
        found: set[str] = set()
        for path in self._documents.iterdir() if self._documents.is_dir() else ():
            try:
                document = msgspec.json.decode(path.read_bytes())
                found |= set(document.get("rootfs", {}).get("diff_ids", ()))
            except (OSError, AttributeError, TypeError, msgspec.DecodeError):
                continue
        return found

    def remove(self, reference: str) -> bool:
        """Forget a name; whether it was there. Its layers stay for others."""
        try:
            self._name(reference).unlink()
        except FileNotFoundError:
            return False
        return True

    def _name(self, reference: str) -> Path:
        quoted = quote(reference, safe="")
        if not quoted or len(quoted) > 250 or quoted.startswith("."):
            raise BadRequest(f"not an image name: {reference[:80]!r}")
        return self._names / quoted


def verified(chunks: Iterable[bytes], digest: str) -> Iterator[bytes]:
    """The same chunks; the end raises BadRequest unless they hash to ``digest``."""
    seen = hashlib.sha256()
    for chunk in chunks:
        seen.update(chunk)
        yield chunk
    if f"sha256:{seen.hexdigest()}" != digest:
        raise BadRequest(f"blob {digest} is in truth sha256:{seen.hexdigest()}")


def _read(reference: str, manifest: bytes, config: bytes) -> StoredImage:
    if max(len(manifest), len(config)) > DOCUMENT_BYTES_MAX:
        raise BadRequest(f"{reference}: its manifest or config is too large")
    try:
        parsed: dict[str, Any] = msgspec.json.decode(manifest)
        settings: dict[str, Any] = msgspec.json.decode(config)
        promised = parsed["config"]["digest"]
        layers, diff_ids = parsed["layers"], settings["rootfs"]["diff_ids"]
        for layer in layers:
            _hex(layer["digest"]), layer["mediaType"]
        for diff_id in diff_ids:
            _hex(diff_id)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise BadRequest(f"{reference}: not an image manifest with its config: {error}") from error
    actual = f"sha256:{hashlib.sha256(config).hexdigest()}"
    if actual != promised:
        raise BadRequest(f"{reference}: its config is {actual}, the manifest says {promised}")
    if len(layers) != len(diff_ids):
        raise BadRequest(f"{reference}: {len(layers)} layers, but {len(diff_ids)} diff ids")
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    return StoredImage(reference, digest, parsed, settings)


def _hex(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise BadRequest(f"not a sha256 digest: {digest[:80]!r}")
    return value
