"""What is offered to the log: taken only if its signatures hold.

Source: sigstore/rekor ``types/dsse/v0.0.1``, ``types/hashedrekord/v0.0.1``.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from underway.base.errors import BadRequest
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import certificates, keys, translog, trustroot
from underway.wire import dsse


def body(value: dict[str, Any]) -> bytes:
    """The canonical entry of a proposal.

    Raises:
        BadRequest: it is of no known form, or its signature does not hold.
    """
    try:
        if value["kind"] == "dsse":
            return _dsse(value["spec"]["proposedContent"])
        return _hashed(value["spec"])
    except Unverified as error:
        raise BadRequest(f"the entry does not hold: {error.message}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadRequest(f"the entry cannot be read: {error}") from error


def _dsse(content: dict[str, Any]) -> bytes:
    envelope = dsse.decode(content["envelope"].encode())
    (verifier,) = content["verifiers"]
    pem = base64.b64decode(verifier, validate=True)
    trustroot.check_envelope(envelope, _key(pem))
    return translog.dsse_body(envelope, pem)


def _hashed(spec: dict[str, Any]) -> bytes:
    digest = str(spec["data"]["hash"]["value"])
    if spec["data"]["hash"]["algorithm"] != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BadRequest("a hashedrekord is of a sha256 digest")
    signature = base64.b64decode(spec["signature"]["content"], validate=True)
    pem = base64.b64decode(spec["signature"]["publicKey"]["content"], validate=True)
    key = _key(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise BadRequest("a hashedrekord is taken with an elliptic curve key")
    try:
        key.verify(signature, bytes.fromhex(digest), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except InvalidSignature as error:
        raise BadRequest("the signature is not of this key over this digest") from error
    return translog.hashedrekord_body(digest, signature, pem)


def _key(pem: bytes) -> keys.PublicKey:
    if b"BEGIN CERTIFICATE" in pem:
        return keys.checked(certificates.load(pem).public_key(), "the certificate")
    return keys.load_public(pem, "the verifier")
