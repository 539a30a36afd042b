"""Who asks: passwords, robots' secrets and tokens."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

from underway.base.clock import Clock
from underway.capabilities.registry.backend.projects import Projects
from underway.capabilities.registry.backend.tokens import TokenKey
from underway.capabilities.registry.model import (
    Account,
    Denied,
    Identity,
    LoginRequired,
    Project,
    Robot,
    Scope,
    ScopeInsufficient,
    TokenRefused,
)
from underway.capabilities.registry.rules import access

_REMEMBERED = 4096  # tokens whose signature need not be checked again


class Accounts:
    """The administrator and the robots of all projects."""

    def __init__(
        self, username: str, password: str, projects: Projects, key: TokenKey, clock: Clock
    ) -> None:
        self._administrator = Account(username, administrator=True)
        self._password = password
        self._projects = projects
        self._key = key
        self._clock = clock
        self._checked: OrderedDict[str, dict[str, object]] = OrderedDict()

    def project(self, repository: str) -> Project | None:
        """The project a repository belongs to, where it was created."""
        return self._projects.find(access.project_of(repository))

    def identify(self, header: str) -> Identity:
        """Who sent a request with this ``Authorization`` header; a stranger where it is empty.

        Raises:
            LoginRequired: the credentials are wrong or no longer valid.
        """
        if not header:
            return Identity(Account())
        if basic := access.parse_basic(header):
            return Identity(self.login(*basic))
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise LoginRequired("authentication is required")
        try:
            return self._by_token(token.strip())
        except LoginRequired as error:
            raise TokenRefused(error.message) from error

    def identify_by_password(self, header: str) -> Account:
        """Like ``identify``, for who wants a token: another token is not enough."""
        identity = self.identify(header)
        if identity.grants is not None:
            raise LoginRequired("tokens are given for a password")
        return identity.account

    def check(self, identity: Identity, wanted: Scope | None) -> None:
        """Let the request pass.

        Raises:
            LoginRequired: a stranger asks, or the token is for something else.
            Denied: the account may not do this, whether or not there is such a thing.
        """
        project = None
        if wanted is None:
            if identity.account.name or identity.grants is not None:
                return
        else:
            if wanted.kind == "repository" and not identity.account.administrator:
                project = self.project(wanted.name)
            if access.may(identity, project, wanted):
                return
        if identity.grants is not None:
            raise ScopeInsufficient("the token does not allow this")
        if not identity.account.name:
            raise LoginRequired("authentication is required")
        raise Denied("the account may not do this")

    def may_pull(self, identity: Identity, repository: str) -> bool:
        """Whether the identity may pull from a repository."""
        wanted = Scope("repository", repository, frozenset({"pull"}))
        return access.may(identity, self.project(repository), wanted)

    def login(self, username: str, password: str) -> Account:
        """The account of a name and a password; raises LoginRequired."""
        if robot := access.parse_robot_username(username):
            account, kept = self._robot(*robot)
            access.check_secret(kept, password)
            return account
        right_name = access.same(username, self._administrator.name)
        if not (access.same(password, self._password) and right_name):
            raise LoginRequired("authentication is required")
        return self._administrator

    def token(self, account: Account, scopes: Iterable[Scope]) -> tuple[str, datetime]:
        """A token for as much of the scopes as the account may have, and when it was made.

        Raises:
            LoginRequired: a stranger would get nothing.
        """
        grants = [access.allowed(account, self._find_project(scope), scope) for scope in scopes]
        if not account.name and not any(grant.actions for grant in grants):
            raise LoginRequired("authentication is required")
        now = self._clock.now()
        claims = access.claims(account, grants, int(now.timestamp()), secrets.token_hex(8))
        return self._key.sign(claims), now

    def _find_project(self, scope: Scope) -> Project | None:
        name = access.project_of(scope.name)
        if scope.kind != "repository" or not access.is_project_name(name):
            return None
        return self._projects.find(name)

    def _by_token(self, token: str) -> Identity:
        claims = self._checked.get(token)
        if claims is None:
            claims = self._key.verify(token)
            self._checked[token] = claims
            if len(self._checked) > _REMEMBERED:
                self._checked.popitem(last=False)
        name, grants = access.grants_of(claims, self._clock.now().timestamp())
        # The account may have been deleted, or its rights be fewer, since the token was made.
        if not name:
            return Identity(Account(), grants)
        if robot := access.parse_robot_username(name):
            return Identity(self._robot(*robot)[0], grants)
        if name != self._administrator.name:
            raise LoginRequired("the token's account is gone")
        return Identity(self._administrator, grants)

    def _robot(self, project: str, name: str) -> tuple[Account, Robot]:
        return access.robot_account(self._projects.find(project), name, self._clock.now())
