"""Keys on a token behind PKCS#11: they sign there and never come out.

Source: OASIS PKCS#11 2.40; ECDSA signatures of a token are the two numbers side by side, which
everyone else wants in DER (RFC 3279 section 2.2.3). The library is loaded when a token is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import utils

from underway.base.errors import (
    AlreadyExists,
    BadRequest,
    Forbidden,
    NotFound,
    ServiceUnavailable,
)
from underway.capabilities.signing.rules import keys


class TokenKeys:
    """The P-256 keys of one token, by label.

    Args:
        module: the token's library (``libsofthsm2.so``).
        token: the token's label.
        pin: the user's PIN.

    Raises:
        BadRequest: python-pkcs11 is not installed.
    """

    def __init__(self, module: Path, token: str, pin: str) -> None:
        try:
            import pkcs11
        except ImportError as error:
            raise BadRequest(
                "keys on a PKCS#11 token need python-pkcs11", hint="pip install python-pkcs11"
            ) from error
        self._pkcs11: Any = pkcs11
        self._module, self._token, self._pin = module, token, pin

    def names(self) -> list[str]:
        """The labels of the private keys there are."""
        wanted = {self._pkcs11.Attribute.CLASS: self._pkcs11.ObjectClass.PRIVATE_KEY}
        with self._session() as session:
            return sorted(each.label for each in session.get_objects(wanted))

    def public(self, name: str) -> keys.PublicKey:
        """The public half."""
        from pkcs11.util.ec import encode_ec_public_key

        with self._session() as session:
            found = self._find(session, name, self._pkcs11.ObjectClass.PUBLIC_KEY)
            der = encode_ec_public_key(found)
        return keys.checked(serialization.load_der_public_key(der), name)

    def sign(self, name: str, data: bytes) -> bytes:
        """A signature over bytes, in DER."""
        with self._session() as session:
            key = self._find(session, name, self._pkcs11.ObjectClass.PRIVATE_KEY)
            mechanism = self._pkcs11.Mechanism.ECDSA
            raw = key.sign(hashlib.sha256(data).digest(), mechanism=mechanism)
        half = len(raw) // 2
        r, s = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        return utils.encode_dss_signature(r, s)

    def generate(self, name: str, algorithm: str = "ecdsa-p256") -> keys.PublicKey:
        """Make a key on the token."""
        from pkcs11.util.ec import encode_named_curve_parameters

        if algorithm != "ecdsa-p256":
            raise BadRequest(f"a token makes ecdsa-p256 keys here, not {algorithm}")
        if name in self.names():
            raise AlreadyExists(f"there is a key {name} on the token {self._token}")
        with self._session(writes=True) as session:
            curve = {self._pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            made = session.create_domain_parameters(self._pkcs11.KeyType.EC, curve, local=True)
            made.generate_keypair(store=True, label=name, id=name.encode())
        return self.public(name)

    def _find(self, session: Any, name: str, kind: Any) -> Any:
        try:
            return session.get_key(object_class=kind, label=name)
        except self._pkcs11.NoSuchKey as error:
            raise NotFound(f"there is no key {name} on the token {self._token}") from error

    @contextmanager
    def _session(self, *, writes: bool = False) -> Iterator[Any]:
        errors = self._pkcs11.exceptions
        try:
            library = self._pkcs11.lib(str(self._module))
            token = library.get_token(token_label=self._token)
            with token.open(rw=writes, user_pin=self._pin) as session:
                yield session
        except errors.NoSuchToken as error:
            raise NotFound(f"{self._module} has no token {self._token}") from error
        except (errors.PinIncorrect, errors.PinLocked) as error:
            raise Forbidden(f"token {self._token}: the PIN is wrong or locked") from error
        except (errors.PKCS11Error, RuntimeError) as error:
            raise ServiceUnavailable(
                f"token {self._token}: {type(error).__name__} {error}"
            ) from error
