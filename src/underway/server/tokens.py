"""Service-account tokens: JSON Web Tokens signed with the cluster's key.

Source: RFC 7515, RFC 7518 (RS256, ES256), RFC 7519; Kubernetes "Managing Service Accounts",
bound tokens.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from underway.base.errors import InternalError, Unauthorized
from underway.base.files import write_atomic

_TOKEN_LIMIT = 16_384  # characters
_P256_BYTES = 32


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


class TokenKey:
    """The key pair tokens are signed with and checked against."""

    def __init__(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.id = _encode(hashlib.sha256(public).digest())
        self.algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"

    @classmethod
    def load(cls, path: Path) -> TokenKey:
        """The PEM key at ``path``; a new P-256 key is put there if there is none.

        Raises:
            InternalError: the file is no RSA or P-256 private key.
        """
        try:
            pem = path.read_bytes()
        except FileNotFoundError:
            made = ec.generate_private_key(ec.SECP256R1())
            pem = made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, pem, mode=0o600)
        try:
            # Checking an RSA key takes longer than all else at start; this one is our own.
            key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
        except (ValueError, TypeError) as error:
            raise InternalError(f"{path} is no private key: {error}") from error
        p256 = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        if not (p256 or isinstance(key, rsa.RSAPrivateKey)):
            raise InternalError(f"{path} is neither an RSA nor a P-256 key")
        return cls(key)  # type: ignore[arg-type]

    def sign(self, claims: dict[str, Any]) -> str:
        """A compact JWT of these claims."""
        header = {"alg": self.algorithm, "kid": self.id, "typ": "JWT"}
        signed = ".".join(_encode(msgspec.json.encode(part)) for part in (header, claims))
        if isinstance(self._key, rsa.RSAPrivateKey):
            signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(_P256_BYTES, "big") + s.to_bytes(_P256_BYTES, "big")
        return f"{signed}.{_encode(signature)}"

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token this key signed; times and audience are the caller's to check.

        Raises:
            Unauthorized: it is malformed or signed by somebody else.
        """
        if len(token) > _TOKEN_LIMIT:
            raise Unauthorized("the token is too long")
        try:
            signed, _, signature_text = token.rpartition(".")
            header_text, payload_text = signed.split(".")
            header = msgspec.json.decode(_decode(header_text))
            signature = _decode(signature_text)
            if header.get("alg") != self.algorithm:
                raise Unauthorized("the token is not signed with this cluster's algorithm")
            self._check(signed.encode(), signature)
            claims: Any = msgspec.json.decode(_decode(payload_text))
        except (ValueError, InvalidSignature, AttributeError, msgspec.DecodeError) as error:
            raise Unauthorized("the token is not valid") from error
        if not isinstance(claims, dict):
            raise Unauthorized("the token holds no claims")
        return claims

    def _check(self, data: bytes, signature: bytes) -> None:
        if isinstance(self._key, rsa.RSAPrivateKey):
            self._key.public_key().verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            return
        if len(signature) != 2 * _P256_BYTES:
            raise ValueError("an ES256 signature has 64 bytes")
        r = int.from_bytes(signature[:_P256_BYTES], "big")
        s = int.from_bytes(signature[_P256_BYTES:], "big")
        self._key.public_key().verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set (RFC 7517)."""
        public = self._key.public_key()
        entry: dict[str, Any] = {"use": "sig", "kid": self.id, "alg": self.algorithm}
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            modulus = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
            entry |= {"kty": "RSA", "n": _encode(modulus), "e": _encode(b"\x01\x00\x01")}
        else:
            point = public.public_numbers()
            entry |= {
                "kty": "EC",
                "crv": "P-256",
                "x": _encode(point.x.to_bytes(_P256_BYTES, "big")),
                "y": _encode(point.y.to_bytes(_P256_BYTES, "big")),
            }
        return {"keys": [entry]}
