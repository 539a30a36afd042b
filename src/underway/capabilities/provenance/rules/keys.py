"""Checking signatures by public keys of the kinds in-toto, TUF and cosign use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

_RSA_BITS = 2048
_CURVES = {"secp256r1": 256, "secp384r1": 384, "secp521r1": 521}


def load(key: Mapping[str, Any]) -> PublicKeyTypes:
    """The public key in a securesystemslib key object.

    Raises:
        ValueError: its kind is unknown, it is malformed, or an RSA key of less than 2048 bits.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keyval = key.get("keyval")
    public = keyval.get("public") if isinstance(keyval, dict) else None
    if not isinstance(public, str):
        raise ValueError("a key without its public part")  # noqa: TRY004  # the key's form
    kind = key.get("keytype")
    if kind == "ed25519" and not public.startswith("-----"):
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    if kind in ("rsa", "ecdsa", "ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"):
        return load_pem(public)
    raise ValueError(f"keys of type {kind} are not supported")


def load_pem(text: str) -> PublicKeyTypes:
    """A public key in PEM.

    Raises:
        ValueError: it is none, or an RSA key of less than 2048 bits.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"no public key in PEM: {error}") from error
    if isinstance(key, RSAPublicKey) and key.key_size < _RSA_BITS:
        raise ValueError(f"an RSA key of {key.key_size} bits is too weak")
    return key


def verifies(key: PublicKeyTypes, signature: bytes, data: bytes) -> bool:
    """Whether the signature over the data is by this key (RSA as PSS or PKCS#1 v1.5)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey):
            bits = _CURVES.get(key.curve.name, 0)
            algorithm = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[bits]
            key.verify(signature, data, ec.ECDSA(algorithm))
            return True
    except (InvalidSignature, KeyError, ValueError):
        return False
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    for scheme in (
        padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO),
        padding.PKCS1v15(),
    ):
        try:
            key.verify(signature, data, scheme, hashes.SHA256())
            return True
        except InvalidSignature:
            continue
    return False
