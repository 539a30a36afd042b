"""Where base images come from: the platform's registry, upstream registries, builds, stand-ins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from underway.base.errors import BadRequest, NotFound, ServiceUnavailable, UnderwayError
from underway.base.home import Home, Settings
from underway.capabilities.build.backend import layout, machine
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.model import Image
from underway.kit.ports import BaseImage, Progress
from underway.transport.registry import Manifest, RegistryClient, repository_for
from underway.wire import oci

if TYPE_CHECKING:  # slow to import, and only needed where no registry has the image
    from underway.capabilities.build.backend.bases import StandIns

OCI_LAYOUT = "oci-layout://"


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A registry to ask for the images whose full names begin with ``prefix``.

    ``url`` is its address; ``insecure`` allows plain http. The host is not part of what is asked
    for there: ``docker.io/library/redis`` is asked for as ``library/redis``.
    """

    prefix: str
    url: str
    insecure: bool = False
    ca_file: str = ""
    username: str = ""
    password: str = ""


@dataclass(frozen=True)
class Source:
    """A registry to ask for one image; ``path`` stands before its repository there."""

    where: str
    open: Callable[[], AbstractContextManager[RegistryClient]]
    path: str = ""


def _client_of(each: Upstream) -> RegistryClient:
    ca_file = Path(each.ca_file) if each.ca_file else None
    return RegistryClient(each.url, ca_file=ca_file, username=each.username, password=each.password)


def upstreams(file: Path) -> list[Upstream]:
    """The configured upstream registries; none where the file is missing.

    Raises:
        BadRequest: the file is not a list of registries.
    """
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[Upstream])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise BadRequest(
            f"{file}: {error}", hint='it must hold [{"prefix": "docker.io", "url": "https://…"}]'
        ) from error
    for each in found:
        if not each.url.startswith("https://") and not (
            each.insecure and each.url.startswith("http://")
        ):
            raise BadRequest(f"{file}: {each.url} must be https, or http with insecure: true")
    return found


