"""The platform's certificates and keys, and TLS contexts made of them.

One ECDSA P-256 authority signs everything. Key usages and subjects are those Kubernetes documents
("PKI certificates and requirements"). The service-account key is RSA 2048, because RS256 is the
one algorithm every JWT client of Kubernetes verifies.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from underway.base.clock import Clock, SystemClock
from underway.base.errors import BadRequest
from underway.base.files import write_atomic
from underway.base.home import Home, Settings

_CA_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=30)
_SKEW = timedelta(minutes=5)  # clocks of clients may be behind ours
_CA_NAME = "underway-ca"
FRONT_PROXY_CA = "front-proxy-ca"
FRONT_PROXY_CLIENT = "front-proxy-client"


@dataclass(frozen=True)
class _Leaf:
    """What one certificate must say."""

    file: str
    common_name: str
    organization: str = ""
    names: tuple[str, ...] = ()  # DNS names and IP addresses; a server certificate has some

    @property
    def server(self) -> bool:
        return bool(self.names)


def ensure_pki(
    home: Home,
    settings: Settings,
    extra_names: Iterable[str] = (),
    clock: Clock | None = None,
) -> None:
    """Create what is missing below ``home.pki``, and renew what ends within 30 days.

    A leaf is also made anew when its names changed or another authority signed it. Keys are mode
    0600. Blocking, tens of milliseconds.

    Args:
        home: where the files lie.
        settings: node name, cluster domain, service network and bind address go into names.
        extra_names: further DNS names or IP addresses of the API server and the node agent.
        clock: tells what has expired.

    Raises:
        BadRequest: a file there is no certificate or key, naming it.
    """
    now = (clock or SystemClock()).now()
    pki = home.pki
    pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, ca = _ensure_ca(pki, now)
    for leaf in _leaves(settings, tuple(extra_names)):
        _ensure_leaf(pki, leaf, ca_key, ca, now)
    # An authority of its own: whoever shows a certificate of it may say who the user is.
    proxy_key, proxy_ca = _ensure_ca(pki, now, FRONT_PROXY_CA, FRONT_PROXY_CA)
    _ensure_leaf(pki, _Leaf(FRONT_PROXY_CLIENT, FRONT_PROXY_CLIENT), proxy_key, proxy_ca, now)
    _ensure_service_account_key(pki)


def server_context(
    cert: Path | bytes,
    key: Path | bytes,
    client_ca: Path | bytes | None = None,
    *,
    require_client: bool = False,
) -> ssl.SSLContext:
    """TLS for a server; with ``client_ca`` clients may (or must) show a certificate of it.

    Each is a file or PEM text.

    Raises:
        BadRequest: a file is missing or no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, cert, key, client_ca)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    return context


