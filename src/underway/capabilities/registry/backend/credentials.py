"""The credentials the platform makes for its own registry."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import BadRequest
from underway.base.files import write_atomic
from underway.base.home import Home, Settings
from underway.transport.registry import credentials

USERNAME = "admin"


def ensure_credentials(home: Home, settings: Settings) -> tuple[str, str]:
    """User and password of the registry; made at the first call, kept for containers' tools.

    Raises:
        BadRequest: the file of credentials is not one.
    """
    host = f"{settings.bind_address}:{settings.registry_port}"
    username, password = credentials(home.registry_auth, host)
    if username:
        return username, password
    # The registry may have moved to another address: its user and password stay.
    username, password = _first(home) or (USERNAME, secrets.token_urlsafe(24))
    home.registry.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.encode({"auths": {host: auth_entry(username, password)}})
    write_atomic(home.registry_auth, content, mode=0o600)
    return username, password


def auth_entry(username: str, password: str) -> dict[str, str]:
    """One registry's entry in an ``auth.json``."""
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write_login(file: Path, host: str, username: str, password: str) -> None:
    """Put an entry into an ``auth.json``, and leave everything else in it as it is.

    Raises:
        BadRequest: the file is not of that form.
    """
    try:
        content = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        auths = content.setdefault("auths", {})
        auths[host] = auth_entry(username, password)
    except FileNotFoundError:
        content = {"auths": {host: auth_entry(username, password)}}
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (msgspec.MsgspecError, TypeError) as error:
        raise BadRequest(f"{file} is no auth.json: {error}") from error
    data = msgspec.json.format(msgspec.json.encode(content), indent=2)
    write_atomic(file, data + b"\n", mode=0o600)


def _first(home: Home) -> tuple[str, str] | None:
    """The credentials for whichever address the file names."""
    try:
        content = msgspec.json.decode(home.registry_auth.read_bytes())
        hosts = list(content.get("auths") or {})
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, AttributeError) as error:
        raise BadRequest(f"{home.registry_auth} is no auth.json: {error}") from error
    found = credentials(home.registry_auth, hosts[0]) if hosts else ("", "")
    return found if found[0] else None
