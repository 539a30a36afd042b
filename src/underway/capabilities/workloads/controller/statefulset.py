"""StatefulSets: numbered pods, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from underway.api.objects import (
    Object,
    deleting,
    labels_of,
    meta,
    name_of,
    namespace_of,
    object_key,
)
from underway.api.resources import (
    CONTROLLERREVISIONS,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    STATEFULSETS,
)
from underway.base.errors import AlreadyExists, ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.workloads.controller import revisions
from underway.capabilities.workloads.controller.pods import (
    PodControl,
    claim_children,
    orphan_to_owners,
    pod_informer,
)
from underway.capabilities.workloads.model import available_in_s, spec_of, status_of
from underway.capabilities.workloads.rules import statefulset as rules
from underway.reconcile import (
    Controller,
    Done,
    Expectations,
    Informer,
    Manager,
    Request,
    RequeueAfter,
    Result,
    write_status,
)


class StatefulSets:
    """The reconciler."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._sets = manager.informer(STATEFULSETS)
        self._revisions = manager.informer(CONTROLLERREVISIONS)
        self._claims = manager.informer(PERSISTENTVOLUMECLAIMS)
        self._pods = pod_informer(manager)
        self._expected = Expectations(self._pods)
        self._control = PodControl(manager, self._expected, "statefulset-controller")

    async def reconcile(self, request: Request) -> Result:
        """Take the next step, then write the status."""
        found = self._sets.get(request.key)
        if found is None:
            self._expected.forget(request.key)
            return Done()
        if deleting(found) or not self._expected.satisfied(request.key):
            return Done()
        claimed = await claim_children(self._manager, PODS, self._pods, STATEFULSETS, found)
        pods = [pod for pod in claimed if rules.ordinal_of(found, pod) is not None]
        history = await revisions.sync(self._manager, self._revisions, found)
        update = name_of(history.update)
        current = str(status_of(found).get("currentRevision") or update)
        now = self._manager.clock.now()
        plan = rules.plan(found, pods, update, now)
        await self._own_claims(found, pods)
        failure = await self._control.delete(found, plan.delete)
        failure = failure or await self._create(found, plan.create, history, current)
        await write_status(
            self._manager.client,
            STATEFULSETS,
            found,
            rules.status(found, pods, current, update, now),
        )
        if failure:
            raise ServiceUnavailable(failure)
        used = {labels_of(pod).get(rules.REVISION, "") for pod in pods} | {current}
        await revisions.prune(self._manager, found, history, used)
        min_ready_s = int(spec_of(found).get("minReadySeconds") or 0)
        waits = [wait for pod in pods if (wait := available_in_s(pod, min_ready_s, now))]
        return RequeueAfter(min(waits)) if waits else Done()

    async def _create(
        self,
        found: Object,
        ordinals: tuple[int, ...],
        history: revisions.Revisions,
        current: str,
    ) -> str:
        pods: list[Object] = []
        by_name = {name_of(each): each for each in history.all}
        for ordinal in ordinals:
            newest = rules.uses_update(found, ordinal)
            revision = history.update if newest else by_name.get(current, history.update)
            await self._claim_volumes(found, ordinal)
            template = revisions.template_of(revision)
            pods.append(rules.new_pod(found, ordinal, template, name_of(revision)))
        return await self._control.create(found, pods)

    async def _claim_volumes(self, found: Object, ordinal: int) -> None:
        for claim in rules.claims(found, ordinal):
            with contextlib.suppress(AlreadyExists):
                await self._manager.client.create(PERSISTENTVOLUMECLAIMS, claim)

    async def _own_claims(self, found: Object, pods: list[Object]) -> None:
        """Have claims go with their pods or the set, as its retention policy says."""
        for pod in pods:
            number = rules.ordinal_of(found, pod)
            for wanted in rules.claims(found, number or 0):
                claim = self._claims.get(object_key(wanted))
                if claim is None or deleting(claim):
                    continue
                owners = rules.claim_owners(found, pod, claim)
                if owners == list(meta(claim).get("ownerReferences") or ()):
                    continue
                header = {
                    "resourceVersion": meta(claim)["resourceVersion"],
                    "ownerReferences": owners or None,
                }
                await self._manager.client.patch(
                    PERSISTENTVOLUMECLAIMS,
                    name_of(claim),
                    {"metadata": header},
                    namespace_of(claim),
                )


def _owner_of_claim(sets: Informer) -> Callable[[Object], Iterable[Request]]:
    """From a claim to the set whose template it may come from."""

    def find(claim: Object) -> Iterable[Request]:
        for found in sets.list(namespace_of(claim)):
            for template in spec_of(found).get("volumeClaimTemplates") or ():
                if name_of(claim).startswith(f"{name_of(template)}-{name_of(found)}-"):
                    yield Request(namespace_of(found), name_of(found))

    return find


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = StatefulSets(manager)
    manager.add(
        Controller(
            "statefulset",
            reconciler.reconcile,
            primary=STATEFULSETS,
            owns=[PODS, CONTROLLERREVISIONS],
            watches=[
                (PODS, orphan_to_owners(manager.informer(STATEFULSETS))),
                (PERSISTENTVOLUMECLAIMS, _owner_of_claim(manager.informer(STATEFULSETS))),
            ],
            workers=2,
        )
    )
