"""RemoteRegistry and Replication objects."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from underway.api.objects import Object, deleting, name_of
from underway.api.resources import SECRETS
from underway.base.errors import NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.backend.remote import REGISTRIES, Remote, check_url
from underway.capabilities.registry.backend.replication import POLICIES, check_policy
from underway.capabilities.registry.controller import objects
from underway.capabilities.registry.rules import times
from underway.reconcile import Controller, Done, RequeueAfter, Result
from underway.reconcile.finalizers import add_finalizer, remove_finalizer
from underway.reconcile.manager import Manager
from underway.reconcile.sources import Request, generation_changed

_LOOK_S = 30.0  # between looks at what became of executions


def setup(manager: Manager, hub: Hub) -> None:
    """Add the controllers."""
    reconciler = Remotes(manager, hub)
    manager.add(
        Controller(
            "registry-remotes",
            reconciler.remote,
            primary=objects.REMOTES,
            predicates=[generation_changed],
        )
    )
    manager.add(
        Controller(
            "registry-replications",
            reconciler.replication,
            primary=objects.REPLICATIONS,
            watches=[(objects.REMOTES, reconciler.of_remote)],
            predicates=[generation_changed],
        )
    )


class Remotes:
    """Keeps other registries, and the copying to and from them, as their objects say."""

    def __init__(self, manager: Manager, hub: Hub) -> None:
        self._client = manager.client
        self._clock = manager.clock
        self._remotes = manager.informer(objects.REMOTES)
        self._replications = manager.informer(objects.REPLICATIONS)
        self._hub = hub

    def of_remote(self, remote: Object) -> Iterable[Request]:
        """The replications that a registry concerns."""
        for each in self._replications.list():
            if each["spec"]["remote"] == name_of(remote):
                yield Request("", name_of(each))

    async def remote(self, request: Request) -> Result:
        """Name, change or forget a registry; it has to answer."""
        obj = self._remotes.get(request.key)
        if obj is None:
            return Done()
        if deleting(obj):
            await run_blocking(self._forget, REGISTRIES, name_of(obj))
            await remove_finalizer(self._client, objects.REMOTES, obj, objects.FINALIZER)
            return Done()
        obj = await add_finalizer(self._client, objects.REMOTES, obj, objects.FINALIZER)
        try:
            id = await run_blocking(self._apply_remote, obj, *await self._credentials(obj))
        except UnderwayError as error:
            await objects.report(self._client, objects.REMOTES, obj, self._clock, error=error)
            return RequeueAfter(objects.RETRY_S)
        await objects.report(self._client, objects.REMOTES, obj, self._clock, id=id)
        return Done()

    async def replication(self, request: Request) -> Result:
        """Make, change or delete a policy, and tell what became of it."""
        obj = self._replications.get(request.key)
        if obj is None:
            return Done()
        if deleting(obj):
            await run_blocking(self._forget, POLICIES, name_of(obj))
            await remove_finalizer(self._client, objects.REPLICATIONS, obj, objects.FINALIZER)
            return Done()
        obj = await add_finalizer(self._client, objects.REPLICATIONS, obj, objects.FINALIZER)
        try:
            id = await run_blocking(self._apply_replication, name_of(obj), obj["spec"])
        except UnderwayError as error:
            await objects.report(self._client, objects.REPLICATIONS, obj, self._clock, error=error)
            return RequeueAfter(objects.RETRY_S)
        last = await run_blocking(self._last_execution, id)
        await objects.report(
            self._client, objects.REPLICATIONS, obj, self._clock, id=id, lastExecution=last
        )
        return RequeueAfter(_LOOK_S)

    async def _credentials(self, obj: Object) -> tuple[str, str]:
        reference = obj["spec"].get("secretRef")
        if not reference:
            return "", ""
        secret = await self._client.get(SECRETS, reference["name"], reference["namespace"])
        data = secret.get("data") or {}
        found = [base64.b64decode(data.get(name, "")).decode() for name in ("username", "password")]
        return found[0], found[1]

    def _apply_remote(self, obj: Object, username: str, password: str) -> int:
        spec, name, now = obj["spec"], name_of(obj), times.text(self._hub.clock.now())
        values = {
            "name": name, "type": spec.get("type", "docker-registry"),
            "url": check_url(spec["url"]), "insecure": spec.get("insecure", False),
            "ca_certificate": spec.get("caCertificate", ""), "access_key": username,
            "access_secret": password, "status": "healthy", "update_time": now,
        }  # fmt: skip
        with Remote({"id": 0, **values}, self._hub.home.registry / "fetching") as remote:
            remote.ping()

        def change(cursor: Cursor) -> int:
            found = REGISTRIES.find(cursor, "name = ?", name)
            if found is None:
                return REGISTRIES.insert(cursor, {**values, "creation_time": now})
            REGISTRIES.update(cursor, found["id"], values)
            return int(found["id"])

        return self._hub.database.write(change)

    def _apply_replication(self, name: str, spec: dict[str, Any]) -> int:
        remote = REGISTRIES.find(self._hub.database, "name = ?", spec["remote"])
        if remote is None:
            raise NotFound(f"there is no RemoteRegistry {spec['remote']}")
        pull = spec.get("direction") == "pull"
        trigger: dict[str, Any] = {"type": spec.get("trigger", "manual")}
        if spec.get("schedule"):
            trigger["trigger_settings"] = {"cron": spec["schedule"]}
        policy = {
            "filters": [
                {"type": "name", "value": spec.get("repositories", "**")},
                {"type": "tag", "value": spec.get("tags", "**")},
            ],
            "trigger": trigger, "override": spec.get("override", True),
            "replicate_deletion": spec.get("replicateDeletion", False),
            "dest_namespace": spec.get("namespace", ""), "speed": spec.get("speedKib", 0),
        }  # fmt: skip
        check_policy({**policy, "pull": pull})
        now = times.text(self._hub.clock.now())
        values = {
            "name": name, "policy": policy, "enabled": not spec.get("suspend", False),
            "registry_id": remote["id"], "pull": pull, "update_time": now,
        }  # fmt: skip
        text = spec.get("schedule", "") if trigger["type"] == "scheduled" else ""

        def change(cursor: Cursor) -> int:
            found = POLICIES.find(cursor, "name = ?", name)
            if found is None:
                id = POLICIES.insert(cursor, {**values, "creation_time": now})
            else:
                id = int(found["id"])
                POLICIES.update(cursor, id, values)
            planned = text if values["enabled"] else ""
            known = jobs.SCHEDULES.find(
                cursor, "vendor_type = ? AND vendor_id = ?", jobs.REPLICATION, id
            )
            if (known["cron"] if known else "") != planned:
                self._hub.jobs.set_schedule(jobs.REPLICATION, id, "Custom", planned, cursor=cursor)
            return id

        return self._hub.database.write(change)

    def _last_execution(self, id: int) -> dict[str, Any] | None:
        where = "vendor_type = ? AND vendor_id = ?"
        rows = jobs.EXECUTIONS.where(self._hub.database, where, jobs.REPLICATION, id)
        if not rows:
            return None
        last = rows[-1]
        return {"id": last["id"], "status": last["status"], "startTime": last["start_time"],
                "endTime": last["end_time"], "message": last["status_message"]}  # fmt: skip

    def _forget(self, table: Any, name: str) -> None:
        def change(cursor: Cursor) -> None:
            found = table.find(cursor, "name = ?", name)
            if found is not None:
                if table is POLICIES:
                    self._hub.jobs.set_schedule(
                        jobs.REPLICATION, found["id"], "", "", cursor=cursor
                    )
                table.delete(cursor, found["id"])

        self._hub.database.write(change)
