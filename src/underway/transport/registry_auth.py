"""Signing in at a registry: Basic, or a bearer token from the service the registry names.

Source: distribution/distribution ``docs/content/spec/auth/token.md``; RFC 6750 section 3.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator
from urllib.parse import urlsplit

import httpx
import msgspec

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class RegistryAuth(httpx.Auth):
    """Sends Basic credentials where there are some, and answers a challenge for a bearer token.

    Credentials go to the registry itself and to the token service it names, which must be https
    where the registry is.
    """

    def __init__(self, username: str, password: str) -> None:
        self._username, self._password = username, password
        self._header = _basic(username, password) if username else ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """One request, and once more where the registry wants to know who asks."""
        if self._header:
            request.headers["authorization"] = self._header
        response = yield request
        # A body that is a stream is spent by now; uploads come after requests that have none.
        again = isinstance(request.stream, httpx.ByteStream)
        if response.status_code != httpx.codes.UNAUTHORIZED or not again:
            return
        scheme, _, rest = response.headers.get("www-authenticate", "").partition(" ")
        asking = self._token_request(request, dict(_PARAMETER.findall(rest)))
        if scheme.lower() != "bearer" or asking is None:
            return
        token = _token((yield asking))
        if token:
            self._header = f"Bearer {token}"
            request.headers["authorization"] = self._header
            yield request

    def _token_request(
        self, request: httpx.Request, challenge: dict[str, str]
    ) -> httpx.Request | None:
        realm = urlsplit(challenge.get("realm", ""))
        if realm.scheme not in ("http", "https"):
            return None
        if realm.scheme == "http" and request.url.scheme == "https":
            return None  # a password never leaves an encrypted connection for a plain one
        names: tuple[str, ...] = ("service", "scope")
        wanted = {name: challenge[name] for name in names if name in challenge}
        headers = {"accept": "application/json"}
        if self._username:
            headers["authorization"] = _basic(self._username, self._password)
        return httpx.Request("GET", challenge["realm"], params=wanted, headers=headers)


def _token(response: httpx.Response) -> str:
    if response.status_code != httpx.codes.OK:
        return ""
    try:
        # Only here: to read every answer whole would hold each blob in memory.
        response.read()
        content = msgspec.json.decode(response.content, type=dict[str, object])
    except msgspec.MsgspecError:
        return ""
    return str(content.get("token") or content.get("access_token") or "")


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
