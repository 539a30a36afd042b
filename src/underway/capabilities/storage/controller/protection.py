"""Claims stay while pods use them, volumes while claims do."""

from __future__ import annotations

from underway.api.objects import Object, deleting, namespace_of
from underway.api.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES, PODS
from underway.base.home import Home
from underway.capabilities.storage.controller import shared
from underway.capabilities.storage.model import CLAIM_PROTECTION, VOLUME_PROTECTION, claims_of
from underway.capabilities.storage.rules import protection as rules
from underway.reconcile import (
    Controller,
    Done,
    Manager,
    Request,
    Result,
    add_finalizer,
    remove_finalizer,
)


class Claims:
    """Puts the finalizer on claims, and takes it off when no pod needs them."""

    def __init__(self, manager: Manager) -> None:
        self._client = manager.client
        self._claims = manager.informer(PERSISTENTVOLUMECLAIMS)
        self._pods = shared.pods(manager)

    async def reconcile(self, request: Request) -> Result:
        """Protect, or let go."""
        claim = self._claims.get(request.key)
        if claim is None:
            return Done()
        if rules.needs_finalizer(claim, CLAIM_PROTECTION):
            await add_finalizer(self._client, PERSISTENTVOLUMECLAIMS, claim, CLAIM_PROTECTION)
        elif deleting(claim) and not await self._in_use(request.key, claim):
            await remove_finalizer(self._client, PERSISTENTVOLUMECLAIMS, claim, CLAIM_PROTECTION)
        return Done()

    async def _in_use(self, key: str, claim: Object) -> bool:
        if rules.claim_in_use(self._pods.by_index(shared.BY_CLAIM, key)):
            return True
        # Data may depend on it: what a copy does not show yet is asked of the server.
        pods = (await self._client.list(PODS, namespace_of(claim))).items
        return rules.claim_in_use(pod for pod in pods if key in claims_of(pod))


class Volumes:
    """The same for volumes and claims."""

    def __init__(self, manager: Manager) -> None:
        self._client = manager.client
        self._volumes = shared.volumes(manager)

    async def reconcile(self, request: Request) -> Result:
        """Protect, or let go."""
        volume = self._volumes.get(request.name)
        if volume is None:
            return Done()
        if rules.needs_finalizer(volume, VOLUME_PROTECTION):
            await add_finalizer(self._client, PERSISTENTVOLUMES, volume, VOLUME_PROTECTION)
        elif deleting(volume) and not rules.volume_in_use(volume):
            await remove_finalizer(self._client, PERSISTENTVOLUMES, volume, VOLUME_PROTECTION)
        return Done()


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run both reconcilers."""
    claims, volumes = Claims(manager), Volumes(manager)
    manager.add(
        Controller(
            "pvc-protection",
            claims.reconcile,
            primary=PERSISTENTVOLUMECLAIMS,
            watches=[(PODS, shared.claims_used)],
        )
    )
    manager.add(Controller("pv-protection", volumes.reconcile, primary=PERSISTENTVOLUMES))
