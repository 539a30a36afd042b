"""Programs' accounts. A secret is shown once; its salted hash is what is kept."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from underway.base.clock import Clock
from underway.base.errors import AlreadyExists, BadRequest, NotFound
from underway.capabilities.registry.backend.database import Cursor, Database, Row
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import Permission, Robot
from underway.capabilities.registry.rules import access, times

ROBOTS = Table("robots", "robot")
_DAY_S = 86_400
_JOINED = (
    "SELECT b.*, coalesce(p.name, '') AS project FROM robots b "
    "LEFT JOIN projects p ON p.id = b.project_id"
)


class Robots:
    """The robots of projects and of the whole registry. All calls block, ``find`` for a moment."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def find(self, project: str, name: str) -> Robot | None:
        """A robot by its project, empty for the whole registry, and name."""
        sql = f"{_JOINED} WHERE b.name = ? AND coalesce(p.name, '') = ?"
        row = self._database.one(sql, name, project)
        return None if row is None else _robot(row)

    def of_project(self, project: str) -> list[Robot]:
        """A project's robots, by name; of the whole registry where that is empty."""
        sql = f"{_JOINED} WHERE coalesce(p.name, '') = ? ORDER BY b.name"
        rows = self._database.all(sql, project)
        return [_robot(row) for row in rows]

    def create(
        self,
        name: str,
        permissions: Iterable[Permission],
        *,
        project: str = "",
        duration_days: int = -1,
        expires_s: int | None = None,
        description: str = "",
        creator: str = "",
        secret: str = "",
    ) -> tuple[int, str]:
        """Make a robot; gives its id and its secret, which is not kept.

        Raises:
            BadRequest: the name or a permission is none.
            NotFound: there is no such project.
            AlreadyExists: it has a robot of this name.
        """
        access.check_robot_name(name)
        permissions = tuple(permissions)
        check_permissions(permissions, project)
        now = self._clock.now()
        if expires_s is None:
            expires_s = -1
            if duration_days > 0:
                expires_s = int(now.timestamp()) + duration_days * _DAY_S
        secret = secret or new_secret()
        salt = secrets.token_hex(16)

        def change(cursor: Cursor) -> int:
            project_id = _project_id(cursor, project)
            try:
                return ROBOTS.insert(cursor, {
                    "name": name, "project_id": project_id, "description": description,
                    "level": "project" if project else "system", "duration": duration_days,
                    "salt": salt, "secret_hash": access.hash_secret(salt, secret),
                    "permissions": msgspec.to_builtins(permissions), "expires_at": expires_s,
                    "creator": creator, "creation_time": times.text(now),
                    "update_time": times.text(now),
                })  # fmt: skip
            except AlreadyExists as error:
                whose = f"the project {project}" if project else "the registry"
                raise AlreadyExists(f"{whose} has a robot {name}") from error

        return self._database.write(change), secret

    def delete(self, project: str, name: str) -> None:
        """Delete a robot; what it logged in with is worth nothing at once. Raises NotFound."""

        def change(cursor: Cursor) -> None:
            sql = "DELETE FROM robots WHERE name = ? AND project_id = ?"
            if not cursor.run(sql, name, _project_id(cursor, project)):
                raise NotFound(f"the project {project} has no robot {name}")

        self._database.write(change)

    def renew(self, id: int, secret: str = "") -> str:
        """Give a robot another secret; gives that."""
        secret = secret or new_secret()
        check_secret(secret)
        salt = secrets.token_hex(16)
        values = {"salt": salt, "secret_hash": access.hash_secret(salt, secret)}
        self._database.write(lambda cursor: ROBOTS.update(cursor, id, values))
        return secret

    def page(self, where: str, params: list[object], query: Any) -> tuple[list[Row], int]:
        """Rows of robots; for ``Table.page``."""
        return ROBOTS.page(self._database, query, where, *params)


def new_secret() -> str:
    """A secret that also fits Harbor's rule for them."""
    return f"Ur1{secrets.token_urlsafe(30)}"


def check_secret(secret: str) -> None:
    """Raise BadRequest unless a secret is long and varied enough for a robot."""
    kinds = (str.islower, str.isupper, str.isdigit)
    if not (8 <= len(secret) <= 128 and all(any(map(kind, secret)) for kind in kinds)):
        raise BadRequest(
            "the secret is too simple",
            hint="8 to 128 characters with an upper-case letter, a lower-case one and a digit",
        )


def check_permissions(permissions: tuple[Permission, ...], project: str) -> None:
    """Raise BadRequest unless a robot of a project, or of all, may have these."""
    if not permissions:
        raise BadRequest("a robot needs a permission")
    for each in permissions:
        if each.kind not in ("project", "system"):
            raise BadRequest(f"{each.kind!r} is no kind of permission: project or system")
        if project and (each.kind != "project" or each.namespace != project):
            raise BadRequest(f"a robot of the project {project} has permissions in that alone")
        if not each.access:
            raise BadRequest(f"the permission for {each.namespace} allows nothing")


def permissions_from(value: Any) -> tuple[Permission, ...]:
    """Permissions as Harbor's API writes them; raises BadRequest."""
    try:
        return msgspec.convert(value, tuple[Permission, ...])
    except msgspec.ValidationError as error:
        raise BadRequest(f"permissions: {error}") from error


def _project_id(cursor: Cursor, project: str) -> int:
    if not project:
        return 0
    row = cursor.one("SELECT id FROM projects WHERE name = ?", project)
    if row is None:
        raise NotFound(
            f"there is no project {project}", hint=f"underway registry project create {project}"
        )
    return int(row["id"])


def _robot(row: Row) -> Robot:
    value = ROBOTS.value(row)
    return Robot(
        value["id"], value["name"], value["project"], permissions_from(value["permissions"]),
        value["salt"], value["secret_hash"], value["creation_time"], value["expires_at"],
        value["disable"],
    )  # fmt: skip
