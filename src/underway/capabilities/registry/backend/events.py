"""What happened: the audit log, and the events that webhooks, replication and scanning wait for.

An event is written in the transaction of what it tells of, so that none is lost and none is told of
what did not happen.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from underway.base.clock import Clock
from underway.capabilities.registry.backend.database import Cursor, Database
from underway.capabilities.registry.model import Account
from underway.capabilities.registry.rules import times

ANONYMOUS = "anonymous"
_WAITING_LIMIT = 5000  # pulls kept in memory until they are written


@dataclass(frozen=True, slots=True)
class Happened:
    """``kind`` is what webhooks call it, empty for what is only in the audit log.

    ``resource`` is a repository with tag or digest, a project, a robot; ``data`` what webhooks
    tell of it.
    """

    operation: str
    resource_type: str
    resource: str
    project_id: int
    kind: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Events:
    """Writes down who did what."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._pulls: Counter[tuple[int, str, str, str, str]] = Counter()
        self._lock = threading.Lock()

    def record(self, cursor: Cursor, account: Account, happened: Happened) -> None:
        """Write it down, in the transaction that makes it so."""
        now = self._clock.now()
        username = account.name or ANONYMOUS
        cursor.run(
            "INSERT INTO audit_log (username, resource, resource_type, operation, op_time, "
            "project_id, success) VALUES (?, ?, ?, ?, ?, ?, 1)",
            username, happened.resource, happened.resource_type, happened.operation,
            times.text(now), happened.project_id,
        )  # fmt: skip
        if happened.kind:
            data = {**happened.data, "operator": username, "project_id": happened.project_id}
            cursor.run(
                "INSERT INTO events (type, time_s, data) VALUES (?, ?, ?)",
                happened.kind, int(now.timestamp()), msgspec.json.encode(data).decode(),
            )  # fmt: skip

    def tell(self, account: Account, happened: Happened) -> None:
        """Write down what has no transaction of its own. Blocks."""
        self._database.write(lambda cursor: self.record(cursor, account, happened))

    def pulled(
        self, artifact_id: int, repository: str, reference: str, digest: str, who: str
    ) -> bool:
        """Note a pull, to be written soon; whether that is due now. Cheap."""
        with self._lock:
            self._pulls[artifact_id, repository, reference, digest, who] += 1
            return len(self._pulls) > _WAITING_LIMIT

    def flush(self) -> None:
        """Write the pulls noted so far. Blocks."""
        with self._lock:
            pulls, self._pulls = self._pulls, Counter()
        if pulls:
            self._database.write(lambda cursor: self._write_pulls(cursor, pulls))

    def _write_pulls(self, cursor: Cursor, pulls: Counter[tuple[int, str, str, str, str]]) -> None:
        now = times.text(self._clock.now())
        for (artifact_id, repository, reference, digest, who), count in pulls.items():
            row = cursor.one("SELECT project_id FROM artifacts WHERE id = ?", artifact_id)
            if row is None:
                continue
            cursor.run("UPDATE artifacts SET pull_time = ? WHERE id = ?", now, artifact_id)
            cursor.run(
                "UPDATE repositories SET pull_count = pull_count + ? WHERE name = ?",
                count, repository,
            )  # fmt: skip
            tag = "" if reference == digest else reference
            if tag:
                cursor.run(
                    "UPDATE tags SET pull_time = ? WHERE artifact_id = ? AND name = ?",
                    now, artifact_id, tag,
                )  # fmt: skip
            happened = of_artifact("PULL_ARTIFACT", repository, digest, tag, row["project_id"])
            self.record(cursor, Account(who), happened)


_OPERATIONS = {"PUSH_ARTIFACT": "create", "PULL_ARTIFACT": "pull", "DELETE_ARTIFACT": "delete"}


def of_artifact(kind: str, repository: str, digest: str, tag: str, project_id: int) -> Happened:
    """What happened to an artifact: a push, a pull, a deletion."""
    resource = f"{repository}:{tag}" if tag else f"{repository}@{digest}"
    data = {"repository": repository, "digest": digest, "tag": tag}
    return Happened(_OPERATIONS[kind], "artifact", resource, project_id, kind, data)
