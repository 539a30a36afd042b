"""Harbor's API, version 2.0, under ``/api/v2.0``: one module a group of resources.

Handlers block, and so run in the shared pool. Source: goharbor/harbor api/v2.0/swagger.yaml.
"""

from __future__ import annotations

import importlib
import re
import secrets
from collections.abc import Iterator
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, unquote

from underway.base.errors import (
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    UnderwayError,
)
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.model import Account, LoginRequired
from underway.capabilities.registry.routes.harbor.core import (
    Call,
    Handler,
    Route,
    answer,
    check_access,
    error_response,
)
from underway.wire.http import Request, Response

PREFIX = "/api/v2.0"
_GROUPS = (
    "projects", "members", "repositories", "artifacts", "users", "robots", "labels", "quotas",
    "policies", "registries", "replication", "webhooks", "scanners", "security", "system",
    "maintenance",
)  # fmt: skip
_BODY_LIMIT = 1024 * 1024
_SESSION_S = 30 * 60
_COOKIE = "sid"
_CSRF = "x-harbor-csrf-token"
_SAFE = ("GET", "HEAD", "OPTIONS")


class Harbor:
    """Answers Harbor's API, and lets browsers log in."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def takes(self, request: Request) -> bool:
        """Whether this is for us."""
        return request.path.startswith(PREFIX + "/") or request.path in ("/c/login", "/c/log_out")

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        try:
            await self._hub.cluster.learn(request.headers.get("authorization", ""))
            data = await request.read(_BODY_LIMIT)
            response = await run_blocking(self._answer, request, data)
        except UnderwayError as error:
            hint = f" ({error.hint})" if error.hint else ""
            response = error_response(error.code, error.message + hint)
            if error.code == 405:
                response.headers["allow"] = error.hint
        response.headers["x-request-id"] = (
            request.headers.get("x-request-id", "") or secrets.token_hex(16)
        )[:128]
        if request.method == "HEAD":
            response.body = b""
        return response

    def _answer(self, request: Request, data: bytes) -> Response:
        if request.path == "/c/login":
            return self._login(request, data)
        if request.path == "/c/log_out":
            return Response(200, {"set-cookie": f"{_COOKIE}=; Path=/; Max-Age=0"})
        account, csrf = self._identify(request)
        needed, handler, path = self._find(request)
        call = Call(self._hub, account, request, path, request.params(), data)
        self._hub.events.flush()
        check_access(call, needed)
        response = answer(call, handler(call))
        if csrf:
            response.headers[_CSRF] = csrf
        return response

    def _identify(self, request: Request) -> tuple[Account, str]:
        """Who asks, and the token against forged requests where a browser's cookie says so."""
        header = request.headers.get("authorization", "")
        if header:
            return self._hub.accounts.identify(header).account, ""
        cookie = _cookie(request)
        if not cookie:
            return Account(), ""
        try:
            account, csrf = self._hub.accounts.by_session(cookie)
        except LoginRequired:
            return Account(), ""
        given = request.headers.get(_CSRF, "")
        if request.method not in _SAFE and not secrets.compare_digest(
            given.encode(), csrf.encode()
        ):
            raise Forbidden("CSRF token invalid")
        return account, csrf

    def _login(self, request: Request, data: bytes) -> Response:
        if request.method != "POST":
            raise MethodNotAllowed("log in by POST", hint="POST")
        form = parse_qs(data.decode("utf-8", "replace"), max_num_fields=16)
        name, password = (form.get(field, [""])[0] for field in ("principal", "password"))
        account = self._hub.accounts.login(name, password)
        token, csrf = self._hub.accounts.session(account, _SESSION_S)
        cookie = f"{_COOKIE}={token}; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age={_SESSION_S}"
        return Response(200, {"set-cookie": cookie, _CSRF: csrf})

    def _find(self, request: Request) -> tuple[str, Handler, dict[str, str]]:
        path = request.path[len(PREFIX) :].rstrip("/")
        allowed: list[str] = []
        for pattern, methods in self._routes:
            if found := pattern.fullmatch(path):
                if entry := methods.get(request.method) or (
                    methods.get("GET") if request.method == "HEAD" else None
                ):
                    values = {name: unquote(text) for name, text in found.groupdict().items()}
                    return *entry, values
                allowed += methods
        if allowed:
            raise MethodNotAllowed(
                f"{request.method} is not supported here", hint=", ".join(allowed)
            )
        raise NotFound(f"there is nothing at {request.path[:200]}")

    @cached_property
    def _routes(self) -> list[tuple[re.Pattern[str], dict[str, tuple[str, Handler]]]]:
        found: dict[str, dict[str, tuple[str, Handler]]] = {}
        for method, path, needed, handler in all_routes():
            found.setdefault(path, {})[method] = (needed, handler)
        # What is written out goes before what is a parameter.
        ordered = sorted(found.items(), key=lambda each: each[0].replace("{", "\x7f"))
        return [(_pattern(path), methods) for path, methods in ordered]


def all_routes() -> Iterator[Route]:
    """Every route of every group."""
    for group in _GROUPS:
        yield from importlib.import_module(f"{__name__}.{group}").ROUTES


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


def _cookie(request: Request) -> str:
    try:
        found = SimpleCookie(request.headers.get("cookie", ""))
    except CookieError as error:
        raise BadRequest("the cookie is malformed") from error
    return found[_COOKIE].value if _COOKIE in found else ""
