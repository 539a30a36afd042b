"""Bootstrap tokens: what a new node shows before it has a certificate.

Source: Kubernetes reference, "Authenticating with Bootstrap Tokens"; kubernetes
``plugin/pkg/auth/authenticator/token/bootstrap``.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime

from underway.api.objects import Object, deleting
from underway.base.clock import parse_rfc3339
from underway.base.errors import Unauthorized
from underway.server.identity import AUTHENTICATED, User

NAMESPACE = "kube-system"
TYPE = "bootstrap.kubernetes.io/token"
GROUP = "system:bootstrappers"
_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_EXTRA_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")

Find = Callable[[str, str, str], Object | None]
"""(storage resource, namespace, name) -> the stored object."""


def is_token(text: str) -> bool:
    """Whether a bearer token has the form of a bootstrap token."""
    return _TOKEN.fullmatch(text) is not None


def user_of(token: str, find: Find, now: datetime) -> User:
    """The user a bootstrap token stands for.

    Raises:
        Unauthorized: nobody.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise Unauthorized("the token is no bootstrap token")
    identity, password = match.groups()
    secret = find("secrets", NAMESPACE, f"bootstrap-token-{identity}")
    if secret is None or secret.get("type") != TYPE or deleting(secret):
        raise Unauthorized("the bootstrap token is not known")
    known = f"{_text(secret, 'token-id')}.{_text(secret, 'token-secret')}"
    if not hmac.compare_digest(known.encode(), f"{identity}.{password}".encode()):
        raise Unauthorized("the bootstrap token is not known")
    if expired(secret, now):
        raise Unauthorized("the bootstrap token has expired")
    if _text(secret, "usage-bootstrap-authentication") != "true":
        raise Unauthorized("the bootstrap token is not for authentication")
    return User(f"system:bootstrap:{identity}", (GROUP, *_groups(secret), AUTHENTICATED))


def expired(secret: Object, now: datetime) -> bool:
    """Whether a secret is a bootstrap token whose time is over, or nobody can tell when it is."""
    text = _text(secret, "expiration") if secret.get("type") == TYPE else ""
    if not text:
        return False
    try:
        return parse_rfc3339(text) <= now
    except ValueError:
        return True


def _groups(secret: Object) -> list[str]:
    groups = sorted({each for each in _text(secret, "auth-extra-groups").split(",") if each})
    for group in groups:
        if not _EXTRA_GROUP.fullmatch(group):
            raise Unauthorized(f"the bootstrap token has the group {group!r}, which it may not")
    return groups


def _text(secret: Object, key: str) -> str:
    try:
        return b64decode((secret.get("data") or {}).get(key) or "", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
