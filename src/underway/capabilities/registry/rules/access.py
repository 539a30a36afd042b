"""Who may do what.

Source: distribution's token authentication specification (scopes, challenge, claims); robot names
as Harbor writes them, ``robot$project+name``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.registry.model import (
    Account,
    Identity,
    LoginRequired,
    Robot,
    Route,
    Scope,
)
from underway.capabilities.registry.rules import roles
from underway.wire import oci

Rights = frozenset[str]  # "resource:action" each

SERVICE = "underway-registry"
TOKEN_S = 300  # how long a token is valid
PERMISSIONS = ("pull", "push", "delete")

_CATALOG = Scope("registry", "catalog", frozenset("*"))
_ROBOT = re.compile(r"robot\$(?:([^+]+)\+)?([^+]+)")
_ROBOT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9.\-]+(?::\d{1,5})?|\[[0-9a-fA-F:.]+\](?::\d{1,5})?")
_SCOPE_LIMIT = 64  # scopes in one request for a token


def project_of(repository: str) -> str:
    """The project a repository belongs to: the first segment of its name."""
    return repository.partition("/")[0]


def is_project_name(name: str) -> bool:
    """Whether a project may be called this."""
    return "/" not in name and oci.is_repository(name)


def check_project_name(name: str) -> None:
    """Raise BadRequest unless a project may be called this."""
    if not is_project_name(name):
        raise BadRequest(f"{name!r} is no project name", hint="use lower-case letters and digits")


def check_robot_name(name: str) -> None:
    """Raise BadRequest unless a robot may be called this."""
    if not _ROBOT_NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no robot name", hint="use lower-case letters and digits")


def robot_username(project: str, robot: str) -> str:
    """The name a robot logs in with; one of the whole registry has no ``project``."""
    return f"robot${project}+{robot}" if project else f"robot${robot}"


def parse_robot_username(username: str) -> tuple[str, str] | None:
    """Project, empty for the whole registry, and name of a robot; None for other accounts."""
    found = _ROBOT.fullmatch(username)
    if not found or (found.group(1) and not is_project_name(found.group(1))):
        return None
    return found.group(1) or "", found.group(2)


def permissions_of(wanted: Iterable[str]) -> tuple[str, ...]:
    """Permissions in their usual order; a client that pushes also has to look, so push has pull.

    Raises:
        BadRequest: there are none, or one is unknown.
    """
    asked = set(wanted)
    if unknown := asked - set(PERMISSIONS):
        raise BadRequest(f"{sorted(unknown)[0]!r} is no permission", hint="pull, push or delete")
    if not asked:
        raise BadRequest("a robot needs a permission", hint="pull, push or delete")
    if "push" in asked:
        asked.add("pull")
    return tuple(each for each in PERMISSIONS if each in asked)


def hash_secret(salt: str, secret: str) -> str:
    """What is kept of a robot's secret. Secrets are random and long, so one hash is enough."""
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()


def parse_basic(header: str) -> tuple[str, str] | None:
    """User and password of an ``Authorization`` header; None where it is of another scheme.

    Raises:
        LoginRequired: it is malformed.
    """
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise LoginRequired("the credentials are malformed") from error
    if not colon:
        raise LoginRequired("the credentials are malformed")
    return username, password


def robot_account(robot: Robot | None, now: datetime) -> Account:
    """The account of a robot.

    Raises:
        LoginRequired: there is none, it is disabled, or its time is over.
    """
    over = robot is not None and 0 <= robot.expires_s <= now.timestamp()
    if robot is None or over or robot.disabled:
        raise LoginRequired("authentication is required")
    username = robot_username(robot.project, robot.name)
    return Account(username, False, "robot", robot.id, robot.permissions)


def check_secret(robot: Robot, secret: str) -> None:
    """Raise LoginRequired unless the secret is the robot's."""
    if not hmac.compare_digest(hash_secret(robot.salt, secret), robot.secret_hash):
        raise LoginRequired("authentication is required")


def looks_like_token(password: str) -> bool:
    """Whether a password may be a JWT, as service accounts have them."""
    return password.startswith("ey") and password.count(".") == 2


def same(given: str, expected: str) -> bool:
    """Compare two secrets, taking the same time whatever is wrong."""
    return hmac.compare_digest(given.encode(), expected.encode())


