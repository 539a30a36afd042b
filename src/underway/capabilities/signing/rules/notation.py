"""Notation's signatures: JWS envelopes by a chain of certificates, and trust policies.

Source: notaryproject/specifications ``signature-envelope-jws.md``, ``signature-specification.md``,
``trust-store-trust-policy.md`` (1.0).
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from underway.base.clock import parse_rfc3339, rfc3339
from underway.base.errors import BadRequest
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import certificates, keys

ARTIFACT = "application/vnd.cncf.notary.signature"
JWS = "application/jose+json"
THUMBPRINTS = "io.cncf.notary.x509chain.thumbprint#S256"
_PAYLOAD = "application/vnd.cncf.notary.payload.v1+json"
_SCHEME, _TIME = "io.cncf.notary.signingScheme", "io.cncf.notary.signingTime"
_EXPIRY = "io.cncf.notary.expiry"
_LEAF_LIFE = timedelta(days=365)
_CHAIN = 8  # certificates at most
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512(),
}  # fmt: skip
LEVELS = ("strict", "permissive", "audit", "skip")
# What a level only notes, by what was checked. Source: "Signature Verification details".
_NOTED = {
    "strict": (),
    "permissive": ("expiry", "timestamp"),
    "audit": ("authenticity", "expiry", "timestamp"),
}


def certificate(
    public: keys.PublicKey,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    common_name: str,
    now: datetime,
) -> x509.Certificate:
    """A signing certificate of a year. Source: "Certificate Requirements"."""
    attributes = (
        (NameOID.COUNTRY_NAME, "XX"),
        (NameOID.STATE_OR_PROVINCE_NAME, "local"),
        (NameOID.ORGANIZATION_NAME, "underway"),
        (NameOID.COMMON_NAME, common_name),
    )
    now = now.replace(microsecond=0)
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes]))
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now, authority.not_valid_before_utc))
        .not_valid_after(min(now + _LEAF_LIFE, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def envelope(
    descriptor: Mapping[str, Any],
    chain: Sequence[x509.Certificate],
    sign: Callable[[bytes], bytes],
    now: datetime,
    expires: datetime | None = None,
) -> bytes:
    """The envelope of an image.

    Args:
        descriptor: the image, of ``mediaType``, ``digest`` and ``size``.
        chain: certificates, the signer's P-256 one first.
        sign: gives an ECDSA signature in DER.
        now: when it is signed.
        expires: when it ends, if ever.
    """
    header: dict[str, Any] = {
        "alg": "ES256",
        "cty": _PAYLOAD,
        "crit": [_SCHEME],
        _SCHEME: "notary.x509",
        _TIME: rfc3339(now),
    }
    if expires is not None:
        header[_EXPIRY] = rfc3339(expires)
        header["crit"].append(_EXPIRY)
    protected = _b64url(msgspec.json.encode(header))
    payload = _b64url(msgspec.json.encode({"targetArtifact": dict(descriptor)}))
    r, s = utils.decode_dss_signature(sign(f"{protected}.{payload}".encode()))
    return msgspec.json.encode(
        {
            "payload": payload,
            "protected": protected,
            "header": {
                "x5c": [base64.b64encode(certificates.der(each)).decode() for each in chain],
                "io.cncf.notary.signingAgent": "underway",
            },
            "signature": _b64url(r.to_bytes(32, "big") + s.to_bytes(32, "big")),
        }
    )


def thumbprints(chain: Sequence[x509.Certificate]) -> str:
    """The annotation that names a chain."""
    return msgspec.json.encode([each.fingerprint(hashes.SHA256()).hex() for each in chain]).decode()


@dataclass(frozen=True, slots=True)
class Signature:
    """An envelope whose signature is by its own first certificate; nothing more is known."""

    target: Mapping[str, Any]
    chain: tuple[x509.Certificate, ...]
    signed_at: datetime
    expires: datetime | None


def open_envelope(data: bytes) -> Signature:
    """Read an envelope and check its signature against the certificate it carries.

    Raises:
        Unverified: it is cut short, was changed, or asks for something not known here.
    """
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
        header = msgspec.json.decode(_unb64url(value["protected"]), type=dict[str, Any])
        encoded = value["header"]["x5c"]
        if not 1 <= len(encoded) <= _CHAIN:
            raise Unverified(f"the envelope has {len(encoded)} certificates")
        chain = tuple(certificates.load(base64.b64decode(each)) for each in encoded)
        unknown = set(header["crit"]) - {_SCHEME, _EXPIRY}
        if unknown or _SCHEME not in header["crit"] or header["cty"] != _PAYLOAD:
            raise Unverified(f"the envelope has critical headers not known here: {unknown}")
        if header[_SCHEME] != "notary.x509":
            raise Unverified(f"the signing scheme {header[_SCHEME]} is not checked here")
        message = f"{value['protected']}.{value['payload']}".encode()
        _check(chain[0].public_key(), header["alg"], _unb64url(value["signature"]), message)
        content = msgspec.json.decode(_unb64url(value["payload"]), type=dict[str, Any])
        ends = header.get(_EXPIRY)
        return Signature(
            content["targetArtifact"],
            chain,
            parse_rfc3339(header[_TIME]),
            parse_rfc3339(ends) if ends else None,
        )
    except (
        msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError, binascii.Error,
        RecursionError,
    ) as error:  # fmt: skip
        raise Unverified(f"the envelope cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of the signatures of some repositories."""

    name: str
    scopes: tuple[str, ...]
    level: str
    stores: tuple[str, ...] = ()
    identities: tuple[str, ...] = ("*",)


