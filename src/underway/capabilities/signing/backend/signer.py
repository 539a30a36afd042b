"""Signing images and checking what is signed: the port ``image-signer``."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from underway.base.clock import Clock, SystemClock
from underway.base.home import Home
from underway.capabilities.signing.backend.attachments import (
    Found,
    Images,
    envelope_of,
    signature_of,
)
from underway.capabilities.signing.backend.keystore import (
    PLATFORM,
    FileKeys,
    KeyStore,
    TrustedKeys,
)
from underway.capabilities.signing.model import Finding, Unverified
from underway.capabilities.signing.rules import cosign, keys, trustroot
from underway.capabilities.signing.rules.certificates import Identity
from underway.kit.ports import Signed
from underway.transport.registry import RegistryClient
from underway.wire import dsse, oci


@dataclass(frozen=True, slots=True)
class Trust:
    """What counts: public keys, and identities whose certificates come from trusted roots.

    With ``name`` a simple signature must be for this registry and repository.
    """

    keys: tuple[keys.PublicKey, ...] = ()
    roots: tuple[trustroot.TrustRoot, ...] = ()
    identities: tuple[Identity, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """Everything found on an image of a digest."""

    digest: str
    signatures: tuple[Finding, ...] = ()
    attestations: tuple[Finding, ...] = field(default=())


def image_signer(home: Home) -> Signer:
    """The port's provider."""
    return Signer(home)


class Signer:
    """Signs as the platform, and checks by the keys and identities trusted here."""

    def __init__(
        self,
        home: Home,
        clock: Clock | None = None,
        store: KeyStore | None = None,
        key: str = PLATFORM,
        registry: Callable[[], RegistryClient] | None = None,
    ) -> None:
        self._home, self._clock = home, clock or SystemClock()
        self._settings = home.load_settings()
        self._key = key
        self._files = FileKeys.of_platform(home)
        self._store: KeyStore = store or self._files
        self._registry = registry or (lambda: RegistryClient.of_platform(home, self._settings))

    def public(self) -> keys.PublicKey:
        """The public half of the key that signs; the platform's own is made on first use."""
        if self._key == PLATFORM and self._store is self._files:
            return self._files.ensure(PLATFORM)
        return self._store.public(self._key)

    def trust(self) -> Trust:
        """The keys and identities trusted here: the platform's own key and those added."""
        from underway.capabilities.signing.backend.trusting import identities, roots

        own = self._files.ensure(PLATFORM)
        others = TrustedKeys.of_platform(self._home).all().values()
        return Trust((own, *others), roots(self._home), identities(self._home))

    def sign(self, reference: str) -> Signed:
        """Sign an image by digest (cosign's form), unless this key has already. Blocking."""
        public = self.public()
        key_id = keys.key_id(public)
        with self._image(reference) as image:
            for found in _signatures(image, Trust((public,))):
                if found.verified and found.form == "cosign":
                    return Signed(found.digest, key_id)
            data = cosign.payload(image.name, image.digest)
            value = base64.b64encode(self._store.sign(self._key, data)).decode()
            made = image.add_tagged("sig", cosign.SIMPLE_SIGNING, data, {cosign.SIGNATURE: value})
            self._attach(image, cosign.SIGN_PREDICATE, {}, public)
            return Signed(made, key_id)

    def attest(
        self, reference: str, predicate_type: str, predicate: Mapping[str, object]
    ) -> Signed:
        """Attach an in-toto Statement v1 about the image as a signed DSSE envelope. Blocking.

        One statement is attached once by a key, however often it is made.
        """
        public = self.public()
        with self._image(reference) as image:
            return self._attach(image, predicate_type, predicate, public)

    def verify(self, reference: str) -> tuple[Signed, ...]:
        """The signatures of an image that verify with keys trusted here; empty for none."""
        return tuple(_signed(each) for each in self.check(reference).signatures if each.verified)

    def attestations(self, reference: str) -> tuple[tuple[Signed, Mapping[str, object]], ...]:
        """The verified attestations of an image with their in-toto statements; empty for none."""
        return tuple(
            (_signed(each), each.statement)
            for each in self.check(reference).attestations
            if each.verified
        )

    def check(self, reference: str, trust: Trust | None = None) -> Checked:
        """Everything signed about an image, with what came of checking it. Blocking.

        Raises:
            NotFound: there is no such image.
        """
        trust = trust or self.trust()
        with self._image(reference) as image:
            signatures, attestations = list(_signatures(image, trust)), []
            for signs, each in _bundles(image, trust):
                (signatures if signs else attestations).append(each)
            attestations += _tag_attestations(image, trust)
            return Checked(image.digest, tuple(signatures), _once(attestations))

    def _attach(
        self,
        image: Images,
        predicate_type: str,
        predicate: Mapping[str, object],
        public: keys.PublicKey,
    ) -> Signed:
        key_id = keys.key_id(public)
        algorithm, _, value = image.digest.partition(":")
        payload = dsse.statement({image.name: {algorithm: value}}, predicate_type, predicate)
        for found in image.referring(cosign.BUNDLE):
            if _same_payload(found, payload, public):
                return Signed(found.carrier, key_id)
        unsigned = dsse.Envelope(dsse.PAYLOAD_TYPE, payload)
        # No key id, for clients compare it with ids of their own making; the hint names the key.
        signature = dsse.Signature("", self._store.sign(self._key, unsigned.signed_bytes))
        envelope = replace(unsigned, signatures=(signature,))
        hint = base64.b64encode(bytes.fromhex(key_id)).decode()
        content = cosign.encode_bundle(cosign.Bundle(envelope, hint))
        if predicate_type != cosign.SIGN_PREDICATE:
            told = {cosign.SIGNATURE: "", "predicateType": predicate_type}
            image.add_tagged("att", dsse.ENVELOPE_MEDIA_TYPE, dsse.encode(envelope), told)
        return Signed(image.add_referrer(cosign.BUNDLE, content, _told(predicate_type)), key_id)

    def attach_bundle(self, reference: str, bundle: cosign.Bundle, predicate_type: str) -> str:
        """Attach a bundle that was made elsewhere; gives its manifest's digest."""
        with self._image(reference) as image:
            told = _told(predicate_type)
            return image.add_referrer(cosign.BUNDLE, cosign.encode_bundle(bundle), told)

    def resolve(self, reference: str) -> tuple[str, str]:
        """Name and digest of an image in the platform's registry."""
        with self._image(reference) as image:
            return image.name, image.digest

    @contextmanager
    def _image(self, reference: str) -> Iterator[Images]:
        with self._registry() as client:
            yield Images.of_platform(client, reference, self._settings, self._clock)


