"""Who asks, and for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from underway.base.errors import BadRequest, NotFound
from underway.wire.http import Request

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
NODES = "system:nodes"
NODE_PREFIX = "system:node:"
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
SERVICE_ACCOUNTS = "system:serviceaccounts"


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated (or anonymous) user as ``authentication.k8s.io`` describes one."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def info(self) -> dict[str, object]:
        """The ``UserInfo`` object."""
        found: dict[str, object] = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            found["uid"] = self.uid
        if self.extra:
            found["extra"] = {name: list(values) for name, values in self.extra.items()}
        return found


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is decided upon: a resource request, or with ``resource`` empty a path.

    ``fields`` is the field selector of a list or watch.
    """

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    rest: tuple[str, ...] = ()
    fields: str = ""

    @property
    def target(self) -> str:
        """The one object asked for: by the path, or by a field selector for its name."""
        return self.name or (_single_name(self.fields) if self.fields else "")


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def attributes(request: Request) -> Attributes:
    """What a request asks for, read off its method and path.

    Source: k8s.io/apiserver ``pkg/endpoints/request/requestinfo.go``.

    Raises:
        NotFound: the path is malformed.
        BadRequest: the method is none of HTTP's usual ones.
    """
    segments = request.segments()
    method = request.method
    if method not in ("GET", "HEAD", *_VERBS):
        if method != "OPTIONS":
            raise BadRequest(f"the method {method} is not supported")
        return Attributes("options", path=request.path)
    plain = Attributes(
        {"GET": "get", "HEAD": "head"}.get(method, method.lower()), path=request.path
    )
    if len(segments) >= 3 and segments[0] == "api":
        group, version, rest = "", segments[1], segments[2:]
    elif len(segments) >= 4 and segments[0] == "apis":
        group, version, rest = segments[1], segments[2], segments[3:]
    else:
        return plain
    if any(not part or part in (".", "..") for part in rest):
        raise NotFound("the server could not find the requested resource")
    watching = rest[0] == "watch" and len(rest) > 1
    if watching:
        rest = rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    elif rest[0] == "namespaces" and len(rest) >= 2:
        namespace = rest[1]  # upstream: requests on a namespace are authorized inside it
    resource, *tail = rest
    name = tail[0] if tail else ""
    subresource = tail[1] if len(tail) > 1 else ""
    verb, fields = _verb(request, name, watching=watching), ""
    if not name and verb in ("list", "watch", "deletecollection") and request.query:
        fields = request.params().get("fieldSelector") or ""
    return Attributes(
        verb,
        group,
        version,
        resource,
        subresource,
        namespace,
        name,
        request.path,
        tuple(tail[2:]),
        fields,
    )


def _single_name(fields: str) -> str:
    """The one name a field selector chooses, or empty."""
    for part in fields.split(","):
        field, operator, value = part.partition("=")
        if field.strip() == "metadata.name" and operator:
            return value.removeprefix("=").strip()
    return ""


def _verb(request: Request, name: str, *, watching: bool) -> str:
    if request.method in ("GET", "HEAD"):
        watching = watching or (
            "watch" in request.query and request.params().get("watch") in ("true", "1", "")
        )
        if watching:
            return "watch"
        return "get" if name else "list"
    if request.method == "DELETE" and not name:
        return "deletecollection"
    return _VERBS[request.method]