def policies(data: bytes, where: str) -> tuple[Policy, ...]:
    """The policies of a ``trustpolicy.json``.

    Raises:
        BadRequest: it is none, or asks for what is not there.
    """
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
        if value["version"] != "1.0":
            raise BadRequest(f"{where}: version {value['version']} of trust policies is not read")
        found = tuple(
            Policy(
                each["name"],
                tuple(each["registryScopes"]),
                each["signatureVerification"]["level"],
                tuple(each.get("trustStores") or ()),
                tuple(each.get("trustedIdentities") or ()),
            )
            for each in value["trustPolicies"]
        )
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise BadRequest(f"{where} is no trust policy: {error}") from error
    for each in found:
        if each.level not in LEVELS:
            raise BadRequest(f"{where}: policy {each.name} has no such level: {each.level}")
        if each.level != "skip" and not (each.stores and each.identities):
            raise BadRequest(f"{where}: policy {each.name} names no trust store or identity")
    scopes = [scope for each in found for scope in each.scopes]
    if len(scopes) != len(set(scopes)):
        raise BadRequest(f"{where}: two policies are for one scope")
    return found


def applicable(found: Sequence[Policy], name: str) -> Policy | None:
    """The policy for a registry and repository: its own, or that for all."""
    for scope in (name, "*"):
        for each in found:
            if scope in each.scopes:
                return each
    return None


def judge(
    signature: Signature,
    digest: str,
    policy: Policy,
    trusted: Sequence[x509.Certificate],
    now: datetime,
) -> list[str]:
    """What a policy only notes about a signature.

    Raises:
        Unverified: what the policy enforces does not hold.
    """
    if signature.target.get("digest") != digest:
        raise Unverified(f"the signature is for {signature.target.get('digest')}, not for {digest}")
    notes: list[str] = []
    checks = (
        ("authenticity", lambda: _check_chain(signature.chain, trusted)),
        ("authenticity", lambda: _check_identity(signature.chain[0], policy.identities)),
        ("expiry", lambda: _check_expiry(signature, now)),
        ("timestamp", lambda: _check_times(signature, now)),
    )
    for kind, check in checks:
        try:
            check()
        except Unverified as error:
            if kind not in _NOTED[policy.level]:
                raise
            notes.append(f"{kind}: {error.message}")
    return notes


def subject(leaf: x509.Certificate) -> str:
    """Who a certificate names, as trust policies write it."""
    return ",".join(f"{name}={value}" for name, value in _subject(leaf).items())


def _check_chain(chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]) -> None:
    try:
        usage = chain[0].extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature or usage.key_cert_sign:
            raise Unverified("the certificate is not for signatures")
        for leaf, issuer in itertools.pairwise(chain):
            leaf.verify_directly_issued_by(issuer)
            if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                raise Unverified("a certificate of the chain was issued by no authority")
        extended = chain[0].extensions
        for each in extended:
            if isinstance(each.value, x509.ExtendedKeyUsage) and (
                ExtendedKeyUsageOID.CODE_SIGNING not in each.value
            ):
                raise Unverified("the certificate is not for signing code")
    except (x509.ExtensionNotFound, ValueError, TypeError, InvalidSignature) as error:
        raise Unverified(f"the chain of certificates does not hold: {error}") from error
    if not any(each in trusted for each in chain):
        raise Unverified(f"no certificate of {subject(chain[0])} is in the trust store")


def _check_identity(leaf: x509.Certificate, identities: Sequence[str]) -> None:
    found = _subject(leaf)
    for each in identities:
        kind, _, text = each.partition(":")
        if each == "*":
            return
        wanted = _parse_name(text) if kind == "x509.subject" else {}
        if wanted and all(found.get(name) == value for name, value in wanted.items()):
            return
    raise Unverified(f"{subject(leaf)} is not among the trusted identities")


def _check_expiry(signature: Signature, now: datetime) -> None:
    if signature.expires is not None and signature.expires <= now:
        raise Unverified(f"the signature expired at {rfc3339(signature.expires)}")


def _check_times(signature: Signature, now: datetime) -> None:
    """Without a timestamp of an authority the certificates must be valid now."""
    for each in signature.chain:
        if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
            raise Unverified(f"the certificate of {subject(each)} is not valid now")


def _check(key: Any, algorithm: str, signature: bytes, message: bytes) -> None:
    digest = _HASHES.get(str(algorithm)[2:])
    if digest is None:
        raise Unverified(f"the algorithm {algorithm} is not checked here")
    keys.checked(key, "the certificate")
    try:
        if algorithm.startswith("ES") and isinstance(key, ec.EllipticCurvePublicKey):
            half = (key.curve.key_size + 7) // 8
            if len(signature) != 2 * half:
                raise Unverified("the signature has a wrong length")
            numbers = (
                int.from_bytes(signature[:half], "big"),
                int.from_bytes(signature[half:], "big"),
            )
            key.verify(utils.encode_dss_signature(*numbers), message, ec.ECDSA(digest))
        elif algorithm.startswith("PS") and isinstance(key, rsa.RSAPublicKey):
            key.verify(
                signature, message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest
            )
        else:
            raise Unverified(f"the algorithm {algorithm} does not fit the certificate's key")
    except InvalidSignature as error:
        raise Unverified("the signature is not by the certificate's key") from error


_NAMES = {
    NameOID.COUNTRY_NAME: "C", NameOID.STATE_OR_PROVINCE_NAME: "ST", NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O", NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COMMON_NAME: "CN",
}  # fmt: skip


def _subject(leaf: x509.Certificate) -> dict[str, str]:
    return {_NAMES[each.oid]: str(each.value) for each in leaf.subject if each.oid in _NAMES}


def _parse_name(text: str) -> dict[str, str]:
    pairs = (part.strip().partition("=") for part in re.split(r"(?<!\\),", text) if part.strip())
    return {name.strip(): value.strip().replace("\\,", ",") for name, _, value in pairs}


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64url(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