def needed(method: str, route: Route) -> Scope | None:
    """What a request needs; None where being known is enough."""
    if route.kind == "base":
        return None
    if route.kind == "catalog":
        return _CATALOG
    if route.kind in ("uploads", "upload"):
        action = "push"
    else:
        action = {"PUT": "push", "DELETE": "delete"}.get(method, "pull")
    return Scope("repository", route.repository, frozenset((action,)))


def allowed(account: Account, rights: Rights, scope: Scope) -> Scope:
    """The part of a scope that an account may have. ``rights`` are those in the project."""
    asked = scope.actions
    if scope.kind == "registry":
        may_list = account.administrator or "catalog:read" in rights
        return Scope(scope.kind, scope.name, asked if may_list else frozenset())
    if scope.kind != "repository" or not oci.is_repository(scope.name):
        return Scope(scope.kind, scope.name, frozenset())
    if "*" in asked:
        asked = frozenset(PERMISSIONS)
    return Scope(scope.kind, scope.name, asked & roles.image_actions(rights))


def may(identity: Identity, rights: Rights, scope: Scope) -> bool:
    """Whether both the account and, where there is one, its token allow all of a scope."""
    if allowed(identity.account, rights, scope).actions != scope.actions:
        return False
    if identity.grants is None:
        return True
    return any(
        grant.kind == scope.kind and grant.name == scope.name and grant.actions >= scope.actions
        for grant in identity.grants
    )


def parse_scopes(texts: Iterable[str]) -> list[Scope]:
    """Read scopes, each text one or several separated by spaces.

    Raises:
        BadRequest: one is malformed, or they are too many.
    """
    found = []
    for text in " ".join(texts).split():
        kind, _, rest = text.partition(":")
        name, colon, actions = rest.rpartition(":")
        if not (kind and colon and name):
            raise BadRequest(f"{text[:100]!r} is no scope", hint="repository:NAME:pull,push")
        kind = kind.partition("(")[0]  # an older form names a class of resources in brackets
        found.append(Scope(kind, name, frozenset(filter(None, actions.split(",")))))
    if len(found) > _SCOPE_LIMIT:
        raise BadRequest(f"{len(found)} scopes are too many for one token")
    return found


def challenge(host: str, scopes: Iterable[Scope], error: str = "") -> str:
    """The ``WWW-Authenticate`` header of a 401. ``host`` is what the client calls us."""
    if not _HOST.fullmatch(host):
        return f'Basic realm="{SERVICE}"'
    text = f'Bearer realm="https://{host}/service/token",service="{SERVICE}"'
    if named := " ".join(f"{each.kind}:{each.name}:{_actions(each)}" for each in scopes):
        text += f',scope="{named}"'
    return text + (f',error="{error}"' if error else "")


def claims(account: Account, grants: Iterable[Scope], now_s: int, token_id: str) -> dict[str, Any]:
    """The claims of a token, valid from now on."""
    return {
        "iss": SERVICE,
        "sub": account.name,
        "aud": SERVICE,
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + TOKEN_S,
        "jti": token_id,
        "access": [
            {"type": grant.kind, "name": grant.name, "actions": sorted(grant.actions)}
            for grant in grants
            if grant.actions
        ],
    }


def grants_of(found: Mapping[str, Any], now_s: float) -> tuple[str, tuple[Scope, ...]]:
    """Account name and scopes of a token whose signature is right.

    Raises:
        LoginRequired: it is not ours, over, or not yet valid.
    """
    if found.get("iss") != SERVICE or found.get("aud") != SERVICE:
        raise LoginRequired("the token was made for another service")
    if not found.get("nbf", 0) - 60 <= now_s < found.get("exp", 0):
        raise LoginRequired("the token is no longer valid")
    grants = tuple(
        Scope(each["type"], each["name"], frozenset(each["actions"]))
        for each in found.get("access", ())
    )
    return str(found.get("sub", "")), grants


def _actions(scope: Scope) -> str:
    # Who pushes first looks what is there.
    actions = scope.actions | ({"pull"} if "push" in scope.actions else set())
    return ",".join(each for each in (*PERMISSIONS, "*") if each in actions)
