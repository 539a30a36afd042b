"""What cosign writes beside an image: simple-signing payloads, tags, bundles.

Source: sigstore/cosign ``specs/SIGNATURE_SPEC.md``, ``ATTESTATION_SPEC.md``, ``BUNDLE_SPEC.md``;
sigstore/protobuf-specs ``sigstore_bundle.proto``; containers/image ``docs/signature-protocols.md``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from underway.capabilities.signing.model import Unverified
from underway.wire import dsse, oci

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
SIGNATURE = "dev.cosignproject.cosign/signature"
CERTIFICATE = "dev.sigstore.cosign/certificate"
_TYPE = "cosign container image signature"
_BUNDLES = (
    BUNDLE,
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
)


def tag(digest: str, suffix: str) -> str:
    """The tag beside a digest: ``sha256-<hex>.sig`` or ``.att``."""
    return f"{digest.replace(':', '-')}.{suffix}"


def payload(name: str, digest: str) -> bytes:
    """What a simple signature of an image is over; ``name`` has no tag."""
    return msgspec.json.encode(
        {
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": _TYPE,
            },
            "optional": None,
        }
    )


def check_payload(data: bytes, digest: str, name: str = "") -> None:
    """Compare a payload with the image it lies beside.

    Args:
        data: the payload, whose signature was checked.
        digest: the image's digest.
        name: registry and repository the signature must be for; any where empty.

    Raises:
        Unverified: it is for another image, or no such payload.
    """
    try:
        critical = msgspec.json.decode(data, type=dict[str, Any])["critical"]
        found = critical["image"]["docker-manifest-digest"]
        kind, identity = critical["type"], critical["identity"]["docker-reference"]
    except (msgspec.MsgspecError, KeyError, TypeError, RecursionError) as error:
        raise Unverified(f"the payload is no simple-signing payload: {error}") from error
    if kind != _TYPE:
        raise Unverified(f"the payload is a {kind!r}, not a {_TYPE!r}")
    if found != digest:
        raise Unverified(f"the signature is for {found}, not for {digest}")
    if name and identity and identity != name:
        raise Unverified(f"the signature is for {identity}, not for {name}")


def statement_digests(statement: Mapping[str, Any]) -> set[str]:
    """The digests a statement is about."""
    return {
        f"{algorithm}:{value}"
        for subject in statement["subject"]
        for algorithm, value in subject["digest"].items()
    }


def check_statement(envelope: dsse.Envelope, digest: str) -> dict[str, Any]:
    """The statement in an envelope whose signature was checked, if it is about the image.

    Raises:
        Unverified: it is about something else, or no statement.
    """
    try:
        statement = dsse.parse_statement(envelope)
    except ValueError as error:
        raise Unverified(str(error)) from error
    about = statement_digests(statement)
    if digest not in about:
        named = ", ".join(sorted(about)) or "nothing"
        raise Unverified(f"the attestation is about {named}, not about {digest}")
    return statement


def claims_to_sign(envelope: dsse.Envelope) -> bool:
    """Whether an envelope, which nobody checked, says it is a signature and no attestation."""
    try:
        return bool(dsse.parse_statement(envelope)["predicateType"] == SIGN_PREDICATE)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Bundle:
    """A sigstore bundle taken apart; nothing in it has been verified.

    ``certificate`` is the leaf in DER, or empty where a public key signed. ``entries`` are the
    transparency log's, as JSON has them.
    """

    envelope: dsse.Envelope
    hint: str = ""
    certificate: bytes = b""
    entries: tuple[Mapping[str, Any], ...] = field(default=())


def encode_bundle(bundle: Bundle) -> bytes:
    """The bundle as JSON, version 0.3."""
    material: dict[str, Any] = {}
    if bundle.certificate:
        material["certificate"] = {"rawBytes": base64.b64encode(bundle.certificate).decode()}
    else:
        material["publicKey"] = {"hint": bundle.hint}
    if bundle.entries:
        material["tlogEntries"] = [dict(entry) for entry in bundle.entries]
    return msgspec.json.encode(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": material,
            "dsseEnvelope": msgspec.json.decode(dsse.encode(bundle.envelope)),
        }
    )


def decode_bundle(data: bytes) -> Bundle:
    """A bundle with a DSSE envelope.

    Raises:
        Unverified: it is cut short, of another version, or carries something else.
    """
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
        if value.get("mediaType") not in _BUNDLES:
            raise Unverified(f"a bundle of type {value.get('mediaType')!r} is not read")
        if "dsseEnvelope" not in value:
            raise Unverified("the bundle has no DSSE envelope")
        envelope = dsse.decode(msgspec.json.encode(value["dsseEnvelope"]))
        if len(envelope.signatures) != 1:
            raise Unverified(f"the bundle has {len(envelope.signatures)} signatures, not one")
        material = value["verificationMaterial"]
        chain = (material.get("x509CertificateChain") or {}).get("certificates") or [{}]
        leaf = (material.get("certificate") or chain[0]).get("rawBytes", "")
        return Bundle(
            envelope,
            str((material.get("publicKey") or {}).get("hint", "")),
            base64.b64decode(leaf, validate=True),
            tuple(material.get("tlogEntries") or ()),
        )
    except Unverified:
        raise
    except (
        msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError, IndexError,
        binascii.Error, RecursionError,
    ) as error:  # fmt: skip
        raise Unverified(f"the bundle cannot be read: {error}") from error


def layer(kind: str, data: bytes, annotations: Mapping[str, str]) -> dict[str, Any]:
    """A descriptor with annotations, as it stands in a manifest's layers."""
    return oci.Descriptor(kind, oci.digest_of(data), len(data), dict(annotations)).as_dict()


EMPTY_CONFIG = b"{}"


def tag_manifest(config: bytes, layers: list[dict[str, Any]]) -> bytes:
    """The image manifest under a ``.sig`` or ``.att`` tag."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "config": layer(oci.CONFIG, config, {}),
            "layers": layers,
        }
    )


def tag_config(layers: list[dict[str, Any]]) -> bytes:
    """The image config that goes with the layers, as other tools expect one."""
    return msgspec.json.encode(
        {
            "architecture": "",
            "os": "",
            "created": "0001-01-01T00:00:00Z",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in layers]},
        }
    )


def referrer(
    artifact: str,
    kind: str,
    content: bytes,
    subject: dict[str, Any],
    annotations: Mapping[str, str],
) -> bytes:
    """A manifest of one layer, of media type ``kind``, that refers to an image."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": artifact,
            "config": layer(oci.EMPTY, EMPTY_CONFIG, {}),
            "layers": [layer(kind, content, {})],
            "subject": subject,
            "annotations": dict(annotations),
        }
    )
