"""Requests as the visitor: each carries the session's own credential, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from underway.api.resources import SELFSUBJECTREVIEWS
from underway.base.errors import Unauthorized
from underway.client import Client
from underway.dist.web.sessions import Login
from underway.transport.answers import answer
from underway.wire.http import Handler, Peer, Request, Response

_NEVER = 1 << 62  # no answer is so long that it is compressed: it does not leave the process


class LoginExpired(Unauthorized):
    """The cluster no longer accepts the session's credential."""


def as_visitor(api: Handler, login: Login, peer: Peer) -> Handler:
    """The cluster's API for a login that came over a connection with ``peer``.

    A login by certificate holds as long as its connections show that certificate. Raises
    LoginExpired where the cluster does not accept the credential.
    """

    async def handle(request: Request) -> Response:
        if login.token:
            shown = Peer(peer.address)
            headers = {**request.headers, "authorization": f"Bearer {login.token}"}
        else:
            shown, headers = peer, request.headers
            if peer.common_name != login.user:
                raise LoginExpired("the browser no longer shows the certificate of this login")
        response = await answer(api, replace(request, headers=headers, peer=shown), _NEVER)
        if response.status == Unauthorized.code:
            raise LoginExpired("the cluster no longer accepts this login")
        return response

    return handle


def services_as_visitor(
    services: Mapping[str, Handler], login: Login, host: str
) -> dict[str, Handler]:
    """The platform's other services, with what the login has for each, or else its token."""

    def bound(endpoint: str, service: Handler) -> Handler:
        credential = login.services.get(endpoint) or (login.token and f"Bearer {login.token}")

        async def handle(request: Request) -> Response:
            headers = {"host": host, **request.headers}
            if credential:
                headers.setdefault("authorization", credential)
            return await answer(service, replace(request, headers=headers), _NEVER)

        return handle

    return {endpoint: bound(endpoint, service) for endpoint, service in services.items()}


async def login_with_token(api: Handler, token: str, services: Mapping[str, str]) -> Login:
    """A login by bearer token, once the cluster has said whose it is.

    Raises:
        Unauthorized: the cluster does not know it.
    """
    login = Login("", token, dict(services))
    return replace(login, user=await _whose(as_visitor(api, login, Peer())))


async def login_with_certificate(api: Handler, peer: Peer, services: Mapping[str, str]) -> Login:
    """A login by the certificate that the connection shows.

    Raises:
        Unauthorized: it shows none.
    """
    if not peer.common_name:
        raise Unauthorized("the browser shows no certificate that this platform has signed")
    login = Login(peer.common_name, services=dict(services))
    await _whose(as_visitor(api, login, peer))
    return login


async def _whose(api: Handler) -> str:
    review = {"apiVersion": SELFSUBJECTREVIEWS.api_version, "kind": SELFSUBJECTREVIEWS.kind}
    answered = await Client(api).create(SELFSUBJECTREVIEWS, review)
    return str(answered["status"]["userInfo"]["username"])
