"""Signing keys as values: making, encoding, signing and checking.

Private keys at rest with a passphrase are in cosign's form: a PEM block of JSON with scrypt and
NaCl secretbox around PKCS#8. Source: sigstore/sigstore ``pkg/cryptoutils``; secure-systems-lab/
go-securesystemslib ``encrypted``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from typing import Any, cast

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from underway.base.errors import BadRequest, Forbidden
from underway.capabilities.signing.model import Unverified

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

ALGORITHMS = ("ecdsa-p256", "ed25519", "rsa-3072")
_BLOCK = "ENCRYPTED SIGSTORE PRIVATE KEY"
_BLOCKS = re.compile(
    rb"-----BEGIN ENCRYPTED (?:SIGSTORE|COSIGN) PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END"
)
_SCRYPT = {"N": 65_536, "r": 8, "p": 1}
_SCRYPT_MEMORY_BYTES = 256 * 1024 * 1024  # what a foreign file may make us use
_RSA_BITS_LEAST = 2048


def generate(algorithm: str = "ecdsa-p256") -> PrivateKey:
    """A new key.

    Raises:
        BadRequest: the algorithm is none of ``ALGORITHMS``.
    """
    match algorithm:
        case "ecdsa-p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa-3072":
            return rsa.generate_private_key(public_exponent=65537, key_size=3072)
    known = ", ".join(ALGORITHMS)
    raise BadRequest(f"no keys of algorithm {algorithm!r} are made here", hint=f"one of {known}")


def sign(key: PrivateKey, data: bytes) -> bytes:
    """A signature over bytes: ECDSA in DER, Ed25519, or RSA PKCS#1 v1.5; with SHA-256."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(_hash_for(key.curve)))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
    """Check a signature.

    Raises:
        Unverified: it is not this key's signature over these bytes.
    """
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(_hash_for(key.curve)))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise Unverified(f"the signature is not of key {key_id(key)[:16]}") from error


def _hash_for(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    if curve.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if curve.key_size <= 384 else hashes.SHA512()


def public_der(key: PublicKey) -> bytes:
    """The SubjectPublicKeyInfo."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def public_pem(key: PublicKey) -> bytes:
    """The SubjectPublicKeyInfo as PEM: what cosign calls ``cosign.pub``."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_id(key: PublicKey) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, in hex."""
    return hashlib.sha256(public_der(key)).hexdigest()


def load_public(pem: bytes, where: str) -> PublicKey:
    """A public key from PEM.

    Raises:
        BadRequest: it is no public key, or of a kind or strength not taken here.
    """
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest(f"{where} is no public key in PEM: {error}") from error
    return checked(key, where)


def checked(key: Any, where: str) -> PublicKey:
    """The key, if it is of a kind and strength that signs here.

    Raises:
        BadRequest: it is not.
    """
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _RSA_BITS_LEAST:
        raise BadRequest(f"{where}: an RSA key of {key.key_size} bits is too weak")
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise BadRequest(f"{where}: keys of type {type(key).__name__} are not taken")
    return key


def encode_private(key: PrivateKey, passphrase: bytes = b"") -> bytes:
    """PKCS#8 as PEM; with a passphrase in cosign's encrypted form."""
    if not passphrase:
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    from nacl.secret import SecretBox

    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    salt, nonce = os.urandom(32), os.urandom(SecretBox.NONCE_SIZE)
    box = SecretBox(_derive(passphrase, salt, _SCRYPT))
    value = {
        "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": _b64(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": _b64(nonce)},
        "ciphertext": _b64(box.encrypt(plain, nonce).ciphertext),
    }
    text = base64.encodebytes(msgspec.json.encode(value)).decode()
    return f"-----BEGIN {_BLOCK}-----\n{text}-----END {_BLOCK}-----\n".encode()


def decode_private(pem: bytes, passphrase: bytes, where: str) -> PrivateKey:
    """A private key from PKCS#8, or from cosign's encrypted form.

    Raises:
        Forbidden: the passphrase is missing or wrong.
        BadRequest: it is no private key.
    """
    encrypted = _BLOCKS.search(pem)
    try:
        if encrypted:
            if not passphrase:
                raise Forbidden(
                    f"{where} needs a passphrase", hint="set UNDERWAY_SIGNING_PASSPHRASE"
                )
            der = _open(base64.b64decode(encrypted[1]), passphrase, where)
            key = serialization.load_der_private_key(der, None)
        else:
            key = serialization.load_pem_private_key(pem, passphrase or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadRequest(
            f"{where} is no private key, or its passphrase is wrong: {error}"
        ) from error
    if not isinstance(
        key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    ):
        raise BadRequest(f"{where}: keys of type {type(key).__name__} do not sign here")
    checked(key.public_key(), where)
    return key


class _Kdf(msgspec.Struct):
    name: str
    params: dict[str, int]
    salt: str


class _Cipher(msgspec.Struct):
    name: str
    nonce: str


class _Encrypted(msgspec.Struct):
    kdf: _Kdf
    cipher: _Cipher
    ciphertext: str


def _open(data: bytes, passphrase: bytes, where: str) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    try:
        value = msgspec.json.decode(data, type=_Encrypted)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{where} is no encrypted key: {error}") from error
    if value.kdf.name != "scrypt" or value.cipher.name != "nacl/secretbox":
        raise BadRequest(f"{where}: {value.kdf.name} with {value.cipher.name} is not read here")
    box = SecretBox(_derive(passphrase, base64.b64decode(value.kdf.salt), value.kdf.params))
    try:
        return cast(
            "bytes",
            box.decrypt(base64.b64decode(value.ciphertext), base64.b64decode(value.cipher.nonce)),
        )
    except CryptoError as error:
        raise Forbidden(f"{where}: the passphrase is wrong") from error


def _derive(passphrase: bytes, salt: bytes, params: dict[str, int]) -> bytes:
    n, r, p = (params.get(name, 0) for name in ("N", "r", "p"))
    memory = 128 * n * r
    if n < 2 or r < 1 or not 1 <= p <= 16 or memory > _SCRYPT_MEMORY_BYTES:
        raise BadRequest(f"an encrypted key with scrypt parameters N={n} r={r} p={p} is not read")
    room = memory + 1024 * 1024 + 128 * r * p
    return hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=room, dklen=32)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