def _signed(finding: Finding) -> Signed:
    key_id = finding.key_id or finding.identity
    return Signed(finding.digest, key_id, finding.identity, finding.issuer)


def _told(predicate_type: str) -> dict[str, str]:
    return {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": predicate_type,
    }


def _signatures(image: Images, trust: Trust) -> Iterator[Finding]:
    for found in image.tagged("sig"):
        finding = Finding("cosign", found.carrier)
        try:
            if found.trouble:
                raise Unverified(found.trouble)
            key = _signer(trust.keys, signature_of(found), found.content)
            cosign.check_payload(found.content, image.digest, trust.name)
            yield replace(finding, key_id=keys.key_id(key))
        except Unverified as error:
            yield replace(finding, reason=error.message)


def _bundles(image: Images, trust: Trust) -> Iterator[tuple[bool, Finding]]:
    """The bundles of an image, and whether each is a signature; else it is an attestation."""
    for found in image.referring(cosign.BUNDLE):
        finding, signs = Finding("bundle", found.carrier), True
        try:
            if found.trouble:
                raise Unverified(found.trouble)
            bundle = cosign.decode_bundle(found.content)
            signs = cosign.claims_to_sign(bundle.envelope)
            if bundle.certificate:
                proved = _keyless(bundle, trust)
            else:
                proved = {"key_id": keys.key_id(_envelope_signer(bundle.envelope, trust))}
            statement = cosign.check_statement(bundle.envelope, image.digest)
            yield signs, replace(finding, statement=statement, **proved)
        except Unverified as error:
            yield signs, replace(finding, reason=error.message)


def _tag_attestations(image: Images, trust: Trust) -> Iterator[Finding]:
    for found in image.tagged("att"):
        finding = Finding("cosign", found.carrier)
        try:
            if found.trouble:
                raise Unverified(found.trouble)
            envelope = envelope_of(found)
            key = _envelope_signer(envelope, trust)
            statement = cosign.check_statement(envelope, image.digest)
            yield replace(finding, key_id=keys.key_id(key), statement=statement)
        except Unverified as error:
            yield replace(finding, reason=error.message)


def _once(findings: list[Finding]) -> tuple[Finding, ...]:
    """Each statement of a key once: it is attached in both forms, for older clients and newer."""
    kept: list[Finding] = []
    for each in findings:
        same = (
            other.key_id == each.key_id and other.statement == each.statement
            for other in kept
            if other.verified
        )
        if not each.verified or not any(same):
            kept.append(each)
    return tuple(kept)


def _keyless(bundle: cosign.Bundle, trust: Trust) -> dict[str, Any]:
    reason = "the bundle carries a certificate, and no authority is trusted here"
    for root in trust.roots:
        try:
            who = trustroot.check_bundle(bundle, root)
        except Unverified as error:
            reason = error.message
            continue
        if who not in trust.identities:
            raise Unverified(f"{who.name} (by {who.issuer}) is not among the trusted identities")
        return {"identity": who.name, "issuer": who.issuer}
    raise Unverified(reason)


def _signer(trusted: tuple[keys.PublicKey, ...], signature: bytes, data: bytes) -> keys.PublicKey:
    for key in trusted:
        try:
            keys.verify(key, signature, data)
            return key
        except Unverified:
            continue
    known = ", ".join(keys.key_id(key)[:16] for key in trusted) or "none"
    raise Unverified(f"the signature is of none of the trusted keys ({known})")


def _envelope_signer(envelope: dsse.Envelope, trust: Trust) -> keys.PublicKey:
    for key in trust.keys:
        try:
            trustroot.check_envelope(envelope, key)
            return key
        except Unverified:
            continue
    known = ", ".join(keys.key_id(key)[:16] for key in trust.keys) or "none"
    raise Unverified(f"the envelope is signed by none of the trusted keys ({known})")


def _same_payload(found: Found, payload: bytes, public: keys.PublicKey) -> bool:
    try:
        bundle = cosign.decode_bundle(found.content)
        if bundle.certificate or bundle.envelope.payload != payload:
            return False
        trustroot.check_envelope(bundle.envelope, public)
    except Unverified:
        return False
    return True


def image_name(text: str) -> str:
    """Registry and repository of a reference, as simple signatures name it."""
    return oci.Reference.parse(text).name
