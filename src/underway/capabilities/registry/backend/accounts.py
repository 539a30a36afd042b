"""Who asks, and what they may do: passwords, robots' secrets, tokens, the cluster's accounts."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from underway.base.clock import Clock
from underway.capabilities.registry.backend.database import Database
from underway.capabilities.registry.backend.projects import Projects
from underway.capabilities.registry.backend.robots import Robots
from underway.capabilities.registry.backend.tokens import TokenKey
from underway.capabilities.registry.backend.users import Users
from underway.capabilities.registry.model import (
    Account,
    Denied,
    Identity,
    LoginRequired,
    Project,
    Scope,
    ScopeInsufficient,
    TokenRefused,
)
from underway.capabilities.registry.rules import access, roles

_REMEMBERED = 4096  # tokens whose signature need not be checked again
_CLUSTER = "system:serviceaccount:"


class Reviewer(Protocol):
    """Whoever knows the tokens of the cluster's service accounts."""

    def review(self, token: str) -> str:
        """The account's name, ``system:serviceaccount:NAMESPACE:NAME``; empty for none. Blocks."""
        ...


class Accounts:
    """The administrator, users, robots and service accounts."""

    def __init__(
        self,
        username: str,
        password: str,
        database: Database,
        projects: Projects,
        robots: Robots,
        users: Users,
        key: TokenKey,
        clock: Clock,
        reviewer: Reviewer | None = None,
    ) -> None:
        self.administrator = Account(username, administrator=True, id=1)
        self._password = password
        self._database = database
        self._projects = projects
        self._robots = robots
        self._users = users
        self._key = key
        self._clock = clock
        self._reviewer = reviewer
        self._checked: OrderedDict[str, dict[str, object]] = OrderedDict()

    def project(self, repository: str) -> Project | None:
        """The project a repository belongs to, where it was created."""
        return self._projects.find(access.project_of(repository))

    def rights(self, account: Account, project: str) -> frozenset[str]:
        """What an account may do in a project; on the registry itself where that is empty."""
        if not project:
            if account.administrator:
                return frozenset(f"{r}:{a}" for r, all_ in roles.SYSTEM.items() for a in all_)
            return roles.robot_rights(account.permissions, "")
        if account.administrator:
            return roles.ADMINISTRATOR
        found = self._projects.find(project)
        if found is None:
            return frozenset()
        rights = roles.PUBLIC if found.public else frozenset()
        if account.kind == "robot":
            return rights | roles.robot_rights(account.permissions, project)
        if account.name:
            for role in self._roles(account, found.id):
                rights |= roles.OF_ROLE.get(role, frozenset())
        return rights

    def role(self, account: Account, project_id: int) -> int:
        """The strongest role of an account in a project, 0 for none."""
        if account.administrator:
            return 1
        found = self._roles(account, project_id)
        return max(found, key=lambda role: len(roles.OF_ROLE[role]), default=0)

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

    def is_slow(self, header: str) -> bool:
        """Whether ``identify`` may take long enough to be kept off an event loop.

        People's passwords are hashed slowly; the administrator's and robots' secrets are random.

        Raises:
            LoginRequired: the credentials are malformed.
        """
        basic = access.parse_basic(header)
        if basic is None or basic[0] == self.administrator.name:
            return False
        return access.parse_robot_username(basic[0]) is None

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
        if wanted is None:
            if identity.account.name or identity.grants is not None:
                return
        elif access.may(identity, self._rights_for(identity.account, wanted), wanted):
            return
        if identity.grants is not None:
            raise ScopeInsufficient("the token does not allow this")
        if not identity.account.name:
            raise LoginRequired("authentication is required")
        raise Denied("the account may not do this")

    def may_pull(self, identity: Identity, repository: str) -> bool:
        """Whether the identity may pull from a repository."""
        wanted = Scope("repository", repository, frozenset({"pull"}))
        return access.may(identity, self._rights_for(identity.account, wanted), wanted)

    def login(self, username: str, password: str) -> Account:
        """The account of a name and a password; raises LoginRequired."""
        if robot := access.parse_robot_username(username):
            kept = self._robots.find(*robot)
            account = access.robot_account(kept, self._clock.now())
            assert kept is not None
            access.check_secret(kept, password)
            return account
        right_name = access.same(username, self.administrator.name)
        if access.same(password, self._password) and right_name:
            return self.administrator
        if row := self._users.login(username, password):
            return Account(username, row["sysadmin_flag"], "user", row["id"])
        # A service account shows its token as the password, under any name.
        if self._reviewer and access.looks_like_token(password):
            name = self._reviewer.review(password)
            if name.startswith(_CLUSTER):
                return Account(name, False, "serviceaccount")
        raise LoginRequired("authentication is required")

    def token(self, account: Account, scopes: Iterable[Scope]) -> tuple[str, datetime]:
        """A token for as much of the scopes as the account may have, and when it was made.

        Raises:
            LoginRequired: a stranger would get nothing.
        """
        grants = [
            access.allowed(account, self._rights_for(account, scope), scope) for scope in scopes
        ]
        if not account.name and not any(grant.actions for grant in grants):
            raise LoginRequired("authentication is required")
        now = self._clock.now()
        claims = access.claims(account, grants, int(now.timestamp()), secrets.token_hex(8))
        return self._key.sign(claims), now

    def session(self, account: Account, seconds: int) -> tuple[str, str]:
        """A token for a browser's cookie, and its protection against forged requests."""
        now_s = int(self._clock.now().timestamp())
        csrf = secrets.token_urlsafe(24)
        claims = {"iss": access.SERVICE, "aud": "session", "sub": account.name, "jti": csrf,
                  "exp": now_s + seconds}  # fmt: skip
        return self._key.sign(claims), csrf

    def by_session(self, token: str) -> tuple[Account, str]:
        """The account of a session and its protection; raises LoginRequired."""
        claims = self._verified(token)
        expires = claims.get("exp", 0)
        assert isinstance(expires, int)
        if claims.get("aud") != "session" or expires <= self._clock.now().timestamp():
            raise LoginRequired("the session is over")
        return self._named(str(claims.get("sub", ""))), str(claims.get("jti", ""))

    def _rights_for(self, account: Account, scope: Scope) -> frozenset[str]:
        if scope.kind != "repository":
            return self.rights(account, "")
        name = access.project_of(scope.name)
        return self.rights(account, name) if access.is_project_name(name) else frozenset()

    def _roles(self, account: Account, project_id: int) -> list[int]:
        names = [account.name]
        if account.kind == "serviceaccount":
            # Kubernetes puts every account of a namespace into such a group.
            namespace = account.name.removeprefix(_CLUSTER).partition(":")[0]
            names += [f"system:serviceaccounts:{namespace}", "system:serviceaccounts"]
        marks = ", ".join("?" for _ in names)
        rows = self._database.all(
            f"SELECT role_id FROM members WHERE project_id = ? AND entity_name IN ({marks})",  # noqa: S608  # question marks
            project_id, *names,
        )  # fmt: skip
        return [row["role_id"] for row in rows]

    def _verified(self, token: str) -> dict[str, object]:
        claims = self._checked.get(token)
        if claims is None:
            claims = self._key.verify(token)
            self._checked[token] = claims
            if len(self._checked) > _REMEMBERED:
                self._checked.popitem(last=False)
        return claims

    def _by_token(self, token: str) -> Identity:
        claims = self._verified(token)
        name, grants = access.grants_of(claims, self._clock.now().timestamp())
        # The account may have been deleted, or its rights be fewer, since the token was made.
        return Identity(self._named(name) if name else Account(), grants)

    def _named(self, name: str) -> Account:
        if robot := access.parse_robot_username(name):
            return access.robot_account(self._robots.find(*robot), self._clock.now())
        if name == self.administrator.name:
            return self.administrator
        if name.startswith(_CLUSTER):
            return Account(name, False, "serviceaccount")
        row = self._users.find(name)
        if row is None:
            raise LoginRequired("the token's account is gone")
        return Account(name, row["sysadmin_flag"], "user", row["id"])
