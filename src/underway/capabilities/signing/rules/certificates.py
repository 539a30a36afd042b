"""Short-lived certificates that say who signed: making and checking them.

Source: sigstore/fulcio ``docs/certificate-specification.md``, ``docs/oid-info.md``; RFC 6962
sections 3.2 and 3.3 for the timestamp within a certificate.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import keys

LIFE = timedelta(minutes=10)
AUTHORITY_LIFE = timedelta(days=3650)
ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_UTF8_STRING = 0x0C
_MAX_SHORT_LENGTH = 0x7F


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed: ``name`` is a URI or an e-mail address, ``issuer`` who vouched for it."""

    name: str
    issuer: str


def service_account(namespace: str, name: str) -> str:
    """The identity of a service account, as Fulcio writes it."""
    return f"https://kubernetes.io/namespaces/{namespace}/serviceaccounts/{name}"


def authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """The self-signed certificate of an authority."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "underway"),
            x509.NameAttribute(NameOID.COMMON_NAME, "underway signing authority"),
        ]
    )
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        _base(name, name, public, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


def issue(
    identity: Identity,
    public: keys.PublicKey,
    authority_key: ec.EllipticCurvePrivateKey,
    authority_cert: x509.Certificate,
    log_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """A certificate of ten minutes, with the log's timestamp within."""
    name = identity.name
    alternative = (
        x509.RFC822Name(name) if "://" not in name else x509.UniformResourceIdentifier(name)
    )
    builder = (
        _base(x509.Name([]), authority_cert.subject, public, now, LIFE)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=True)
        .add_extension(x509.UnrecognizedExtension(ISSUER, identity.issuer.encode()), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(ISSUER_V2, _utf8(identity.issuer)), critical=False
        )
    )
    tbs = builder.sign(authority_key, hashes.SHA256()).tbs_certificate_bytes
    stamp = _timestamp(tbs, authority_cert, log_key, now)
    listed = x509.UnrecognizedExtension(ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS, stamp)
    return builder.add_extension(listed, critical=False).sign(authority_key, hashes.SHA256())


def check(
    certificate: x509.Certificate,
    authorities: list[x509.Certificate],
    log_keys: list[keys.PublicKey],
    moment: datetime,
) -> Identity:
    """Who a certificate names, if an authority issued it and it was valid at a moment.

    Raises:
        Unverified: it proves nothing here, with the reason.
    """
    issuer_cert = _issuer_of(certificate, authorities, moment)
    if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
        raise Unverified(
            f"the certificate was not valid at {moment.isoformat()}: it ended at"
            f" {certificate.not_valid_after_utc.isoformat()}"
        )
    try:
        extensions = certificate.extensions
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        signs = extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
        if ExtendedKeyUsageOID.CODE_SIGNING not in usage or not signs:
            raise Unverified("the certificate is not for signing code")
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Unverified(f"the certificate is not of a signer: {error}") from error
    _check_timestamp(certificate, issuer_cert, log_keys)
    found = names.get_values_for_type(x509.UniformResourceIdentifier)
    found += names.get_values_for_type(x509.RFC822Name)
    if len(found) != 1:
        raise Unverified(f"the certificate names {len(found)} identities, not one")
    return Identity(found[0], _issuer_text(certificate))


def _issuer_of(
    certificate: x509.Certificate, authorities: list[x509.Certificate], moment: datetime
) -> x509.Certificate:
    for each in authorities:
        try:
            certificate.verify_directly_issued_by(each)
            basic = each.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            continue
        if basic.ca and each.not_valid_before_utc <= moment <= each.not_valid_after_utc:
            return each
    raise Unverified("the certificate was not issued by a trusted authority")


def _issuer_text(certificate: x509.Certificate) -> str:
    for oid in (ISSUER_V2, ISSUER):
        try:
            extension = certificate.extensions.get_extension_for_oid(oid).value
        except x509.ExtensionNotFound:
            continue
        value = cast("x509.UnrecognizedExtension", extension).value
        try:
            return (_utf8_text(value) if oid == ISSUER_V2 else value).decode()
        except (UnicodeDecodeError, IndexError) as error:
            raise Unverified("the certificate's issuer is malformed") from error
    raise Unverified("the certificate does not say who vouched for its identity")


def _base(
    subject: x509.Name,
    issuer: x509.Name,
    public: keys.PublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    now = now.replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _timestamp(
    tbs: bytes, issuer: x509.Certificate, log_key: ec.EllipticCurvePrivateKey, now: datetime
) -> bytes:
    """The extension's value: an OCTET STRING around one TLS-encoded SCT."""
    log_id = bytes.fromhex(keys.key_id(log_key.public_key()))
    milliseconds = int(now.timestamp() * 1000)
    signature = keys.sign(log_key, _stamped(tbs, issuer, milliseconds))
    # version v1, log id, time, no extensions, SHA-256 (4) with ECDSA (3), signature
    sct = b"\x00" + log_id + struct.pack(">QHBBH", milliseconds, 0, 4, 3, len(signature))
    sct += signature
    listed = struct.pack(">HH", len(sct) + 2, len(sct)) + sct
    if len(listed) <= _MAX_SHORT_LENGTH:
        return bytes([0x04, len(listed)]) + listed
    return bytes([0x04, 0x81, len(listed)]) + listed


def _stamped(tbs: bytes, issuer: x509.Certificate, milliseconds: int) -> bytes:
    """What the log signs about a certificate to be. Source: RFC 6962 section 3.2."""
    key = cast("keys.PublicKey", issuer.public_key())
    head = struct.pack(">BBQH", 0, 0, milliseconds, 1)
    length = len(tbs).to_bytes(3, "big")
    return head + hashlib.sha256(keys.public_der(key)).digest() + length + tbs + b"\x00\x00"


def _check_timestamp(
    certificate: x509.Certificate, issuer: x509.Certificate, log_keys: list[keys.PublicKey]
) -> None:
    try:
        found = certificate.extensions.get_extension_for_class(
            x509.PrecertificateSignedCertificateTimestamps
        ).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Unverified("the certificate carries no timestamp of a log") from error
    by_id = {bytes.fromhex(keys.key_id(key)): key for key in log_keys}
    for each in found:
        if each.log_id in by_id:
            moment = each.timestamp.replace(tzinfo=UTC)
            milliseconds = int(moment.timestamp()) * 1000 + moment.microsecond // 1000
            said = _stamped(certificate.tbs_precertificate_bytes, issuer, milliseconds)
            keys.verify(by_id[each.log_id], each.signature, said)
            return
    raise Unverified("the certificate's timestamp is of a log that is not trusted")


def _utf8(text: str) -> bytes:
    """A DER UTF8String of up to 65535 bytes."""
    data = text.encode()
    if len(data) <= _MAX_SHORT_LENGTH:
        return bytes([_UTF8_STRING, len(data)]) + data
    return bytes([_UTF8_STRING, 0x82]) + len(data).to_bytes(2, "big") + data


def _utf8_text(der: bytes) -> bytes:
    if der[0] != _UTF8_STRING:
        raise Unverified("the certificate's issuer is no UTF8String")
    if der[1] <= _MAX_SHORT_LENGTH:
        return der[2 : 2 + der[1]]
    octets = der[1] & _MAX_SHORT_LENGTH
    return der[2 + octets :]


def pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """The certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def load(data: bytes) -> x509.Certificate:
    """A certificate from DER or PEM.

    Raises:
        Unverified: it is none.
    """
    try:
        if data.startswith(b"-----"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise Unverified(f"no certificate: {error}") from error
