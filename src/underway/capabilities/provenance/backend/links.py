"""in-toto files on the disk: links, keys, inspections, and the platform's own step key."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import BadRequest, NotFound
from underway.base.files import write_atomic
from underway.capabilities.provenance.rules import keys, metadata
from underway.capabilities.provenance.rules.artifacts import Refused
from underway.capabilities.provenance.rules.layouts import Step
from underway.capabilities.provenance.rules.metadata import Link, Metadata
from underway.wire import dsse

_FILES_LIMIT = 100_000
_CHUNK = 1024 * 1024
_INSPECTION_S = 300.0
_IGNORED = (".git", "__pycache__")
_EXCLUDED = ("*.link*", "*.pyc", "*~")  # as in-toto's own tools leave them out


class Directory:
    """Links in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> Metadata | None:
        """The metadata in a file, or None where there is none."""
        path = self._root / name
        if not path.is_file():
            return None
        if path.stat().st_size > metadata.SIZE_LIMIT_BYTES:
            raise ValueError(f"{name} is larger than 16 MiB")
        return metadata.decode(path.read_bytes())

    def below(self, name: str) -> Directory:
        """The directory of a sublayout's links."""
        return Directory(self._root / name)


def read_metadata(path: Path) -> Metadata:
    """A layout or link.

    Raises:
        BadRequest: the file is not readable, or no in-toto metadata.
    """
    try:
        return metadata.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path}: {error}") from error


def read_key(path: Path) -> tuple[str, Mapping[str, Any]]:
    """A public key, as PEM or securesystemslib's JSON: its id and key object.

    Raises:
        BadRequest: it is neither.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        if text.startswith("{"):
            key = msgspec.json.decode(text, type=dict[str, Any])
        else:
            key = key_object(text)
        keys.load(key)
        return str(key.get("keyid") or metadata.key_id(key)), key
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path}: {error}") from error


def key_object(pem: str) -> dict[str, Any]:
    """A PEM public key as securesystemslib describes it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    public = keys.load_pem(pem)
    if isinstance(public, ed25519.Ed25519PublicKey):
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": raw.hex()}}
    text = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    if isinstance(public, ec.EllipticCurvePublicKey):
        scheme = f"ecdsa-sha2-nistp{public.curve.key_size}"
        return {"keytype": "ecdsa", "scheme": scheme, "keyval": {"public": text}}
    return {"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": text}}


def hashed(root: Path) -> dict[str, dict[str, str]]:
    """Every file below a directory with its SHA-256, by relative path.

    Raises:
        BadRequest: there are more than 100,000.
    """
    found: dict[str, dict[str, str]] = {}
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _IGNORED)
        for name in sorted(files):
            path = Path(directory) / name
            if not path.is_file() or any(fnmatchcase(name, each) for each in _EXCLUDED):
                continue
            if len(found) >= _FILES_LIMIT:
                raise BadRequest(f"{root} has more than {_FILES_LIMIT} files")
            found[str(path.relative_to(root))] = {"sha256": _digest(path)}
    return found


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def inspect(root: Path, step: Step) -> Link:
    """Run an inspection in a directory.

    Raises:
        Refused: the command cannot be run, fails, or takes more than five minutes.
    """
    before = hashed(root)
    try:
        done = subprocess.run(
            step.run, cwd=root, capture_output=True, timeout=_INSPECTION_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"the inspection {step.name}: {error}") from error
    if done.returncode:
        raise Refused(f"the inspection {step.name} ended with {done.returncode}")
    return Link(step.name, before, hashed(root), step.run, {"return-value": 0})


class StepKey:
    """The Ed25519 key the platform signs its own links with; made when first needed."""

    def __init__(self, file: Path) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not file.exists():
            made = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, made, mode=0o600)
        loaded = serialization.load_pem_private_key(file.read_bytes(), None)
        if not isinstance(loaded, Ed25519PrivateKey):
            raise BadRequest(f"{file} holds no Ed25519 key")
        self._key = loaded
        self.pem = (
            loaded.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )
        self.id = metadata.key_id(key_object(self.pem))

    def metablock(self, link: Link) -> bytes:
        """A link in the older form."""
        signed = link.as_dict()
        signature = self._key.sign(metadata.canonical(signed))
        return metadata.metablock(signed, [(self.id, signature)])

    def envelope(self, link: Link) -> bytes:
        """A link as a DSSE envelope."""
        payload = msgspec.json.encode(link.as_dict())
        signature = self._key.sign(dsse.pae(dsse.PAYLOAD_TYPE, payload))
        signed = (dsse.Signature(self.id, signature),)
        return dsse.encode(dsse.Envelope(dsse.PAYLOAD_TYPE, payload, signed))


class LinkStore:
    """The links of every image shipped here, one directory an image."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, digest: str) -> Path:
        """Where an image's links lie."""
        return self._root / "links" / digest.replace(":", "-")

    def write(self, digest: str, links: list[Link]) -> list[Path]:
        """Sign and keep an image's links."""
        key = StepKey(self._root / "step.key")
        directory = self.directory(digest)
        directory.mkdir(parents=True, exist_ok=True)
        written = []
        for link in links:
            path = directory / metadata.link_file(link.name, key.id)
            write_atomic(path, key.envelope(link))
            written.append(path)
        return written

    def read(self, digest: str) -> list[tuple[Path, Metadata]]:
        """An image's links.

        Raises:
            NotFound: none were recorded.
        """
        found = sorted(self.directory(digest).glob("*.link"))
        if not found:
            raise NotFound(
                f"no links of {digest} are kept here", hint="they are recorded by underway ship"
            )
        return [(path, read_metadata(path)) for path in found]
