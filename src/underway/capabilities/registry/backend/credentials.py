"""The credentials the platform makes for its own registry."""

from __future__ import annotations

import base64
import secrets

import msgspec

from underway.base.files import write_atomic
from underway.base.home import Home, Settings
from underway.transport.registry import credentials

USERNAME = "admin"


def ensure_credentials(home: Home, settings: Settings) -> tuple[str, str]:
    """User and password of the registry; made at the first call, kept for containers' tools."""
    host = f"{settings.bind_address}:{settings.registry_port}"
    username, password = credentials(home.registry_auth, host)
    if username:
        return username, password
    password = secrets.token_urlsafe(24)
    encoded = base64.b64encode(f"{USERNAME}:{password}".encode()).decode()
    home.registry.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.encode({"auths": {host: {"auth": encoded}}})
    write_atomic(home.registry_auth, content, mode=0o600)
    return USERNAME, password
