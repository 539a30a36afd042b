"""Work that goes on behind the API: executions, each of some tasks, kept until they are done.

A task is a row before it is work: a process that dies leaves it to the next, which begins it again.
Whoever runs tasks claims them in the database, so that several replicas share them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from underway.base.clock import Clock
from underway.base.errors import NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend.database import Cursor, Database, Row
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.rules import cron, times

log = logging.getLogger(__name__)

EXECUTIONS = Table("executions", "execution")
TASKS = Table("tasks", "task")
SCHEDULES = Table("schedules", "schedule")

WEBHOOK, REPLICATION, RETENTION = "WEBHOOK", "REPLICATION", "RETENTION"
GC, PURGE, SCAN, SCAN_ALL = "GARBAGE_COLLECTION", "PURGE_AUDIT_LOG", "IMAGE_SCAN", "SCAN_ALL"

FINAL = ("Success", "Error", "Stopped")
AT_ONCE = 3  # tasks; each holds a thread of the shared pool
_TICK_S = 0.5
_LOG_LIMIT = 256 * 1024  # characters kept of a task's log
_RETRIES = {WEBHOOK: 10, REPLICATION: 3}  # attempts at what may go away by itself
_BACKOFF_LIMIT_S = 600.0


class Stopped(UnderwayError):
    """Somebody asked the task to stop."""


@dataclass
class Task:
    """One piece of work, as its handler sees it; ``attrs`` is kept with it."""

    id: int
    execution_id: int
    vendor_type: str
    attempts: int
    attrs: dict[str, Any]
    stopping: Callable[[], bool]
    clock: Clock
    lines: list[str] = field(default_factory=list)

    def log(self, line: str) -> None:
        """Add a line to its log."""
        self.lines.append(f"{times.text(self.clock.now())} {line}")

    def check(self) -> None:
        """Raise Stopped where somebody asked for that."""
        if self.stopping():
            raise Stopped("stopped")


Work = Callable[[Task], None]


class Jobs:
    """Executions and their tasks, and the schedules that start them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._worker = secrets.token_hex(8)
        self._works: dict[str, Work] = {}
        self._starters: dict[str, Callable[[int, str], int]] = {}
        self._before: list[Callable[[], None]] = []
        self._running: set[int] = set()

    def register(
        self,
        vendor_type: str,
        work: Work,
        starter: Callable[[int, str], int] | None = None,
    ) -> None:
        """Say what a kind of task does, and how its schedule starts one (vendor id, trigger)."""
        self._works[vendor_type] = work
        if starter:
            self._starters[vendor_type] = starter

    def before_each_tick(self, call: Callable[[], None]) -> None:
        """Call something each time before tasks are looked for. It may block."""
        self._before.append(call)

    # -- starting and stopping --------------------------------------------------------------------

    def start(
        self,
        vendor_type: str,
        vendor_id: int,
        tasks: list[dict[str, Any]],
        *,
        trigger: str = "MANUAL",
        project_id: int = 0,
        attrs: dict[str, Any] | None = None,
        cursor: Cursor | None = None,
    ) -> int:
        """Begin an execution of tasks with these attributes; gives its id."""

        def change(cursor: Cursor) -> int:
            now = times.text(self._clock.now())
            id = EXECUTIONS.insert(cursor, {
                "vendor_type": vendor_type, "vendor_id": vendor_id, "project_id": project_id,
                "status": "Running" if tasks else "Success", "trigger": trigger,
                "extra_attrs": attrs or {}, "start_time": now, "update_time": now,
                "end_time": "" if tasks else now,
            })  # fmt: skip
            for each in tasks:
                TASKS.insert(cursor, {
                    "execution_id": id, "vendor_type": vendor_type, "status": "Pending",
                    "extra_attrs": each, "creation_time": now, "update_time": now,
                })  # fmt: skip
            return id

        return change(cursor) if cursor else self._database.write(change)

    def stop(self, execution_id: int) -> None:
        """Let an execution end: what has not begun never does. Raises NotFound."""

        def change(cursor: Cursor) -> None:
            EXECUTIONS.get(cursor, execution_id)
            now = times.text(self._clock.now())
            cursor.run(
                "UPDATE tasks SET status = 'Stopped', end_time = ?, update_time = ? "
                "WHERE execution_id = ? AND status IN ('Pending', 'Running')",
                now, now, execution_id,
            )  # fmt: skip
            _settle(cursor, execution_id, now)

        self._database.write(change)

    def set_schedule(
        self,
        vendor_type: str,
        vendor_id: int,
        kind: str,
        text: str,
        parameters: dict[str, Any] | None = None,
        cursor: Cursor | None = None,
    ) -> None:
        """Start executions by a schedule; an empty one ends that. Raises BadRequest."""
        now = self._clock.now()
        due = cron.next_s(text, now.timestamp()) if text else 0.0

        def change(cursor: Cursor) -> None:
            old = SCHEDULES.find(
                cursor, "vendor_type = ? AND vendor_id = ?", vendor_type, vendor_id
            )
            values = {
                "vendor_type": vendor_type, "vendor_id": vendor_id, "type": kind, "cron": text,
                "parameters": parameters or {}, "next_s": due, "update_time": times.text(now),
            }  # fmt: skip
            if old and not text:
                SCHEDULES.delete(cursor, old["id"])
            elif old:
                SCHEDULES.update(cursor, old["id"], values)
            elif text:
                SCHEDULES.insert(cursor, {**values, "creation_time": times.text(now)})

        change(cursor) if cursor else self._database.write(change)

    def schedule(self, vendor_type: str, vendor_id: int = 0) -> Row | None:
        """The schedule of a policy, or None."""
        where = "vendor_type = ? AND vendor_id = ?"
        return SCHEDULES.find(self._database, where, vendor_type, vendor_id)

    def execution(self, id: int, vendor_type: str, vendor_id: int | None = None) -> Row:
        """An execution of a kind, with its tasks counted by status; raises NotFound."""
        row = EXECUTIONS.get(self._database, id)
        if row["vendor_type"] != vendor_type or vendor_id not in (None, row["vendor_id"]):
            raise NotFound(f"there is no execution {id}")
        return self.counted(row)

    def counted(self, row: Row) -> Row:
        """An execution's row with ``metrics``: how many of its tasks have which status."""
        counts = self._database.all(
            "SELECT status, count(*) AS count FROM tasks WHERE execution_id = ? GROUP BY status",
            row["id"],
        )
        row["metrics"] = {each["status"]: each["count"] for each in counts}
        return row

    # -- running ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run tasks and schedules until cancelled."""
        await run_blocking(self.reclaim)
        seen: object = None
        idle_s = 0.0
        async with asyncio.TaskGroup() as group:
            while True:
                for call in self._before:
                    await self._guarded(call)
                version = await run_blocking(self._database.version)
                # Nothing changed: nothing is to be done, unless its time has come meanwhile.
                if version != seen or self._running or idle_s >= _TICK_S * 2:
                    seen, idle_s = version, 0.0
                    await self._guarded(self._start_due)
                    for row in await run_blocking(self._claim):
                        group.create_task(self._perform(row))
                idle_s += _TICK_S
                await self._clock.sleep(_TICK_S)

    def work_off(self) -> int:
        """Run all that is due now, here; gives how many tasks that were. Blocks."""
        for call in self._before:
            call()
        self._start_due()
        done = 0
        while rows := self._claim():
            for row in rows:
                self._work(row)
                done += 1
            for call in self._before:
                call()
        return done

    async def _guarded(self, call: Callable[[], None]) -> None:
        try:
            await run_blocking(call)
        except UnderwayError as error:
            log.warning("registry jobs: %s", error)

    def reclaim(self) -> None:
        """Give back what a process that has died was doing. SQLite has one process that runs."""
        if self._database.local:
            self._database.write(
                lambda cursor: cursor.run(
                    "UPDATE tasks SET status = 'Pending', worker = '' WHERE status = 'Running'"
                )
            )

    def _start_due(self) -> None:
        now_s = self._clock.now().timestamp()
        for row in SCHEDULES.where(self._database, "next_s > 0 AND next_s <= ?", now_s):
            due = cron.next_s(row["cron"], now_s)
            taken = self._database.write(
                lambda cursor, row=row, due=due: cursor.run(
                    "UPDATE schedules SET next_s = ? WHERE id = ? AND next_s = ?",
                    due, row["id"], row["next_s"],
                )
            )  # fmt: skip
            if taken and (starter := self._starters.get(row["vendor_type"])):
                starter(row["vendor_id"], "SCHEDULE")

    def _claim(self) -> list[Row]:
        free = AT_ONCE - len(self._running)
        if free <= 0:
            return []
        now = self._clock.now()
        due = self._database.all(
            "SELECT id FROM tasks WHERE status = 'Pending' AND due_s <= ? ORDER BY id LIMIT ?",
            now.timestamp(), free,
        )  # fmt: skip
        claimed = []
        for found in due:
            mine = self._database.write(
                lambda cursor, id=found["id"]: cursor.run(
                    "UPDATE tasks SET status = 'Running', worker = ?, attempts = attempts + 1, "
                    "start_time = ?, update_time = ? WHERE id = ? AND status = 'Pending'",
                    self._worker, times.text(now), times.text(now), id,
                )
            )  # fmt: skip
            if mine:
                claimed.append(TASKS.get(self._database, found["id"]))
                self._running.add(found["id"])
        return claimed

    async def _perform(self, row: Row) -> None:
        await run_blocking(self._work, row)

    def _work(self, row: Row) -> None:
        task = Task(
            row["id"], row["execution_id"], row["vendor_type"], row["attempts"],
            row["extra_attrs"], lambda: self._is_stopped(row["id"]), self._clock,
            row["log"].splitlines(),
        )  # fmt: skip
        status, message, due_s = "Success", "", 0.0
        try:
            self._works[row["vendor_type"]](task)
        except Stopped:
            status = "Stopped"
        except UnderwayError as error:
            status, message = "Error", error.message
            task.log(f"failed: {error.message}")
            if error.retriable and task.attempts < _RETRIES.get(row["vendor_type"], 1):
                status = "Pending"
                wait_s = min(2.0**task.attempts, _BACKOFF_LIMIT_S)
                due_s = self._clock.now().timestamp() + wait_s
                task.log(f"will be tried again in {wait_s:.0f} s")
        except Exception as error:
            log.exception("registry: task %s", row["id"])
            status, message = "Error", f"internal error: {type(error).__name__}"
        finally:
            self._running.discard(row["id"])
        self._database.write(lambda cursor: self._finish(cursor, task, status, message, due_s))

    def _finish(self, cursor: Cursor, task: Task, status: str, message: str, due_s: float) -> None:
        now = times.text(self._clock.now())
        text = "\n".join(task.lines)[-_LOG_LIMIT:]
        cursor.run(
            "UPDATE tasks SET status = ?, status_message = ?, due_s = ?, log = ?, extra_attrs = ?, "
            "update_time = ?, end_time = ? WHERE id = ? AND status = 'Running'",
            status, message, due_s, text, msgspec.json.encode(task.attrs).decode(), now,
            now if status in FINAL else "", task.id,
        )  # fmt: skip
        # What was stopped meanwhile stays stopped, and keeps its log.
        cursor.run("UPDATE tasks SET log = ? WHERE id = ? AND status = 'Stopped'", text, task.id)
        _settle(cursor, task.execution_id, now)

    def _is_stopped(self, id: int) -> bool:
        row = self._database.one("SELECT status FROM tasks WHERE id = ?", id)
        return row is None or row["status"] == "Stopped"


def _settle(cursor: Cursor, execution_id: int, now: str) -> None:
    """An execution has the status of its tasks."""
    rows = cursor.all(
        "SELECT status, max(status_message) AS message FROM tasks WHERE execution_id = ? "
        "GROUP BY status",
        execution_id,
    )
    found = {row["status"]: row["message"] for row in rows}
    if found.keys() & {"Pending", "Running"}:
        status = "Running"
    else:
        status = next((each for each in ("Error", "Stopped") if each in found), "Success")
    ended = "" if status == "Running" else now
    cursor.run(
        "UPDATE executions SET status = ?, status_message = ?, update_time = ?, end_time = ? "
        "WHERE id = ?",
        status, found.get("Error", ""), now, ended, execution_id,
    )  # fmt: skip
