"""Where private keys are kept: files below the home, or a token behind PKCS#11."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from underway.base.errors import AlreadyExists, BadRequest, NotFound
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.signing.rules import keys

PLATFORM = "platform"
PASSPHRASE = "UNDERWAY_SIGNING_PASSPHRASE"  # noqa: S105  # the variable's name


class KeyStore(Protocol):
    """Keys by name. A private key never leaves a store except by an export the user asks for."""

    def names(self) -> list[str]:
        """The keys there are."""
        ...

    def public(self, name: str) -> keys.PublicKey:
        """The public half.

        Raises:
            NotFound: there is no such key.
        """
        ...

    def sign(self, name: str, data: bytes) -> bytes:
        """A signature over bytes. Blocking.

        Raises:
            NotFound: there is no such key.
            Forbidden: its passphrase or PIN is missing or wrong.
        """
        ...

    def generate(self, name: str, algorithm: str) -> keys.PublicKey:
        """Make a key.

        Raises:
            AlreadyExists: there is one of that name.
        """
        ...


def passphrase_from_environment() -> bytes:
    """The passphrase of the platform's keys; empty where none was set."""
    return os.environ.get(PASSPHRASE, "").encode()


class FileKeys:
    """Keys as files ``NAME.key`` (mode 0600) and ``NAME.pub`` of one directory (mode 0700)."""

    def __init__(self, directory: Path, passphrase: bytes = b"") -> None:
        self._directory, self._passphrase = directory, passphrase
        self._opened: dict[str, keys.PrivateKey] = {}

    @classmethod
    def of_platform(cls, home: Home) -> FileKeys:
        """The platform's own store."""
        return cls(home.signing / "keys", passphrase_from_environment())

    def names(self) -> list[str]:
        """The keys there are."""
        return sorted(path.stem for path in self._directory.glob("*.key"))

    def public(self, name: str) -> keys.PublicKey:
        """The public half, without the passphrase where it was written beside."""
        path = self._path(name, ".pub")
        try:
            return keys.load_public(path.read_bytes(), str(path))
        except FileNotFoundError:
            return self.private(name).public_key()

    def sign(self, name: str, data: bytes) -> bytes:
        """A signature over bytes."""
        return keys.sign(self.private(name), data)

    def generate(self, name: str, algorithm: str = "ecdsa-p256") -> keys.PublicKey:
        """Make a key."""
        return self.add(name, keys.generate(algorithm))

    def add(self, name: str, key: keys.PrivateKey) -> keys.PublicKey:
        """Keep a key that was made elsewhere.

        Raises:
            AlreadyExists: there is one of that name.
        """
        with self._locked():
            return self._add(name, key)

    def _add(self, name: str, key: keys.PrivateKey) -> keys.PublicKey:
        path = self._path(name, ".key")
        if path.exists():
            raise AlreadyExists(f"there is a key {name} already", hint=f"remove {path} first")
        write_atomic(path, keys.encode_private(key, self._passphrase), mode=0o600)
        write_atomic(self._path(name, ".pub"), keys.public_pem(key.public_key()))
        return key.public_key()

    def ensure(self, name: str, algorithm: str = "ecdsa-p256") -> keys.PublicKey:
        """The public half of a key that is made on first use, once, however many ask."""
        if self._path(name, ".key").exists():
            return self.public(name)
        with self._locked():
            if self._path(name, ".key").exists():
                return self.public(name)
            return self._add(name, keys.generate(algorithm))

    def private(self, name: str) -> keys.PrivateKey:
        """The private key itself: for an export, or a format that signs by its own library."""
        if name not in self._opened:
            path = self._path(name, ".key")
            try:
                pem = path.read_bytes()
            except FileNotFoundError as error:
                known = ", ".join(self.names()) or "none yet"
                raise NotFound(f"there is no signing key {name}", hint=f"keys: {known}") from error
            self._opened[name] = keys.decode_private(pem, self._passphrase, str(path))
        return self._opened[name]

    def _path(self, name: str, suffix: str) -> Path:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise BadRequest(f"{name!r} is no name for a key")
        return self._directory / f"{name}{suffix}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class TrustedKeys:
    """Public keys of others that count here: files ``NAME.pub`` of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of_platform(cls, home: Home) -> TrustedKeys:
        """Those the platform trusts."""
        return cls(home.signing / "trusted")

    def all(self) -> dict[str, keys.PublicKey]:
        """Every trusted key by its name.

        Raises:
            BadRequest: a file there is no public key.
        """
        found = sorted(self._directory.glob("*.pub"))
        return {path.stem: keys.load_public(path.read_bytes(), str(path)) for path in found}

    def add(self, name: str, pem: bytes) -> keys.PublicKey:
        """Trust a key from now on."""
        key = keys.load_public(pem, name)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self._path(name), keys.public_pem(key))
        return key

    def remove(self, name: str) -> None:
        """Trust it no more.

        Raises:
            NotFound: it was not trusted.
        """
        try:
            self._path(name).unlink()
        except FileNotFoundError as error:
            raise NotFound(f"no trusted key is called {name}") from error

    def _path(self, name: str) -> Path:
        if not name or name.startswith(".") or "/" in name:
            raise BadRequest(f"{name!r} is no name for a key")
        return self._directory / f"{name}.pub"
