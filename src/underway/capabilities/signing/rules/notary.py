"""Notary's form of TUF, and what its server takes.

Differences from TUF as it is now: roles have capital ``_type``, hashes are base64, ECDSA signatures
are the two numbers side by side, root keys may be certificates, delegations lie below ``targets/``.

Source: notaryproject/notary v0.7 ``tuf/data``, ``tuf/signed``, ``server/handlers/validation.go``;
canonical JSON as in docker/go ``canonical/json``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from underway.base.clock import parse_rfc3339, rfc3339
from underway.base.errors import BadRequest
from underway.capabilities.signing.rules import keys

BASE_ROLES = ("root", "targets", "snapshot", "timestamp")
SERVER_ROLES = ("snapshot", "timestamp")
LIFE = {"snapshot": timedelta(days=3 * 365), "timestamp": timedelta(days=14)}
_ROLE = re.compile(r"(?:root|targets|snapshot|timestamp|targets(?:/[a-z0-9._-]+)+)")
_GUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")
_SIGNATURES = 64
_DELEGATIONS = 256


class Refused(BadRequest):
    """An update that is not taken; ``kind`` is the name the client knows it by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class OldVersion(BadRequest):
    """An update of a role that is not newer than what is there."""


def is_role(name: str) -> bool:
    """Whether the text is a role's name."""
    return _ROLE.fullmatch(name) is not None


def is_gun(name: str) -> bool:
    """Whether the text is a globally unique name."""
    return _GUN.fullmatch(name) is not None and "//" not in name and ".." not in name


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted members, no blanks, strings that escape only ``\\`` and quotes.

    Raises:
        ValueError: a number that is no integer.
    """
    match value:
        case None:
            return b"null"
        case bool():
            return b"true" if value else b"false"
        case int():
            return b"%d" % value
        case str():
            return b'"' + value.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'
        case list():
            return b"[" + b",".join(canonical(each) for each in value) + b"]"
        case dict():
            members = (canonical(name) + b":" + canonical(value[name]) for name in sorted(value))
            return b"{" + b",".join(members) + b"}"
    raise ValueError(f"{type(value).__name__} has no canonical form")


def key_id(key: Mapping[str, Any]) -> str:
    """A key's id: the digest of its public half in canonical form."""
    public = {"private": None, "public": key["keyval"]["public"]}
    return hashlib.sha256(canonical({"keytype": key["keytype"], "keyval": public})).hexdigest()


