"""Who may call: bearer tokens signed with a key that scanner and callers share.

Source: Clair v4 "Authentication" (PSK: HS256, issuer, expiry); RFC 7515, RFC 7519.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from datetime import datetime, timedelta

import msgspec

from underway.base.errors import BadRequest, Unauthorized
from underway.base.files import write_atomic
from underway.base.home import Home

ISSUERS = ("underway", "quay", "clairctl")
_KEY_BYTES = 32
_TOKEN_LIMIT = 4096
_SLACK_S = 60


def key(home: Home) -> bytes:
    """The shared key, made when first asked for.

    Raises:
        BadRequest: the key file is malformed.
    """
    path = home.scan / "psk"
    try:
        return base64.b64decode(path.read_bytes(), validate=True)
    except FileNotFoundError:
        home.scan.mkdir(parents=True, exist_ok=True)
        made = os.urandom(_KEY_BYTES)
        write_atomic(path, base64.b64encode(made), mode=0o600)
        return base64.b64decode(path.read_bytes())
    except binascii.Error as error:
        raise BadRequest(f"{path} is no key in base64") from error


def issue(secret: bytes, now: datetime, lifetime_s: int) -> str:
    """A token that is good for ``lifetime_s`` seconds."""
    claims = {
        "iss": ISSUERS[0],
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(seconds=lifetime_s)).timestamp()),
    }
    head = _encode(msgspec.json.encode({"alg": "HS256", "typ": "JWT"}))
    body = f"{head}.{_encode(msgspec.json.encode(claims))}"
    return f"{body}.{_encode(_sign(secret, body))}"


def check(secret: bytes, header: str, now: datetime) -> None:
    """Let a request in by its Authorization header.

    Raises:
        Unauthorized: there is no token, or it is not good; says why.
    """
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthorized("a bearer token is needed", hint="underway scan token")
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _TOKEN_LIMIT:
        raise Unauthorized("the bearer token is no JWT")
    try:
        head, claims = (msgspec.json.decode(_decode(each)) for each in parts[:2])
        signature = _decode(parts[2])
    except (ValueError, msgspec.DecodeError) as error:
        raise Unauthorized("the bearer token is no JWT") from error
    if not isinstance(head, dict) or head.get("alg") != "HS256" or not isinstance(claims, dict):
        raise Unauthorized("the bearer token is not signed with HS256")
    if not hmac.compare_digest(signature, _sign(secret, ".".join(parts[:2]))):
        raise Unauthorized("the bearer token's signature is wrong")
    _check_claims(claims, int(now.timestamp()))


def _check_claims(claims: dict[str, object], now_s: int) -> None:
    expires, begins = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(expires, int | float) or now_s > expires + _SLACK_S:
        raise Unauthorized("the bearer token has expired", hint="underway scan token")
    if isinstance(begins, int | float) and now_s < begins - _SLACK_S:
        raise Unauthorized("the bearer token is not good yet")
    if claims.get("iss") not in ISSUERS:
        raise Unauthorized(f"the bearer token is not of {', '.join(ISSUERS)}")


def _sign(secret: bytes, text: str) -> bytes:
    return hmac.new(secret, text.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
