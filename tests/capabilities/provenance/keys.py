"""Keys that sign images as cosign does."""

from __future__ import annotations

import base64
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from underway.wire import dsse

SLSA = "https://slsa.dev/provenance/v1"


class Key:
    """A key that signs as cosign does."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = (
            self._key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def signature(self, digest: str) -> tuple[str, dict[str, str], bytes]:
        payload = json.dumps({"critical": {"image": {"docker-manifest-digest": digest}}}).encode()
        said = base64.b64encode(self.sign(payload)).decode()
        return "sha256:sig", {"dev.cosignproject.cosign/signature": said}, payload

    def attestation(
        self, digest: str, predicate: dict, kind: str = SLSA
    ) -> tuple[str, dict[str, str], bytes]:
        value = dsse.statement({"image": {"sha256": digest.partition(":")[2]}}, kind, predicate)
        signed = self.sign(dsse.pae(dsse.PAYLOAD_TYPE, value))
        envelope = dsse.Envelope(dsse.PAYLOAD_TYPE, value, (dsse.Signature("", signed),))
        return "sha256:att", {}, dsse.encode(envelope)