def client_context(
    ca: Path | bytes | None, cert: Path | bytes | None = None, key: Path | bytes | None = None
) -> ssl.SSLContext:
    """TLS for a client that trusts ``ca`` alone, and shows ``cert`` where it is given.

    Each is a file or PEM text. Without ``ca`` the authorities of the system are trusted.

    Raises:
        BadRequest: a file is missing or no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    _load(context, cert, key, ca)
    return context


def load_chain(context: ssl.SSLContext, cert: Path | bytes, key: Path | bytes) -> None:
    """Have a context show another certificate from the next connection on.

    Raises:
        BadRequest: there is no certificate or no key of it.
    """
    _load(context, cert, key, None)


def _load(
    context: ssl.SSLContext,
    cert: Path | bytes | None,
    key: Path | bytes | None,
    ca: Path | bytes | None,
) -> None:
    given = (cert, key, ca)
    try:
        with ExitStack() as stack:
            cert_file, key_file, ca_file = (_file_of(source, stack) for source in given)
            if ca_file is not None:
                context.load_verify_locations(cafile=ca_file)
            if cert_file is not None:
                context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(str(path) for path in given if isinstance(path, Path)) or "PEM text"
        raise BadRequest(f"cannot load certificates from {named}: {error}") from error


def _file_of(source: Path | bytes | None, stack: ExitStack) -> str | None:
    """A name OpenSSL can open; text goes through memory, so that no key touches a disk."""
    if source is None or isinstance(source, Path):
        return None if source is None else str(source)
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    os.write(descriptor, source)
    return f"/proc/self/fd/{descriptor}"


def _leaves(settings: Settings, extra_names: tuple[str, ...]) -> list[_Leaf]:
    here: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    if settings.bind_address not in {"0.0.0.0", "::", *here}:  # noqa: S104  # compared, not bound
        here += (settings.bind_address,)
    first_service = next(ipaddress.ip_network(settings.service_cidr).hosts())
    service = tuple(
        f"kubernetes{suffix}"
        for suffix in ("", ".default", ".default.svc", f".default.svc.{settings.cluster_domain}")
    )
    apiserver = (*here, *service, str(first_service), *extra_names)
    node = (*here, settings.node_name, *extra_names)
    masters = "system:masters"
    return [
        _Leaf("apiserver", "kube-apiserver", names=apiserver),
        _Leaf("kubelet-server", f"system:node:{settings.node_name}", "system:nodes", node),
        _Leaf("admin", "kubernetes-admin", masters),
        _Leaf("node", f"system:node:{settings.node_name}", "system:nodes"),
        _Leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client", masters),
    ]


def _ensure_ca(
    pki: Path, now: datetime, file: str = "ca", common_name: str = _CA_NAME
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_file, cert_file = pki / f"{file}.key", pki / f"{file}.crt"
    if key_file.exists():
        found = _read_key(key_file)
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise BadRequest(f"{key_file}: the authority's key must be an elliptic curve key")
        key = found
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(key_file, key)
    if cert_file.exists():
        cert = _read_cert(cert_file)
        own = cert.public_key() == key.public_key()
        if own and cert.not_valid_after_utc - now > _RENEW_BEFORE:
            return key, cert
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    public = key.public_key()
    cert = (
        _builder(name, name, public, now, _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_cert(cert_file, cert)
    return key, cert


def _ensure_leaf(
    pki: Path,
    leaf: _Leaf,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    now: datetime,
) -> None:
    key_file, cert_file = pki / f"{leaf.file}.key", pki / f"{leaf.file}.crt"
    if key_file.exists() and cert_file.exists() and _fits(_read_cert(cert_file), leaf, ca, now):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if leaf.server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_subject(leaf), ca.subject, public, now, _LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    if leaf.server:
        names = x509.SubjectAlternativeName([_general_name(name) for name in leaf.names])
        builder = builder.add_extension(names, critical=False)
    # The key goes first: a crash in between leaves a pair that does not match, which the next
    # run must see. So the old certificate is taken away before.
    cert_file.unlink(missing_ok=True)
    _write_key(key_file, key)
    _write_cert(cert_file, builder.sign(ca_key, hashes.SHA256()))


def _fits(cert: x509.Certificate, leaf: _Leaf, ca: x509.Certificate, now: datetime) -> bool:
    if cert.not_valid_after_utc - now <= _RENEW_BEFORE or cert.subject != _subject(leaf):
        return False
    try:
        cert.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    if not leaf.server:
        return True
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return list(found) == [_general_name(name) for name in leaf.names]


def _ensure_service_account_key(pki: Path) -> None:
    key_file, public_file = pki / "sa.key", pki / "sa.pub"
    if key_file.exists():
        key = _read_key(key_file)
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write_key(key_file, key)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if not public_file.exists() or public_file.read_bytes() != public:
        write_atomic(public_file, public)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _subject(leaf: _Leaf) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
    if leaf.organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization))
    return x509.Name(attributes)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read_key(path: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise BadRequest(
            f"{path} is no private key: {error}", hint=f"remove {path} to have it made anew"
        ) from error


def _read_cert(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise BadRequest(
            f"{path} is no certificate: {error}", hint=f"remove {path} to have it made anew"
        ) from error


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_atomic(path, pem, mode=0o600)


def _write_cert(path: Path, cert: x509.Certificate) -> None:
    write_atomic(path, cert.public_bytes(serialization.Encoding.PEM))
