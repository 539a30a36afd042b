"""CronJobs: a Job each time the schedule comes up."""

from __future__ import annotations

import contextlib

from underway.api.objects import Object, controller_of, name_of, namespace_of, uid_of
from underway.api.resources import CRONJOBS, JOBS
from underway.base.errors import AlreadyExists, BadRequest, NotFound
from underway.base.home import Home
from underway.capabilities.workloads.rules import cronjob as rules
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Manager,
    Request,
    RequeueAfter,
    Result,
    TerminalError,
    write_status,
)

COMPONENT = "cronjob-controller"


class CronJobs:
    """The reconciler."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._cronjobs = manager.informer(CRONJOBS)
        self._jobs = manager.informer(JOBS)

    async def reconcile(self, request: Request) -> Result:
        """Start the Job that is due, clear away old ones, write the status."""
        found = self._cronjobs.get(request.key)
        if found is None:
            return Done()
        jobs = [job for job in self._jobs.owned_by(uid_of(found)) if _controls(found, job)]
        try:
            plan = rules.plan(found, jobs, self._manager.clock.now())
        except BadRequest as error:
            self._tell(found, WARNING, "UnparseableSchedule", str(error))
            raise TerminalError(str(error)) from error
        for warning, reason, text in plan.notes:
            self._tell(found, WARNING if warning else NORMAL, reason, text)
        for job in plan.delete:
            with contextlib.suppress(NotFound):
                await self._client.delete(
                    JOBS,
                    name_of(job),
                    namespace_of(job),
                    uid=uid_of(job),
                    propagation="Background",
                )
                self._tell(found, NORMAL, "SuccessfulDelete", f"Deleted job {name_of(job)}")
        if plan.start is not None:
            await self._start(found, rules.new_job(found, plan.start))
        await write_status(self._client, CRONJOBS, found, rules.status(found, jobs, plan.start))
        return RequeueAfter(plan.next_in_s) if plan.next_in_s else Done()

    async def _start(self, found: Object, job: Object) -> None:
        with contextlib.suppress(AlreadyExists):
            await self._client.create(JOBS, job)
            self._tell(found, NORMAL, "SuccessfulCreate", f"Created job {name_of(job)}")

    def _tell(self, found: Object, kind: str, reason: str, text: str) -> None:
        self._manager.events.event(found, kind, reason, text, component=COMPONENT)


def _controls(found: Object, job: Object) -> bool:
    owner = controller_of(job)
    return owner is not None and owner["uid"] == uid_of(found)


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = CronJobs(manager)
    manager.add(Controller("cronjob", reconciler.reconcile, primary=CRONJOBS, owns=[JOBS]))
