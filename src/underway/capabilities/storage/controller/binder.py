"""The binder: claims and volumes find each other, and say how they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from underway.api.objects import (
    Object,
    annotations_of,
    deleting,
    meta,
    name_of,
    namespace_of,
    object_key,
    uid_of,
)
from underway.api.resources import (
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    STORAGECLASSES,
)
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.storage.controller import shared
from underway.capabilities.storage.model import (
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    PROVISIONER,
    PROVISIONER_BETA,
    access_modes_of,
    claim_key,
    claim_reference,
    class_of,
    finished,
    phase_of,
    size,
    spec_of,
)
from underway.capabilities.storage.rules import binding as rules
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Informer,
    Manager,
    Request,
    Result,
    write_status,
)

COMPONENT = "persistentvolume-controller"
_UNBOUND = "claims without a volume"
_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")


class Claims:
    """The reconciler of claims."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._claims = manager.informer(PERSISTENTVOLUMECLAIMS)
        self._classes = manager.informer(STORAGECLASSES)
        self._volumes = shared.volumes(manager)
        self._pods = shared.pods(manager)

    async def reconcile(self, request: Request) -> Result:
        """Take the claim's next step."""
        claim = self._claims.get(request.key)
        if claim is None:
            return Done()
        if class_of(claim) is None and not spec_of(claim).get("volumeName"):
            name = rules.default_class(self._classes.list())
            if name is not None:
                # As if it had been said from the start; the change brings the claim back here.
                body = {"metadata": _current(claim), "spec": {"storageClassName": name}}
                await self._patch(claim, body)
                return Done()
        match rules.decide(claim, self._offer(claim, request.key)):
            case rules.Bind(volume):
                await self._bind(claim, volume)
            case rules.Provision(provisioner):
                await self._provision(claim, provisioner)
            case rules.Lost(reason, message):
                if phase_of(claim) != "Lost":
                    self._tell(claim, WARNING, reason, message)
                await write_status(self._client, PERSISTENTVOLUMECLAIMS, claim, {"phase": "Lost"})
            case rules.Wait(reason, message, warning):
                if reason and not deleting(claim):
                    self._tell(claim, WARNING if warning else NORMAL, reason, message)
                await self._pending(claim)
        return Done()

    def _offer(self, claim: Object, key: str) -> rules.Offer:
        wanted = class_of(claim) or ""
        pods = self._pods.by_index(shared.BY_CLAIM, key)
        return rules.Offer(
            named=self._volumes.get(str(spec_of(claim).get("volumeName") or "")),
            reserved=self._volumes.by_index(shared.BY_CLAIM, key),
            free=self._volumes.by_index(shared.FREE, wanted),
            storage_class=self._classes.get(wanted) if wanted else None,
            consumers=sorted(name_of(pod) for pod in pods if not finished(pod)),
        )

    async def _patch(self, claim: Object, body: Object) -> Object:
        return await self._client.patch(
            PERSISTENTVOLUMECLAIMS, name_of(claim), body, namespace_of(claim)
        )

    async def _pending(self, claim: Object) -> None:
        if phase_of(claim) != "Pending":
            await write_status(self._client, PERSISTENTVOLUMECLAIMS, claim, {"phase": "Pending"})

    async def _provision(self, claim: Object, provisioner: str) -> None:
        notes = {PROVISIONER: provisioner, PROVISIONER_BETA: provisioner}
        if any(annotations_of(claim).get(name) != value for name, value in notes.items()):
            body = {"metadata": {**_current(claim), "annotations": notes}}
            claim = await self._patch(claim, body)
            text = (
                f"Waiting for a volume to be created either by the external provisioner "
                f"'{provisioner}' or manually by the system administrator. If volume creation is "
                "delayed, please verify that the provisioner is running and correctly registered."
            )
            self._tell(claim, NORMAL, "ExternalProvisioning", text)
        await self._pending(claim)

    async def _bind(self, claim: Object, volume: Object) -> None:
        """Four conditional writes; whichever of them is missing is made up for the next time."""
        reference = spec_of(volume).get("claimRef") or {}
        if reference.get("uid") != uid_of(claim):
            spec: Object = {"claimRef": claim_reference(claim)}
            notes = {} if reference else {BOUND_BY_CONTROLLER: "yes"}
            body = {"metadata": {**_current(volume), "annotations": notes}, "spec": spec}
            volume = await self._client.patch(PERSISTENTVOLUMES, name_of(volume), body)
        if phase_of(volume) != "Bound":
            volume = await write_status(self._client, PERSISTENTVOLUMES, volume, {"phase": "Bound"})
        if BIND_COMPLETED not in annotations_of(claim):
            notes = {BIND_COMPLETED: "yes"}
            if not spec_of(claim).get("volumeName"):
                notes[BOUND_BY_CONTROLLER] = "yes"
            body = {
                "metadata": {**_current(claim), "annotations": notes},
                "spec": {"volumeName": name_of(volume)},
            }
            claim = await self._patch(claim, body)
        await write_status(
            self._client, PERSISTENTVOLUMECLAIMS, claim, _bound_status(claim, volume)
        )

    def _tell(self, claim: Object, kind: str, reason: str, message: str) -> None:
        self._manager.events.event(claim, kind, reason, message, component=COMPONENT)


