"""The registry put together: what its HTTP service, controllers and commands all use."""

from __future__ import annotations

import os
from pathlib import Path

from underway.base.clock import Clock, SystemClock
from underway.base.home import Home
from underway.capabilities.registry.backend import legacy, schema
from underway.capabilities.registry.backend.accounts import Accounts, Reviewer
from underway.capabilities.registry.backend.cluster import ClusterTokens
from underway.capabilities.registry.backend.contents import Contents, FileContents
from underway.capabilities.registry.backend.credentials import ensure_credentials
from underway.capabilities.registry.backend.database import Database, SqliteDatabase
from underway.capabilities.registry.backend.events import Events
from underway.capabilities.registry.backend.jobs import Jobs
from underway.capabilities.registry.backend.maintenance import Maintenance
from underway.capabilities.registry.backend.projects import Projects
from underway.capabilities.registry.backend.proxy import Proxy
from underway.capabilities.registry.backend.replication import Replication
from underway.capabilities.registry.backend.retention import Retention
from underway.capabilities.registry.backend.robots import Robots
from underway.capabilities.registry.backend.scanning import Scanning
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.backend.tokens import TokenKey
from underway.capabilities.registry.backend.users import Users
from underway.capabilities.registry.backend.webhooks import Webhooks
from underway.capabilities.registry.model import Scope

_DATABASE = "UNDERWAY_REGISTRY_DATABASE"  # a postgresql:// URL
_STORAGE = "UNDERWAY_REGISTRY_S3"  # an s3:// or s3+http:// URL, see backend.s3


class Hub:
    """One registry's parts, as attributes."""

    def __init__(
        self,
        home: Home,
        clock: Clock | None = None,
        *,
        database: Database | None = None,
        contents: Contents | None = None,
        reviewer: Reviewer | None = None,
    ) -> None:
        self.home = home
        self.settings = home.load_settings()
        self.clock = clock or SystemClock()
        username, password = ensure_credentials(home, self.settings)
        old = not (home.registry / "registry.db").exists()
        self.database = database or open_database(home.registry)
        schema.create(self.database)
        self.storage = Storage(
            home.registry, self.database, contents or open_contents(home.registry), self.clock
        )
        self.projects = Projects(self.database, self.clock)
        if old and (home.registry / "repositories").is_dir():
            legacy.take_over(home.registry, self.storage, self.projects)
        self.robots = Robots(self.database, self.clock)
        self.users = Users(self.database, self.clock, username)
        self.events = Events(self.database, self.clock)
        self.jobs = Jobs(self.database, self.clock)
        self.host = f"{self.settings.bind_address}:{self.settings.registry_port}"
        scratch = home.registry / "fetching"
        self.replication = Replication(self.database, self.storage, self.jobs, self.events, scratch)
        self.proxy = Proxy(self.database, self.storage, scratch)
        self.retention = Retention(self.database, self.storage, self.jobs, self.events)
        self.scanning = Scanning(
            self.database, self.jobs, self.events, self.clock, f"https://{self.host}",
            self._scan_token,
        )  # fmt: skip
        self.webhooks = Webhooks(self.database, self.jobs, self.host)
        self.webhooks.listen(self.replication.on_event)
        self.webhooks.listen(self.scanning.on_event)
        self.jobs.before_each_tick(self.events.flush)
        self.jobs.before_each_tick(self.webhooks.dispatch)
        self.maintenance = Maintenance(self.storage, self.jobs, self.clock)
        self.cluster = ClusterTokens(home.kubeconfig, self.clock)
        self.accounts = Accounts(
            username, password, self.database, self.projects, self.robots, self.users,
            TokenKey.load(home.registry / "token.key"), self.clock,
            reviewer or self.cluster,
        )  # fmt: skip

    def _scan_token(self, repository: str) -> str:
        """A token with which a scanner can pull one repository, and nothing else."""
        scope = Scope("repository", repository, frozenset({"pull"}))
        return self.accounts.token(self.accounts.administrator, [scope])[0]


def open_database(root: Path) -> Database:
    """PostgreSQL where the environment names it, a file below ``root`` otherwise."""
    if url := os.environ.get(_DATABASE):
        from underway.capabilities.registry.backend.postgres import PostgresDatabase

        return PostgresDatabase(url)
    return SqliteDatabase(root / "registry.db")


def open_contents(root: Path) -> Contents:
    """An S3 bucket where the environment names it, files below ``root`` otherwise."""
    if url := os.environ.get(_STORAGE):
        from underway.capabilities.registry.backend.s3 import S3Contents

        return S3Contents.of_url(url)
    return FileContents(root / "blobs")


_shared: dict[Path, Hub] = {}


def shared(home: Home) -> Hub:
    """The registry of a home, one in a process."""
    found = _shared.get(home.root)
    if found is None:
        found = _shared[home.root] = Hub(home)
    return found
