"""The Leases of simulated nodes: renewed one by one, so that no moment has all of them.

Source: Kubernetes documentation, "Leases" (node heartbeats).
"""

from __future__ import annotations

import random

from underway.api.objects import Object, uid_of
from underway.api.resources import LEASES, NODES
from underway.base.clock import rfc3339
from underway.base.errors import AlreadyExists, NotFound
from underway.capabilities.simulation.model import is_simulated
from underway.reconcile import Controller, Done, Manager, Request, RequeueAfter
from underway.reconcile.informer import EventType

NAMESPACE = "kube-node-lease"
DURATION_S = 600  # a real agent's 40, renewed every 10, would be most of what 5,000 nodes do
RENEW_S = 240.0
WORKERS = 16


def _appeared_or_gone(_kind: EventType, old: Object | None, new: Object | None) -> bool:
    if new is None:
        return True
    return is_simulated(new) and (old is None or not is_simulated(old))


class Leases:
    """One controller for the Leases of all simulated nodes."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._nodes = manager.informer(NODES)
        self._due: dict[str, float] = {}

    def listen(self) -> None:
        """Follow nodes from now on."""
        self._manager.add(
            Controller(
                "leases of simulated nodes",
                self._reconcile,
                primary=self._nodes,
                workers=WORKERS,
                predicates=[_appeared_or_gone],
            )
        )

    async def _reconcile(self, request: Request) -> Done | RequeueAfter:
        entry = self._nodes.entry(request.key)
        if entry is None or not is_simulated(entry.object):
            self._due.pop(request.name, None)
            return Done()
        now = self._clock.monotonic()
        left_s = self._due.get(request.name, now) - now
        if left_s > 0:
            return RequeueAfter(left_s)
        await self._renew(request.name, entry.object)
        # The first time a part of the period is left out, at random, to spread the nodes over it.
        share = 1.0 if request.name in self._due else random.uniform(0.2, 1.0)  # noqa: S311
        self._due[request.name] = now + RENEW_S * share
        return RequeueAfter(RENEW_S * share)

    async def _renew(self, name: str, node: Object) -> None:
        now = rfc3339(self._clock.now(), micro=True)
        if name in self._due:
            try:
                await self._client.patch(LEASES, name, {"spec": {"renewTime": now}}, NAMESPACE)
            except NotFound:
                pass
            else:
                return
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid_of(node)}
        spec = {"holderIdentity": name, "leaseDurationSeconds": DURATION_S, "renewTime": now}
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [owner]},
            "spec": spec,
        }
        try:
            await self._client.create(LEASES, lease)
        except AlreadyExists:
            body = {"metadata": {"ownerReferences": [owner]}, "spec": spec}
            await self._client.patch(LEASES, name, body, NAMESPACE)
