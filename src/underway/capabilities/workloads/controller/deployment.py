"""Deployments: move from one ReplicaSet to the next, as the strategy says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from underway.api.objects import (
    Object,
    annotations_of,
    controller_of,
    deleting,
    find_condition,
    meta,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from underway.api.resources import DEPLOYMENTS, PODS, REPLICASETS
from underway.base.clock import rfc3339
from underway.base.errors import AlreadyExists, NotFound, UnderwayError
from underway.base.home import Home
from underway.capabilities.workloads.controller.pods import (
    ORPHANS,
    claim_children,
    orphan_namespace,
    orphan_to_owners,
    pod_informer,
)
from underway.capabilities.workloads.model import count, replicas_of, spec_of, status_of
from underway.capabilities.workloads.rules import deployment as rules
from underway.capabilities.workloads.rules import rollout
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Manager,
    Request,
    RequeueAfter,
    Result,
    write_status,
)

COMPONENT = "deployment-controller"


@dataclass
class _Rollout:
    """One look at a Deployment; objects are replaced as they are written."""

    deployment: Object
    new: Object | None
    old: list[Object]
    note: Object | None = None

    def put(self, written: Object) -> None:
        if self.new is not None and uid_of(written) == uid_of(self.new):
            self.new = written
        self.old = [written if uid_of(each) == uid_of(written) else each for each in self.old]


class Deployments:
    """The reconciler."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._deployments = manager.informer(DEPLOYMENTS)
        self._sets = manager.informer(REPLICASETS)
        self._sets.add_index(ORPHANS, orphan_namespace)
        self._pods = pod_informer(manager)

    async def reconcile(self, request: Request) -> Result:
        """Take the next step of the rollout, then write the status."""
        deployment = self._deployments.get(request.key)
        if deployment is None:
            return Done()
        sets = await claim_children(self._manager, REPLICASETS, self._sets, DEPLOYMENTS, deployment)
        new = rules.find_new(deployment, sets)
        old = [each for each in sets if new is None or uid_of(each) != uid_of(new)]
        look = _Rollout(deployment, new, old)
        if not deleting(deployment):
            look.note = self._pause_note(deployment)
            if not await self._step(look, sets):
                return Done()
        observed = rollout.observe(
            look.deployment, look.new, look.old, self._manager.clock.now(), look.note
        )
        await write_status(self._client, DEPLOYMENTS, look.deployment, observed.status)
        if not deleting(deployment) and rules.is_complete(deployment, observed.status):
            await self._prune(look)
        return RequeueAfter(observed.deadline_in_s + 1) if observed.deadline_in_s else Done()

    def watches_pod(self, pod: Object) -> Iterable[Request]:
        """A pod's Deployment, if it waits for old pods to end."""
        owner = controller_of(pod)
        if owner is None or owner["kind"] != "ReplicaSet":
            return
        found = self._sets.get(f"{namespace_of(pod)}/{owner['name']}")
        parent = controller_of(found) if found else None
        if parent is None or parent["kind"] != "Deployment":
            return
        request = Request(namespace_of(pod), parent["name"])
        deployment = self._deployments.get(request.key)
        if deployment is not None and rules.is_recreate(deployment):
            yield request

    async def _step(self, look: _Rollout, sets: list[Object]) -> bool:
        """Write what comes next; False when a name was taken and another must be tried."""
        if rules.is_paused(look.deployment):
            await self._sync_revision(look)
            await self._scale_all(look, rules.scale(look.deployment, look.new, look.old))
            return True
        if rules.is_scaling(look.deployment, sets):
            await self._sync_revision(look)
            await self._scale_all(look, rules.scale(look.deployment, look.new, look.old))
            return True
        if rules.is_recreate(look.deployment):
            shrinking = rules.recreate(look.new, look.old, self._pods_of(look.old))
            if shrinking is not None:
                await self._sync_revision(look)
                await self._scale_all(look, shrinking)
                return True
        if look.new is None:
            return await self._create(look)
        await self._sync_revision(look)
        assert look.new is not None
        if rules.is_recreate(look.deployment):
            steps = rules.grow_new(look.deployment, look.new, look.old)
        else:
            steps = rules.roll(look.deployment, look.new, look.old)
        await self._scale_all(look, steps)
        return True

    def _pause_note(self, deployment: Object) -> Object | None:
        """The condition that says that a rollout was paused or goes on."""
        if spec_of(deployment).get("progressDeadlineSeconds") in (None, rollout.NO_DEADLINE_S):
            return None
        current = find_condition(status_of(deployment).get("conditions"), "Progressing") or {}
        now = rfc3339(self._manager.clock.now())
        reason = current.get("reason")
        if rules.is_paused(deployment):
            if reason in (rollout.PAUSED, rollout.TIMED_OUT):
                return None
            return rollout.progressing("Unknown", rollout.PAUSED, "Deployment is paused", now)
        if reason != rollout.PAUSED:
            return None
        return rollout.progressing("Unknown", rollout.RESUMED, "Deployment is resumed", now)

    def _revision(self, look: _Rollout) -> int:
        return max((rules.revision_of(each) for each in look.old), default=0) + 1

    async def _sync_revision(self, look: _Rollout) -> None:
        """Give the new ReplicaSet its revision number and annotations, and the Deployment too."""
        if look.new is None:
            return
        annotations = rules.revised(look.deployment, look.new, self._revision(look))
        min_ready_s = spec_of(look.deployment).get("minReadySeconds") or 0
        if (
            annotations != annotations_of(look.new)
            or (spec_of(look.new).get("minReadySeconds") or 0) != min_ready_s
        ):
            changed = {**look.new, "metadata": {**meta(look.new), "annotations": annotations}}
            changed["spec"] = {**spec_of(look.new), "minReadySeconds": min_ready_s}
            look.put(await self._client.replace(REPLICASETS, changed))
        progress = find_condition(status_of(look.deployment).get("conditions"), "Progressing")
        if progress is None and look.note is None:
            text = f'Found new replica set "{name_of(look.new)}"'
            now = rfc3339(self._manager.clock.now())
            look.note = rollout.progressing("True", rollout.FOUND, text, now)
        await self._annotate(look, annotations[rules.REVISION])

    async def _annotate(self, look: _Rollout, revision: str) -> None:
        if annotations_of(look.deployment).get(rules.REVISION) == revision:
            return
        body = {
            "metadata": {
                "resourceVersion": meta(look.deployment).get("resourceVersion"),
                "annotations": {rules.REVISION: revision},
            }
        }
        look.deployment = await self._client.patch(
            DEPLOYMENTS, name_of(look.deployment), body, namespace_of(look.deployment)
        )

    async def _create(self, look: _Rollout) -> bool:
        deployment = look.deployment
        reference = owner_reference(deployment)
        wanted = rules.new_replicaset(deployment, self._revision(look), reference)
        steps = rules.grow_new(deployment, wanted, look.old)
        size = steps[0].replicas if steps else 0
        wanted["spec"]["replicas"] = size
        wanted["metadata"]["annotations"].update(rules.scale_annotations(deployment))
        now = rfc3339(self._manager.clock.now())
        try:
            look.new = await self._client.create(REPLICASETS, wanted)
        except AlreadyExists:
            return await self._name_taken(look, wanted)
        except UnderwayError as error:
            text = f'Failed to create new replica set "{name_of(wanted)}": {error}'
            look.note = rollout.progressing("False", rollout.CREATE_FAILED, text, now)
            self._tell(deployment, WARNING, rollout.CREATE_FAILED, text)
            observed = rollout.observe(
                deployment, None, look.old, self._manager.clock.now(), look.note
            )
            await write_status(self._client, DEPLOYMENTS, deployment, observed.status)
            raise
        if size:
            self._tell_scaled(deployment, look.new, 0, size)
        text = f'Created new replica set "{name_of(look.new)}"'
        look.note = rollout.progressing("True", rollout.CREATED, text, now)
        await self._annotate(look, annotations_of(look.new)[rules.REVISION])
        return True

    async def _name_taken(self, look: _Rollout, wanted: Object) -> bool:
        """Use what has the name if it is this Deployment's own; else go on to another name."""
        try:
            found = await self._client.get(REPLICASETS, name_of(wanted), namespace_of(wanted))
        except NotFound:
            return False
        owner = controller_of(found)
        ours = owner is not None and owner["uid"] == uid_of(look.deployment)
        if ours and rules.find_new(look.deployment, [found]) is not None:
            look.new = found
            return True
        collisions = count(look.deployment, "collisionCount") + 1
        status = {**status_of(look.deployment), "collisionCount": collisions}
        await write_status(self._client, DEPLOYMENTS, look.deployment, status)
        return False

    async def _scale_all(self, look: _Rollout, steps: list[rules.Scale]) -> None:
        for step in steps:
            await self._scale(look, step)
        if look.new is not None and not any(step.replicaset is look.new for step in steps):
            # Sizes that fit already are still noted, so that the next change is seen as one.
            await self._scale(look, rules.Scale(look.new, replicas_of(look.new)))

    async def _scale(self, look: _Rollout, step: rules.Scale) -> None:
        before = replicas_of(step.replicaset)
        annotations = {
            **annotations_of(step.replicaset),
            **rules.scale_annotations(look.deployment),
        }
        if before == step.replicas and annotations == annotations_of(step.replicaset):
            return
        changed = {
            **step.replicaset,
            "metadata": {**meta(step.replicaset), "annotations": annotations},
            "spec": {**spec_of(step.replicaset), "replicas": step.replicas},
        }
        look.put(await self._client.replace(REPLICASETS, changed))
        if before != step.replicas:
            self._tell_scaled(look.deployment, step.replicaset, before, step.replicas)

    def _pods_of(self, sets: list[Object]) -> list[Object]:
        return [pod for each in sets for pod in self._pods.owned_by(uid_of(each))]

    async def _prune(self, look: _Rollout) -> None:
        for each in rules.to_prune(look.deployment, look.old):
            try:
                await self._client.delete(
                    REPLICASETS, name_of(each), namespace_of(each), uid=uid_of(each)
                )
            except NotFound:
                continue

    def _tell_scaled(self, deployment: Object, target: Object, before: int, after: int) -> None:
        way = "up" if after > before else "down"
        text = f"Scaled {way} replica set {name_of(target)} from {before} to {after}"
        self._tell(deployment, NORMAL, "ScalingReplicaSet", text)

    def _tell(self, deployment: Object, kind: str, reason: str, text: str) -> None:
        self._manager.events.event(deployment, kind, reason, text, component=COMPONENT)


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Deployments(manager)
    manager.add(
        Controller(
            "deployment",
            reconciler.reconcile,
            primary=DEPLOYMENTS,
            owns=[REPLICASETS],
            watches=[
                (REPLICASETS, orphan_to_owners(manager.informer(DEPLOYMENTS))),
                (PODS, reconciler.watches_pod),
            ],
            workers=2,
        )
    )
