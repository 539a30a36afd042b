"""Who asks, and whether they may: the cluster's own users, tokens and RBAC.

The virtual resources ``notes``, ``occurrences`` and ``projects`` of the API group
``grafeas.underway.dev`` stand in roles as any other. Source: Kubernetes API reference,
TokenReview and SubjectAccessReview.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from underway.api.objects import Object
from underway.api.resources import SUBJECTACCESSREVIEWS, TOKENREVIEWS
from underway.base.clock import Clock
from underway.base.errors import Forbidden, Unauthorized
from underway.client import Client
from underway.wire.http import Request

GROUP = "grafeas.underway.dev"
_BELIEVED_S = 10.0
_REMEMBERED = 1024
_TOKEN_LIMIT = 16_384  # characters


@dataclass(frozen=True, slots=True)
class Caller:
    """A user of the cluster."""

    name: str
    groups: tuple[str, ...] = ()


class Access:
    """Asks the cluster; answers are believed for ten seconds."""

    def __init__(self, connect: Callable[[], Client], clock: Clock) -> None:
        self._connect = connect
        self._clock = clock
        self._client: Client | None = None
        self._callers: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._allowed: OrderedDict[tuple[Caller, str, str, str], float] = OrderedDict()

    async def require(self, request: Request, verb: str, resource: str, name: str = "") -> Caller:
        """The caller, who may do this.

        Raises:
            Unauthorized: nobody the cluster knows asks.
            Forbidden: the caller may not.
        """
        caller = await self._caller(request)
        key, now_s = (caller, verb, resource, name), self._clock.monotonic()
        if self._allowed.get(key, 0.0) > now_s:
            return caller
        spec: Object = {
            "user": caller.name,
            "groups": list(caller.groups),
            "resourceAttributes": {
                "group": GROUP, "version": "v1", "resource": resource, "verb": verb, "name": name,
            },
        }  # fmt: skip
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        found = await self._cluster().create(SUBJECTACCESSREVIEWS, {**review, "spec": spec})
        if not (found.get("status") or {}).get("allowed"):
            raise Forbidden(
                f"{caller.name} may not {verb} {resource}.{GROUP}",
                hint=f"bind a ClusterRole with {verb} on {resource} in the API group {GROUP}",
            )
        _remember(self._allowed, key, now_s + _BELIEVED_S)
        return caller

    async def _caller(self, request: Request) -> Caller:
        if request.peer.common_name:
            groups = (*request.peer.organizations, "system:authenticated")
            return Caller(request.peer.common_name, groups)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_LIMIT:
            raise Unauthorized(
                "a client certificate of the cluster or a bearer token is needed",
                hint="kubectl create token NAME",
            )
        key, now_s = hashlib.sha256(token.encode()).digest(), self._clock.monotonic()
        until, caller = self._callers.get(key, (0.0, Caller("")))
        if until > now_s:
            return caller
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        asked = {**review, "spec": {"token": token}}
        status = (await self._cluster().create(TOKENREVIEWS, asked)).get("status") or {}
        if not status.get("authenticated"):
            raise Unauthorized("the cluster does not know this token")
        user = status["user"]
        caller = Caller(str(user["username"]), tuple(user.get("groups") or ()))
        _remember(self._callers, key, (now_s + _BELIEVED_S, caller))
        return caller

    def _cluster(self) -> Client:
        if self._client is None:
            self._client = self._connect()
        return self._client


def _remember(known: OrderedDict, key: object, value: object) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
