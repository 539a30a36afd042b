"""ReplicaSets and ReplicationControllers: keep as many pods as asked for."""

from __future__ import annotations

from underway.api.objects import Object, deleting, owner_reference
from underway.api.resources import PODS, REPLICASETS, REPLICATIONCONTROLLERS, Resource
from underway.base.errors import ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.workloads.controller.pods import (
    PodControl,
    claim_children,
    orphan_to_owners,
    pod_informer,
)
from underway.capabilities.workloads.model import finished, pod_from_template, spec_of
from underway.capabilities.workloads.rules import replicaset as rules
from underway.reconcile import (
    Controller,
    Done,
    Expectations,
    Manager,
    Request,
    RequeueAfter,
    Result,
    write_status,
)


class ReplicaSets:
    """The reconciler of either kind."""

    def __init__(self, manager: Manager, resource: Resource = REPLICASETS) -> None:
        self._manager = manager
        self._resource = resource
        self._sets = manager.informer(resource)
        self._pods = pod_informer(manager)
        self._expected = Expectations(self._pods)
        name = "replicaset" if resource == REPLICASETS else "replication"
        self._control = PodControl(manager, self._expected, f"{name}-controller")

    async def reconcile(self, request: Request) -> Result:
        """Make or delete pods, then write the status."""
        found = self._sets.get(request.key)
        if found is None:
            self._expected.forget(request.key)
            return Done()
        up_to_date = self._expected.satisfied(request.key)
        pods = await claim_children(
            self._manager, PODS, self._pods, self._resource, rules.as_set(found)
        )
        failure = ""
        if up_to_date and not deleting(found):
            failure = await self._act(found, [pod for pod in pods if not finished(pod)])
        observed = rules.status(found, pods, self._manager.clock.now(), failure)
        await write_status(self._manager.client, self._resource, found, observed.status)
        if failure:
            raise ServiceUnavailable(failure)  # the queue tries again, more and more rarely
        return RequeueAfter(observed.changes_in_s) if observed.changes_in_s else Done()

    async def _act(self, found: Object, pods: list[Object]) -> str:
        plan = rules.plan(found, pods)
        if plan.delete:
            return await self._control.delete(found, plan.delete)
        template, reference = spec_of(found)["template"], owner_reference(found)
        wanted = [pod_from_template(found, template, reference) for _ in range(plan.create)]
        return await self._control.create(found, wanted)


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run a controller for each kind."""
    for resource in (REPLICASETS, REPLICATIONCONTROLLERS):
        reconciler = ReplicaSets(manager, resource)
        manager.add(
            Controller(
                resource.kind.lower(),
                reconciler.reconcile,
                primary=resource,
                owns=[PODS],
                watches=[(PODS, orphan_to_owners(manager.informer(resource), rules.as_set))],
                workers=4,
            )
        )
