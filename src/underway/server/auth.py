"""Authentication: from a connection and its headers to a user.

Client certificates (``CN`` is the name, ``O`` the groups), bearer tokens of service accounts, and
bootstrap
tokens, and tokens from a file. Source: Kubernetes reference, "Authenticating".
"""

from __future__ import annotations

import csv
import hmac
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from underway.api.objects import Object, meta, name_of, namespace_of, uid_of
from underway.base.clock import Clock, parse_rfc3339
from underway.base.errors import BadRequest, Unauthorized
from underway.server import bootstrap_tokens
from underway.server.identity import (
    ANONYMOUS,
    AUTHENTICATED,
    SERVICE_ACCOUNT_PREFIX,
    SERVICE_ACCOUNTS,
    Attributes,
    User,
)
from underway.server.tokens import TokenKey
from underway.wire.http import Request

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCES = (ISSUER, "https://kubernetes.default.svc", "kubernetes")
MAX_TOKEN_LIFE_S = 365 * 24 * 3600
_ENDING = timedelta(seconds=60)  # upstream's
_CLAIMS = "kubernetes.io"
_EXTRA = "authentication.kubernetes.io"

Find = Callable[[str, str, str], Object | None]
"""(storage resource, namespace, name) -> the stored object."""


class Authenticator:
    """Knows every way in.

    Args:
        key: signs and checks service-account tokens.
        find: reads service accounts and the objects tokens are bound to.
        token_file: ``token,user,uid,"group,group"`` lines, or None.
    """

    def __init__(self, key: TokenKey, find: Find, clock: Clock, token_file: Path | None) -> None:
        self._key = key
        self._find = find
        self._clock = clock
        self._static = _read_tokens(token_file) if token_file else []

    def authenticate(self, request: Request) -> User:
        """The user behind a request; anonymous if it shows nothing.

        Raises:
            Unauthorized: it shows something that is not valid.
        """
        known = request.context.get("user")
        if isinstance(known, User):
            return known
        peer = request.peer
        if peer.common_name:
            return User(peer.common_name, (*peer.organizations, AUTHENTICATED))
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return self.by_token(token.strip())[0]
        return ANONYMOUS

    def by_token(self, token: str, audiences: tuple[str, ...] = ()) -> tuple[User, list[str]]:
        """The user a bearer token stands for, and the audiences it holds of those wanted.

        Raises:
            Unauthorized: nobody.
        """
        for known, user in self._static:
            if hmac.compare_digest(known.encode(), token.encode()):
                return user, list(audiences)
        if bootstrap_tokens.is_token(token):
            user = bootstrap_tokens.user_of(token, self._find, self._clock.now())
            return user, list(audiences)
        claims = self._key.verify(token)
        now = self._clock.now().timestamp()
        issued_for = claims.get("aud") or []
        issued_for = [issued_for] if isinstance(issued_for, str) else issued_for
        held = [each for each in audiences or AUDIENCES if each in issued_for]
        if claims.get("iss") != ISSUER or not held:
            raise Unauthorized("the token was issued for somebody else")
        if not claims.get("nbf", 0) - 5 <= now < claims.get("exp", 0):
            raise Unauthorized("the token has expired or is not valid yet")
        return self._service_account(claims), held

    def _service_account(self, claims: dict[str, Any]) -> User:
        bound = claims.get(_CLAIMS) or {}
        namespace = bound.get("namespace", "")
        account = bound.get("serviceaccount") or {}
        self._present("serviceaccounts", namespace, account)
        extra: dict[str, tuple[str, ...]] = {
            f"{_EXTRA}/credential-id": (f"JTI={claims.get('jti', '')}",)
        }
        for kind, resource in (("pod", "pods"), ("secret", "secrets")):
            if kind in bound:
                self._present(resource, namespace, bound[kind])
        if "node" in bound and "pod" not in bound:
            self._present("nodes", "", bound["node"])
        if "pod" in bound:
            extra[f"{_EXTRA}/pod-name"] = (bound["pod"]["name"],)
            extra[f"{_EXTRA}/pod-uid"] = (bound["pod"]["uid"],)
        if "node" in bound:
            extra[f"{_EXTRA}/node-name"] = (bound["node"]["name"],)
            if bound["node"].get("uid"):
                extra[f"{_EXTRA}/node-uid"] = (bound["node"]["uid"],)
        return service_account_user(namespace, account["name"], account["uid"], extra)

    def _present(self, resource: str, namespace: str, reference: Object) -> None:
        found = self._find(resource, namespace, reference.get("name", ""))
        if found is None or uid_of(found) != reference.get("uid"):
            raise Unauthorized(f"the token's {resource[:-1]} is gone")
        ends = meta(found).get("deletionTimestamp")
        # A pod that ends in order still needs its token.
        if ends and parse_rfc3339(ends) + _ENDING < self._clock.now():
            raise Unauthorized(f"the token's {resource[:-1]} is being deleted")

    def issue(
        self, account: Object, audiences: list[str], life_s: int, bound: Object | None
    ) -> tuple[str, float]:
        """A token for a service account, bound to a pod or secret or to nothing.

        Returns:
            The token and when it expires (Unix time).
        """
        now = int(self._clock.now().timestamp())
        expires = now + min(life_s, MAX_TOKEN_LIFE_S)
        private: Object = {
            "namespace": namespace_of(account),
            "serviceaccount": {"name": name_of(account), "uid": uid_of(account)},
        }
        if bound is not None:
            reference = {"name": name_of(bound), "uid": uid_of(bound)}
            private[bound["kind"].lower()] = reference
            node = (bound.get("spec") or {}).get("nodeName")
            if bound["kind"] == "Pod" and node:
                private["node"] = {"name": node}
                found = self._find("nodes", "", node)
                if found is not None:
                    private["node"]["uid"] = uid_of(found)
        claims = {
            "aud": audiences or list(AUDIENCES[:1]),
            "exp": expires,
            "iat": now,
            "iss": ISSUER,
            "jti": str(uuid4()),
            _CLAIMS: private,
            "nbf": now,
            "sub": f"{SERVICE_ACCOUNT_PREFIX}{namespace_of(account)}:{name_of(account)}",
        }
        return self._key.sign(claims), expires

    def oidc_configuration(self) -> Object:
        """The OpenID provider document of the issuer."""
        return {
            "issuer": ISSUER,
            "jwks_uri": f"{ISSUER}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self._key.algorithm],
        }

    def jwks(self) -> Object:
        """The public keys tokens can be checked with."""
        return self._key.jwks()


