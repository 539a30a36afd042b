"""A transparency log's texts: checkpoints, promises, entries, and checking all of them.

Source: C2SP ``signed-note.md`` and ``tlog-checkpoint.md``; sigstore/rekor ``types/dsse/v0.0.1``,
``types/hashedrekord/v0.0.1``; sigstore/protobuf-specs ``sigstore_rekor.proto``. The key hint of a
note's ECDSA signature is the first four bytes of the log id, as sigstore's clients read it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import keys, merkle
from underway.wire import dsse


def canonical(value: Any) -> bytes:
    """JSON with sorted members (RFC 8785 for the strings and integers used here)."""
    return msgspec.json.encode(value, order="sorted")


def dsse_body(envelope: dsse.Envelope, verifier_pem: bytes) -> bytes:
    """The log entry of an envelope, of kind ``dsse`` 0.0.1."""
    return canonical(
        {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": _sha256(dsse.encode(envelope)),
                "payloadHash": _sha256(envelope.payload),
                "signatures": [
                    {"signature": _b64(each.value), "verifier": _b64(verifier_pem)}
                    for each in envelope.signatures
                ],
            },
        }
    )


def hashedrekord_body(digest_hex: str, signature: bytes, verifier_pem: bytes) -> bytes:
    """The log entry of a signed digest, of kind ``hashedrekord`` 0.0.1."""
    return canonical(
        {
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": digest_hex}},
                "signature": {
                    "content": _b64(signature),
                    "publicKey": {"content": _b64(verifier_pem)},
                },
            },
        }
    )


def check_dsse_body(body: bytes, envelope: dsse.Envelope, verifier_pem: bytes) -> None:
    """Compare a log entry with the envelope it came with.

    The envelope's own hash is left out: JSON may be written in other ways.

    Raises:
        Unverified: the log speaks of something else.
    """
    expected = msgspec.json.decode(dsse_body(envelope, verifier_pem))
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
        same = (
            found["kind"] == "dsse"
            and found["spec"]["payloadHash"] == expected["spec"]["payloadHash"]
            and found["spec"]["signatures"] == expected["spec"]["signatures"]
        )
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise Unverified(f"the log entry cannot be read: {error}") from error
    if not same:
        raise Unverified("the log entry is about another envelope")


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """What a checkpoint says, ready to be signed."""
    return f"{origin}\n{size}\n{_b64(root)}\n"


def note(text: str, name: str, log_id: bytes, signature: bytes) -> str:
    """The signed note around a text."""
    return f"{text}\n\u2014 {name} {_b64(log_id[:4] + signature)}\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's size and root, signed by the log."""

    origin: str
    size: int
    root: bytes


def check_note(text: str, key: keys.PublicKey) -> Checkpoint:
    """A checkpoint whose signature is of this key.

    Raises:
        Unverified: no signature of it is, or it is no checkpoint.
    """
    head, blank, tail = text.partition("\n\n")
    hint = bytes.fromhex(keys.key_id(key))[:4]
    for line in tail.splitlines() if blank else ():
        mark, _, rest = line.partition(" ")
        value = _unb64(rest.rpartition(" ")[2], "checkpoint") if mark == "\u2014" else b""
        if value[:4] == hint:
            keys.verify(key, value[4:], f"{head}\n".encode())
            break
    else:
        raise Unverified("checkpoint: it is not signed by the log")
    lines = head.split("\n")
    if len(lines) < 3 or not lines[1].isdecimal():
        raise Unverified("checkpoint: its text is malformed")
    return Checkpoint(lines[0], int(lines[1]), _unb64(lines[2], "checkpoint"))


def promise(body: bytes, integrated_time: int, log_id: bytes, index: int) -> bytes:
    """What the log signs at once when it takes an entry (the signed entry timestamp)."""
    return canonical(
        {
            "body": _b64(body),
            "integratedTime": integrated_time,
            "logID": log_id.hex(),
            "logIndex": index,
        }
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry with all that proves it. Times are seconds since 1970; ``checkpoint`` is a note."""

    index: int
    body: bytes
    integrated_time: int
    promise: bytes
    size: int
    root: bytes
    proof: tuple[bytes, ...]
    checkpoint: str
    log_id: bytes

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a bundle (``TransparencyLogEntry`` in JSON)."""
        head = msgspec.json.decode(self.body)
        return {
            "logIndex": str(self.index),
            "logId": {"keyId": _b64(self.log_id)},
            "kindVersion": {"kind": head["kind"], "version": head["apiVersion"]},
            "integratedTime": str(self.integrated_time),
            "inclusionPromise": {"signedEntryTimestamp": _b64(self.promise)},
            "inclusionProof": {
                "logIndex": str(self.index),
                "rootHash": _b64(self.root),
                "treeSize": str(self.size),
                "hashes": [_b64(each) for each in self.proof],
                "checkpoint": {"envelope": self.checkpoint},
            },
            "canonicalizedBody": _b64(self.body),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Entry:
        """Read an entry from a bundle.

        Raises:
            Unverified: a part is missing.
        """
        try:
            proof = value["inclusionProof"]
            if len(proof["hashes"]) > 64:
                raise Unverified("the log entry's proof is too long")
            return cls(
                int(proof["logIndex"]),
                _unb64(value["canonicalizedBody"], "log entry"),
                int(value["integratedTime"]),
                _unb64(value["inclusionPromise"]["signedEntryTimestamp"], "log entry"),
                int(proof["treeSize"]),
                _unb64(proof["rootHash"], "log entry"),
                tuple(_unb64(each, "log entry") for each in proof["hashes"]),
                str(proof["checkpoint"]["envelope"]),
                _unb64(value["logId"]["keyId"], "log entry"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Unverified(f"the log entry lacks {error}") from error


def check_entry(entry: Entry, key: keys.PublicKey) -> None:
    """Check the promise, the checkpoint and the inclusion proof of an entry, offline.

    Raises:
        Unverified: one of them does not hold.
    """
    log_id = bytes.fromhex(keys.key_id(key))
    if entry.log_id != log_id:
        raise Unverified(f"the entry is of a log that is not trusted: {entry.log_id.hex()[:16]}")
    said = promise(entry.body, entry.integrated_time, log_id, entry.index)
    keys.verify(key, entry.promise, said)
    stated = check_note(entry.checkpoint, key)
    if (stated.size, stated.root) != (entry.size, entry.root):
        raise Unverified("the inclusion proof leads to a root the log did not sign")
    leaf = merkle.leaf_hash(entry.body)
    merkle.check_inclusion(leaf, entry.index, entry.size, entry.proof, entry.root)


def entry_id(entry: Entry) -> str:
    """An entry's id: its hash as a leaf, in hex."""
    return merkle.leaf_hash(entry.body).hex()


def _sha256(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Unverified(f"{what}: no base64: {error}") from error
