"""in-toto metadata as bytes: links and layouts, as Metablock or DSSE envelope, and their keys.

Source: in-toto specification 1.0, sections 4.1 to 4.4; ITE-5 (DSSE); securesystemslib key formats;
OLPC canonical JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from underway.wire import dsse

LINK_PREDICATE = "https://in-toto.io/attestation/link/v0.3"
SIZE_LIMIT_BYTES = 16 * 1024 * 1024
_KEY_ID_LENGTH = 8  # of a link's file name


@dataclass(frozen=True, slots=True)
class Signature:
    """``value`` are raw bytes."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Metadata:
    """A link or layout with signatures that nobody has checked yet.

    ``signed`` is what is said, ``signed_bytes`` what the signatures are over.
    """

    signed: Mapping[str, Any]
    signed_bytes: bytes
    signatures: tuple[Signature, ...]

    @property
    def type(self) -> str:
        """``link`` or ``layout``."""
        return str(self.signed.get("_type", ""))


@dataclass(frozen=True, slots=True)
class Link:
    """What one step used and made: path -> algorithm -> digest in hex."""

    name: str
    materials: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    products: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    byproducts: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The link as in-toto writes it."""
        return {
            "_type": "link",
            "name": self.name,
            "materials": {path: dict(value) for path, value in self.materials.items()},
            "products": {path: dict(value) for path, value in self.products.items()},
            "byproducts": dict(self.byproducts),
            "command": list(self.command),
            "environment": dict(self.environment),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Link:
        """Read a link.

        Raises:
            ValueError: it has another shape.
        """
        try:
            read = msgspec.convert(value, _Link)
        except msgspec.ValidationError as error:
            raise ValueError(f"no link: {error}") from error
        return cls(
            read.name,
            read.materials,
            read.products,
            tuple(read.command),
            read.byproducts,
            read.environment,
        )


class _Link(msgspec.Struct):
    name: str
    materials: dict[str, dict[str, str]]
    products: dict[str, dict[str, str]]
    command: list[str] = []
    byproducts: dict[str, Any] = {}
    environment: dict[str, Any] = {}


def canonical(value: Any) -> bytes:
    """OLPC canonical JSON, which Metablock signatures are over.

    Raises:
        ValueError: the value has a float, which canonical JSON has not.
    """
    return _canonical(value).encode()


def _canonical(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, dict):
        pairs = (f"{_canonical(key)}:{_canonical(value[key])}" for key in sorted(value))
        return f"{{{','.join(pairs)}}}"
    raise ValueError(f"canonical JSON has no {type(value).__name__}")


def decode(data: bytes) -> Metadata:
    """Metadata from a file.

    Raises:
        ValueError: it is larger than 16 MiB, or neither a Metablock nor an envelope.
    """
    if len(data) > SIZE_LIMIT_BYTES:
        raise ValueError(f"metadata of {len(data)} bytes")
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if isinstance(value, dict) and "payload" in value:
        return _from_envelope(dsse.decode(data))
    if not isinstance(value, dict) or not isinstance(value.get("signed"), dict):
        raise ValueError("neither in-toto metadata nor a DSSE envelope")  # noqa: TRY004  # its form
    try:
        signatures = tuple(
            Signature(str(each["keyid"]), bytes.fromhex(each["sig"]))
            for each in value.get("signatures") or ()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a malformed signature: {error}") from error
    return Metadata(value["signed"], canonical(value["signed"]), signatures)


def _from_envelope(envelope: dsse.Envelope) -> Metadata:
    if envelope.payload_type != dsse.PAYLOAD_TYPE:
        raise ValueError(f"a payload of type {envelope.payload_type}")
    try:
        signed = msgspec.json.decode(envelope.payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the payload is no JSON: {error}") from error
    if not isinstance(signed, dict):
        raise ValueError("the payload is no object")  # noqa: TRY004  # the metadata's form
    signatures = tuple(Signature(each.key_id, each.value) for each in envelope.signatures)
    return Metadata(_plain(signed), envelope.signed_bytes, signatures)


def _plain(signed: dict[str, Any]) -> dict[str, Any]:
    """A link attestation (Statement with predicate link/v0.3) as the link it stands for."""
    if signed.get("predicateType") != LINK_PREDICATE:
        return signed
    predicate = signed.get("predicate") or {}
    described = {
        "materials": predicate.get("materials") or [],
        "products": signed.get("subject") or [],
    }
    return {
        "_type": "link",
        "name": predicate.get("name", ""),
        "command": predicate.get("command") or [],
        "byproducts": predicate.get("byproducts") or {},
        "environment": predicate.get("environment") or {},
        **{
            which: {str(each.get("name")): each.get("digest") for each in entries}
            for which, entries in described.items()
        },
    }


def metablock(signed: Mapping[str, Any], signatures: list[tuple[str, bytes]]) -> bytes:
    """The older file form."""
    entries = [{"keyid": key_id, "sig": value.hex()} for key_id, value in signatures]
    return msgspec.json.format(
        msgspec.json.encode({"signatures": entries, "signed": signed}), indent=1
    )


def key_id(key: Mapping[str, Any]) -> str:
    """The id that securesystemslib gives a public key."""
    known = {name: key[name] for name in ("keytype", "scheme", "keyval")}
    known["keyval"] = {"public": key["keyval"]["public"]}
    return hashlib.sha256(canonical(known)).hexdigest()


def link_file(step: str, key: str) -> str:
    """The name of a step's link by one key."""
    return f"{step}.{key[:_KEY_ID_LENGTH]}.link"


def link_attestation(link: Link) -> dict[str, Any]:
    """A link as predicate of an in-toto statement. Source: in-toto/attestation link v0.3."""
    materials = [{"name": path, "digest": dict(v)} for path, v in sorted(link.materials.items())]
    return {
        "name": link.name,
        "command": list(link.command),
        "materials": materials,
        "byproducts": dict(link.byproducts),
        "environment": dict(link.environment),
    }
