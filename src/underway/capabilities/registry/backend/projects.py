"""Projects and their members. All calls block, ``find`` for a moment."""

from __future__ import annotations

from typing import Any

from underway.base.clock import Clock
from underway.base.errors import AlreadyExists, BadRequest, Conflict, NotFound
from underway.capabilities.registry.backend.database import Cursor, Database, Row
from underway.capabilities.registry.backend.storage import default_quota
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import Project
from underway.capabilities.registry.rules import access, roles, times

PROJECTS = Table("projects", "project")
MEMBERS = Table("members", "member")
_OWNED = (
    "members", "robots", "labels", "immutable_rules", "retentions", "webhook_policies",
    "project_parts",
)  # fmt: skip


class Projects:
    """The registry's projects; a change counts from the next request, whoever made it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, Project | None] = {}
        self._version: object = None

    def find(self, name: str) -> Project | None:
        """A project by its name; None where there is none."""
        version = self._database.version()
        if version != self._version:
            self._known, self._version = {}, version
        if name not in self._known:
            row = self._database.one("SELECT * FROM projects WHERE name = ?", name)
            self._known[name] = None if row is None else _project(row)
        return self._known[name]

    def get(self, name: str) -> Project:
        """A project by its name; raises NotFound."""
        access.check_project_name(name)
        project = self.find(name)
        if project is None:
            raise NotFound(
                f"there is no project {name}", hint=f"underway registry project create {name}"
            )
        return project

    def row(self, name_or_id: str, *, by_name: bool = True) -> Row:
        """A project's row by its name, or by its id; raises NotFound."""
        where = "name = ?" if by_name else "id = ?"
        found = PROJECTS.find(self._database, where, name_or_id if by_name else int(name_or_id))
        if found is None:
            raise NotFound(f"there is no project {name_or_id}")
        return found

    def names(self) -> list[str]:
        """The names of all projects, sorted."""
        rows = self._database.all("SELECT name FROM projects ORDER BY name")
        return [row["name"] for row in rows]

    def create(
        self,
        name: str,
        *,
        public: bool = False,
        sparse: bool = False,
        quota_bytes: int | None = None,
        metadata: dict[str, str] | None = None,
        registry_id: int = 0,
        owner: str = "admin",
        owner_id: int = 1,
    ) -> int:
        """Make a project; gives its id. Raises AlreadyExists, BadRequest."""
        access.check_project_name(name)
        now = times.text(self._clock.now())

        def change(cursor: Cursor) -> int:
            quota = default_quota(cursor) if quota_bytes is None else quota_bytes
            values = {
                "name": name, "public": public, "sparse": sparse, "metadata": metadata or {},
                "quota_bytes": quota, "registry_id": registry_id, "owner_name": owner,
                "owner_id": owner_id, "creation_time": now, "update_time": now, "quota_time": now,
            }  # fmt: skip
            try:
                id = PROJECTS.insert(cursor, values)
            except AlreadyExists as error:
                raise AlreadyExists(f"the project {name} exists") from error
            if owner_id:
                MEMBERS.insert(cursor, {
                    "project_id": id, "entity_type": "u", "entity_name": owner,
                    "entity_id": owner_id, "role_id": 1,
                })  # fmt: skip
            return id

        return self._database.write(change)

    def update(self, id: int, values: dict[str, Any]) -> None:
        """Change a project; raises NotFound."""
        values = {**values, "update_time": times.text(self._clock.now())}
        self._database.write(lambda cursor: PROJECTS.update(cursor, id, values))

    def delete(self, name: str) -> None:
        """Forget a project, its members and robots.

        Raises:
            NotFound: there is none.
            Conflict: it has repositories.
        """

        def change(cursor: Cursor) -> None:
            row = cursor.one("SELECT id FROM projects WHERE name = ?", name)
            if row is None:
                raise NotFound(f"there is no project {name}")
            if why := why_not_deletable(cursor, row["id"]):
                raise Conflict(f"the project {name} {why}", hint="delete them first")
            # What was uploaded, and never became an artifact.
            cursor.run(
                "DELETE FROM blob_links WHERE repository_id IN "
                "(SELECT id FROM repositories WHERE project_id = ?)",
                row["id"],
            )
            for table in (*_OWNED, "repositories"):
                cursor.run(f"DELETE FROM {table} WHERE project_id = ?", row["id"])  # noqa: S608  # constant
            cursor.run("DELETE FROM projects WHERE id = ?", row["id"])

        self._database.write(change)

    def add_member(self, project_id: int, name: str, role_id: int, *, group: bool = False) -> int:
        """Give somebody a role; gives the member's id.

        Raises:
            BadRequest: there is no such role.
            AlreadyExists: they are a member.
        """
        if role_id not in roles.ROLES:
            raise BadRequest(f"there is no role {role_id}")

        def change(cursor: Cursor) -> int:
            entity_id = 0
            if not group:
                row = cursor.one("SELECT id FROM users WHERE username = ?", name)
                if row is None and not name.startswith("system:serviceaccount:"):
                    raise NotFound(f"there is no user {name}")
                entity_id = row["id"] if row else 0
            try:
                return MEMBERS.insert(cursor, {
                    "project_id": project_id, "entity_type": "g" if group else "u",
                    "entity_name": name, "entity_id": entity_id, "role_id": role_id,
                })  # fmt: skip
            except AlreadyExists as error:
                raise AlreadyExists(f"{name} is a member already") from error

        return self._database.write(change)


def why_not_deletable(reader: Database | Cursor, id: int) -> str:
    """What keeps a project from being deleted, empty for nothing."""
    row = reader.one(
        "SELECT count(*) AS count FROM repositories WHERE project_id = ? AND pushed = 1", id
    )
    assert row is not None
    return f"has repositories: {row['count']} of them" if row["count"] else ""


def _project(row: Row) -> Project:
    return Project(
        row["id"], row["name"], bool(row["public"]), bool(row["sparse"]), row["registry_id"]
    )
