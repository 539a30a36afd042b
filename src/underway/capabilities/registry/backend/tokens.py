"""Signing and checking the registry's tokens.

Source: RFC 7515 and RFC 7518 (ES256), RFC 7519.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from underway.base.errors import InternalError
from underway.base.files import write_atomic
from underway.capabilities.registry.model import LoginRequired

_LIMIT = 16_384  # characters of a token
_BYTES = 32  # of each half of a P-256 signature
_HEADER = {"alg": "ES256", "typ": "JWT"}


class TokenKey:
    """The P-256 key that tokens are signed with."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = key.public_key()

    @classmethod
    def load(cls, path: Path) -> TokenKey:
        """The PEM key at ``path``; a new one is put there if there is none.

        Raises:
            InternalError: the file is no P-256 private key.
        """
        if not path.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            pem = made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_atomic(path, pem, mode=0o600)
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise InternalError(f"{path} is no private key: {error}") from error
        if not (
            isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        ):
            raise InternalError(f"{path} is no P-256 key")
        return cls(key)

    def sign(self, claims: dict[str, Any]) -> str:
        """A compact JWT of these claims."""
        signed = ".".join(_encode(msgspec.json.encode(part)) for part in (_HEADER, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(_BYTES, 'big') + s.to_bytes(_BYTES, 'big'))}"

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that this key signed.

        Raises:
            LoginRequired: it is malformed, or somebody else signed it.
        """
        try:
            if len(token) > _LIMIT:
                raise ValueError("the token is too long")
            header, payload, signature_text = token.split(".")
            if msgspec.json.decode(_decode(header)).get("alg") != "ES256":
                raise ValueError("the token is not signed by ES256")
            signature = _decode(signature_text)
            if len(signature) != 2 * _BYTES:
                raise ValueError("the signature has not 64 bytes")
            pair = (
                int.from_bytes(half, "big") for half in (signature[:_BYTES], signature[_BYTES:])
            )
            signed = f"{header}.{payload}".encode()
            self._public.verify(encode_dss_signature(*pair), signed, ec.ECDSA(hashes.SHA256()))
            return msgspec.json.decode(_decode(payload), type=dict[str, Any])
        except (ValueError, AttributeError, InvalidSignature, msgspec.MsgspecError) as error:
            raise LoginRequired("the token is not valid") from error


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
