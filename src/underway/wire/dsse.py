"""DSSE envelopes and in-toto statements as bytes.

Source: secure-systems-lab/dsse ``protocol.md`` and ``envelope.md`` v1.0; in-toto attestation
framework ``spec/v1/statement.md``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
ENVELOPE_MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"
SIZE_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Signature:
    """``value`` are the signature's raw bytes; ``key_id`` is a hint, not to be trusted."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and the signatures over it; nothing in it has been verified."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: lengths frame the parts, so that no two read alike."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode(envelope: Envelope) -> bytes:
    """The envelope as JSON."""
    value = {
        "payloadType": envelope.payload_type,
        "payload": base64.b64encode(envelope.payload).decode(),
        "signatures": [
            {"keyid": each.key_id, "sig": base64.b64encode(each.value).decode()}
            for each in envelope.signatures
        ],
    }
    return msgspec.json.encode(value)


def decode(data: bytes) -> Envelope:
    """An envelope from JSON.

    Raises:
        ValueError: it is larger than 16 MiB, no JSON, or lacks a part.
    """
    if len(data) > SIZE_LIMIT_BYTES:
        raise ValueError(f"a DSSE envelope of {len(data)} bytes")
    try:
        value = msgspec.json.decode(data, type=_Envelope)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no DSSE envelope: {error}") from error
    signatures = tuple(Signature(each.keyid, _base64(each.sig)) for each in value.signatures)
    if not signatures:
        raise ValueError("a DSSE envelope without signatures")
    return Envelope(value.payloadType, _base64(value.payload), signatures)


class _Signature(msgspec.Struct):
    sig: str
    keyid: str = ""


class _Envelope(msgspec.Struct):
    payload: str
    payloadType: str  # noqa: N815  # as it is written
    signatures: list[_Signature]


def _base64(text: str) -> bytes:
    """Either alphabet, with padding. Source: envelope.md, "Base64"."""
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"no base64 in a DSSE envelope: {error}") from error


def statement(
    subjects: Mapping[str, Mapping[str, str]], predicate_type: str, predicate: Mapping[str, Any]
) -> bytes:
    """An in-toto statement about subjects: name -> algorithm -> digest in hex."""
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": dict(digest)} for name, digest in subjects.items()],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return msgspec.json.encode(value)


def parse_statement(envelope: Envelope) -> dict[str, Any]:
    """The statement in an envelope.

    Raises:
        ValueError: the payload is no in-toto statement of version 1, or 0.1 with the same members.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"a payload of type {envelope.payload_type}, not {PAYLOAD_TYPE}")
    try:
        value = msgspec.json.decode(envelope.payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the payload is no JSON: {error}") from error
    if not isinstance(value, dict) or not str(value.get("_type", "")).startswith(
        "https://in-toto.io/Statement/v"
    ):
        raise ValueError("the payload is no in-toto statement")
    subjects = value.get("subject")
    if not isinstance(subjects, list) or not all(
        isinstance(each, dict) and isinstance(each.get("digest"), dict) for each in subjects
    ):
        raise ValueError("an in-toto statement without subjects")
    if not isinstance(value.get("predicateType"), str):
        raise ValueError("an in-toto statement without a predicateType")  # noqa: TRY004  # its form
    return value
