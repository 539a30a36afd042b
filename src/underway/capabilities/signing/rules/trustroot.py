"""Which logs and authorities count: sigstore's TrustedRoot.

Source: sigstore/protobuf-specs ``sigstore_trustroot.proto``, in its JSON form.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from underway.base.clock import rfc3339
from underway.base.errors import BadRequest
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import certificates, cosign, keys, translog
from underway.wire import dsse

_MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """Authorities and logs that are trusted."""

    authorities: tuple[x509.Certificate, ...]
    logs: tuple[keys.PublicKey, ...]
    certificate_logs: tuple[keys.PublicKey, ...]


def encode(authority: x509.Certificate, log: keys.PublicKey, url: str) -> bytes:
    """The trust root of one authority and one log."""
    start = {"start": rfc3339(authority.not_valid_before_utc)}
    instance = {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _b64(keys.public_der(log)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": start,
        },
        "logId": {"keyId": _b64(bytes.fromhex(keys.key_id(log)))},
    }
    return msgspec.json.encode(
        {
            "mediaType": _MEDIA_TYPE,
            "tlogs": [instance],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "underway", "commonName": "signing authority"},
                    "uri": url,
                    "certChain": {
                        "certificates": [{"rawBytes": _b64(certificates.der(authority))}]
                    },
                    "validFor": start,
                }
            ],
            "ctlogs": [instance],
            "timestampAuthorities": [],
        }
    )


def decode(data: bytes, where: str) -> TrustRoot:
    """Read a trust root.

    Raises:
        BadRequest: it is none.
    """
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
        # Of a chain the first certificate issues; those above it vouch for it alone.
        authorities = [
            certificates.load(base64.b64decode(each["certChain"]["certificates"][0]["rawBytes"]))
            for each in value.get("certificateAuthorities") or ()
        ]
        logs, certificate_logs = (
            [_log_key(each, where) for each in value.get(name) or ()]
            for name in ("tlogs", "ctlogs")
        )
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, ValueError, Unverified) as error:
        raise BadRequest(f"{where} is no trusted root: {error}") from error
    return TrustRoot(tuple(authorities), tuple(logs), tuple(certificate_logs))


def check_bundle(bundle: cosign.Bundle, trusted: TrustRoot) -> certificates.Identity:
    """Who signed a bundle that carries a certificate; everything is checked offline.

    Raises:
        Unverified: the certificate, the log entry or the signature does not hold.
    """
    if len(bundle.entries) != 1:
        raise Unverified(f"the bundle has {len(bundle.entries)} log entries, not one")
    entry = translog.Entry.from_dict(bundle.entries[0])
    log = {bytes.fromhex(keys.key_id(key)): key for key in trusted.logs}.get(entry.log_id)
    if log is None:
        raise Unverified("the bundle's log is not trusted here")
    translog.check_entry(entry, log)
    certificate = certificates.load(bundle.certificate)
    moment = datetime.fromtimestamp(entry.integrated_time, UTC)
    identity = certificates.check(
        certificate, list(trusted.authorities), list(trusted.certificate_logs), moment
    )
    translog.check_dsse_body(entry.body, bundle.envelope, certificates.pem(certificate))
    key = keys.checked(certificate.public_key(), "the certificate")
    check_envelope(bundle.envelope, key)
    return identity


def check_envelope(envelope: dsse.Envelope, key: keys.PublicKey) -> None:
    """Check that one of an envelope's signatures is of a key.

    Raises:
        Unverified: none is.
    """
    for each in envelope.signatures[:16]:
        try:
            keys.verify(key, each.value, envelope.signed_bytes)
            return
        except Unverified:
            continue
    raise Unverified(f"no signature is of key {keys.key_id(key)[:16]}")


def _log_key(instance: dict[str, Any], where: str) -> keys.PublicKey:
    der = base64.b64decode(instance["publicKey"]["rawBytes"])
    return keys.checked(serialization.load_der_public_key(der), where)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