class Volumes:
    """The reconciler of volumes."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._claims = manager.informer(PERSISTENTVOLUMECLAIMS)
        self._volumes = shared.volumes(manager)

    async def reconcile(self, request: Request) -> Result:
        """Say how the volume stands; set it free where it must be."""
        volume = self._volumes.get(request.name)
        if volume is None:
            return Done()
        standing = rules.standing(volume, await self._claim(volume))
        if standing.free:
            body = {
                "metadata": {**_current(volume), "annotations": {BOUND_BY_CONTROLLER: None}},
                "spec": {"claimRef": None},
            }
            volume = await self._client.patch(PERSISTENTVOLUMES, name_of(volume), body)
        if standing.phase == "Failed" and phase_of(volume) != "Failed":
            self._manager.events.event(
                volume, WARNING, "VolumeFailedDelete", standing.message, component=COMPONENT
            )
        status: Object = {"phase": standing.phase, "message": standing.message or None}
        before = dict(volume.get("status") or {})
        if before.get("phase") == standing.phase:
            status["lastPhaseTransitionTime"] = before.get("lastPhaseTransitionTime")
        await write_status(self._client, PERSISTENTVOLUMES, volume, status)
        return Done()

    async def _claim(self, volume: Object) -> Object | None:
        """The claim it is for; a volume is not given up because a copy lags behind."""
        key = claim_key(volume)
        if not key:
            return None
        found = self._claims.get(key)
        uid = (spec_of(volume).get("claimRef") or {}).get("uid")
        if uid and (found is None or uid_of(found) != uid):
            namespace, _, name = key.rpartition("/")
            try:
                return await self._client.get(PERSISTENTVOLUMECLAIMS, name, namespace)
            except NotFound:
                return None
        return found


def _bound_status(claim: Object, volume: Object) -> Object:
    before = claim.get("status") or {}
    capacity = dict(spec_of(volume).get("capacity") or {})
    held = (before.get("capacity") or {}).get("storage")
    if held and size(str(capacity.get("storage") or "0")) != size(str(held)):
        # Growing a volume is the provisioner's to complete.
        capacity = dict(before["capacity"])
    modes = [mode for mode in _MODES if mode in access_modes_of(volume)]
    return {**before, "phase": "Bound", "accessModes": modes, "capacity": capacity}


def _current(obj: Object) -> Object:
    return {"resourceVersion": meta(obj)["resourceVersion"]}


def _claims_waiting(claims: Informer) -> Callable[[Object], Iterable[Request]]:
    """From a volume to the claims it may serve: its own, or all that still look for one."""

    def find(volume: Object) -> Iterable[Request]:
        if key := claim_key(volume):
            yield Request.of(key)
            return
        for claim in claims.by_index(_UNBOUND, ""):
            if (class_of(claim) or "") == (class_of(volume) or ""):
                yield Request.of(object_key(claim))

    return find


def _claims_of_class(claims: Informer) -> Callable[[Object], Iterable[Request]]:
    def find(storage_class: Object) -> Iterable[Request]:
        for claim in claims.by_index(_UNBOUND, ""):
            if class_of(claim) in (None, name_of(storage_class)):
                yield Request.of(object_key(claim))

    return find


def _volumes_of(volumes: Informer) -> Callable[[Object], Iterable[Request]]:
    """From a claim to the volumes that are, or are to be, its own."""

    def find(claim: Object) -> Iterable[Request]:
        if name := spec_of(claim).get("volumeName"):
            yield Request("", name)
        for key in volumes.index_keys(shared.BY_CLAIM, object_key(claim)):
            yield Request.of(key)

    return find


def _unbound(claim: Object) -> Iterable[str]:
    return () if BIND_COMPLETED in annotations_of(claim) else ("",)


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run both reconcilers."""
    claims, volumes = Claims(manager), Volumes(manager)
    copy = manager.informer(PERSISTENTVOLUMECLAIMS)
    copy.add_index(_UNBOUND, _unbound)
    manager.add(
        Controller(
            "persistentvolumeclaims",
            claims.reconcile,
            primary=PERSISTENTVOLUMECLAIMS,
            watches=[
                (PERSISTENTVOLUMES, _claims_waiting(copy)),
                (STORAGECLASSES, _claims_of_class(copy)),
                (PODS, shared.claims_used),
            ],
            workers=4,
        )
    )
    manager.add(
        Controller(
            "persistentvolumes",
            volumes.reconcile,
            primary=PERSISTENTVOLUMES,
            watches=[(PERSISTENTVOLUMECLAIMS, _volumes_of(shared.volumes(manager)))],
            workers=2,
        )
    )
