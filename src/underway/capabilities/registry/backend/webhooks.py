"""Telling others what happened: events become deliveries, tried again until they arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from underway.base.errors import BadRequest, ServiceUnavailable
from underway.capabilities.registry.backend import jobs
from underway.capabilities.registry.backend.database import Cursor, Database
from underway.capabilities.registry.backend.jobs import Jobs, Task
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.rules import payloads

POLICIES = Table("webhook_policies", "webhook policy")
_AT_ONCE = 200  # events taken by one transaction
_TIMEOUT_S = 10.0

Listener = Callable[[Cursor, str, dict[str, Any]], None]


class Webhooks:
    """Takes events out of their table, and gives them to webhooks and other listeners."""

    def __init__(self, database: Database, jobs_: Jobs, host: str) -> None:
        self._database = database
        self._jobs = jobs_
        self._host = host
        self._listeners: list[Listener] = []
        jobs_.register(jobs.WEBHOOK, self._deliver)

    def listen(self, listener: Listener) -> None:
        """Let somebody else see every event, in the transaction that takes it."""
        self._listeners.append(listener)

    def dispatch(self) -> None:
        """Turn the events that are waiting into work. Blocks."""
        while self._database.one("SELECT id FROM events LIMIT 1"):
            self._database.write(self._take)

    def _take(self, cursor: Cursor) -> None:
        rows = cursor.all("SELECT * FROM events ORDER BY id LIMIT ?", _AT_ONCE)
        for row in rows:
            if not cursor.run("DELETE FROM events WHERE id = ?", row["id"]):
                continue  # another replica has it
            data = msgspec.json.decode(row["data"])
            for listener in self._listeners:
                listener(cursor, row["type"], data)
            self._notify(cursor, row["type"], row["time_s"], row["id"], data)

    def _notify(
        self, cursor: Cursor, kind: str, time_s: int, id: int, data: dict[str, Any]
    ) -> None:
        project_id = data.get("project_id", 0)
        for policy in POLICIES.where(cursor, "enabled = 1 AND project_id = ?", project_id):
            if kind not in policy["event_types"]:
                continue
            event = {"id": id, "type": kind, "time_s": time_s, "project_id": project_id,
                     "operator": data.get("operator", "")}  # fmt: skip
            row = cursor.one("SELECT public FROM projects WHERE id = ?", project_id)
            told = payloads.event_data(data, self._host, public=bool(row and row["public"]))
            tasks = []
            for target in policy["targets"]:
                content_type, content = payloads.body(event, target, policy["id"], told)
                tasks.append({"target": target, "content_type": content_type, "body": content})
            self._jobs.start(
                jobs.WEBHOOK, policy["id"], tasks, trigger="EVENT", project_id=project_id,
                attrs={"event_type": kind, "operator": event["operator"], "event_data": told},
                cursor=cursor,
            )  # fmt: skip

    def _deliver(self, task: Task) -> None:
        import httpx

        target = task.attrs["target"]
        headers = {"content-type": task.attrs["content_type"]}
        if target.get("auth_header"):
            headers["authorization"] = target["auth_header"]
        try:
            answer = httpx.post(
                target["address"],
                content=msgspec.json.encode(task.attrs["body"]),
                headers=headers,
                timeout=_TIMEOUT_S,
                verify=not target.get("skip_cert_verify"),
                trust_env=False,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceUnavailable(f"{target['address']}: {error}") from error
        task.log(f"{target['address']} answered {answer.status_code}")
        if answer.status_code >= 300:
            raise ServiceUnavailable(f"{target['address']} answered {answer.status_code}")


def check_policy(policy: dict[str, Any]) -> None:
    """Raise BadRequest unless a policy can be followed."""
    if not policy.get("name"):
        raise BadRequest("a webhook policy needs a name")
    unknown = set(policy.get("event_types") or ()) - set(payloads.EVENTS)
    if unknown or not policy.get("event_types"):
        raise BadRequest(f"event_types: {sorted(unknown) or 'none'} cannot be told")
    if not policy.get("targets"):
        raise BadRequest("a webhook policy needs a target")
    for target in policy["targets"]:
        if target.get("type") not in payloads.NOTIFY_TYPES:
            raise BadRequest(f"{target.get('type')!r} is no kind of target: http or slack")
        if not str(target.get("address", "")).startswith(("http://", "https://")):
            raise BadRequest(f"{target.get('address')!r} is no address: http:// or https://")
        if target.get("payload_format", "Default") not in (*payloads.FORMATS, ""):
            raise BadRequest(f"{target['payload_format']!r} is no format of payloads")
