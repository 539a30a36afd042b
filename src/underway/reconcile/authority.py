"""A small certificate authority in a Secret: its own certificate, and one for a server.

The values of the Secret are PEM: ``ca.crt`` (every authority still trusted, the newest last),
``ca.key``, ``tls.crt``, ``tls.key``.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from underway.api.objects import Object
from underway.base.errors import BadRequest

AUTHORITY_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=90)
_SKEW = timedelta(minutes=5)  # clocks of clients may be behind ours
_FIELDS = ("ca.crt", "ca.key", "tls.crt", "tls.key")


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def renewal(self) -> datetime:
        """When to make the next one: after two thirds of its life."""
        return renewal_of(self.certificate)


@dataclass(frozen=True)
class Material:
    """What the Secret holds; ``trusted`` ends with the certificate of ``authority``."""

    trusted: tuple[x509.Certificate, ...]
    authority: KeyPair
    server_pem: bytes
    server_key_pem: bytes

    @property
    def bundle(self) -> bytes:
        """The authorities to trust, as PEM."""
        return b"".join(_pem(each) for each in self.trusted)

    @property
    def server(self) -> x509.Certificate:
        """The server's certificate."""
        return x509.load_pem_x509_certificate(self.server_pem)

    def data(self) -> Object:
        """The Secret's ``data``."""
        values = (self.bundle, key_pem(self.authority.key), self.server_pem, self.server_key_pem)
        return {
            name: base64.b64encode(value).decode()
            for name, value in zip(_FIELDS, values, strict=True)
        }


def read(secret: Object) -> Material | None:
    """The material in a Secret; None where it holds none yet.

    Raises:
        BadRequest: it holds something else.
    """
    data = secret.get("data") or {}
    if not any(data.get(name) for name in _FIELDS):
        return None
    try:
        ca, ca_key, server, server_key = (base64.b64decode(data[name]) for name in _FIELDS)
        trusted = tuple(x509.load_pem_x509_certificates(ca))
        key = serialization.load_pem_private_key(ca_key, password=None)
        x509.load_pem_x509_certificate(server)
    except (KeyError, ValueError, TypeError) as error:
        raise BadRequest(
            f"the Secret {secret['metadata'].get('name')} holds no certificates: {error}",
            hint="delete it to have them made anew",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadRequest("the authority's key must be an elliptic curve key")
    return Material(trusted, KeyPair(trusted[-1], key), server, server_key)


def new_authority(name: str, now: datetime, life: timedelta = AUTHORITY_LIFE) -> KeyPair:
    """An authority that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        _builder(subject, subject, key, now, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(made, key)


def new_server(
    authority: KeyPair, names: Sequence[str], now: datetime, life: timedelta = SERVER_LIFE
) -> KeyPair:
    """A server's certificate for DNS names and IP addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    public = authority.key.public_key()
    made = (
        _builder(subject, authority.certificate.subject, key, now, life)
        .add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return KeyPair(made, key)


def fits(server: x509.Certificate, authority: KeyPair, names: Sequence[str]) -> bool:
    """Whether the authority signed the certificate, and for these names."""
    try:
        server.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    found = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(found) == _general(names)


def renewal_of(certificate: x509.Certificate) -> datetime:
    """When two thirds of a certificate's life are over."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def pem(pair: KeyPair) -> tuple[bytes, bytes]:
    """Certificate and key as PEM."""
    return _pem(pair.certificate), key_pem(pair.key)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _general(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found
