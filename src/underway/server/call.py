"""One request on its way through the server, and the words for what goes wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from underway.api.objects import Object
from underway.base.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    MethodNotAllowed,
    NotFound,
    UnderwayError,
)
from underway.server.audit import ANNOTATIONS
from underway.server.catalog import Served
from underway.server.identity import Attributes, User
from underway.server.negotiation import Accept, parse_accept
from underway.server.store import Key
from underway.wire.http import Request

_TRUE = ("true", "1", "True", "TRUE", "t", "T")


@dataclass
class Call:
    """A request on a resource: who, what, and what is to be told besides the answer."""

    request: Request
    user: User
    attributes: Attributes
    served: Served
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def params(self) -> dict[str, str]:
        """The query's parameters."""
        return self.request.params() if self.request.query else {}

    @cached_property
    def accept(self) -> Accept:
        """The form of the answer."""
        return parse_accept(self.request)

    @property
    def annotations(self) -> dict[str, str]:
        """What the audit log is to say of the request besides."""
        found: dict[str, str] = self.request.context.setdefault(ANNOTATIONS, {})
        return found

    @property
    def key(self) -> Key:
        """Where the object named by the path is stored."""
        wanted = self.attributes
        namespace = wanted.namespace if self.served.resource.namespaced else ""
        return Key(self.served.storage, namespace, wanted.name)

    @property
    def subresource(self) -> str:
        """The subresource named by the path."""
        return self.attributes.subresource

    def flag(self, name: str) -> bool:
        """Whether a boolean parameter is set.

        Raises:
            BadRequest: it is neither true nor false.
        """
        value = self.params.get(name)
        if value is None or value in ("false", "0", "False", "FALSE", "f", "F"):
            return False
        if value in _TRUE or value == "":
            return True
        raise BadRequest(f"{name} must be true or false, not {value!r}")

    def number(self, name: str) -> int | None:
        """An integer parameter.

        Raises:
            BadRequest: it is no number.
        """
        value = self.params.get(name)
        if value is None or value == "":
            return None
        try:
            return int(value)
        except ValueError as error:
            raise BadRequest(f"{name} must be a number, not {value!r}") from error

    @property
    def dry_run(self) -> bool:
        """Whether everything is to be done but stored.

        Raises:
            BadRequest: ``dryRun`` is anything but ``All``.
        """
        value = self.params.get("dryRun")
        if value is None or value == "":
            return False
        if value != "All":
            raise BadRequest(f'Invalid value: dryRun: Unsupported value: "{value}": "All"')
        return True

    @property
    def manager(self) -> str:
        """Who is recorded as having set the fields: ``fieldManager``, else the program's name."""
        name = self.params.get("fieldManager")
        if name:
            return name
        agent = self.request.headers.get("user-agent", "")
        return agent.split("/")[0][:128] or "unknown"


def _details(served: Served, name: str) -> Object:
    resource = served.resource
    details: Object = {"name": name, "kind": resource.plural}
    if resource.group:
        details["group"] = resource.group
    return details


def not_found(served: Served, name: str) -> NotFound:
    """There is no object of that name."""
    return NotFound(
        f'{served.resource.group_resource} "{name}" not found', details=_details(served, name)
    )


def already_exists(served: Served, name: str) -> AlreadyExists:
    """The name is taken."""
    return AlreadyExists(
        f'{served.resource.group_resource} "{name}" already exists', details=_details(served, name)
    )


def conflict(served: Served, name: str, why: str = "") -> Conflict:
    """The object is no longer the one the request was made for."""
    reason = why or (
        "the object has been modified; please apply your changes to the latest version and"
        " try again"
    )
    return Conflict(
        f'Operation cannot be fulfilled on {served.resource.group_resource} "{name}": {reason}',
        details=_details(served, name),
    )


def refused(
    error: type[UnderwayError], served: Served, name: str, why: str, **more: object
) -> UnderwayError:
    """An admission plugin's no."""
    return error(
        f'{served.resource.group_resource} "{name}" is forbidden: {why}',
        details={**_details(served, name), **more},
    )


def no_such_path() -> NotFound:
    """Nothing is served at the path."""
    return NotFound("the server could not find the requested resource")


def no_such_verb() -> MethodNotAllowed:
    """The path is served, but not with this method."""
    return MethodNotAllowed("the server does not allow this method on the requested resource")
