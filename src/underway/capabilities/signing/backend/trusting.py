"""Identities and roots that are trusted here, as files below the home."""

from __future__ import annotations

import msgspec

from underway.base.errors import BadRequest, NotFound
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.signing.rules import trustroot
from underway.capabilities.signing.rules.certificates import Identity

OWN_ROOT = "trusted_root.json"


def identities(home: Home) -> tuple[Identity, ...]:
    """Whose certificates count.

    Raises:
        BadRequest: the file is not what this version writes.
    """
    path = home.signing / "identities.json"
    try:
        return tuple(msgspec.json.decode(path.read_bytes(), type=list[Identity]))
    except FileNotFoundError:
        return ()
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{path}: {error}") from error


def trust_identity(home: Home, identity: Identity) -> None:
    """Let certificates of an identity count from now on."""
    known = identities(home)
    if identity not in known:
        _keep(home, (*known, identity))


def distrust_identity(home: Home, identity: Identity) -> None:
    """Let them count no more.

    Raises:
        NotFound: they did not.
    """
    known = identities(home)
    if identity not in known:
        raise NotFound(f"{identity.name} (by {identity.issuer}) is not trusted")
    _keep(home, tuple(each for each in known if each != identity))


def roots(home: Home) -> tuple[trustroot.TrustRoot, ...]:
    """The platform's own trust root, where it has issued certificates, and those added."""
    found = [home.signing / OWN_ROOT, *sorted((home.signing / "roots").glob("*.json"))]
    return tuple(trustroot.decode(path.read_bytes(), str(path)) for path in found if path.exists())


def _keep(home: Home, known: tuple[Identity, ...]) -> None:
    home.signing.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = msgspec.json.format(msgspec.json.encode(known), indent=2)
    write_atomic(home.signing / "identities.json", data)
