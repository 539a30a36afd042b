"""Generic ephemeral volumes: a claim for each, which goes with its pod.

Source: Kubernetes docs, "Ephemeral Volumes" (Generic ephemeral volumes).
"""

from __future__ import annotations

from underway.api.objects import (
    Object,
    controller_of,
    deleting,
    meta,
    namespace_of,
    owner_reference,
    uid_of,
)
from underway.api.resources import PERSISTENTVOLUMECLAIMS, PODS
from underway.base.errors import AlreadyExists
from underway.base.home import Home
from underway.capabilities.storage.controller import shared
from underway.capabilities.storage.model import ephemeral_claim, finished, spec_of
from underway.reconcile import WARNING, Controller, Done, Manager, Request, Result, TerminalError

COMPONENT = "ephemeral_volume"


class EphemeralVolumes:
    """The reconciler of pods that have such volumes."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._pods = shared.pods(manager)
        self._claims = manager.informer(PERSISTENTVOLUMECLAIMS)

    async def reconcile(self, request: Request) -> Result:
        """Make the claims that are missing."""
        pod = self._pods.get(request.key)
        if pod is None or deleting(pod) or finished(pod):
            return Done()
        for volume in spec_of(pod).get("volumes") or ():
            if source := volume.get("ephemeral"):
                await self._ensure(pod, volume, source.get("volumeClaimTemplate") or {})
        return Done()

    async def _ensure(self, pod: Object, volume: Object, template: Object) -> None:
        name = ephemeral_claim(pod, volume)
        found = self._claims.get(f"{namespace_of(pod)}/{name}")
        if found is None:
            try:
                found = await self._manager.client.create(
                    PERSISTENTVOLUMECLAIMS, _claim(pod, name, template)
                )
            except AlreadyExists:
                found = await self._manager.client.get(
                    PERSISTENTVOLUMECLAIMS, name, namespace_of(pod)
                )
        if (controller_of(found) or {}).get("uid") != uid_of(pod):
            text = (
                f'PVC "{namespace_of(pod)}/{name}" was not created for pod '
                f'"{namespace_of(pod)}/{meta(pod)["name"]}" (pod is not owner)'
            )
            self._manager.events.event(
                pod, WARNING, "EphemeralVolumeConflict", text, component=COMPONENT
            )
            raise TerminalError(text)


def _claim(pod: Object, name: str, template: Object) -> Object:
    header = template.get("metadata") or {}
    metadata: Object = {
        "name": name,
        "namespace": namespace_of(pod),
        "ownerReferences": [owner_reference(pod)],
    }
    for field in ("labels", "annotations"):
        if header.get(field):
            metadata[field] = dict(header[field])
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": template.get("spec") or {},
    }


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = EphemeralVolumes(manager)
    manager.add(
        Controller(
            "ephemeral-volumes",
            reconciler.reconcile,
            primary=PODS,
            owns=[PERSISTENTVOLUMECLAIMS],
            predicates=[lambda _kind, _old, new: new is not None and _has_any(new)],
        )
    )


def _has_any(pod: Object) -> bool:
    return any(volume.get("ephemeral") for volume in spec_of(pod).get("volumes") or ())