def public_key(key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    """A key of the server's as metadata has it."""
    value = base64.b64encode(keys.public_der(key)).decode()
    return {"keytype": "ecdsa", "keyval": {"private": None, "public": value}}


@dataclass(frozen=True, slots=True)
class File:
    """A role's metadata as it was uploaded; ``signed`` and ``signatures`` are its parts."""

    role: str
    data: bytes
    signed: Mapping[str, Any]
    signatures: tuple[Mapping[str, Any], ...]

    @property
    def version(self) -> int:
        """Its version."""
        return int(self.signed["version"])

    @property
    def expires(self) -> datetime:
        """When it ends."""
        return parse_rfc3339(self.signed["expires"])

    @property
    def sha256(self) -> str:
        """The digest of its bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def meta(self) -> dict[str, Any]:
        """How snapshots and timestamps describe it."""
        return {
            "length": len(self.data),
            "hashes": {
                name: base64.b64encode(hashlib.new(name, self.data).digest()).decode()
                for name in ("sha256", "sha512")
            },
        }


def parse(role: str, data: bytes) -> File:
    """Read a role's metadata.

    Raises:
        Refused: it is none.
    """
    kind = role.partition("/")[0].capitalize()
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
        signed, signatures = value["signed"], tuple(value["signatures"])
        found = File(role, data, signed, signatures)
        ends, version = found.expires, found.version
        fits = signed["_type"] == kind and version >= 0 and ends.tzinfo is not None
        if not fits or len(signatures) > _SIGNATURES:
            raise ValueError(f"its type is {signed['_type']}, its version {version}")
        canonical(signed)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused(_complaint(role), f"{role} is no metadata of Notary: {error}") from error
    return found


def check_signed(file: File, role: Mapping[str, Any], held: Mapping[str, Any], judge: str) -> None:
    """Check that enough of a role's keys signed a file.

    Two keys count as two only if their public halves differ.

    Raises:
        Refused: too few did.
    """
    message = canonical(file.signed)
    good: set[bytes] = set()
    for each in file.signatures:
        name = str(each.get("keyid"))
        if name not in role["keyids"] or name not in held or key_id(held[name]) != name:
            continue
        key = _load(held[name])
        if key is not None and _holds(key, each, message):
            good.add(keys.public_der(key))
    threshold = role["threshold"]
    if not isinstance(threshold, int) or threshold < 1 or len(good) < threshold:
        raise Refused(
            _complaint(file.role),
            f"{file.role} has {len(good)} valid signatures of the {threshold} that {judge} wants",
        )


def validate(
    update: Mapping[str, File],
    current: Mapping[str, File],
    server_keys: Mapping[str, set[str]],
    now: datetime,
) -> dict[str, File]:
    """What would stand after an update, without what the server makes itself.

    Args:
        update: the files uploaded, by role.
        current: the files that stand.
        server_keys: ids of the keys the server holds for ``snapshot`` and ``timestamp``.
        now: what has expired.

    Raises:
        Refused: something does not hold, naming it.
        OldVersion: a role is not newer than what stands.
    """
    if "timestamp" in update:
        raise Refused("ErrBadHierarchy", "timestamps are made by the server")
    for role, file in update.items():
        if role in current and file.version <= current[role].version:
            stands = current[role].version
            raise OldVersion(f"{role} version {file.version} is not newer than {stands}")
        if file.expires <= now:
            raise Refused(_complaint(role), f"{role} expired at {file.signed['expires']}")
    after = {**current, **update}
    if "root" not in after:
        raise Refused("ErrBadHierarchy", "there is no root yet, and the update has none")
    root = after["root"]
    _check_root(root, current.get("root"), server_keys)
    try:
        roles, held = root.signed["roles"], root.signed["keys"]
        if "targets" in after:
            # A rotated key has to sign what stands, too.
            check_signed(after["targets"], roles["targets"], held, "root")
        _check_delegations(after, update)
        if "snapshot" in update:
            check_signed(update["snapshot"], roles["snapshot"], held, "root")
            _check_snapshot(update["snapshot"], after)
        elif not set(roles["snapshot"]["keyids"]) & server_keys["snapshot"]:
            raise Refused("ErrBadHierarchy", "the update has no snapshot, and its key is not here")
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused("ErrBadRoot", f"the metadata lacks {error}") from error
    return after


def _check_root(root: File, before: File | None, server_keys: Mapping[str, set[str]]) -> None:
    try:
        roles, held = root.signed["roles"], root.signed["keys"]
        check_signed(root, roles["root"], held, "root")
        if before is not None and before is not root:
            check_signed(
                root, before.signed["roles"]["root"], before.signed["keys"], "the old root"
            )
            if root.version != before.version + 1:
                stands = before.version
                raise Refused("ErrBadRoot", f"root version {root.version} does not follow {stands}")
        if not set(roles["timestamp"]["keyids"]) & server_keys["timestamp"]:
            raise Refused("ErrBadRoot", "the root's timestamp key is not the server's")
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused("ErrBadRoot", f"the root lacks {error}") from error


def reachable(after: Mapping[str, File]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Every delegation from ``targets`` down, as ``(parent, role, role's description)``."""
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    pending = ["targets"]
    while pending:
        parent = pending.pop(0)
        if parent not in after:
            continue
        delegations = after[parent].signed.get("delegations") or {}
        for each in delegations.get("roles") or ():
            name = str(each["name"])
            if not name.startswith(f"{parent}/") or not is_role(name):
                raise Refused("ErrBadTargets", f"{parent} may not delegate to {name}")
            found.append((parent, name, each))
            pending.append(name)
        if len(found) > _DELEGATIONS:
            raise Refused("ErrBadTargets", f"there are more than {_DELEGATIONS} delegations")
    return found


def _check_delegations(after: Mapping[str, File], update: Mapping[str, File]) -> None:
    known = {name: (parent, role) for parent, name, role in reachable(after)}
    for name in update:
        if name in BASE_ROLES:
            continue
        if name not in known:
            raise Refused("ErrBadTargets", f"nobody delegates to {name}")
        parent, role = known[name]
        held = after[parent].signed["delegations"]["keys"]
        check_signed(update[name], role, held, parent)
        for target in update[name].signed.get("targets") or ():
            if not any(str(target).startswith(path) for path in role.get("paths") or ()):
                raise Refused("ErrBadTargets", f"{name} may not vouch for {target}")


def _check_snapshot(snapshot: File, after: Mapping[str, File]) -> None:
    """A snapshot is of exactly what stands after the update: nothing older, nothing else."""
    meta = snapshot.signed["meta"]
    for role in ("root", "targets"):
        if role not in meta:
            raise Refused("ErrBadSnapshot", f"the snapshot leaves out {role}")
    for role, described in meta.items():
        if role not in after or after[role].meta["hashes"]["sha256"] != (
            described["hashes"].get("sha256")
        ):
            raise Refused("ErrBadSnapshot", f"the snapshot is of another {role} than stands here")


def snapshot(after: Mapping[str, File], version: int, now: datetime) -> dict[str, Any]:
    """The snapshot of what stands, to be signed by the server."""
    roles = ["root", "targets", *(name for _, name, _ in reachable(after))]
    meta = {role: after[role].meta for role in roles if role in after}
    return _made("Snapshot", version, now, meta)


def timestamp(snapshot_file: File, version: int, now: datetime) -> dict[str, Any]:
    """The timestamp of a snapshot, to be signed by the server."""
    return _made("Timestamp", version, now, {"snapshot": snapshot_file.meta})


def _made(kind: str, version: int, now: datetime, meta: dict[str, Any]) -> dict[str, Any]:
    ends = rfc3339(now + LIFE[kind.lower()])
    return {"_type": kind, "version": version, "expires": ends, "meta": meta}


def sign(role: str, signed: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> File:
    """Metadata signed by a key of the server's."""
    message = canonical(signed)
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    octets = (key.curve.key_size + 7) // 8
    value = r.to_bytes(octets, "big") + s.to_bytes(octets, "big")
    signature = {
        "keyid": key_id(public_key(key.public_key())),
        "method": "ecdsa",
        "sig": base64.b64encode(value).decode(),
    }
    return parse(role, canonical({"signed": signed, "signatures": [signature]}))


def parts(body: bytes, content_type: str) -> dict[str, bytes]:
    """The files of a multipart upload, by role.

    Raises:
        BadRequest: it is not of that form, or names something else than roles.
    """
    match = re.search(r'boundary="?([^";]{1,70})"?', content_type)
    if not content_type.startswith("multipart/form-data") or match is None:
        raise BadRequest("an update is multipart/form-data")
    mark = b"\r\n--" + match[1].encode()
    found: dict[str, bytes] = {}
    sections = (b"\r\n" + body).split(mark)
    if len(sections) < 2 or not sections[-1].startswith(b"--"):
        raise BadRequest("the update is cut short")
    for section in sections[1:-1]:
        head, blank, data = section.partition(b"\r\n\r\n")
        name = re.search(rb'filename="([^"]{1,255})"', head)
        if not blank or name is None:
            raise BadRequest("a part of the update has no file name")
        role = name[1].decode(errors="replace")
        if not is_role(role) or role in found:
            raise Refused(
                "ErrBadHierarchy", f"the update names {role!r}, which is no role, or twice"
            )
        found[role] = data
    return found


def _complaint(role: str) -> str:
    return {"root": "ErrBadRoot", "snapshot": "ErrBadSnapshot"}.get(role, "ErrBadTargets")


def _load(key: Mapping[str, Any]) -> keys.PublicKey | None:
    try:
        data = base64.b64decode(key["keyval"]["public"])
        kind = str(key["keytype"])
        if kind == "ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(data)
        if kind.endswith("-x509"):
            return keys.checked(x509.load_pem_x509_certificate(data).public_key(), "a certificate")
        return keys.checked(serialization.load_der_public_key(data), "a key")
    except (ValueError, UnsupportedAlgorithm, BadRequest, binascii.Error):
        return None


def _holds(key: keys.PublicKey, signature: Mapping[str, Any], message: bytes) -> bool:
    try:
        value = base64.b64decode(signature["sig"])
        if isinstance(key, ec.EllipticCurvePublicKey):
            half = (key.curve.key_size + 7) // 8
            if len(value) != 2 * half:
                return False
            numbers = int.from_bytes(value[:half], "big"), int.from_bytes(value[half:], "big")
            der = utils.encode_dss_signature(*numbers)
            key.verify(der, message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
            key.verify(value, message, pss, hashes.SHA256())
        else:
            key.verify(value, message)
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return False
    return True
