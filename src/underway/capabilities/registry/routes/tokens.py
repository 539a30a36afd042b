"""Where clients get their tokens: ``/service/token``.

Source: distribution's token authentication specification, by GET, and its OAuth 2 form by POST.
"""

from __future__ import annotations

from datetime import datetime
from urllib.parse import parse_qs

from underway.base.errors import BadRequest
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend.accounts import Accounts
from underway.capabilities.registry.backend.cluster import ClusterTokens
from underway.capabilities.registry.model import Unsupported
from underway.capabilities.registry.rules import access
from underway.wire.http import Request, Response, json_response

_FORM_LIMIT = 64 * 1024  # bytes


async def answer_token(request: Request, accounts: Accounts, cluster: ClusterTokens) -> Response:
    """A token for the account that logs in here.

    Raises:
        LoginRequired: the credentials are wrong; or there are none, and nothing wanted is public.
        BadRequest: a scope is malformed.
        Unsupported: it is neither GET nor POST.
    """
    if request.method == "GET":
        header = request.headers.get("authorization", "")
        account = await run_blocking(accounts.identify_by_password, header)
        asked = request.param_lists()
    elif request.method == "POST":
        form = (await request.read(_FORM_LIMIT)).decode("utf-8", "replace")
        asked = parse_qs(form, max_num_fields=256)
        if asked.get("grant_type") != ["password"]:
            return json_response({"error": "unsupported_grant_type"}, 400)
        await cluster.learn_token(_first(asked, "password"))
        name, password = _first(asked, "username"), _first(asked, "password")
        account = await run_blocking(accounts.login, name, password)
    else:
        raise Unsupported(f"{request.method} is not supported here")
    if asked.get("service", [access.SERVICE]) != [access.SERVICE]:
        raise BadRequest(f"this is the service {access.SERVICE}")
    token, now = accounts.token(account, access.parse_scopes(asked.get("scope", [])))
    return _answer(token, now)


def _answer(token: str, now: datetime) -> Response:
    return json_response(
        {
            "token": token,
            "access_token": token,
            "expires_in": access.TOKEN_S,
            "issued_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        headers={"cache-control": "no-store"},
    )


def _first(asked: dict[str, list[str]], name: str) -> str:
    return asked.get(name, [""])[0]
