"""What is known of an image, fetched from the registry and from whoever scans and signs here."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from underway.base.errors import NotFound, TooLarge, UnderwayError
from underway.base.home import Home
from underway.capabilities.provenance.model import Evidence, Policy, Vouched
from underway.capabilities.provenance.rules import keys
from underway.capabilities.provenance.rules.policy import speaks_of
from underway.kit.ports import ImageScanner, ImageSigner, Signed
from underway.transport.registry import RegistryClient, repository_for
from underway.wire import dsse, oci

_BLOB_LIMIT = 16 * 1024 * 1024
_LAYER_LIMIT = 100
_SIGNATURE = "dev.cosignproject.cosign/signature"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"


class EvidenceSource:
    """Fetches evidence. Blocking; raises nothing but says in the evidence what failed."""

    def __init__(
        self, home: Home, scanner: ImageScanner | None, signer: ImageSigner | None
    ) -> None:
        self._home = home
        self._scanner = scanner
        self._signer = signer

    def resolve(self, image: str) -> str:
        """The digest an image's name stands for now.

        Raises:
            NotFound: there is no such image.
            UnderwayError: the registry does not answer, or the name is malformed.
        """
        reference = oci.Reference.parse(image)
        if reference.digest:
            return reference.digest
        settings = self._home.load_settings()
        with RegistryClient.of_platform(self._home, settings) as client:
            repository = repository_for(reference, settings)
            return client.manifest(repository, reference.target).digest

    def gather(self, image: str, digest: str, policies: Iterable[Policy]) -> Evidence:
        """What the policies ask about."""
        wanted = [each for each in policies if not each.broken]
        reference = self._here(image, digest)
        scan, scan_failure = None, ""
        if any(each.vulnerabilities for each in wanted) and self._scanner is not None:
            try:
                scan = self._scanner.scan(reference, lambda _line: None)
                if scan.digest != digest:
                    scan, scan_failure = None, f"the scan is about {scan.digest}"
            except UnderwayError as error:
                scan_failure = str(error)
        vouched, vouched_failure = (), ""
        if any(each.needs_signatures for each in wanted):
            try:
                vouched = tuple(self._vouched(image, reference, digest, wanted))
            except UnderwayError as error:
                vouched_failure = str(error)
        return Evidence(digest, scan, scan_failure, vouched, vouched_failure)

    def _here(self, image: str, digest: str) -> str:
        settings = self._home.load_settings()
        repository = repository_for(oci.Reference.parse(image), settings)
        return f"{settings.bind_address}:{settings.registry_port}/{repository}@{digest}"

    def _vouched(
        self, image: str, reference: str, digest: str, policies: Iterable[Policy]
    ) -> Iterator[Vouched]:
        authorities = [each for policy in policies for each in (*policy.every, *policy.one_of)]
        asked = [each for each in authorities if not each.keys and not each.static]
        if self._signer is not None and any(not each.attestations for each in asked):
            for signed in self._signer.verify(reference):
                yield Vouched(signed)
        if self._signer is not None and any(each.attestations for each in asked):
            for signed, statement in self._signer.attestations(reference):
                if speaks_of(statement, digest):
                    yield Vouched(signed, "", statement)
        pems = {pem for each in authorities for pem in each.keys}
        if pems:
            settings = self._home.load_settings()
            repository = repository_for(oci.Reference.parse(image), settings)
            with RegistryClient.of_platform(self._home, settings) as client:
                yield from signed_by(_Attached(client, repository, digest), digest, pems)


class _Attached:
    """What hangs on an image in cosign's tag form: ``sha256-HEX.sig`` and ``.att``."""

    def __init__(self, client: RegistryClient, repository: str, digest: str) -> None:
        self._client = client
        self._repository = repository
        self._digest = digest

    def layers(self, suffix: str) -> Iterator[tuple[str, dict[str, str], bytes]]:
        """Digest of the manifest, annotations and bytes of every layer; nothing where none is."""
        tag = f"{self._digest.replace(':', '-')}.{suffix}"
        try:
            manifest = self._client.manifest(self._repository, tag)
        except NotFound:
            return
        for layer in (manifest.decode().get("layers") or ())[:_LAYER_LIMIT]:
            descriptor = oci.Descriptor.from_dict(layer)
            data = self._blob(descriptor)
            if oci.digest_of(data) == descriptor.digest:
                yield manifest.digest, dict(descriptor.annotations), data

    def envelopes(self) -> Iterator[tuple[str, bytes]]:
        """DSSE envelopes with the manifest that carries them: in tag form, and in bundles."""
        for where, _, data in self.layers("att"):
            yield where, data
        listed = self._client.referrers(self._repository, self._digest, _BUNDLE)
        for each in listed[:_LAYER_LIMIT]:
            manifest = self._client.manifest(self._repository, str(each.get("digest")))
            for layer in (manifest.decode().get("layers") or ())[:1]:
                data = self._blob(oci.Descriptor.from_dict(layer))
                if envelope := _of_bundle(data):
                    yield manifest.digest, envelope

    def _blob(self, descriptor: oci.Descriptor) -> bytes:
        if descriptor.size_bytes > _BLOB_LIMIT:
            raise TooLarge(f"a signature of {descriptor.size_bytes} bytes")
        parts, size = [], 0
        for part in self._client.blob(self._repository, descriptor.digest):
            size += len(part)
            if size > _BLOB_LIMIT:
                raise TooLarge(f"a signature of more than {_BLOB_LIMIT} bytes")
            parts.append(part)
        return b"".join(parts)


def signed_by(attached: Any, digest: str, pems: Iterable[str]) -> Iterator[Vouched]:
    """The signatures and attestations about ``digest`` that one of the keys made.

    Source: sigstore/cosign specs/SIGNATURE_SPEC.md; a payload about another image counts for
    nothing, whatever tag it was found under.
    """
    loaded = [(pem, keys.load_pem(pem)) for pem in pems]
    for where, noted, data in attached.layers("sig"):
        signature = _decoded(noted.get(_SIGNATURE, ""))
        if _simple_digest(data) != digest:
            continue
        for pem, key in loaded:
            if keys.verifies(key, signature, data):
                yield Vouched(Signed(where, ""), pem)
    for where, data in attached.envelopes():
        try:
            envelope = dsse.decode(data)
            statement = dsse.parse_statement(envelope)
        except ValueError:
            continue
        if not speaks_of(statement, digest):
            continue
        for pem, key in loaded:
            if any(
                keys.verifies(key, each.value, envelope.signed_bytes)
                for each in envelope.signatures
            ):
                # A signature in a bundle is a statement that says nothing but which image.
                plain = statement["predicateType"] == _SIGN_PREDICATE
                yield Vouched(Signed(where, ""), pem, {} if plain else statement)


def _of_bundle(data: bytes) -> bytes:
    try:
        value = msgspec.json.decode(data)
        return msgspec.json.encode(value["dsseEnvelope"])
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
        return b""


def _simple_digest(payload: bytes) -> str:
    try:
        value = msgspec.json.decode(payload)
        return str(value["critical"]["image"]["docker-manifest-digest"])
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
        return ""


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
