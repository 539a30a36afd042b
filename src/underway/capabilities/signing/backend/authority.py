"""The platform's signing authority: certificates of minutes for service accounts, and the log.

A caller proves who it is with a Kubernetes service-account token for the audience ``sigstore``,
and that it holds the key by signing the token's subject, as Fulcio asks.
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from typing import Any, cast

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from underway.base.clock import Clock, SystemClock
from underway.base.errors import BadRequest, Unauthorized
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.signing.backend.keystore import FileKeys
from underway.capabilities.signing.backend.translog import LOG_KEY, TransparencyLog
from underway.capabilities.signing.backend.trusting import OWN_ROOT
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import certificates, cosign, keys, translog, trustroot
from underway.capabilities.signing.rules.certificates import Identity
from underway.wire import dsse

AUDIENCE = "sigstore"
AUTHORITY_KEY = "authority"
_SUBJECT_PREFIX = "system:serviceaccount:"
_TOKEN_LIMIT = 16_384  # characters


class Authority:
    """Issues certificates and keeps the log. Everything is made on first use. Blocking."""

    def __init__(self, home: Home, clock: Clock | None = None) -> None:
        settings = home.load_settings()
        self.url = f"https://{settings.bind_address}:{settings.signing_port}"
        self._home, self._clock = home, clock or SystemClock()
        store = FileKeys.of_platform(home)
        store.ensure(AUTHORITY_KEY)
        origin = f"underway-{home.id}.log"
        self.log = TransparencyLog(home.signing / "log.db", store, self._clock, origin)
        self._key = cast("ec.EllipticCurvePrivateKey", store.private(AUTHORITY_KEY))
        self._log_key = cast("ec.EllipticCurvePrivateKey", store.private(LOG_KEY))
        self.certificate = self._certificate()
        self._write_root()

    def trust_root(self) -> bytes:
        """The TrustedRoot by which others check what is issued here."""
        return trustroot.encode(self.certificate, self.log.key, self.url)

    def identify(self, token: str) -> tuple[str, Identity]:
        """Subject and identity of a service-account token this platform signed.

        Raises:
            Unauthorized: it is none, has ended, or is for another audience.
        """
        claims = _claims(token, self._home)
        now = self._clock.now().timestamp()
        audience = claims.get("aud")
        if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
            raise Unauthorized(
                f"the token is for {audience}, not for {AUDIENCE}",
                hint=f"kubectl create token NAME --audience={AUDIENCE}",
            )
        begins, ends = claims.get("nbf", 0), claims.get("exp", 0)
        if not (_number(begins) - 60 <= now < _number(ends)):
            raise Unauthorized("the token has ended, or has not begun")
        subject = str(claims.get("sub", ""))
        namespace, colon, name = subject.removeprefix(_SUBJECT_PREFIX).partition(":")
        if not subject.startswith(_SUBJECT_PREFIX) or not colon or not name:
            raise Unauthorized(f"{subject!r} is no service account")
        who = certificates.service_account(namespace, name)
        return subject, Identity(who, str(claims.get("iss", "")))

    def issue(
        self, identity: Identity, public: keys.PublicKey
    ) -> tuple[x509.Certificate, x509.Certificate]:
        """A certificate for an identity that was proved, and the authority's own."""
        now = self._clock.now()
        made = certificates.issue(identity, public, self._key, self.certificate, self._log_key, now)
        self.log.append(
            translog.canonical(
                {
                    "apiVersion": "0.0.1",
                    "kind": "certificate",
                    "spec": {"content": base64.b64encode(certificates.der(made)).decode()},
                }
            )
        )
        return made, self.certificate

    def attest(
        self,
        token: str,
        subjects: dict[str, dict[str, str]],
        predicate_type: str,
        predicate: dict[str, Any],
    ) -> cosign.Bundle:
        """Sign a statement as a service account, with a key that lives for this call alone.

        Raises:
            Unauthorized: the token proves no identity.
        """
        _, identity = self.identify(token)
        key = keys.generate()
        leaf, _ = self.issue(identity, key.public_key())
        payload = dsse.statement(subjects, predicate_type, predicate)
        envelope = dsse.Envelope(dsse.PAYLOAD_TYPE, payload)
        value = dsse.Signature("", keys.sign(key, envelope.signed_bytes))
        envelope = replace(envelope, signatures=(value,))
        entry = self.log.append(translog.dsse_body(envelope, certificates.pem(leaf)))
        return cosign.Bundle(envelope, "", certificates.der(leaf), (entry.as_dict(),))

    def _certificate(self) -> x509.Certificate:
        path = self._home.signing / "authority.crt"
        if path.exists():
            found = certificates.load(path.read_bytes())
            if found.public_key() == self._key.public_key():
                return found
        made = certificates.authority(self._key, self._clock.now())
        write_atomic(path, certificates.pem(made))
        return made

    def _write_root(self) -> None:
        path = self._home.signing / OWN_ROOT
        root = self.trust_root()
        if not path.exists() or path.read_bytes() != root:
            write_atomic(path, root)


def check_possession(key: keys.PublicKey, proof: bytes, subject: str) -> None:
    """Check that whoever asks holds the key: it signed the subject.

    Raises:
        BadRequest: it did not.
    """
    try:
        keys.verify(key, proof, subject.encode())
    except Unverified as error:
        raise BadRequest(f"the proof of possession does not hold: {error.message}") from error


def token_file() -> str:
    """The token of the workload this runs in; empty outside of one."""
    path = os.environ.get("SIGSTORE_ID_TOKEN_FILE", "/var/run/secrets/tokens/sigstore/oidc-token")
    try:
        with open(path, encoding="utf-8") as stream:  # noqa: PTH123  # a name from outside
            return stream.read(_TOKEN_LIMIT).strip()
    except OSError:
        return ""


def _claims(token: str, home: Home) -> dict[str, Any]:
    """The claims of a token that ``sa.key`` signed. Source: RFC 7515 section 5.2, RFC 7518."""
    try:
        if len(token) > _TOKEN_LIMIT:
            raise Unauthorized("the token is too long")
        head, body, tail = token.split(".")
        header = msgspec.json.decode(_unb64(head), type=dict[str, Any])
        key = serialization.load_pem_public_key((home.pki / "sa.pub").read_bytes())
        if header.get("alg") != "RS256" or not isinstance(key, rsa.RSAPublicKey):
            raise Unauthorized(f"a token signed with {header.get('alg')} is not taken")
        signed = f"{head}.{body}".encode()
        key.verify(_unb64(tail), signed, padding.PKCS1v15(), hashes.SHA256())
        return msgspec.json.decode(_unb64(body), type=dict[str, Any])
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Unauthorized("the token was not signed by this platform") from error
    except OSError as error:
        raise Unauthorized(f"no token can be checked: {error}") from error


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
