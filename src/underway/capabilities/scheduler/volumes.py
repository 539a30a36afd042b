"""Claims on the way to a node: what they ask for, and binding them where the pod is to go."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import (
    Object,
    annotations_of,
    key_of,
    meta,
    name_of,
    namespace_of,
    object_key,
)
from underway.api.resources import (
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    STORAGECLASSES,
)
from underway.capabilities.scheduler.model import PodInfo, claim_names, is_finished
from underway.capabilities.scheduler.rules import volumes as rules
from underway.reconcile import Informer, Manager

_USED_BY = "placed pods by claim"
_WAITING = "pods without a node by claim"
_FREE = "volumes nobody has"


class VolumeBinder:
    """Reads claims for decisions; writes which node, or which volume, a delayed claim gets.

    The binder and the provisioners then bind the claim; the pod is bound when that is seen, so
    that nothing waits in between.
    """

    def __init__(self, manager: Manager) -> None:
        self._client = manager.client
        self.claims = manager.informer(PERSISTENTVOLUMECLAIMS)
        self.volumes = manager.informer(PERSISTENTVOLUMES)
        self.classes = manager.informer(STORAGECLASSES)
        self._pods = manager.informer(PODS)
        self._pods.add_index(_USED_BY, _claims_used)
        self._pods.add_index(_WAITING, _claims_awaited)
        self.volumes.add_index(_FREE, _free)

    @property
    def informers(self) -> tuple[Informer, ...]:
        """What must be read before decisions are right."""
        return (self.claims, self.volumes, self.classes)

    def needs(self, pod: PodInfo) -> rules.Needs:
        """What the pod's claims ask of its node."""
        if not pod.claims:
            return rules.Needs()
        keys = [key_of(pod.namespace, name) for name in pod.claims]
        claims = {key: claim for key in keys if (claim := self.claims.get(key)) is not None}
        names = {str((each.get("spec") or {}).get("volumeName") or "") for each in claims.values()}
        storage = rules.Storage(
            claims=claims,
            volumes={name: found for name in names if (found := self.volumes.get(name))},
            classes={name_of(each): each for each in self.classes.list()},
            free=self.volumes.by_index(_FREE, ""),
            users={key: self._users(key) for key in keys},
        )
        return rules.needs(pod.namespace, pod.claims, pod.uid, storage)

    def _users(self, key: str) -> list[str]:
        entries = (self._pods.entry(pod) for pod in self._pods.index_keys(_USED_BY, key))
        return [entry.meta.uid for entry in entries if entry is not None]

    def waiting_for(self, claim: Object) -> list[str]:
        """The keys of pods that use a claim and have no node yet."""
        return self._pods.index_keys(_WAITING, object_key(claim))

    async def bind(self, needs: rules.Needs, node: Object) -> bool:
        """Write down where each delayed claim is to be; False where the node cannot serve them.

        Raises:
            Conflict, NotFound: something changed since it was read.
        """
        assigned = rules.assign(needs.delayed, node)
        if assigned is None:
            return False
        claims = {object_key(each.claim): each.claim for each in needs.delayed}
        for key, volume in assigned.items():
            if volume is not None:
                await self._reserve(volume, claims[key])
            elif annotations_of(claims[key]).get(rules.SELECTED_NODE) != name_of(node):
                await self._select(claims[key], node)
        return True

    async def _reserve(self, volume: Object, claim: Object) -> None:
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": namespace_of(claim),
            "name": name_of(claim),
            "uid": meta(claim)["uid"],
        }
        body = {
            "metadata": {
                "resourceVersion": meta(volume)["resourceVersion"],
                "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
            },
            "spec": {"claimRef": reference},
        }
        await self._client.patch(PERSISTENTVOLUMES, name_of(volume), body)

    async def _select(self, claim: Object, node: Object) -> None:
        body = {
            "metadata": {
                "resourceVersion": meta(claim)["resourceVersion"],
                "annotations": {rules.SELECTED_NODE: name_of(node)},
            }
        }
        await self._client.patch(PERSISTENTVOLUMECLAIMS, name_of(claim), body, namespace_of(claim))


def _claims_used(pod: Object) -> Iterable[str]:
    if not (pod.get("spec") or {}).get("nodeName") or is_finished(pod):
        return ()
    return [key_of(namespace_of(pod), name) for name in claim_names(pod)]


def _claims_awaited(pod: Object) -> Iterable[str]:
    if (pod.get("spec") or {}).get("nodeName") or is_finished(pod):
        return ()
    return [key_of(namespace_of(pod), name) for name in claim_names(pod)]


def _free(volume: Object) -> Iterable[str]:
    """Volumes without a claim, or kept for one that has yet to take them."""
    reference = (volume.get("spec") or {}).get("claimRef") or {}
    return () if (volume.get("status") or {}).get("phase") == "Bound" and reference else ("",)
