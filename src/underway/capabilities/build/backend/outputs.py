"""Where a finished image goes besides the shelf: archives, directories, any registry.

Sources: OCI image-spec 1.1 ``image-layout.md``; Docker ``image save`` (``manifest.json``).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from underway.base.errors import BadRequest
from underway.base.home import Home, Settings
from underway.capabilities.build.backend import layout, machine
from underway.capabilities.build.backend.copying import Manner, copy_into
from underway.capabilities.build.backend.origins import push
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.trees import Tree
from underway.capabilities.build.model import Image, Layer
from underway.linux import layer_tar
from underway.linux.mounts import unmount, with_own_mounts
from underway.transport.registry import RegistryClient, credentials
from underway.wire import oci

T = TypeVar("T")

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_TIMEOUT_S = 30
_KANIKO_CONFIG = Path("/kaniko/.docker/config.json")


@dataclass(frozen=True)
class Made:
    """An image on the shelf, with its documents.

    ``keys`` are the steps it was made by, with their layers; the last ``own_keys`` are those of
    its own stage. ``platform`` is empty for this machine's.
    """

    documents: layout.Documents
    image: Image
    shelf: Shelf
    keys: tuple[tuple[str, Layer | None], ...] = ()
    own_keys: int = 0
    platform: str = ""


@dataclass(frozen=True)
class Index:
    """The same image for several platforms."""

    images: tuple[Made, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """The index's bytes: each image's manifest with its platform."""
        return layout.encode(
            {
                "schemaVersion": 2,
                "mediaType": oci.INDEX,
                "manifests": [_described(each) for each in self.images],
                **({"annotations": dict(self.annotations)} if self.annotations else {}),
            }
        )

    @property
    def digest(self) -> str:
        """The index's digest."""
        return oci.digest_of(self.data)


def _described(made: Made) -> dict[str, Any]:
    parts = (made.platform or f"linux/{machine.architecture()}").split("/")
    platform = dict(zip(("os", "architecture", "variant"), parts, strict=False))
    return {
        **oci.Descriptor.of(oci.MANIFEST, made.documents.manifest).as_dict(),
        "platform": platform,
    }


def push_index(client: RegistryClient, repository: str, tag: str, index: Index) -> None:
    """Upload the images of an index, then the index under its tag; raises as ``push``."""
    for made in index.images:
        digest = made.documents.digest
        push(client, repository, digest, made.documents, made.image, made.shelf)
    client.push_manifest(repository, tag, index.data, oci.INDEX)


@dataclass(frozen=True)
class Access:
    """How registries are talked to: hosts in ``insecure`` by plain http where https fails.

    ``skip_verify`` are hosts whose certificate is not looked at, ``certificates`` files of the
    authorities of others, ``client_certificates`` the (certificate, key) to show them.
    """

    insecure: frozenset[str] = frozenset()
    skip_verify: frozenset[str] = frozenset()
    certificates: Mapping[str, Path] = field(default_factory=dict)
    client_certificates: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)


def write_archive(
    target: IO[bytes], made: Made | Index, names: Sequence[str], *, docker: bool
) -> None:
    """Write an OCI layout as a tar stream; with ``docker`` one that ``docker load`` reads too.

    The same image under the same names gives the same bytes.
    """
    images = made.images if isinstance(made, Index) else (made,)
    blobs: dict[str, bytes | Path] = {}
    for each in images:
        documents = each.documents
        blobs[documents.digest] = documents.manifest
        blobs[oci.digest_of(documents.config)] = documents.config
        blobs |= {layer.digest: each.shelf.blob(layer.digest) for layer in each.image.layers}
    if isinstance(made, Index):
        blobs[made.digest] = made.data
        entry = oci.Descriptor.of(oci.INDEX, made.data).as_dict()
    else:
        entry = oci.Descriptor.of(oci.MANIFEST, made.documents.manifest).as_dict()
    named = [
        {**entry, "annotations": {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": oci.Reference.parse(name).tag,
        }}
        for name in names
    ]  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": named or [entry]}
    files: dict[str, bytes | Path] = {_blob(digest): data for digest, data in blobs.items()}
    files["index.json"] = layout.encode(index)
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    if docker:
        files["manifest.json"] = layout.encode(
            [
                {
                    "Config": _blob(oci.digest_of(images[0].documents.config)),
                    "RepoTags": list(names),
                    "Layers": [_blob(layer.digest) for layer in images[0].image.layers],
                }
            ]
        )
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            _add(archive, name, files[name])


def write_tar(target: IO[bytes], made: Made) -> None:
    """Write the image's files, all layers as one, as a tar stream."""
    _with_root(made, lambda root: layer_tar.pack(root, None, target.write))


