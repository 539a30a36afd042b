"""OCI image names, descriptors and media types.

Source: opencontainers/image-spec 1.1 (descriptor, manifest, index, config) and
opencontainers/distribution-spec 1.1 (names, tags, error codes); the short forms of references
as Docker reads them (distribution/reference).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from underway.base.errors import BadRequest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFEST_TYPES = (MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST)

DIGEST_ALGORITHMS = ("sha256", "sha512")

DEFAULT_REGISTRY = "docker.io"
MANIFEST_LIMIT = 4 * 1024 * 1024  # bytes; the distribution specification's recommended bound

_NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")
_NAME_LIMIT = 255


def is_repository(text: str) -> bool:
    """Whether the text is a repository name."""
    return len(text) <= _NAME_LIMIT and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether the text is a tag."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether the text is a sha256 or sha512 digest."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of bytes by ``algorithm``, sha256 or sha512."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A full image name: ``registry/repository[:tag][@digest]``."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as people write it; ``redis`` is ``docker.io/library/redis:latest``.

        Raises:
            BadRequest: it is no image name.
        """
        rest, _, digest = text.partition("@")
        if digest and not is_digest(digest):
            raise BadRequest(f"image name {text!r}: {digest!r} is no digest")
        head, slash, tail = rest.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry, rest = head, tail
        else:
            registry = DEFAULT_REGISTRY
        repository, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = rest, ""
        if registry in ("index.docker.io", "registry-1.docker.io"):
            registry = DEFAULT_REGISTRY
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            repository = f"library/{repository}"
        if not is_repository(repository):
            hint = "names are lower-case" if repository != repository.lower() else ""
            raise BadRequest(f"image name {text!r} is not valid", hint=hint)
        if tag and not is_tag(tag):
            raise BadRequest(f"image name {text!r}: {tag!r} is no tag")
        if not tag and not digest:
            tag = "latest"
        return cls(registry, repository, tag, digest)

    @property
    def target(self) -> str:
        """What to ask a registry for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    @property
    def name(self) -> str:
        """Registry and repository, without tag or digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        text = self.name
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content by type, digest and size in bytes."""

    media_type: str
    digest: str
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, media_type: str, data: bytes) -> Descriptor:
        """The descriptor of bytes at hand."""
        return cls(media_type, digest_of(data), len(data))

    @classmethod
    def from_dict(cls, value: Any) -> Descriptor:
        """Read a descriptor.

        Raises:
            BadRequest: digest or size are missing or malformed.
        """
        if not isinstance(value, dict):
            raise BadRequest("a descriptor must be an object")
        digest, size = value.get("digest"), value.get("size")
        if not isinstance(digest, str) or not is_digest(digest):
            raise BadRequest(f"descriptor: {digest!r} is no digest")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BadRequest(f"descriptor {digest}: {size!r} is no size")
        annotations = value.get("annotations") or {}
        return cls(str(value.get("mediaType") or ""), digest, size, annotations)

    def as_dict(self) -> dict[str, Any]:
        """The descriptor as JSON has it."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value
