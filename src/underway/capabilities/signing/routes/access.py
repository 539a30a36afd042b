"""Who may ask the Notary service: anybody may read, whoever has the platform's login may write.

A client without credentials must be able to read, and Notary's asks for a token even then: the
service gives one that lets it read one collection.

Source: distribution/distribution ``docs/content/spec/auth/token.md``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Any

import msgspec

from underway.base.clock import Clock
from underway.base.errors import BadRequest, Forbidden, Unauthorized
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.transport.registry import credentials
from underway.wire.http import Request, Response, json_response

SERVICE = "underway-notary"
TOKEN_LIFE_S = 300
_HEADER_LIMIT = 8192  # characters
_SCOPE = re.compile(r"repository:([^\s]{1,255}):([a-z*,]{1,32})")


class Gate:
    """Lets in who may, and gives tokens."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home, self._clock = home, clock
        self._key = _secret(home.signing / "notary" / "token.key")

    def check(self, header: str, gun: str, *, write: bool) -> None:
        """Let a request for a collection through.

        Raises:
            Unauthorized: it must show a token first, or one that still holds.
            Forbidden: its token is for reading, or for something else.
        """
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "basic" and self._is_login(value):
            return
        if scheme.lower() != "bearer":
            raise Unauthorized("the Notary service wants a token")
        claims = self._claims(value)
        if claims["gun"] != gun and not (claims["login"] and not gun):
            raise Forbidden(f"the token is for {claims['gun'] or 'nothing'}, not for {gun}")
        if write and not claims["login"]:
            raise Forbidden(
                f"changing {gun} needs the platform's login", hint="set NOTARY_AUTH for the client"
            )

    def challenge(self, host: str, gun: str) -> str:
        """What an answer without a token says about where to get one."""
        told = f'Bearer realm="https://{host}/token",service="{SERVICE}"'
        return f'{told},scope="repository:{gun}:pull,push"' if gun else told

    def answer_token(self, request: Request) -> Response:
        """A token for the scope that was asked for.

        Raises:
            Unauthorized: credentials were shown, and they are wrong.
        """
        header = request.headers.get("authorization", "")
        scheme, _, value = header.partition(" ")
        login = scheme.lower() == "basic" and self._is_login(value)
        if header and not login:
            raise Unauthorized("user or password is wrong")
        scope = request.params().get("scope", "")
        match = _SCOPE.fullmatch(scope)
        if scope and match is None and not login:
            raise BadRequest(f"{scope!r} is no scope of a collection")
        ends = int(self._clock.now().timestamp()) + TOKEN_LIFE_S
        claims = {"gun": match[1] if match else "", "login": login, "exp": ends}
        body = base64.urlsafe_b64encode(msgspec.json.encode(claims))
        token = f"{body.decode()}.{self._seal(body)}"
        return json_response({"token": token, "access_token": token, "expires_in": TOKEN_LIFE_S})

    def _claims(self, token: str) -> dict[str, Any]:
        body, _, seal = token[:_HEADER_LIMIT].partition(".")
        if not hmac.compare_digest(self._seal(body.encode()).encode(), seal.encode()):
            raise Unauthorized("the token is not this service's")
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body), type=dict[str, Any])
        if claims["exp"] <= self._clock.now().timestamp():
            raise Unauthorized("the token has ended")
        return claims

    def _seal(self, body: bytes) -> str:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()

    def _is_login(self, value: str) -> bool:
        """Whether Basic credentials are those the platform keeps for its registry."""
        if len(value) > _HEADER_LIMIT:
            return False
        try:
            shown = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return False
        settings = self._home.load_settings()
        host = f"{settings.bind_address}:{settings.registry_port}"
        username, password = credentials(self._home.registry_auth, host)
        return bool(password) and hmac.compare_digest(shown, f"{username}:{password}".encode())


def _secret(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, secrets.token_bytes(32), mode=0o600)
    return path.read_bytes()
