"""Where images are read from: a registry, or an OCI layout on disk."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from underway.base.errors import BadRequest, NotFound
from underway.base.home import Home, Settings
from underway.linux.layer_tar import clean_path
from underway.transport.registry import RegistryClient, credentials, repository_for
from underway.wire import oci

_INDEXES = (oci.INDEX, oci.DOCKER_LIST)
_LAYER_KINDS = ("image.layer", "image.rootfs")
_ARCHITECTURE = "amd64"
_DOCKER_CONFIG = Path(".docker") / "config.json"


@dataclass(frozen=True, slots=True)
class LayerSource:
    """One layer: its blob's digest and type, and its diff id where the image says so."""

    digest: str
    media_type: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one platform. ``config`` is the image's configuration."""

    name: str
    digest: str
    layers: tuple[LayerSource, ...]
    config: dict[str, Any]


class Images(Protocol):
    """A place with images."""

    def image(self) -> Image:
        """The image asked for."""
        ...

    def blob(self, digest: str) -> Iterable[bytes]:
        """A blob's bytes in pieces."""
        ...


class _RegistryImages:
    def __init__(self, client: RegistryClient, repository: str, reference: oci.Reference) -> None:
        self._client, self._repository, self._reference = client, repository, reference

    def image(self) -> Image:
        manifest = self._client.manifest(self._repository, self._reference.target)
        if manifest.media_type in _INDEXES:
            chosen = _for_platform(manifest.decode(), str(self._reference))
            manifest = self._client.manifest(self._repository, chosen)
        return _image(str(self._reference), manifest.digest, manifest.decode(), self._json)

    def blob(self, digest: str) -> Iterable[bytes]:
        return self._client.blob(self._repository, digest)

    def _json(self, digest: str) -> dict[str, Any]:
        return _object(b"".join(self._client.blob(self._repository, digest)), digest)


class _LayoutImages:
    def __init__(self, root: Path, tag: str) -> None:
        self._root, self._tag = root, tag

    def image(self) -> Image:
        index = _object((self._root / "index.json").read_bytes(), "index.json")
        entries = index.get("manifests") or []
        named = "org.opencontainers.image.ref.name"
        wanted = [
            each
            for each in entries
            if not self._tag or (each.get("annotations") or {}).get(named) == self._tag
        ]
        if not wanted:
            raise NotFound(f"{self._root} has no image {self._tag or 'at all'}")
        digest = str(wanted[0].get("digest"))
        manifest = self._json(digest)
        if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
            digest = _for_platform(manifest, str(self._root))
            manifest = self._json(digest)
        return _image(str(self._root), digest, manifest, self._json)

    def blob(self, digest: str) -> Iterable[bytes]:
        with self._path(digest).open("rb") as stream:
            while piece := stream.read(1 << 20):
                yield piece

    def _json(self, digest: str) -> dict[str, Any]:
        return _object(self._path(digest).read_bytes(), digest)

    def _path(self, digest: str) -> Path:
        if not oci.is_digest(digest):
            raise BadRequest(f"{self._root}: {digest!r} is no digest")
        path = self._root / "blobs" / digest.replace(":", "/")
        if not path.is_file():
            raise NotFound(f"{self._root} has no blob {digest}")
        return path


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is no JSON object")
    return value


def _for_platform(index: dict[str, Any], name: str) -> str:
    """The digest of the image for Linux on amd64, or of the only one there is."""
    entries = [each for each in index.get("manifests") or () if isinstance(each, dict)]
    for each in entries:
        platform = each.get("platform") or {}
        if (platform.get("os"), platform.get("architecture")) == ("linux", _ARCHITECTURE):
            return str(each.get("digest"))
    if len(entries) == 1:
        return str(entries[0].get("digest"))
    raise NotFound(f"{name} has no image for linux/{_ARCHITECTURE}")


def _image(name: str, digest: str, manifest: dict[str, Any], load: Any) -> Image:
    descriptors = manifest.get("layers")
    if not isinstance(descriptors, list) or "config" not in manifest:
        raise BadRequest(f"{name} is not an image of layers")
    parsed = [oci.Descriptor.from_dict(each) for each in descriptors]
    parsed = [
        each for each in parsed if "image.layer" in each.media_type or "rootfs" in each.media_type
    ]
    config = load(oci.Descriptor.from_dict(manifest["config"]).digest)
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    if parsed and len(diff_ids) != len(parsed):
        raise BadRequest(f"{name}: {len(parsed)} layers and {len(diff_ids)} diff ids")
    layers = tuple(
        LayerSource(each.digest, each.media_type, str(diff_id))
        for each, diff_id in zip(parsed, diff_ids, strict=True)
    )
    return Image(name, digest, layers, config)


@contextmanager
def opened(name: str, home: Home, settings: Settings) -> Iterator[Images]:
    """An image by name: ``oci:DIR[:TAG]``, ``oci-archive:FILE``, or one of a registry.

    Names of other registries are asked of the platform's, which serves them too. Where no
    platform is, a registry that the name spells out is asked itself, with the credentials of
    ``~/.docker/config.json``.

    Raises:
        NotFound, BadRequest, Unauthorized, ServiceUnavailable: it cannot be read.
    """
    transport, _, rest = name.partition(":")
    if transport == "oci":
        path, _, tag = rest.partition(":")
        _require_layout(Path(path))
        yield _LayoutImages(Path(path), tag)
    elif transport == "oci-archive":
        with TemporaryDirectory(prefix="underway-scan-") as folder:
            _unpack(Path(rest), Path(folder))
            _require_layout(Path(folder))
            yield _LayoutImages(Path(folder), "")
    else:
        reference = oci.Reference.parse(name)
        with _client(reference, home, settings) as (client, repository):
            yield _RegistryImages(client, repository, reference)


def _require_layout(path: Path) -> None:
    if not (path / "index.json").is_file():
        raise NotFound(f"{path} is no OCI image layout: it has no index.json")


def _unpack(archive: Path, folder: Path) -> None:
    """Only regular files below the archive's root are taken; whatever else it holds is left."""
    try:
        with tarfile.open(archive) as opened_archive:
            for member in opened_archive:
                stream = opened_archive.extractfile(member) if member.isreg() else None
                path = clean_path(member.name)
                if stream is None or not path:
                    continue
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with (folder / path).open("wb") as target:
                    shutil.copyfileobj(stream, target, 1 << 20)
    except (OSError, tarfile.TarError) as error:
        raise BadRequest(f"{archive} cannot be unpacked: {error}") from error


def _client(
    reference: oci.Reference, home: Home, settings: Settings
) -> AbstractContextManager[tuple[RegistryClient, str]]:
    @contextmanager
    def open_() -> Iterator[tuple[RegistryClient, str]]:
        own = f"{settings.bind_address}:{settings.registry_port}"
        if home.registry_auth.exists():
            with RegistryClient.of_platform(home, settings) as client:
                yield client, repository_for(reference, settings)
            return
        if reference.registry == own:
            raise NotFound(f"{reference}: there is no platform in {home.root} that has it")
        username, password = credentials(
            Path.home() / ".docker" / "config.json", reference.registry
        )
        with RegistryClient(
            f"https://{reference.registry}", username=username, password=password
        ) as client:
            yield client, reference.repository

    return open_()
