"""Signatures and attestations beside images in a registry: reading all of them, adding one.

Everything read is bounded and checked against the digest that names it; a tag only says where to
look, never what to believe.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, Conflict, NotFound, UnderwayError
from underway.base.home import Settings
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import cosign
from underway.transport.registry import Manifest, RegistryClient, repository_for
from underway.wire import dsse, oci

_BLOB_LIMIT = 16 * 1024 * 1024  # bytes of one signature, attestation or bundle
_LIMIT = 256  # signatures read of one image
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Found:
    """Something attached to an image, read and not yet believed.

    ``carrier`` is the digest of the manifest it was in; ``trouble`` says why its content could not
    be read, and is empty where it could.
    """

    carrier: str
    kind: str
    content: bytes
    annotations: Mapping[str, str]
    trouble: str = ""


class Images:
    """One image of a registry and what is attached to it.

    Args:
        client: the registry.
        reference: the image, by tag or digest; a tag is resolved now, once.
        repository: its repository there.
        clock: when attachments are made.
    """

    def __init__(
        self, client: RegistryClient, reference: oci.Reference, repository: str, clock: Clock
    ) -> None:
        self._client, self._clock = client, clock
        self.repository = repository
        self.name = reference.name
        self.manifest: Manifest = client.manifest(repository, reference.target)
        self.digest = self.manifest.digest
        if reference.digest and reference.digest != self.digest:
            raise Unverified(f"the registry gave {self.digest} for {reference}")

    @classmethod
    def of_platform(
        cls, client: RegistryClient, text: str, settings: Settings, clock: Clock
    ) -> Images:
        """An image of the platform's registry."""
        reference = oci.Reference.parse(text)
        return cls(client, reference, repository_for(reference, settings), clock)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The image as a subject."""
        data = self.manifest.data
        return oci.Descriptor(self.manifest.media_type, self.digest, len(data)).as_dict()

    def tagged(self, suffix: str) -> Iterator[Found]:
        """What lies under the tag ``sha256-<hex>.<suffix>``."""
        try:
            manifest = self._client.manifest(self.repository, cosign.tag(self.digest, suffix))
        except NotFound:
            return
        yield from self._layers(manifest)

    def referring(self, artifact_type: str) -> Iterator[Found]:
        """What refers to the image with an artifact type."""
        listed = self._client.referrers(self.repository, self.digest, artifact_type)
        for each in listed[:_LIMIT]:
            try:
                manifest = self._client.manifest(self.repository, str(each.get("digest")))
                subject = manifest.decode().get("subject") or {}
            except UnderwayError as error:
                yield Found(str(each.get("digest")), artifact_type, b"", {}, error.message)
                continue
            if subject.get("digest") != self.digest:
                about = f"it is attached to {subject.get('digest')}, not to {self.digest}"
                yield Found(manifest.digest, artifact_type, b"", {}, about)
                continue
            yield from self._layers(manifest)

    def add_tagged(
        self, suffix: str, kind: str, content: bytes, annotations: Mapping[str, str]
    ) -> str:
        """Add a layer under a tag, beside those others put there; gives the manifest's digest.

        Raises:
            Conflict: others changed the tag again and again meanwhile.
        """
        tag, added = cosign.tag(self.digest, suffix), cosign.layer(kind, content, annotations)
        self._push(content)
        for _ in range(_TRIES):
            try:
                layers = list(self._client.manifest(self.repository, tag).decode()["layers"])
            except NotFound:
                layers = []
            except KeyError as error:
                raise BadRequest(f"{self.repository}:{tag} is no image manifest") from error
            layers.append(added)
            config = cosign.tag_config(layers)
            self._push(config)
            data = cosign.tag_manifest(config, layers)
            made = self._client.push_manifest(self.repository, tag, data, oci.MANIFEST)
            # Tags know no compare-and-swap: whoever came between took this layer away again.
            now = self._client.manifest(self.repository, tag).decode()
            if added in now.get("layers", ()):
                return made
        raise Conflict(f"{self.repository}:{tag} is being changed by others")

    def add_referrer(self, kind: str, content: bytes, annotations: Mapping[str, str]) -> str:
        """Attach a manifest of one layer of its own type; gives its digest."""
        return self.add_artifact(kind, kind, content, annotations)

    def add_artifact(
        self, artifact: str, kind: str, content: bytes, annotations: Mapping[str, str]
    ) -> str:
        """Attach a manifest of one layer that refers to the image; gives its digest."""
        self._push(content)
        self._push(cosign.EMPTY_CONFIG)
        created = {"org.opencontainers.image.created": rfc3339(self._clock.now())}
        data = cosign.referrer(artifact, kind, content, self.descriptor, {**created, **annotations})
        return self.put_referrer(data)

    def put_referrer(self, data: bytes) -> str:
        """Push a manifest by its digest; one that a registry does not list gets the fallback tag.

        Source: distribution-spec 1.1, "Pushing Manifests with Subject".
        """
        digest = oci.digest_of(data)
        self._client.push_manifest(self.repository, digest, data, oci.MANIFEST)
        listed = self._client.referrers(self.repository, self.digest)
        if not any(each.get("digest") == digest for each in listed):
            value = msgspec.json.decode(data)
            entry = oci.Descriptor(oci.MANIFEST, digest, len(data)).as_dict()
            entry["artifactType"] = value.get("artifactType") or value["config"]["mediaType"]
            entry["annotations"] = value.get("annotations") or {}
            index = {
                "schemaVersion": 2,
                "mediaType": oci.INDEX,
                "manifests": [*listed, entry],
            }
            tag = self.digest.replace(":", "-")
            encoded = msgspec.json.encode(index)
            self._client.push_manifest(self.repository, tag, encoded, oci.INDEX)
        return digest

    def _push(self, content: bytes) -> None:
        digest = oci.digest_of(content)
        self._client.push_blob(self.repository, digest, content, len(content))

    def _layers(self, manifest: Manifest) -> Iterator[Found]:
        layers = manifest.decode().get("layers")
        if not isinstance(layers, list):
            yield Found(manifest.digest, "", b"", {}, "it is no image manifest")
            return
        for each in layers[:_LIMIT]:
            try:
                described = oci.Descriptor.from_dict(each)
                content = self._blob(described)
            except UnderwayError as error:
                yield Found(manifest.digest, str(each), b"", {}, error.message)
                continue
            yield Found(manifest.digest, described.media_type, content, described.annotations)

    def _blob(self, described: oci.Descriptor) -> bytes:
        if described.size_bytes > _BLOB_LIMIT:
            raise Unverified(f"{described.digest} of {described.size_bytes} bytes is too large")
        content = bytearray()
        for piece in self._client.blob(self.repository, described.digest):
            content += piece
            if len(content) > described.size_bytes:
                raise Unverified(f"{described.digest} is longer than its manifest says")
        data = bytes(content)
        if oci.digest_of(data, described.digest.partition(":")[0]) != described.digest:
            raise Unverified(f"the content of {described.digest} is not what its digest says")
        return data


def signature_of(found: Found) -> bytes:
    """The signature in a simple-signing layer's annotation.

    Raises:
        Unverified: there is none.
    """
    text = found.annotations.get(cosign.SIGNATURE, "")
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Unverified(f"the signature is no base64: {error}") from error
    if not value:
        raise Unverified("the layer carries no signature")
    return value


def envelope_of(found: Found) -> dsse.Envelope:
    """The DSSE envelope in an attestation's layer.

    Raises:
        Unverified: it is cut short or none.
    """
    try:
        return dsse.decode(found.content)
    except ValueError as error:
        raise Unverified(str(error)) from error
