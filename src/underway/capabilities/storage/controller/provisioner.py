"""The provisioner of local directories: makes, grows and removes volumes of its classes."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import (
    Object,
    annotations_of,
    deleting,
    meta,
    name_of,
    namespace_of,
    object_key,
)
from underway.api.resources import (
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    STORAGECLASSES,
)
from underway.base.errors import AlreadyExists, InternalError, NotFound
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.storage.backend import Directories
from underway.capabilities.storage.controller import shared
from underway.capabilities.storage.model import (
    PROVISIONED_BY,
    SELECTED_NODE,
    claim_key,
    class_of,
    phase_of,
    spec_of,
)
from underway.capabilities.storage.rules import local as rules
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Manager,
    Request,
    Result,
    TerminalError,
    write_status,
)


class Claims:
    """Makes a volume for each claim that waits for one, and lets bound ones grow."""

    def __init__(self, manager: Manager, directories: Directories) -> None:
        self._manager = manager
        self._client = manager.client
        self._directories = directories
        self._claims = manager.informer(PERSISTENTVOLUMECLAIMS)
        self._classes = manager.informer(STORAGECLASSES)
        self._nodes = manager.informer(NODES)
        self._volumes = shared.volumes(manager)

    async def reconcile(self, request: Request) -> Result:
        """Make or grow the claim's volume."""
        claim = self._claims.get(request.key)
        if claim is None or deleting(claim):
            return Done()
        storage_class = self._classes.get(class_of(claim) or "")
        if storage_class is not None and rules.wanted(claim, storage_class):
            if self._volumes.get(rules.volume_name(claim)) is None:
                await self._make(claim, storage_class)
            return Done()
        bound = self._volumes.get(str(spec_of(claim).get("volumeName") or ""))
        if bound is not None and (size := rules.grown(claim, bound, storage_class)):
            await self._grow(claim, bound, size)
        return Done()

    async def _make(self, claim: Object, storage_class: Object) -> None:
        self._tell(
            claim,
            NORMAL,
            "Provisioning",
            f'External provisioner is provisioning volume for claim "{object_key(claim)}"',
        )
        if why := rules.why_not(claim):
            self._failed(claim, why)
            raise TerminalError(why)
        node = await self._node(claim)
        try:
            path = await run_blocking(self._directories.make, rules.directory(claim))
        except InternalError as error:
            self._failed(claim, error.message)
            raise
        made = rules.volume(claim, storage_class, path, node)
        try:
            await self._client.create(PERSISTENTVOLUMES, made)
        except AlreadyExists:
            return
        self._tell(
            claim,
            NORMAL,
            "ProvisioningSucceeded",
            f"Successfully provisioned volume {name_of(made)}",
        )

    async def _node(self, claim: Object) -> Object:
        """The node that the scheduler chose; without one, any that is there.

        Raises:
            TerminalError: the chosen one is gone; the scheduler chooses again.
        """
        chosen = annotations_of(claim).get(SELECTED_NODE)
        if chosen is None:
            nodes = sorted(self._nodes.list(), key=name_of)
            if not nodes:
                self._failed(claim, "there is no node yet")
                raise TerminalError("there is no node yet")
            return nodes[0]
        node = self._nodes.get(chosen)
        if node is not None:
            return node
        try:
            return await self._client.get(NODES, chosen)
        except NotFound as error:
            body = {"metadata": {**_current(claim), "annotations": {SELECTED_NODE: None}}}
            await self._client.patch(
                PERSISTENTVOLUMECLAIMS, name_of(claim), body, namespace_of(claim)
            )
            why = f'node "{chosen}" not found'
            self._failed(claim, why)
            raise TerminalError(why) from error

    async def _grow(self, claim: Object, volume: Object, size: str) -> None:
        body = {"metadata": _current(volume), "spec": {"capacity": {"storage": size}}}
        await self._client.patch(PERSISTENTVOLUMES, name_of(volume), body)
        status = dict(claim.get("status") or {})
        status["capacity"] = {**(status.get("capacity") or {}), "storage": size}
        await write_status(self._client, PERSISTENTVOLUMECLAIMS, claim, status)
        self._tell(claim, NORMAL, "VolumeResizeSuccessful", "Resize volume succeeded")

    def _failed(self, claim: Object, why: str) -> None:
        text = f'failed to provision volume with StorageClass "{class_of(claim)}": {why}'
        self._tell(claim, WARNING, "ProvisioningFailed", text)

    def _tell(self, claim: Object, kind: str, reason: str, text: str) -> None:
        self._manager.events.event(claim, kind, reason, text, component=rules.NAME)


class Volumes:
    """Removes the directories of volumes that are released and not to be kept."""

    def __init__(self, manager: Manager, directories: Directories) -> None:
        self._manager = manager
        self._directories = directories
        self._volumes = shared.volumes(manager)

    async def reconcile(self, request: Request) -> Result:
        """Remove what the volume held, then the volume."""
        volume = self._volumes.get(request.name)
        if volume is None or annotations_of(volume).get(PROVISIONED_BY) != rules.NAME:
            return Done()
        policy = spec_of(volume).get("persistentVolumeReclaimPolicy")
        if phase_of(volume) != "Released" or policy != "Delete" or deleting(volume):
            return Done()
        name = rules.own_directory(volume, self._directories.base)
        if name is None:
            why = "its path is not a directory that was made for it; nothing is removed"
            self._tell(volume, why)
            raise TerminalError(f"{name_of(volume)}: {why}")
        try:
            await run_blocking(self._directories.remove, name)
        except InternalError as error:
            self._tell(volume, error.message)
            raise
        await self._manager.client.delete(
            PERSISTENTVOLUMES, name_of(volume), uid=meta(volume)["uid"]
        )
        return Done()

    def _tell(self, volume: Object, text: str) -> None:
        self._manager.events.event(
            volume, WARNING, "VolumeFailedDelete", text, component=rules.NAME
        )


def _current(obj: Object) -> Object:
    return {"resourceVersion": meta(obj)["resourceVersion"]}


def _claim_of(volume: Object) -> Iterable[Request]:
    return [Request.of(key)] if (key := claim_key(volume)) else ()


def add(manager: Manager, home: Home) -> None:
    """Run the provisioner for directories below the home."""
    directories = Directories(home.volumes)
    claims, volumes = Claims(manager, directories), Volumes(manager, directories)
    manager.add(
        Controller(
            "local-path claims",
            claims.reconcile,
            primary=PERSISTENTVOLUMECLAIMS,
            watches=[(PERSISTENTVOLUMES, _claim_of)],
            workers=2,
        )
    )
    manager.add(Controller("local-path volumes", volumes.reconcile, primary=PERSISTENTVOLUMES))
