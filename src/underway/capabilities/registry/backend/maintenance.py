"""Jobs of the registry itself: freeing what is unused, and forgetting old audit records."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from underway.base.clock import Clock
from underway.base.errors import BadRequest
from underway.capabilities.registry.backend import garbage, jobs
from underway.capabilities.registry.backend.jobs import Jobs, Task
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.rules import times

_RETENTION_HOURS = 168


class Maintenance:
    """Starts and does them; parameters are Harbor's."""

    def __init__(self, storage: Storage, jobs_: Jobs, clock: Clock) -> None:
        self._storage = storage
        self._jobs = jobs_
        self._clock = clock
        jobs_.register(jobs.GC, self._collect, self._scheduled(jobs.GC))
        jobs_.register(jobs.PURGE, self._purge, self._scheduled(jobs.PURGE))

    def start(self, vendor_type: str, parameters: dict[str, Any], trigger: str = "MANUAL") -> int:
        """Begin a job; gives its execution's id."""
        return self._jobs.start(vendor_type, 0, [parameters], trigger=trigger, attrs=parameters)

    def _scheduled(self, vendor_type: str) -> Any:
        def start(_vendor_id: int, trigger: str) -> int:
            found = self._jobs.schedule(vendor_type)
            return self.start(vendor_type, (found or {}).get("parameters") or {}, trigger)

        return start

    def _collect(self, task: Task) -> None:
        grace_s = garbage.GRACE_S
        if (hours := task.attrs.get("time_window")) is not None:
            grace_s = float(hours) * 3600
        freed = garbage.collect(
            self._storage, self._clock.now(), grace_s=grace_s,
            untagged=bool(task.attrs.get("delete_untagged")),
            dry_run=bool(task.attrs.get("dry_run")),
        )  # fmt: skip
        verb = "would free" if task.attrs.get("dry_run") else "freed"
        task.log(
            f"{verb} {freed.blobs} blobs of {freed.size_bytes} bytes, "
            f"{freed.manifests} manifests without a tag, {freed.uploads} uploads"
        )
        task.attrs |= {
            "freed_space": freed.size_bytes,
            "purged_blobs": freed.blobs,
            "purged_manifests": freed.manifests,
        }

    def _purge(self, task: Task) -> None:
        hours = int(task.attrs.get("audit_retention_hour") or _RETENTION_HOURS)
        if hours < 1:
            raise BadRequest("audit_retention_hour must be 1 or more")
        before = times.text(self._clock.now() - timedelta(hours=hours))
        wanted = [
            each for each in str(task.attrs.get("include_operations") or "").split(",") if each
        ]
        where, params = "op_time < ?", [before]
        if wanted:
            where += f" AND operation IN ({', '.join('?' for _ in wanted)})"
            params += wanted
        database = self._storage.database
        if task.attrs.get("dry_run"):
            row = database.one(f"SELECT count(*) AS count FROM audit_log WHERE {where}", *params)  # noqa: S608  # question marks
            count = row["count"] if row else 0
        else:
            count = database.write(
                lambda cursor: cursor.run(f"DELETE FROM audit_log WHERE {where}", *params)  # noqa: S608  # question marks
            )
        task.log(f"{count} audit records older than {hours} h")
        task.attrs["purged"] = count
