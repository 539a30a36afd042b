"""Projects and their robots: one small file a project, ``projects/<name>.json``.

The command line changes them while the registry reads them; a change counts from the next request.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from underway.base.errors import AlreadyExists, InternalError, NotFound
from underway.base.files import fsync_dir, write_atomic
from underway.capabilities.registry.model import Project, Robot
from underway.capabilities.registry.rules import access


class Projects:
    """The projects below a registry's directory. All calls block, ``find`` for a moment."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "projects"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, tuple[tuple[int, int], Project]] = {}

    def find(self, name: str) -> Project | None:
        """A project by its name; None where it has no file. ``name`` is a project's name.

        Raises:
            InternalError: its file cannot be read.
        """
        path = self._path(name)
        try:
            # A changed file is another file: only its number has to be compared.
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            known = self._known.get(name)
            if known and known[0] == stamp:
                return known[1]
            project = msgspec.json.decode(path.read_bytes(), type=Project)
        except FileNotFoundError:
            self._known.pop(name, None)
            return None
        except msgspec.MsgspecError as error:
            raise InternalError(f"{path} is no project: {error}") from error
        self._known[name] = (stamp, project)
        return project

    def get(self, name: str) -> Project:
        """A project by its name; raises NotFound."""
        access.check_project_name(name)
        project = self.find(name)
        if project is None:
            raise NotFound(
                f"there is no project {name}", hint=f"underway registry project create {name}"
            )
        return project

    def names(self) -> list[str]:
        """The names of all projects that were created, sorted."""
        return sorted(file.stem for file in self._directory.glob("[!.]*.json"))

    def create(self, name: str, *, public: bool = False, sparse: bool = False) -> Project:
        """Make a project; raises AlreadyExists."""
        access.check_project_name(name)
        with self._changing():
            if self.find(name):
                raise AlreadyExists(f"the project {name} exists")
            return self._save(Project(name, public, sparse))

    def delete(self, name: str) -> None:
        """Forget a project and its robots; raises NotFound."""
        with self._changing():
            self.get(name)
            self._path(name).unlink()
            fsync_dir(self._directory)

    def add_robot(
        self,
        project: str,
        name: str,
        permissions: Iterable[str],
        now: datetime,
        expires_at: str = "",
    ) -> tuple[Robot, str]:
        """Make a robot; gives it and its secret, which is not kept.

        Raises:
            NotFound: there is no such project.
            AlreadyExists: it has a robot of this name.
        """
        access.check_robot_name(name)
        rights = access.permissions_of(permissions)
        salt, secret = secrets.token_hex(16), secrets.token_urlsafe(32)
        with self._changing():
            found = self.get(project)
            if any(robot.name == name for robot in found.robots):
                raise AlreadyExists(f"the project {project} has a robot {name}")
            made = Robot(
                name, rights, salt, access.hash_secret(salt, secret), now.isoformat(), expires_at
            )
            self._save(msgspec.structs.replace(found, robots=(*found.robots, made)))
        return made, secret

    def remove_robot(self, project: str, name: str) -> None:
        """Delete a robot; what it logged in with is worth nothing at once. Raises NotFound."""
        with self._changing():
            found = self.get(project)
            left = tuple(robot for robot in found.robots if robot.name != name)
            if len(left) == len(found.robots):
                raise NotFound(f"the project {project} has no robot {name}")
            self._save(msgspec.structs.replace(found, robots=left))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _save(self, project: Project) -> Project:
        write_atomic(self._path(project.name), msgspec.json.encode(project), mode=0o600)
        return project

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        descriptor = os.open(
            self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
