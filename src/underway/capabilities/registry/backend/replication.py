"""Copying artifacts to another registry, or from one: policies, triggers, tasks.

A task is one artifact. It copies what the other side lacks, so that one begun again after a crash
goes on where it stood. Source: goharbor/harbor api/v2.0/swagger.yaml, ReplicationPolicy.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from underway.base.errors import BadRequest, Conflict, NotFound
from underway.capabilities.registry.backend import events, jobs
from underway.capabilities.registry.backend.database import Cursor, Database, Row
from underway.capabilities.registry.backend.jobs import Jobs, Task
from underway.capabilities.registry.backend.remote import REGISTRIES, Remote, throttled
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import (
    Account,
    BlobUnknown,
    ManifestUnknown,
    Pushed,
    Stored,
)
from underway.capabilities.registry.rules import distribution, selectors, times
from underway.wire import oci

POLICIES = Table("replication_policies", "replication policy")
_SOMEBODY = Account("replication", administrator=True)
_DEPTH = 4  # indexes in indexes


class Replication:
    """Starts and does the copying."""

    def __init__(
        self, database: Database, storage: Storage, jobs_: Jobs, told: events.Events, scratch: Path
    ) -> None:
        self._database = database
        self._storage = storage
        self._jobs = jobs_
        self._events = told
        self._scratch = scratch
        jobs_.register(jobs.REPLICATION, self._copy, self.start)

    def start(self, policy_id: int, trigger: str = "MANUAL") -> int:
        """Begin an execution of a policy; gives its id.

        Raises:
            NotFound: there is no such policy.
            Conflict: it is disabled.
        """
        policy = POLICIES.get(self._database, policy_id)
        if not policy["enabled"]:
            raise Conflict(f"the replication policy {policy['name']} is disabled")
        # What is to be copied is found by the first task: a remote registry may be slow to tell.
        return self._jobs.start(
            jobs.REPLICATION, policy_id, [{"operation": "plan"}], trigger=trigger
        )

    def on_event(self, cursor: Cursor, kind: str, data: dict[str, Any]) -> None:
        """Copy, or delete, what an event is about, where a policy asks for that."""
        operation = {"PUSH_ARTIFACT": "copy", "DELETE_ARTIFACT": "delete"}.get(kind)
        if operation is None or data.get("operator") == _SOMEBODY.name:
            return
        for policy in POLICIES.where(cursor, "enabled = 1 AND pull = 0"):
            wanted = policy["policy"]
            if (wanted.get("trigger") or {}).get("type") != "event_based":
                continue
            if operation == "delete" and not wanted.get("replicate_deletion"):
                continue
            if not _wanted(wanted, data["repository"], data["tag"]):
                continue
            task = _task(wanted, operation, data["repository"], data["tag"] or data["digest"])
            self._jobs.start(
                jobs.REPLICATION, policy["id"], [task], trigger="EVENT_BASED", cursor=cursor
            )

    def _copy(self, task: Task) -> None:
        execution = jobs.EXECUTIONS.get(self._database, task.execution_id)
        policy = POLICIES.find(self._database, "id = ?", execution["vendor_id"])
        if policy is None:
            raise NotFound("the policy is gone")
        with self.remote(policy["registry_id"]) as remote:
            if task.attrs["operation"] == "plan":
                self._plan(task, policy, remote)
            elif task.attrs["operation"] == "delete":
                with contextlib.suppress(NotFound):
                    remote.delete(task.attrs["target"], task.attrs["reference"])
                task.log(f"deleted {task.attrs['target']}:{task.attrs['reference']}")
            elif policy["pull"]:
                _Copy(task, policy, remote, self._storage, self._events, self._scratch).pull()
            else:
                _Copy(task, policy, remote, self._storage, self._events, self._scratch).push()

    def remote(self, registry_id: int) -> Remote:
        """The other registry; raises NotFound."""
        return Remote(REGISTRIES.get(self._database, registry_id), self._scratch)

    def _plan(self, task: Task, policy: Row, remote: Remote) -> None:
        wanted = policy["policy"]
        found = []
        names = remote.catalog() if policy["pull"] else self._storage.repositories()
        for repository in names:
            if not _wanted(wanted, repository, None):
                continue
            task.check()
            source = remote if policy["pull"] else self._storage
            found += [
                _task(wanted, "copy", repository, tag)
                for tag in source.tags(repository)
                if _wanted(wanted, repository, tag)
            ]
        task.log(f"{len(found)} artifacts to replicate")

        def change(cursor: Cursor) -> None:
            now = task.clock.now()
            for attrs in found:
                jobs.TASKS.insert(cursor, {
                    "execution_id": task.execution_id, "vendor_type": jobs.REPLICATION,
                    "status": "Pending", "extra_attrs": attrs,
                    "creation_time": times.text(now), "update_time": times.text(now),
                })  # fmt: skip

        self._database.write(change)


class _Copy:
    """One artifact on its way."""

    def __init__(
        self,
        task: Task,
        policy: Row,
        remote: Remote,
        storage: Storage,
        told: events.Events,
        scratch: Path,
    ) -> None:
        self._task = task
        self._remote = remote
        self._storage = storage
        self._events = told
        self._scratch = scratch
        wanted = policy["policy"]
        self._override = bool(wanted.get("override", True))
        self._speed = float(wanted.get("speed") or 0) * 1024  # Harbor's unit is KB/s
        self._source: str = task.attrs["source"]
        self._target: str = task.attrs["target"]
        self._reference: str = task.attrs["reference"]

    def push(self) -> None:
        stored = self._storage.manifest(self._source, self._reference)
        there = self._remote.digest(self._target, self._reference)
        if self._goes_on(there, stored.digest):
            self._push(stored, self._reference, 0)
            self._task.log(f"pushed {self._target}:{self._reference} {stored.digest}")
        for referrer in self._storage.referrers(self._source, stored.digest):
            self._push(referrer, referrer.digest, 0)

    def pull(self) -> None:
        found = self._remote.manifest(self._source, self._reference)
        try:
            there = self._storage.manifest(self._target, self._reference).digest
        except ManifestUnknown:
            there = ""
        if self._goes_on(there, found.digest):
            self._pull(Stored(found.digest, found.media_type, found.data), self._reference, 0)
            self._task.log(f"pulled {self._target}:{self._reference} {found.digest}")

    def _goes_on(self, there: str, digest: str) -> bool:
        if there == digest:
            self._task.log(f"{self._target}:{self._reference} is there already")
            return False
        if there and not self._override:
            self._task.log(f"{self._target}:{self._reference} is another one, which is kept")
            return False
        return True

    def _push(self, stored: Stored, reference: str, depth: int) -> None:
        self._task.check()
        content = distribution.check_manifest(stored.data, stored.media_type)
        for each in distribution.manifests_of(content):
            child = self._storage.manifest(self._source, each.digest)
            if depth >= _DEPTH:
                raise BadRequest(f"{stored.digest}: indexes are nested too deeply")
            if not self._remote.manifest_exists(self._target, each.digest):
                self._push(child, each.digest, depth + 1)
        for each in distribution.blobs_of(content):
            self._task.check()
            blob = self._storage.blob(self._source, each.digest)
            pieces = throttled(self._storage.read_blob(blob, 0, blob.size - 1), self._speed)
            self._remote.push_blob(self._target, each.digest, pieces, blob.size)
        self._remote.push_manifest(self._target, reference, stored.data, stored.media_type)

    def _pull(self, stored: Stored, reference: str, depth: int) -> None:
        self._task.check()
        content = distribution.check_manifest(stored.data, stored.media_type)
        for each in distribution.manifests_of(content):
            if depth >= _DEPTH:
                raise BadRequest(f"{stored.digest}: indexes are nested too deeply")
            child = self._remote.manifest(self._source, each.digest)
            self._pull(Stored(child.digest, child.media_type, child.data), child.digest, depth + 1)
        for each in distribution.blobs_of(content):
            self._task.check()
            fetch_blob(
                self._storage, self._remote, self._source, self._target, each.digest,
                self._scratch, self._speed,
            )  # fmt: skip

        def then(cursor: Cursor, pushed: Pushed) -> None:
            tag = "" if oci.is_digest(reference) else reference
            happened = events.of_artifact(
                "PUSH_ARTIFACT", self._target, stored.digest, tag, pushed.project_id
            )
            self._events.record(cursor, _SOMEBODY, happened)

        tags = [] if oci.is_digest(reference) else [reference]
        self._storage.put_manifest(self._target, stored, tags=tags, then=then)


def fetch_blob(
    storage: Storage,
    remote: Remote,
    source: str,
    target: str,
    digest: str,
    scratch: Path,
    bytes_per_s: float = 0,
) -> None:
    """Take a blob over from another registry, unless some repository here has it.

    Raises:
        DigestInvalid: what came is something else.
    """
    with contextlib.suppress(BlobUnknown):
        storage.blob(target, digest)
        return
    if storage.mount_known(target, digest):
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="blob-") as stream:
        for piece in throttled(remote.blob(source, digest), bytes_per_s):
            stream.write(piece)
        stream.flush()
        storage.adopt_blob(target, digest, Path(stream.name))


def check_policy(policy: dict[str, Any]) -> None:
    """Raise BadRequest unless a policy can be followed."""
    trigger = (policy.get("trigger") or {}).get("type", "manual")
    if trigger not in ("manual", "scheduled", "event_based"):
        raise BadRequest(f"{trigger!r} is no trigger: manual, scheduled or event_based")
    if trigger == "event_based" and policy.get("pull"):
        raise BadRequest("only what is pushed from here can be triggered by events")
    for each in policy.get("filters") or []:
        if each.get("type") not in ("name", "tag", "label", "resource"):
            raise BadRequest(f"{each.get('type')!r} is no filter: name, tag, label or resource")
        if each.get("type") in ("name", "tag"):
            selectors.matches(str(each.get("value", "")), "")


def _wanted(policy: dict[str, Any], repository: str, tag: str | None) -> bool:
    """Whether a policy's filters take a repository, or an artifact of it."""
    for each in policy.get("filters") or []:
        value = each.get("value", "")
        if each.get("type") == "name" and not selectors.matches(str(value), repository):
            return False
        if each.get("type") == "tag" and tag is not None:
            fits = selectors.matches(str(value), tag)
            if fits == (each.get("decoration") == "excludes"):
                return False
    return True


def _task(
    policy: dict[str, Any], operation: str, repository: str, reference: str
) -> dict[str, Any]:
    return {
        "operation": operation, "source": repository, "target": target_of(policy, repository),
        "reference": reference,
    }  # fmt: skip


def target_of(policy: dict[str, Any], repository: str) -> str:
    """What a repository is called on the other side.

    ``dest_namespace_replace_count`` of its first parts, or all but the last where that is -1, give
    way to ``dest_namespace``.
    """
    namespace = str(policy.get("dest_namespace") or "")
    if not namespace:
        return repository
    parts = repository.split("/")
    count = int(policy.get("dest_namespace_replace_count", -1))
    kept = parts[-1:] if count < 0 else parts[min(count, len(parts) - 1) :]
    return "/".join([namespace, *kept])
