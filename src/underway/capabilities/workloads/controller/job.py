"""Jobs: run pods to completion, counting each once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from underway.api.objects import (
    Object,
    controller_of,
    deleting,
    meta,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from underway.api.resources import JOBS, PODS
from underway.base.errors import Conflict, NotFound, ServiceUnavailable, UnderwayError
from underway.base.home import Home
from underway.capabilities.workloads.controller.pods import (
    PodControl,
    claim_children,
    orphan_to_owners,
    pod_informer,
)
from underway.capabilities.workloads.model import pod_from_template, spec_of
from underway.capabilities.workloads.rules import job as rules
from underway.capabilities.workloads.rules.jobpolicy import FAILURES, IndexFailures, per_index
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Expectations,
    Manager,
    Request,
    RequeueAfter,
    Result,
    remove_finalizer,
    write_status,
)

COMPONENT = "job-controller"
_BY_JOB = "job-name"


class Jobs:
    """The reconciler."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._jobs = manager.informer(JOBS)
        self._pods = pod_informer(manager)
        self._pods.add_index(_BY_JOB, _job_key)
        self._expected = Expectations(self._pods)
        self._recorded = Expectations(self._jobs)
        self._control = PodControl(manager, self._expected, COMPONENT)

    async def reconcile(self, request: Request) -> Result:
        """Record ended pods, make or delete others, conclude, expire."""
        job = self._jobs.get(request.key)
        await self._let_go(request.key, job)
        if job is None:
            self._expected.forget(request.key)
            self._recorded.forget(request.key)
            return Done()
        if deleting(job):
            return Done()
        if not self._recorded.satisfied(request.key):
            return Done()  # counting from an older record would make a pod too many
        now = self._manager.clock.now()
        pods = await claim_children(self._manager, PODS, self._pods, JOBS, job)
        found = rules.tally(job, pods)
        if rules.verdict_of(job):
            await self._release(found.recorded)
            return await self._expire(job)
        if not self._expected.satisfied(request.key):
            return Done()
        verdict = rules.decided(job) or rules.judge(job, found, now)
        failure, wait_s = "", None
        if verdict is not None:
            failure = await self._control.delete(job, found.active)
        else:
            failure, wait_s = await self._act(job, found)
        before = job
        job = await write_status(self._client, JOBS, job, rules.status(job, found, verdict, now))
        if job is not before:
            self._recorded.updated(request.key, job)
        self._tell_changes(before, job)
        # Only now that their UIDs are on record may the pods go.
        await self._release(rules.tally(job, pods).recorded)
        if failure:
            raise ServiceUnavailable(failure)
        if rules.verdict_of(job):
            return await self._expire(job)
        deadline_s = rules.deadline_in_s(job, now)
        waits = [each for each in (wait_s, deadline_s) if each is not None]
        return RequeueAfter(max(0.1, min(waits))) if waits else Done()

    async def _act(self, job: Object, found: rules.Tally) -> tuple[str, float | None]:
        plan = rules.plan(job, found, self._manager.clock.now())
        if plan.delete:
            # Let go first: a pod that the Job itself takes away is none that failed.
            return await self._control.delete(job, await self._release(plan.delete)), None
        pods = [_pod(job, index, found.indexes) for index in plan.create]
        return await self._control.create(job, pods), plan.wait_s

    async def _let_go(self, key: str, job: Object | None) -> None:
        """Take the finalizer off pods whose Job is gone or going: nobody will count them."""
        gone = [
            pod
            for pod in self._pods.by_index(_BY_JOB, key)
            if rules.tracked(pod) and (job is None or deleting(job) or not _is_of(pod, job))
        ]
        await self._release(gone)

    async def _release(self, pods: Iterable[Object]) -> list[Object]:
        """Take the finalizer off pods; gives those that have none now.

        Raises:
            UnderwayError: the first failure, once all were tried.
        """
        released: list[Object] = []
        failures: list[UnderwayError] = []

        async def one(pod: Object) -> None:
            try:
                await remove_finalizer(self._client, PODS, pod, rules.FINALIZER)
                released.append(pod)
            except Conflict:
                # The cached pod was old; its change wakes the Job again.
                return
            except UnderwayError as error:
                failures.append(error)

        async with asyncio.TaskGroup() as group:
            for pod in pods:
                group.create_task(one(pod))
        if failures:
            raise failures[0]
        return released

    async def _expire(self, job: Object) -> Result:
        left_s = rules.expires_in_s(job, self._manager.clock.now())
        if left_s is None:
            return Done()
        if left_s > 0:
            return RequeueAfter(left_s)
        with contextlib.suppress(NotFound):
            await self._client.delete(
                JOBS, name_of(job), namespace_of(job), uid=uid_of(job), propagation="Foreground"
            )
        return Done()

    def _tell_changes(self, before: Object, after: Object) -> None:
        verdict = rules.verdict_of(after)
        if not verdict or rules.verdict_of(before):
            return
        condition = rules.decided(after) or {}
        events = self._manager.events
        if verdict == "Complete":
            events.event(after, NORMAL, "Completed", "Job completed", component=COMPONENT)
        else:
            reason, text = condition.get("reason", "Failed"), condition.get("message", "")
            events.event(after, WARNING, reason, text, component=COMPONENT)


def _job_key(pod: Object) -> Iterable[str]:
    owner = controller_of(pod)
    if owner is not None and owner["kind"] == "Job":
        yield f"{namespace_of(pod)}/{owner['name']}"


def _is_of(pod: Object, job: Object) -> bool:
    owner = controller_of(pod)
    return owner is not None and owner["uid"] == uid_of(job)


def _pod(job: Object, index: int | None, failures: IndexFailures) -> Object:
    pod = pod_from_template(job, spec_of(job)["template"], owner_reference(job))
    metadata = meta(pod)
    metadata["finalizers"] = [*(metadata.get("finalizers") or ()), rules.FINALIZER]
    labels = metadata.setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels.setdefault(f"{prefix}controller-uid", uid_of(job))
        labels.setdefault(f"{prefix}job-name", name_of(job))
    if index is None:
        return pod
    metadata["generateName"] = f"{name_of(job)}-{index}-"
    metadata.setdefault("annotations", {})[rules.INDEX] = str(index)
    labels[rules.INDEX] = str(index)
    if per_index(job) is not None:
        metadata["annotations"][FAILURES] = str(failures.counts.get(index, 0))
    spec = pod["spec"]
    spec.setdefault("hostname", f"{name_of(job)}-{index}")
    source = {"fieldRef": {"fieldPath": f"metadata.annotations['{rules.INDEX}']"}}
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        env = container.setdefault("env", [])
        if not any(each["name"] == "JOB_COMPLETION_INDEX" for each in env):
            env.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
    return pod


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Jobs(manager)
    manager.add(
        Controller(
            "job",
            reconciler.reconcile,
            primary=JOBS,
            owns=[PODS],
            watches=[(PODS, orphan_to_owners(manager.informer(JOBS)))],
            workers=4,
        )
    )
