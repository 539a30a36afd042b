"""Deleting what a project's retention policy does not keep."""

from __future__ import annotations

from typing import Any

from underway.base.errors import Conflict, NotFound
from underway.capabilities.registry.backend import events, immutable, jobs
from underway.capabilities.registry.backend.database import Cursor, Database
from underway.capabilities.registry.backend.jobs import Jobs, Task
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import Account, Immutable, ManifestUnknown
from underway.capabilities.registry.rules import retention, times

POLICIES = Table("retentions", "retention policy")
_SOMEBODY = Account("retention", administrator=True)


class Retention:
    """Starts and does the deleting: a task is one repository."""

    def __init__(
        self, database: Database, storage: Storage, jobs_: Jobs, told: events.Events
    ) -> None:
        self._database = database
        self._storage = storage
        self._jobs = jobs_
        self._events = told
        jobs_.register(jobs.RETENTION, self._apply, self.start)

    def start(self, policy_id: int, trigger: str = "MANUAL", *, dry_run: bool = False) -> int:
        """Begin an execution of a policy; gives its id. Raises NotFound, Conflict."""
        policy = POLICIES.get(self._database, policy_id)
        busy = self._database.one(
            "SELECT id FROM executions WHERE vendor_type = ? AND vendor_id = ? "
            "AND status = 'Running'",
            jobs.RETENTION, policy_id,
        )  # fmt: skip
        if busy:
            raise Conflict("the retention policy is being followed already")
        rows = self._database.all(
            "SELECT name FROM repositories WHERE project_id = ? AND pushed = 1 ORDER BY name",
            policy["project_id"],
        )
        tasks = []
        for row in rows:
            inside = row["name"].partition("/")[2]
            if retention.covered(policy["policy"].get("rules") or [], inside):
                tasks.append({"repository": row["name"], "dry_run": dry_run})
        return self._jobs.start(
            jobs.RETENTION, policy_id, tasks, trigger=trigger, project_id=policy["project_id"],
            attrs={"dry_run": dry_run},
        )  # fmt: skip

    def _apply(self, task: Task) -> None:
        execution = jobs.EXECUTIONS.get(self._database, task.execution_id)
        policy = POLICIES.find(self._database, "id = ?", execution["vendor_id"])
        if policy is None:
            raise NotFound("the retention policy is gone")
        repository = task.attrs["repository"]
        rules = retention.covered(policy["policy"].get("rules") or [], repository.partition("/")[2])
        found = self._candidates(repository)
        kept = retention.kept(found, rules, task.clock.now())
        deleted = 0
        for each in found:
            task.check()
            if each.digest in kept:
                task.log(f"RETAIN {each.digest} {','.join(each.tags)}")
                continue
            guarded = any(
                immutable.is_immutable(self._database, policy["project_id"], repository, tag)
                for tag in each.tags
            )
            task.log(f"{'IMMUTABLE' if guarded else 'DEL'} {each.digest} {','.join(each.tags)}")
            if not guarded and (task.attrs["dry_run"] or self._delete(policy, repository, each)):
                deleted += 1
        task.attrs |= {"total": len(found), "retained": len(found) - deleted}

    def _candidates(self, repository: str) -> list[retention.Candidate]:
        """A repository's artifacts, but those that an index lists or that are about another."""
        rows = self._database.all(
            "SELECT a.id, a.digest, a.push_time, a.pull_time FROM artifacts a "
            "JOIN repositories r ON r.id = a.repository_id WHERE r.name = ? AND a.subject = '' "
            "AND NOT EXISTS (SELECT 1 FROM parts p WHERE p.repository_id = a.repository_id "
            "AND p.digest = a.digest AND p.kind = 'manifest')",
            repository,
        )
        tags: dict[int, list[dict[str, Any]]] = {}
        for row in self._database.all(
            "SELECT t.artifact_id, t.name, t.push_time FROM tags t "
            "JOIN repositories r ON r.id = t.repository_id WHERE r.name = ?",
            repository,
        ):
            tags.setdefault(row["artifact_id"], []).append(row)
        return [
            retention.Candidate(
                row["digest"],
                tuple(tag["name"] for tag in tags.get(row["id"], ())),
                max(_seconds(each["push_time"]) for each in (row, *tags.get(row["id"], ()))),
                _seconds(row["pull_time"]),
            )
            for row in rows
        ]

    def _delete(self, policy: dict[str, Any], repository: str, each: retention.Candidate) -> bool:
        def then(cursor: Cursor) -> None:
            for tag in each.tags or ("",):
                happened = events.of_artifact(
                    "DELETE_ARTIFACT", repository, each.digest, tag, policy["project_id"]
                )
                self._events.record(cursor, _SOMEBODY, happened)

        try:
            self._storage.delete_manifest(repository, each.digest, accessories=True, then=then)
        except (ManifestUnknown, Immutable):  # somebody was quicker
            return False
        return True


def _seconds(text: str) -> float:
    return times.parse(text).timestamp() if text else 0.0
