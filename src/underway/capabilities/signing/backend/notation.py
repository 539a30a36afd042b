"""Signing and checking images as notation does, with the platform's certificates.

Trust policies and stores lie below ``signing/notation`` as notation lays them out:
``trustpolicy.json`` and ``truststore/x509/ca/NAME/*.crt``. Without a policy the platform's own
authority counts, strictly.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from underway.base.clock import Clock, SystemClock
from underway.base.errors import BadRequest
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.signing.backend.attachments import Images
from underway.capabilities.signing.backend.authority import AUTHORITY_KEY, Authority
from underway.capabilities.signing.backend.keystore import PLATFORM, FileKeys
from underway.capabilities.signing.model import Finding, Unverified
from underway.capabilities.signing.rules import certificates, keys, notation
from underway.kit.ports import Signed
from underway.transport.registry import RegistryClient

OWN_STORE = "ca:platform"
_OWN = notation.Policy("platform", ("*",), "strict", (OWN_STORE,))


def sign(home: Home, reference: str, key: str = PLATFORM, clock: Clock | None = None) -> Signed:
    """Attach a notation signature to an image. Blocking.

    Raises:
        BadRequest: the key is not ECDSA P-256.
    """
    clock = clock or SystemClock()
    store = FileKeys.of_platform(home)
    public = store.ensure(PLATFORM) if key == PLATFORM else store.public(key)
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.key_size != 256:
        raise BadRequest(f"{key} is no ECDSA P-256 key, which notation's signatures need here")
    chain = _chain(home, key, public, clock)
    settings = home.load_settings()
    with RegistryClient.of_platform(home, settings) as client:
        image = Images.of_platform(client, reference, settings, clock)
        data = notation.envelope(
            image.descriptor, chain, lambda message: store.sign(key, message), clock.now()
        )
        annotations = {notation.THUMBPRINTS: notation.thumbprints(chain)}
        made = image.add_artifact(notation.ARTIFACT, notation.JWS, data, annotations)
        return Signed(made, keys.key_id(public))


def check(home: Home, reference: str, clock: Clock | None = None) -> list[Finding]:
    """The notation signatures of an image, with what came of checking them. Blocking."""
    clock = clock or SystemClock()
    settings = home.load_settings()
    with RegistryClient.of_platform(home, settings) as client:
        image = Images.of_platform(client, reference, settings, clock)
        policy = notation.applicable(_policies(home), image.name)
        if policy is None or policy.level == "skip":
            return []
        trusted = [each for store in policy.stores for each in _store(home, store)]
        found = []
        for each in image.referring(notation.ARTIFACT):
            try:
                if each.trouble:
                    raise Unverified(each.trouble)
                if each.kind != notation.JWS:
                    raise Unverified(f"envelopes of type {each.kind} are not read")
                signature = notation.open_envelope(each.content)
                notation.judge(signature, image.digest, policy, trusted, clock.now())
                key = keys.checked(signature.chain[0].public_key(), "the certificate")
                who = notation.subject(signature.chain[0])
                issuer = notation.subject(signature.chain[-1])
                found.append(Finding("notation", each.carrier, keys.key_id(key), who, issuer))
            except Unverified as error:
                found.append(Finding("notation", each.carrier, reason=error.message))
        return found


def _chain(
    home: Home, key: str, public: keys.PublicKey, clock: Clock
) -> tuple[x509.Certificate, x509.Certificate]:
    """The key's certificate, made on first use and when it nears its end, and the authority's."""
    authority = Authority(home, clock).certificate
    path = home.signing / "notation" / f"{key}.crt"
    if path.exists():
        leaf = certificates.load(path.read_bytes())
        lasts = leaf.not_valid_after_utc - clock.now()
        if leaf.public_key() == public and lasts.days > 30 and leaf.issuer == authority.subject:
            return leaf, authority
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = FileKeys.of_platform(home).private(AUTHORITY_KEY)
    issuer_key = cast("ec.EllipticCurvePrivateKey", private)
    leaf = notation.certificate(public, issuer_key, authority, f"underway {key}", clock.now())
    write_atomic(path, certificates.pem(leaf))
    return leaf, authority


def _policies(home: Home) -> tuple[notation.Policy, ...]:
    path = home.signing / "notation" / "trustpolicy.json"
    if not path.exists():
        return (_OWN,)
    return notation.policies(path.read_bytes(), str(path))


def _store(home: Home, name: str) -> list[x509.Certificate]:
    if name == OWN_STORE:
        path = home.signing / "authority.crt"
        return [certificates.load(path.read_bytes())] if path.exists() else []
    kind, _, store = name.partition(":")
    directory = home.signing / "notation" / "truststore" / "x509" / kind / store
    if kind != "ca" or not store or "/" in store or store.startswith("."):
        raise BadRequest(f"trust store {name!r} is not read", hint="ca:NAME")
    if not directory.is_dir():
        raise BadRequest(f"there is no trust store {directory}")
    return [_load(path) for path in sorted(directory.iterdir())]


def _load(path: Path) -> x509.Certificate:
    try:
        return certificates.load(path.read_bytes())
    except Unverified as error:
        raise BadRequest(f"{path}: {error.message}") from error


def own_policy() -> bytes:
    """A ``trustpolicy.json`` for the notation client that trusts a store called ``platform``."""
    policy = {
        "name": "platform",
        "registryScopes": ["*"],
        "signatureVerification": {"level": "strict"},
        "trustStores": [OWN_STORE],
        "trustedIdentities": ["*"],
    }
    return msgspec.json.encode({"version": "1.0", "trustPolicies": [policy]})
