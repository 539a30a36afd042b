"""The build cache beyond this machine: in a registry, in a directory, in the image itself.

A cache is an OCI artifact: its config maps each step's key to the layer it made, and its layers are
those layers. A key is a hash framed over everything the step was made from, so an entry is right
for whoever has the same key; that its bytes are those the entry promises is checked by digest.
Entries of kaniko's form are images of one layer each, tagged with the step's key.

Sources: OCI image-spec 1.1 ``manifest.md`` (artifacts), ``image-layout.md``; docker buildx
``--cache-from``, ``--cache-to``; kaniko README (``--cache-repo``, ``--cache-ttl``).
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable, UnderwayError
from underway.capabilities.build.backend import layout
from underway.capabilities.build.backend.shelf import Shelf, link_or_copy, pieces
from underway.capabilities.build.model import Layer
from underway.kit.ports import Progress
from underway.transport.registry import RegistryClient
from underway.wire import oci

CONFIG_TYPE = "application/vnd.underway.build.cache.config.v1+json"
INLINE = "dev.underway.build.cache"
ENTRIES_MAX = 100_000

Records = Sequence[tuple[str, Layer | None]]
OpenRegistry = Callable[[oci.Reference], AbstractContextManager[tuple[RegistryClient, str]]]
"""From an image's name to a client of the registry that has it, and the repository there."""


@dataclass(frozen=True)
class CacheSpec:
    """One ``--cache-from`` or ``--cache-to``: ``place`` is a reference or a directory."""

    kind: str
    place: str = ""
    everything: bool = False
    ignore_errors: bool = False

    @classmethod
    def parse(cls, text: str, option: str) -> CacheSpec:
        """``type=registry,ref=NAME[,mode=max]``, ``type=local,src|dest=DIR``, ``type=inline``.

        A name alone is one in a registry.

        Raises:
            BadRequest: it is none of these.
        """
        if "=" not in text:
            return cls("registry", text)
        options = dict(part.strip().partition("=")[::2] for part in text.split(","))
        kind, mode = options.get("type", ""), options.get("mode", "min")
        names = {"registry": "ref", "local": "src" if option == "--cache-from" else "dest"}
        if kind not in ("registry", "local", "inline") or mode not in ("min", "max"):
            raise BadRequest(f"{option} {text}: the types are registry, local and inline")
        place = options.get(names.get(kind, ""), "")
        if kind != "inline" and not place:
            raise BadRequest(f"{option} {text} needs {names[kind]}=")
        if kind == "inline" and option == "--cache-from":
            raise BadRequest(f"{option} {text}: name the image, type=registry,ref=NAME")
        return cls(kind, place, mode == "max", options.get("ignore-error") == "true")


class _Step(msgspec.Struct, rename="camel"):
    diff_id: str
    digest: str
    size_bytes: int
    media_type: str


class _Config(msgspec.Struct):
    format: int
    steps: dict[str, _Step | None]


class CacheSource:
    """A cache to take steps from, read when the first step asks for it."""

    def __init__(self, spec: CacheSpec, open_registry: OpenRegistry) -> None:
        self._spec, self._open = spec, open_registry
        self._lock = threading.Lock()
        self._known: Mapping[str, Layer | None] | None = None

    def recall(self, key: str, shelf: Shelf, tell: Progress) -> tuple[bool, Layer | None]:
        """As ``Lender``."""
        known = self._load(tell)
        if key not in known:
            return False, None
        layer = known[key]
        try:
            if layer is not None:
                with self._blob(layer) as chunks:
                    shelf.take(layer, chunks)
            return True, layer
        except (UnderwayError, OSError) as error:
            tell(f"warning: cache {self._spec.place}: {error}; the step is run instead")
            return False, None

    def _load(self, tell: Progress) -> Mapping[str, Layer | None]:
        with self._lock:
            if self._known is None:
                try:
                    self._known = self._read()
                except NotFound:
                    self._known = {}
                    tell(f"cache {self._spec.place} is empty")
                except (UnderwayError, OSError) as error:
                    self._known = {}
                    tell(f"warning: cache {self._spec.place} cannot be read: {error}")
            return self._known

    def _read(self) -> Mapping[str, Layer | None]:
        if self._spec.kind == "local":
            blobs = Path(self._spec.place) / "blobs" / "sha256"
            digest = layout.digest(Path(self._spec.place))
            manifest = _checked((blobs / _hex(digest)).read_bytes(), digest)
            return _records(manifest, lambda name: (blobs / _hex(name)).read_bytes())
        reference = oci.Reference.parse(self._spec.place)
        with self._open(reference) as (client, repository):
            data = client.manifest(repository, reference.target).data
            return _records(data, lambda name: b"".join(client.blob(repository, name)))

    @contextlib.contextmanager
    def _blob(self, layer: Layer) -> Iterator[Iterable[bytes]]:
        if self._spec.kind == "local":
            yield pieces(Path(self._spec.place) / "blobs" / "sha256" / _hex(layer.digest))
            return
        with self._open(oci.Reference.parse(self._spec.place)) as (client, repository):
            yield client.blob(repository, layer.digest)