def write_files(folder: Path, made: Made) -> None:
    """Copy the image's files into a directory.

    Raises:
        BadRequest: a file there is in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = Manner(owner=None)

    def copy(root: Path) -> None:
        tree = Tree(root, what="image")
        copy_into(folder, tree, tree.find("."), "/", files)

    _with_root(made, copy)


def to_stream(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Let ``write`` fill a file, which appears whole or not at all; ``-`` is standard output.

    Raises:
        BadRequest: the file cannot be written.
    """
    if path == "-":
        write(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    aside = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            write(stream)
        aside.replace(target)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def push_to(
    reference: oci.Reference, made: Made, home: Home, settings: Settings, access: Access
) -> None:
    """Push to the registry that a name says, with the credentials the user has for it.

    Raises:
        UnderwayError: the registry refused or cannot be reached.
    """
    with registry_at(reference.registry, home, settings, access) as client:
        hint = f"can {reference.registry} be reached from here?"
        push(
            client,
            reference.repository,
            reference.tag,
            made.documents,
            made.image,
            made.shelf,
            hint,
        )


@contextlib.contextmanager
def registry_at(
    host: str, home: Home, settings: Settings, access: Access
) -> Iterator[RegistryClient]:
    """A client of a registry by its host, with the credentials the user has for it.

    The platform's own registry is known with its authority and password. By plain http where that
    is allowed and https fails.
    """
    if host == f"{settings.bind_address}:{settings.registry_port}" and _is_ours(home, host):
        with RegistryClient.of_platform(home, settings) as client:
            yield client
        return
    username, password = docker_credentials(host)
    address = "registry-1.docker.io" if host == oci.DEFAULT_REGISTRY else host

    def by(scheme: str) -> RegistryClient:
        return RegistryClient(
            f"{scheme}://{address}",
            ca_file=access.certificates.get(host),
            client_certificate=access.client_certificates.get(host),
            username=username,
            password=password,
            verify_tls=host not in access.skip_verify,
        )

    if host in access.insecure:
        with by("https") as client:
            if client.answers():
                yield client
                return
        with by("http") as client:
            yield client
        return
    with by("https") as client:
        yield client


def docker_config() -> Path:
    """The file with the user's registry credentials, as kaniko and docker look for it."""
    if folder := os.environ.get("DOCKER_CONFIG"):
        return Path(folder) / "config.json"
    if _KANIKO_CONFIG.is_file():
        return _KANIKO_CONFIG
    return Path.home() / ".docker" / "config.json"


def docker_credentials(host: str) -> tuple[str, str]:
    """User and password for a registry from ``config.json``; empty where there are none.

    Raises:
        BadRequest: the file is not of that form.
    """
    keys = [host, f"https://{host}", f"http://{host}"]
    if host == oci.DEFAULT_REGISTRY:
        keys += [DOCKER_HUB_KEY, "index.docker.io"]
    file = docker_config()
    for key in keys:
        found = credentials(file, key)
        if found[0]:
            return found
    return _helped(file, keys)


def _helped(file: Path, keys: Sequence[str]) -> tuple[str, str]:
    """What a credential helper that ``config.json`` names says.

    Source: docker/docker-credential-helpers README (the ``get`` command).
    """
    try:
        content = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return "", ""
    helpers = content.get("credHelpers") or {}
    for key in keys:
        name = str(helpers.get(key) or content.get("credsStore") or "")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            continue
        try:
            done = subprocess.run(
                [f"docker-credential-{name}", "get"],
                input=key.encode(),
                capture_output=True,
                timeout=_HELPER_TIMEOUT_S,
                check=False,
            )
            if done.returncode == 0:
                found = msgspec.json.decode(done.stdout, type=dict[str, str])
                return found["Username"], found["Secret"]
        except (OSError, subprocess.TimeoutExpired, msgspec.MsgspecError, KeyError) as error:
            raise BadRequest(f"docker-credential-{name} gave nothing to use: {error}") from error
    return "", ""


def _is_ours(home: Home, host: str) -> bool:
    return bool(credentials(home.registry_auth, host)[0])


def _with_root(made: Made, work: Callable[[Path], T]) -> T:
    def mounted() -> T:
        with made.shelf.layers.scratch() as scratch:
            root = scratch.root / "upper"
            if made.image.layers:
                made.shelf.layers.mount(made.image.diff_ids, root)
            try:
                return work(root)
            finally:
                unmount(root)

    return with_own_mounts(mounted)


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    if isinstance(content, bytes):
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        return
    with content.open("rb") as stream:
        info.size = os.fstat(stream.fileno()).st_size
        archive.addfile(info, stream)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
