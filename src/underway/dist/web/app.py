"""The console as a Starlette application: login, dispatch to pages, errors, files.

Every page is reached through one route: the first segment names the page, its handler gets the
rest. The same address answers with HTML, or with events where the client asks for those.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from underway.base.clock import Clock
from underway.base.errors import (
    BadRequest,
    InternalError,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    UnderwayError,
)
from underway.base.home import Home
from underway.client import Client
from underway.dist.web import guard, identity, live
from underway.dist.web.navigation import Navigation
from underway.dist.web.rendering import Renderer, link
from underway.dist.web.sessions import Session, Sessions
from underway.kit.console import Moved, Shown, Text, View, Visit
from underway.transport import asgi
from underway.wire.http import Handler
from underway.wire.http import Request as WireRequest

log = logging.getLogger(__name__)

_FORM_LIMIT = 64 * 1024  # bytes
_FIELDS = 200
_STREAMS = 50  # live pages of one session
_STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_PROBLEM = "console/problem.html"
_LOGIN = "console/login.html"

Endpoint = Callable[[Request], Awaitable[Response]]


def application(home: Home, api: Handler, services: Mapping[str, Handler], clock: Clock) -> Handler:
    """The console; arguments are those of ``lazy.console``."""
    return asgi.serve(Console(home, api, services, clock).starlette())


class Console:
    """The console of one platform."""

    def __init__(
        self, home: Home, api: Handler, services: Mapping[str, Handler], clock: Clock
    ) -> None:
        self._api = api
        self._services = services
        self._clock = clock
        self._sessions = Sessions(clock)
        self._renderer = Renderer(clock)
        self._navigation = Navigation.installed()
        # Ports do not tell cookies apart: two platforms on one machine would share theirs.
        self._cookie = f"__Host-underway-{home.id}"

    def starlette(self) -> Starlette:
        """The application."""

        def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
            return Route(path, partial(self._guarded, endpoint), methods=[*methods])

        return Starlette(
            routes=[
                route("/static/{name}", self._static, "GET"),
                route("/login", self._login, "GET", "POST"),
                route("/login/tickets", self._ticket, "POST"),
                route("/login/once/{ticket}", self._redeem, "GET"),
                route("/logout", self._logout, "POST"),
                route("/{path:path}", self._page, "GET", "POST"),
            ]
        )

    async def _guarded(self, endpoint: Endpoint, request: Request) -> Response:
        """The endpoint's response, or its error as a page, with the headers of every answer."""
        try:
            response = await endpoint(request)
        except UnderwayError as error:
            response = self._problem(error, request)
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            error = InternalError("The console failed to make this page: see the server's log")
            response = self._problem(error, request)
        for name, value in guard.HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    # -- files and login -------------------------------------------------------------------

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise NotFound(f"there is no file {name}")
        data = resources.files("underway.dist.web").joinpath("static", name).read_bytes()
        headers = {"cache-control": "private, max-age=300"}
        return Response(data, headers=headers, media_type=_STATIC[name])

    async def _login(self, request: Request) -> Response:
        if request.method == "GET":
            return self._login_page(request, request.query_params.get("reason", ""))
        guard.check_origin(request.headers)
        form = await _form(request)
        try:
            if form.get("how") == "certificate":
                login = await identity.login_with_certificate(self._api, _wire(request).peer, {})
            elif token := "".join(form.get("token", "").split()):
                login = await identity.login_with_token(self._api, token, {})
            else:
                raise BadRequest("Paste a token to log in with it.")
        except UnderwayError as error:
            return self._login_page(request, "", error.message, error.code)
        return self._logged_in(login, guard.local_path(form.get("next", "/")))

    def _login_page(
        self, request: Request, reason: str, message: str = "", status: int = 200
    ) -> Response:
        wanted = guard.local_path(request.query_params.get("next", "/"))
        certificate = _wire(request).peer.common_name
        values = {
            "next": wanted, "message": message, "reason": reason, "certificate": certificate,
        }  # fmt: skip
        html = self._renderer.page(View("Log in", _LOGIN, values), self._chrome(None, request))
        return Response(html, status, media_type="text/html")

    async def _ticket(self, request: Request) -> Response:
        """Give the holder of a token (or certificate) a ticket that logs a browser in once."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        form = await _form(request)
        services = {
            name.removeprefix("service."): value
            for name, value in form.items()
            if name.removeprefix("service.") in self._services and name.startswith("service.")
        }
        if scheme.lower() == "bearer" and token.strip():
            login = await identity.login_with_token(self._api, token.strip(), services)
        else:
            raise Unauthorized("a ticket is given for a bearer token")
        location = link("login", "once", self._sessions.issue_ticket(login))
        return Response(location, 201, media_type="text/plain")

    async def _redeem(self, request: Request) -> Response:
        login = self._sessions.redeem(request.path_params["ticket"])
        return self._logged_in(login, "/")

    def _logged_in(self, login: identity.Login, location: str) -> Response:
        value, _ = self._sessions.open(login)
        response = RedirectResponse(location, 303)
        response.set_cookie(
            self._cookie, value, path="/", secure=True, httponly=True, samesite="strict"
        )
        return response

    async def _logout(self, request: Request) -> Response:
        session = self._session(request)
        if session is not None:
            guard.check_change(request.headers, session, await _form(request))
            self._sessions.end(session)
        response = RedirectResponse("/login?reason=left", 303)
        response.delete_cookie(
            self._cookie, path="/", secure=True, httponly=True, samesite="strict"
        )
        return response

    def _session(self, request: Request) -> Session | None:
        return self._sessions.find(request.cookies.get(self._cookie, ""))

    # -- pages -----------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        session = self._session(request)
        events = live.MEDIA in request.headers.get("accept", "")
        if session and events and session.streams >= _STREAMS:
            raise TooManyRequests(f"a session may have {_STREAMS} live pages open")
        if session is None:
            if events or request.method == "POST":
                raise Unauthorized("your session has ended", hint="log in again")
            return _to_login(request)
        form: dict[str, str] = {}
        if request.method == "POST":
            form = await _form(request)
            guard.check_change(request.headers, session, form)
        name, *rest = _wire(request).segments() or ["home"]
        handler = self._navigation.handler(name)
        visit = self._visit(request, session, tuple(rest), form)
        try:
            shown = await handler(visit)
        except identity.LoginExpired:
            self._sessions.end(session)
            if events:
                raise
            return _to_login(request, "expired")
        return self._shown(request, session, visit, shown, partial(handler, visit), events=events)

    def _visit(
        self, request: Request, session: Session, path: tuple[str, ...], form: Mapping[str, str]
    ) -> Visit:
        params = dict(parse_qsl(request.url.query, keep_blank_values=True))
        wire = _wire(request)
        return Visit(
            method=request.method,
            path=path,
            params=params,
            form=form,
            namespace=params.get("namespace") or None,
            api=identity.as_visitor(self._api, session.login, wire.peer),
            services=identity.services_as_visitor(
                self._services, session.login, request.headers.get("host", "")
            ),
            clock=self._clock,
        )

    def _shown(
        self,
        request: Request,
        session: Session,
        visit: Visit,
        shown: Shown,
        again: Callable[[], Awaitable[Shown]],
        *,
        events: bool,
    ) -> Response:
        match shown:
            case Moved(location, message, credentials):
                session.message = message
                session.remember(credentials)
                return RedirectResponse(guard.local_path(location), 303)
            case Text(lines) if events:
                return live.LiveText(self._sessions, session, dict(guard.HEADERS), lines=lines)
            case Text(lines):
                while_in = live.while_logged_in(lines, self._sessions, session)
                return StreamingResponse(while_in, media_type="text/plain; charset=utf-8")
            case View() if events:
                return live.LivePage(
                    self._sessions,
                    session,
                    dict(guard.HEADERS),
                    render=partial(self._fragment, request, session, again),
                    client=Client(visit.api),
                    watches=shown.watches,
                    clock=self._clock,
                )
            case View():
                alone = "hx-request" in request.headers
                render = self._renderer.fragment if alone else self._renderer.page
                html = render(shown, self._chrome(session, request, None if alone else visit))
                varies = {"vary": "Accept, HX-Request"}
                return Response(html, media_type="text/html", headers=varies)
        raise InternalError(f"a page gave {type(shown).__name__}")

    async def _fragment(
        self, request: Request, session: Session, again: Callable[[], Awaitable[Shown]]
    ) -> str:
        """The live region as it is now; an error is shown in its place."""
        chrome = self._chrome(session, request)
        try:
            view = await again()
            if not isinstance(view, View):
                raise InternalError("a live page must be a view")
        except identity.LoginExpired:
            self._sessions.end(session)
            return ""
        except UnderwayError as error:
            view = _problem_view(error)
        return self._renderer.fragment(view, chrome)

    def _problem(self, error: UnderwayError, request: Request) -> Response:
        session = self._session(request)
        html = self._renderer.page(_problem_view(error), self._chrome(session, request))
        return Response(html, error.code, media_type="text/html")

    def _chrome(
        self, session: Session | None, request: Request, visit: Visit | None = None
    ) -> dict[str, Any]:
        """What stands around every page."""
        wire = _wire(request)
        namespace = wire.params().get("namespace", "")
        segments = wire.segments()
        return {
            "sections": self._navigation.sections(segments, namespace) if session else (),
            "namespaced": session is not None and self._navigation.namespaced(segments),
            "namespace": namespace,
            "user": session.login.user if session else "",
            "csrf": session.csrf if session else "",
            "flash": session.take_message() if session and visit else "",
            "here": wire.path,
            "address": f"{wire.path}?{wire.query}" if wire.query else wire.path,
        }


def _problem_view(error: UnderwayError) -> View:
    titles = {403: "You may not see this", 404: "Not found", 401: "Log in"}
    values = {
        "code": error.code, "message": error.message, "hint": error.hint, "causes": error.causes,
    }  # fmt: skip
    return View(titles.get(error.code, "That did not work"), _PROBLEM, values)


def _to_login(request: Request, reason: str = "") -> Response:
    wire = _wire(request)
    wanted = f"{wire.path}?{wire.query}" if wire.query else wire.path
    query = "" if wanted == "/" else f"?next={quote(wanted, safe='')}"
    if reason:
        query += f"{'&' if query else '?'}reason={reason}"
    return RedirectResponse(f"/login{query}", 303)


def _wire(request: Request) -> WireRequest:
    found: WireRequest = request.scope[asgi.REQUEST]
    return found


async def _form(request: Request) -> dict[str, str]:
    """The fields of an urlencoded form; of a repeated one, the last."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_LIMIT:
            raise TooLarge(f"a form may have {_FORM_LIMIT} bytes")
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media != "application/x-www-form-urlencoded":
        raise BadRequest(f"forms come as application/x-www-form-urlencoded, not {media!r}")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError as error:
        raise BadRequest(f"the form cannot be read: {error}") from error
    return dict(pairs)