def export(spec: CacheSpec, records: Records, shelf: Shelf, open_registry: OpenRegistry) -> None:
    """Write steps and their layers to a registry or a directory.

    Raises:
        UnderwayError: the registry refused or cannot be reached.
        BadRequest: the directory is something else.
    """
    steps = {
        key: _Step(layer.diff_id, layer.digest, layer.size_bytes, layer.media_type)
        if layer
        else None
        for key, layer in records
    }
    layers = list({layer.digest: layer for _, layer in records if layer}.values())
    config = layout.encode(_Config(1, dict(sorted(steps.items()))))
    manifest = layout.encode(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "config": oci.Descriptor.of(CONFIG_TYPE, config).as_dict(),
            "layers": [layer.descriptor() for layer in layers],
        }
    )
    made = layout.Documents(manifest, config)
    if spec.kind == "local":
        _to_directory(Path(spec.place).absolute(), made, layers, shelf)
        return
    reference = oci.Reference.parse(spec.place)
    with open_registry(reference) as (client, repository):
        _push(client, repository, reference.tag, made, layers, shelf)


def inline(records: Records, layers: Sequence[Layer]) -> dict[str, str]:
    """The annotation that keeps the target stage's steps in the image's own manifest."""
    places = {layer.digest: place for place, layer in enumerate(layers)}
    steps = [
        [key, places[layer.digest] if layer else -1]
        for key, layer in records
        if layer is None or layer.digest in places
    ]
    return {INLINE: layout.encode(steps).decode()}


class LayerRepository:
    """kaniko's ``--cache-repo``: an image of one layer for each step, tagged with its key."""

    def __init__(
        self, reference: oci.Reference, open_registry: OpenRegistry, clock: Clock, ttl_s: float
    ) -> None:
        self.reference, self.open_registry = reference, open_registry
        self.clock, self.ttl_s = clock, ttl_s
        self._answers = True

    def recall(self, key: str, shelf: Shelf, tell: Progress) -> tuple[bool, Layer | None]:
        """As ``Lender``; a registry that cannot be reached is not asked again."""
        if not self._answers:
            return False, None
        try:
            with self.open_registry(self.reference) as (client, repository):
                if not client.digest(repository, key):
                    return False, None
                manifest = client.manifest(repository, key).decode()
                descriptor = manifest["config"]["digest"]
                config = _checked(b"".join(client.blob(repository, descriptor)), descriptor)
                content = msgspec.json.decode(config)
                if self._old(content):
                    return False, None
                if not manifest["layers"]:
                    return True, None
                blob = manifest["layers"][0]
                layer = Layer(
                    content["rootfs"]["diff_ids"][0],
                    blob["digest"],
                    int(blob["size"]),
                    blob["mediaType"],
                )
                if not shelf.has(layer):
                    shelf.take(layer, client.blob(repository, layer.digest))
                return True, layer
        except NotFound:
            return False, None
        except (UnderwayError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
            self._answers = not isinstance(error, ServiceUnavailable)
            tell(f"warning: cache {self.reference.name}: {error}; the step is run instead")
            return False, None

    def keep(self, records: Records, shelf: Shelf, tell: Progress) -> None:
        """Push the steps that the repository lacks; what it refuses is only warned about."""
        try:
            if self._answers:
                self._keep(records, shelf)
        except UnderwayError as error:
            tell(f"warning: cache {self.reference.name}: {error.message}")

    def _keep(self, records: Records, shelf: Shelf) -> None:
        created = rfc3339(self.clock.now())
        with self.open_registry(self.reference) as (client, repository):
            for key, layer in records:
                if client.digest(repository, key) and self._fresh(client, repository, key):
                    continue
                config = layout.encode(
                    {
                        "created": created,
                        "architecture": "",
                        "os": "linux",
                        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id] if layer else []},
                    }
                )
                manifest = layout.encode(
                    {
                        "schemaVersion": 2,
                        "mediaType": oci.MANIFEST,
                        "config": oci.Descriptor.of(oci.CONFIG, config).as_dict(),
                        "layers": [layer.descriptor()] if layer else [],
                    }
                )
                made = layout.Documents(manifest, config)
                _push(client, repository, key, made, [layer] if layer else [], shelf)

    def _old(self, config: Mapping[str, Any]) -> bool:
        made = datetime.fromisoformat(str(config["created"]).replace("Z", "+00:00"))
        return (self.clock.now() - made).total_seconds() > self.ttl_s

    def _fresh(self, client: RegistryClient, repository: str, key: str) -> bool:
        try:
            digest = client.manifest(repository, key).decode()["config"]["digest"]
            return not self._old(msgspec.json.decode(b"".join(client.blob(repository, digest))))
        except (KeyError, TypeError, ValueError, NotFound):
            return False