def service_account_user(
    namespace: str, name: str, uid: str, extra: dict[str, tuple[str, ...]] | None = None
) -> User:
    """The user a service account is."""
    groups = (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}", AUTHENTICATED)
    return User(f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}", groups, uid, extra or {})


def _read_tokens(path: Path) -> list[tuple[str, User]]:
    found = []
    with path.open(newline="") as lines:
        for row in csv.reader(lines):
            if len(row) < 3 or row[0].startswith("#"):
                continue
            groups = tuple(g.strip() for g in row[3].split(",") if g.strip()) if row[3:] else ()
            found.append((row[0].strip(), User(row[1].strip(), (*groups, AUTHENTICATED), row[2])))
    return found


_IMPERSONATE = "impersonate-"
_IMPERSONATE_EXTRA = "impersonate-extra-"


def wants_impersonation(request: Request) -> bool:
    """Whether a request asks to act as somebody else."""
    return any(name.startswith(_IMPERSONATE) for name in request.headers)


def impersonate(
    request: Request, user: User, authorize: Callable[[User, Attributes], None]
) -> User:
    """The user a request wants to act as, checked.

    Raises:
        Forbidden: the user may not act as that one.
        BadRequest: groups, a uid or extras are given without a user.
    """
    headers = request.headers
    name, uid = headers.get("impersonate-user", ""), headers.get("impersonate-uid", "")
    groups = _words(headers.get("impersonate-group", ""))
    extra = {
        unquote(key.removeprefix(_IMPERSONATE_EXTRA)): _words(value)
        for key, value in headers.items()
        if key.startswith(_IMPERSONATE_EXTRA)
    }
    if not name:
        raise BadRequest("requested groups, uid or extras of a user, but no user to impersonate")
    if name.startswith(SERVICE_ACCOUNT_PREFIX):
        namespace, _, account = name.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
        authorize(
            user, Attributes("impersonate", "", "v1", "serviceaccounts", "", namespace, account)
        )
        implied = service_account_user(namespace, account, "").groups
    else:
        implied = (AUTHENTICATED,) if name != ANONYMOUS.name else ()
        authorize(user, Attributes("impersonate", "", "v1", "users", name=name))
    for group in groups:
        authorize(user, Attributes("impersonate", "", "v1", "groups", name=group))
    api = "authentication.k8s.io"
    if uid:
        authorize(user, Attributes("impersonate", api, "v1", "uids", name=uid))
    for key, values in extra.items():
        for value in values:
            wanted = Attributes("impersonate", api, "v1", "userextras", key, name=value)
            authorize(user, wanted)
    if not groups:
        groups = implied
    elif name != ANONYMOUS.name and AUTHENTICATED not in groups:
        groups = (*groups, AUTHENTICATED)
    return User(name, groups, uid, extra)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
