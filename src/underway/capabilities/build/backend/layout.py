"""OCI image layouts: images as directories.

Source: opencontainers/image-spec 1.1 ``image-layout.md``.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from underway.base.clock import rfc3339
from underway.base.errors import BadRequest
from underway.capabilities.build.backend import machine
from underway.capabilities.build.backend.shelf import Shelf, decode, link_or_copy
from underway.capabilities.build.model import Image, Layer
from underway.linux.mounts import sync_filesystem
from underway.wire import oci

_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Documents:
    """An image's manifest and config as bytes."""

    manifest: bytes
    config: bytes

    @property
    def digest(self) -> str:
        """The image's digest: that of the manifest."""
        return oci.digest_of(self.manifest)


def documents(
    image: Image, created_s: int, annotations: Mapping[str, str], platform: str = ""
) -> Documents:
    """The documents of an image; the same image gives the same bytes.

    ``platform`` is ``linux/ARCH[/VARIANT]``, or empty for this machine's.
    """
    variant = platform.removeprefix("linux/").partition("/")[2]
    created = rfc3339(datetime.fromtimestamp(created_s, UTC))
    config = encode(
        {
            "created": created,
            "architecture": machine.architecture_of(platform),
            **({"variant": variant} if variant else {}),
            "os": "linux",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": image.diff_ids},
            "history": [{"created": created, **entry} for entry in image.history],
        }
    )
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": oci.Descriptor.of(oci.CONFIG, config).as_dict(),
        "layers": [layer.descriptor() for layer in image.layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Documents(encode(manifest), config)


def encode(value: Any) -> bytes:
    """JSON with sorted keys."""
    return msgspec.json.encode(value, order="deterministic")


def write(
    layout: Path,
    made: Documents,
    layers: list[Layer],
    shelf: Shelf,
    name: str,
    *,
    durable: bool = False,
) -> None:
    """Write an image as a layout, whole or not at all; ``name`` is its reference there.

    ``durable`` waits for the disk, so that this holds after a power cut too.

    Raises:
        BadRequest: the directory is there and is something else.
    """
    if layout.exists() and any(layout.iterdir()) and not (layout / "oci-layout").exists():
        raise BadRequest(f"{layout} is not empty and no OCI image layout")
    layout.parent.mkdir(parents=True, exist_ok=True)
    aside = layout.with_name(f".{layout.name}.{secrets.token_hex(4)}")
    blobs = aside / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    try:
        for layer in layers:
            link_or_copy(shelf.blob(layer.digest), blobs / _hex(layer.digest))
        for data in (made.config, made.manifest):
            (blobs / _hex(oci.digest_of(data))).write_bytes(data)
        entry = oci.Descriptor(oci.MANIFEST, made.digest, len(made.manifest), {_REF_NAME: name})
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry.as_dict()]}
        (aside / "index.json").write_bytes(encode(index))
        (aside / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        if durable:
            sync_filesystem(aside)
        if layout.exists():
            shutil.rmtree(layout)
        aside.rename(layout)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def digest(layout: Path) -> str:
    """The digest of a layout's one image.

    Raises:
        NotFound: it is no layout.
    """
    return oci.Descriptor.from_dict(decode(layout / "index.json")["manifests"][0]).digest


def read(layout: Path, shelf: Shelf) -> tuple[Image, Documents]:
    """Take a layout's one image onto the shelf.

    Raises:
        NotFound: it is no layout, or part of it is missing.
        BadRequest: part of it is not what its digest says.
    """
    blobs = layout / "blobs" / "sha256"
    entry = oci.Descriptor.from_dict(decode(layout / "index.json")["manifests"][0])
    manifest = decode(blobs / _hex(entry.digest))
    config_file = blobs / _hex(manifest["config"]["digest"])
    image = Image.read(manifest, decode(config_file))
    for layer in image.layers:
        shelf.adopt(layer, blobs / _hex(layer.digest))
    found = Documents((blobs / _hex(entry.digest)).read_bytes(), config_file.read_bytes())
    if found.digest != entry.digest:
        raise BadRequest(f"{layout}: its manifest is not {entry.digest}")
    return image, found


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