def _records(manifest: bytes, blob: Callable[[str], bytes]) -> dict[str, Layer | None]:
    """A cache's steps from its manifest; one that is an image's has them in an annotation."""
    try:
        content: dict[str, Any] = msgspec.json.decode(manifest)
        descriptor = content["config"]
        if descriptor["mediaType"] == CONFIG_TYPE:
            data = _checked(blob(descriptor["digest"]), descriptor["digest"])
            steps = msgspec.json.decode(data, type=_Config).steps
            if len(steps) > ENTRIES_MAX:
                raise BadRequest(f"it has more than {ENTRIES_MAX} steps")
            return {
                key: Layer(step.diff_id, step.digest, step.size_bytes, step.media_type)
                if step
                else None
                for key, step in steps.items()
            }
        inlined = (content.get("annotations") or {}).get(INLINE)
        if not inlined:
            return {}
        config = msgspec.json.decode(_checked(blob(descriptor["digest"]), descriptor["digest"]))
        layers = [
            Layer(diff_id, each["digest"], int(each["size"]), each["mediaType"])
            for diff_id, each in zip(config["rootfs"]["diff_ids"], content["layers"], strict=True)
        ]
        places: list[tuple[str, int]] = msgspec.json.decode(inlined, type=list[tuple[str, int]])
        return {key: layers[place] if place >= 0 else None for key, place in places}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadRequest(f"it is no build cache: {error}") from error


def _checked(data: bytes, digest: str) -> bytes:
    if oci.digest_of(data) != digest:
        raise BadRequest(f"{digest} is in truth {oci.digest_of(data)}")
    return data


def _push(
    client: RegistryClient,
    repository: str,
    tag: str,
    made: layout.Documents,
    layers: Sequence[Layer],
    shelf: Shelf,
) -> None:
    for layer in layers:
        client.push_blob(repository, layer.digest, shelf.blob(layer.digest), layer.size_bytes)
    client.push_blob(repository, oci.digest_of(made.config), made.config, len(made.config))
    client.push_manifest(repository, tag, made.manifest, oci.MANIFEST)


def _to_directory(
    folder: Path, made: layout.Documents, layers: Sequence[Layer], shelf: Shelf
) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / "oci-layout").exists():
        raise BadRequest(f"{folder} is not empty and no OCI image layout")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    blobs = aside / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    try:
        for layer in layers:
            link_or_copy(shelf.blob(layer.digest), blobs / _hex(layer.digest))
        for data in (made.config, made.manifest):
            (blobs / _hex(oci.digest_of(data))).write_bytes(data)
        entry = oci.Descriptor.of(oci.MANIFEST, made.manifest).as_dict()
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}
        (aside / "index.json").write_bytes(layout.encode(index))
        (aside / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _hex(digest: str) -> str:
    value = digest.removeprefix("sha256:")
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise BadRequest(f"not a sha256 digest: {digest[:80]!r}")
    return value
