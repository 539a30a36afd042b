"""Getting a container's image onto this node. All calls block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.base.home import Home, Settings
from underway.linux.images import ImageStore, StoredImage
from underway.transport.registry import Manifest, RegistryClient, repository_for
from underway.wire import oci

CONFIG_BYTES_MAX = 4 * 1024 * 1024
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class PullFailure(UnderwayError):
    """An image cannot be had; ``waiting_reason`` is the container's waiting reason."""

    def __init__(self, message: str, waiting_reason: str = "ErrImagePull") -> None:
        super().__init__(message)
        self.waiting_reason = waiting_reason


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that is here; ``downloaded`` tells whether its layers had to be fetched now."""

    image: StoredImage
    image_id: str
    downloaded: bool
    size_bytes: int = 0


class Pulls:
    """The images of this node, fetched from the platform's registry."""

    def __init__(self, home: Home, settings: Settings, store: ImageStore, machine: str) -> None:
        self._home = home
        self._settings = settings
        self._store = store
        self._architecture = _ARCHITECTURES.get(machine, machine)
        self._guard = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}

    def images(self) -> list[StoredImage]:
        """Every image that is here."""
        return self._store.list()

    def policy(self, image: str, asked: str) -> str:
        """``Always``, ``IfNotPresent`` or ``Never``; only ``latest`` is asked for anew."""
        if asked:
            return asked
        reference = oci.Reference.parse(image)
        return "Always" if not reference.digest and reference.tag == "latest" else "IfNotPresent"

    def find(self, image: str) -> Pulled | None:
        """The image if it is here.

        Raises:
            PullFailure: the name is not valid.
        """
        reference = _parse(image)
        stored = self._store.get(str(reference))
        if stored is None and reference.digest:
            stored = self._store.get(reference.digest)
        return Pulled(stored, f"{reference.name}@{stored.digest}", False) if stored else None

    def ensure(self, image: str, policy: str, started: Callable[[], None]) -> Pulled:
        """Have the image here, fetching what is missing. ``started`` is told when asking begins.

        Raises:
            PullFailure: it cannot be had; the message says why.
        """
        reference = _parse(image)
        present = self.find(image)
        if policy == "Never":
            if present is None:
                raise PullFailure(
                    f'Container image "{image}" is not present with pull policy of Never',
                    "ErrImageNeverPull",
                )
            return present
        if policy == "IfNotPresent" and present is not None:
            return present
        started()
        with self._lock(str(reference)):
            try:
                return self._pull(reference)
            except UnderwayError as error:
                hint = f" ({error.hint})" if error.hint else ""
                raise PullFailure(
                    f'failed to pull image "{image}": {error.message}{hint}'
                ) from error

    def _pull(self, reference: oci.Reference) -> Pulled:
        repository = repository_for(reference, self._settings)
        with RegistryClient.of_platform(self._home, self._settings) as registry:
            manifest = self._choose(registry, repository, reference.target)
            image_id = f"{reference.name}@{manifest.digest}"
            present = self._store.get(manifest.digest)
            decoded = manifest.decode()
            layers = decoded.get("layers") or []
            size = sum(int(layer.get("size") or 0) for layer in layers)
            if present is not None:
                config = msgspec.json.encode(present.config)
                if oci.digest_of(config) != present.manifest["config"]["digest"]:
                    config = _config(registry, repository, decoded)
                self._store.add(str(reference), manifest.data, config)
                return Pulled(present, image_id, downloaded=False, size_bytes=size)

            def open_blob(digest: str, _size_bytes: int) -> Iterator[bytes]:
                return registry.blob(repository, digest)

            config = _config(registry, repository, decoded)
            image = self._store.pull(str(reference), manifest.data, config, open_blob)
            return Pulled(image, image_id, downloaded=True, size_bytes=size)

    def _choose(self, registry: RegistryClient, repository: str, target: str) -> Manifest:
        manifest = registry.manifest(repository, target)
        decoded = manifest.decode()
        if "manifests" not in decoded:
            return manifest
        for each in decoded["manifests"]:
            platform = each.get("platform") or {}
            if (platform.get("os"), platform.get("architecture")) == ("linux", self._architecture):
                return registry.manifest(repository, oci.Descriptor.from_dict(each).digest)
        raise NotFound(f"no image for linux/{self._architecture} in {repository}:{target}")

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._busy.setdefault(name, threading.Lock())


def _config(registry: RegistryClient, repository: str, manifest: dict[str, Any]) -> bytes:
    descriptor = oci.Descriptor.from_dict(manifest.get("config"))
    data = b""
    for chunk in registry.blob(repository, descriptor.digest):
        data += chunk
        if len(data) > CONFIG_BYTES_MAX:
            raise BadRequest(f"the config {descriptor.digest} is larger than 4 MiB")
    return data


def _parse(image: str) -> oci.Reference:
    try:
        return oci.Reference.parse(image)
    except BadRequest as error:
        raise PullFailure(
            f'Failed to apply default image tag "{image}": {error.message}', "InvalidImageName"
        ) from error