@dataclass(frozen=True)
class Origins:
    """Finds base images by name; ``more`` gives registries to ask before those configured."""

    home: Home
    settings: Settings
    shelf: Shelf
    stand_ins: Callable[[], StandIns]
    more: Callable[[oci.Reference], Sequence[Source]] = lambda _reference: ()

    def resolver(self, architecture: str) -> Callable[[str, Progress], tuple[Image, BaseImage]]:
        """What resolves names to images of an architecture."""
        return lambda name, tell: self.resolve(name, tell, architecture)

    def resolve(self, name: str, tell: Progress, architecture: str = "") -> tuple[Image, BaseImage]:
        """An image by the name FROM gives it, for an architecture, fetched and unpacked.

        Asked in this order: the platform's own registry for names that begin with its address,
        configured upstream registries, images built here, stand-ins.

        Raises:
            NotFound: nobody has it; says what can be had.
        """
        architecture = architecture or machine.architecture()
        if name.startswith(OCI_LAYOUT):
            return self._from_layout(name.removeprefix(OCI_LAYOUT), tell)
        name = name.removeprefix("docker-image://")
        reference = oci.Reference.parse(name)
        repository = repository_for(reference, self.settings)
        if repository == reference.repository:
            with RegistryClient.of_platform(self.home, self.settings) as client:
                image, digest = self._fetch(client, repository, reference, architecture)
            tell(f"base {name}: from the platform's registry")
            return image, BaseImage(str(reference), repository, digest, "registry")
        found = self._upstream(reference, architecture, tell)
        if found:
            image, digest = found
            return image, BaseImage(str(reference), repository, digest, "registry")
        built = self.shelf.image(str(reference))
        if built and self._architecture(str(reference)) == architecture:
            tell(f"base {name}: built here before")
            return built[0], BaseImage(str(reference), repository, built[1], "registry")
        if architecture != machine.architecture():
            raise NotFound(
                f"nobody has {reference} for linux/{architecture}",
                hint="stand-ins are made for this machine; name a registry in registries.json",
            )
        made = self.stand_ins().find_or_make(str(reference), tell)
        image, documents = layout.read(made, self.shelf)
        tell(f"base {name}: stand-in assembled from Debian packages")
        return image, BaseImage(str(reference), repository, documents.digest, "stand-in")

    def _architecture(self, reference: str) -> str:
        stored = self.shelf.images.get(reference)
        return str(stored.config.get("architecture", "")) if stored else ""

    def _from_layout(self, text: str, tell: Progress) -> tuple[Image, BaseImage]:
        folder = text.partition("@")[0]
        image, documents = layout.read(Path(folder), self.shelf)
        if text != folder and text.partition("@")[2] != documents.digest:
            raise NotFound(f"{folder} holds {documents.digest}, not {text.partition('@')[2]}")
        tell(f"base {OCI_LAYOUT}{text}")
        return image, BaseImage(f"{OCI_LAYOUT}{text}", "", documents.digest, "layout")

    def _upstream(
        self, reference: oci.Reference, architecture: str, tell: Progress
    ) -> tuple[Image, str] | None:
        for each in [*self.more(reference), *self._configured(reference)]:
            repository = f"{each.path}/{reference.repository}".lstrip("/")
            try:
                with each.open() as client:
                    found = self._fetch(client, repository, reference, architecture)
            except NotFound:
                continue
            except (ServiceUnavailable, OSError) as error:
                tell(f"warning: {each.where} cannot be asked for {reference}: {error}")
                continue
            tell(f"base {reference}: from {each.where}")
            return found
        return None

    def _configured(self, reference: oci.Reference) -> Iterator[Source]:
        for each in upstreams(self.home.root / "registries.json"):
            prefix = each.prefix.rstrip("/")
            if reference.name == prefix or reference.name.startswith(f"{prefix}/"):
                yield Source(each.url, functools.partial(_client_of, each))

    def _fetch(
        self,
        client: RegistryClient,
        repository: str,
        reference: oci.Reference,
        architecture: str,
    ) -> tuple[Image, str]:
        manifest = client.manifest(repository, reference.target)
        content = manifest.decode()
        if "manifests" in content:
            manifest = self._of_architecture(client, repository, manifest, architecture)
            content = manifest.decode()
        try:
            config_digest = content["config"]["digest"]
            data = b"".join(client.blob(repository, config_digest))
            if oci.digest_of(data) != config_digest:
                raise BadRequest(f"{reference}: its config is not {config_digest}")
            image = Image.read(content, msgspec.json.decode(data))
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"{reference} is no image: {error}") from error
        for layer in image.layers:
            if not self.shelf.has(layer):
                self.shelf.take(layer, client.blob(repository, layer.digest))
        return image, manifest.digest

    def _of_architecture(
        self, client: RegistryClient, repository: str, index: Manifest, architecture: str
    ) -> Manifest:
        for entry in index.decode()["manifests"]:
            platform = entry.get("platform") or {}
            if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
                return client.manifest(repository, entry["digest"])
        raise NotFound(f"{repository} has no image for linux/{architecture}")


def push(
    client: RegistryClient, repository: str, tag: str, made: layout.Documents, image: Image,
    shelf: Shelf, hint: str = "is the platform up? `underway status` says so",
) -> None:  # fmt: skip
    """Upload an image, its blobs before its manifest.

    Raises:
        UnderwayError: the registry refused or cannot be reached.
    """
    try:
        if client.digest(repository, tag) == made.digest:
            return  # a registry has all that its manifests name
        for layer in image.layers:
            blob = shelf.blob(layer.digest)
            client.push_blob(repository, layer.digest, blob, layer.size_bytes)
        config_digest = oci.digest_of(made.config)
        client.push_blob(repository, config_digest, made.config, len(made.config))
        client.push_manifest(repository, tag, made.manifest, oci.MANIFEST)
    except UnderwayError as error:
        raise type(error)(
            f"pushing {repository}:{tag}: {error.message}",
            hint=error.hint or hint,
        ) from error
