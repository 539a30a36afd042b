"""Encryption at rest: how the values of Secrets lie in the database.

AES-256-GCM with a random nonce for every write. The object's resource, namespace and name are
authenticated with it, so that a value moved to another row is refused. A stored value reads

    underway:enc:aesgcm:v1:KEYID:<12 bytes nonce><ciphertext and tag>

and one that does not begin so is plain JSON of an earlier database, sealed at the next start.

The key file holds one key a line, ``KEYID BASE64`` (32 bytes). The first one writes, all of them
read: to rotate, put a new line on top and restart; every value is then sealed anew, and the old
line can go.

Source: NIST SP 800-38D; Kubernetes documentation, "Encrypting Confidential Data at Rest".
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from underway.base.errors import InternalError
from underway.base.files import fsync_dir, write_atomic
from underway.server.store import Key

KEY_FILE = "encryption.key"
ENCRYPTED = frozenset({"secrets"})
_PREFIX = b"underway:enc:aesgcm:v1:"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_KEYS_MAX = 64


class SecretCodec:
    """Seals what must not lie open in the database; see ``store.Codec``.

    Args:
        keys: key id -> 32 bytes; the first one seals, all open.
        source: where they come from, for error messages.
    """

    def __init__(self, keys: dict[str, bytes], source: str) -> None:
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}
        self._first = next(iter(keys))
        self._source = source

    @classmethod
    def load(cls, path: Path) -> SecretCodec:
        """The keys in a file; it is made, with a new key, where it does not exist.

        Raises:
            InternalError: the file cannot be read, or a line is not a key; the key is not shown.
        """
        try:
            if not path.exists():
                _make(path)
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InternalError(f"cannot read the encryption keys: {path}: {error}") from error
        return cls(_parse(text, path), str(path))

    def seal(self, key: Key, data: bytes) -> bytes:
        """The bytes to store for an object's JSON."""
        if key.resource not in ENCRYPTED:
            return data
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._first].encrypt(nonce, data, _bound_to(key))
        return b"".join((_PREFIX, self._first.encode(), b":", nonce, sealed))

    def open(self, key: Key, stored: bytes) -> bytes:
        """The object's JSON from what is stored.

        Raises:
            InternalError: the key it was sealed with is not there, is another one, or the value
                was changed.
        """
        if key.resource not in ENCRYPTED or not stored.startswith(_PREFIX):
            return stored
        key_id, rest = self._split(stored)
        cipher = self._ciphers.get(key_id)
        what = f'{key.resource} "{key.namespace}/{key.name}"'
        if cipher is None:
            raise InternalError(
                f"{what} is encrypted with the key {key_id}, which {self._source} does not hold",
                hint="put the key's line back into that file, or restore a snapshot",
            )
        try:
            return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _bound_to(key))
        except (InvalidTag, ValueError) as error:
            raise InternalError(
                f"{what} cannot be decrypted with the key {key_id} of {self._source}:"
                " the key is not the one it was encrypted with, or the database was changed",
                hint="put the right key into that file, or restore a snapshot",
            ) from error

    def is_current(self, key: Key, stored: bytes) -> bool:
        """Whether ``seal`` would store the value the same way today."""
        if key.resource not in ENCRYPTED:
            return True
        return stored.startswith(_PREFIX) and self._split(stored)[0] == self._first

    def _split(self, stored: bytes) -> tuple[str, bytes]:
        key_id, _, rest = stored[len(_PREFIX) :].partition(b":")
        return key_id.decode("ascii", "replace"), rest


def _bound_to(key: Key) -> bytes:
    return "/".join(key).encode()


def _make(path: Path) -> None:
    """Write a new key, unless somebody else has just done so: a key in use is never replaced."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
    write_atomic(aside, f"{secrets.token_hex(4)} {key}\n", mode=0o600)
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
    fsync_dir(path.parent)


def _parse(text: str, path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key_id, _, encoded = line.strip().partition(" ")
        try:
            key = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            key = b""
        if not _KEY_ID.fullmatch(key_id) or len(key) != _KEY_BYTES:
            raise InternalError(
                f"{path}, line {number} is no encryption key",
                hint=f"a line is KEYID BASE64, with {_KEY_BYTES} random bytes in base64",
            )
        if key_id in found:
            raise InternalError(f"{path}, line {number}: the key id {key_id} is there twice")
        found[key_id] = key
    if not found or len(found) > _KEYS_MAX:
        raise InternalError(
            f"{path} holds {len(found)} encryption keys; 1 to {_KEYS_MAX} are possible",
            hint="put the keys back into that file, or restore a snapshot",
        )
    return found
