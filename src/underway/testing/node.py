"""A node that runs nothing: it says that its pods run, and lets deleted ones go.

Its pods go through the same states as on a real node, so that Deployments become available and
Jobs complete; no container is ever started, no image pulled, no probe made.

- A pod becomes Running and Ready, where its readiness gates allow it.
- A pod that is not to be restarted (``restartPolicy`` OnFailure or Never) then ends with exit
  code 0. The annotation ``EXIT_CODE`` says otherwise: a number, or ``never``.
- A pod that is being deleted goes at once.

Source: Kubernetes documentation, "Pod Lifecycle", "Node status", "Leases".
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import math
from collections.abc import AsyncIterator

from underway.api.objects import Object, deleting, uid_of
from underway.api.resources import LEASES, NODES, PODS
from underway.base.clock import rfc3339
from underway.base.errors import NotFound
from underway.capabilities.simulation.model import node_object
from underway.client import Patch
from underway.reconcile import Controller, Done, Entry, Manager, Request
from underway.reconcile.status import write_status
from underway.testing import statuses
from underway.testing.statuses import EXIT_CODE

__all__ = ["EXIT_CODE", "SimulatedNode", "fake_nodes"]

_LEASE_NAMESPACE = "kube-node-lease"
_LEASE_S, _RENEW_S = 40, 10
_NODE_NETWORK = ipaddress.ip_address("192.0.2.1")  # RFC 5737: for documentation, nobody's own
_POD_NETWORK = ipaddress.ip_address("10.128.0.0")
_PODS_EACH = 2**16  # addresses of one node


def fake_nodes(count: int, prefix: str = "fake", **amounts: str) -> list[Object]:
    """Nodes for a cluster with the capability ``simulation``: Stages drive them and their pods.

    Unlike ``SimulatedNode``, there can be thousands of them.

    Args:
        count: how many.
        prefix: of their names.
        amounts: ``cpu``, ``memory`` and ``pods`` of each.
    """
    return [node_object(f"{prefix}-{number}", **amounts) for number in range(count)]


class SimulatedNode:
    """One Node object and what a node agent would say about the pods bound to it.

    Args:
        manager: runs it; its clock gives the times.
        index: counts the cluster's nodes from 0; decides name and addresses.
        version: the Kubernetes version the node claims to be of.
    """

    def __init__(self, manager: Manager, index: int, version: str) -> None:
        self.name = f"node-{index}"
        self.address = str(_NODE_NETWORK + index)
        self._manager = manager
        self._client = manager.client
        self._version = version
        self._pods = manager.informer(PODS)
        self._leases = manager.informer(LEASES, namespace=_LEASE_NAMESPACE)
        self._first_address = _POD_NETWORK + index * _PODS_EACH + 2
        self._numbers = itertools.count()
        manager.add(
            Controller(
                f"simulated {self.name}",
                self._reconcile,
                primary=PODS,
                workers=4,
                predicates=[lambda _kind, _old, new: self._has(new)],
            )
        )

    async def register(self) -> None:
        """Make the Node object, Ready, and renew its Lease from then on."""
        made = await self._client.create(NODES, statuses.node(self.name))
        status = statuses.node_status(self.name, self.address, self._version, self._now())
        await write_status(self._client, NODES, made, status)
        await self._client.create(LEASES, self._lease(made))
        self._manager.add_runnable(self._renew, f"lease of {self.name}")

    @contextlib.asynccontextmanager
    async def silent(self, delay_s: float) -> AsyncIterator[None]:
        """Within this block the cluster's clock may be put forward by that much.

        Writes take real time and a jump takes none, so the renewals that belong to it would come
        too late. The Lease promises the silence before, as its readers have seen once this is
        entered, and is renewed at the end.
        """
        length_s = _LEASE_S + math.ceil(delay_s)
        await self._seen({"leaseDurationSeconds": length_s, "renewTime": self._now(micro=True)})
        yield
        await self._seen({"leaseDurationSeconds": _LEASE_S, "renewTime": self._now(micro=True)})

    async def _seen(self, spec: Object) -> None:
        """Write the Lease and wait until the manager's informer shows it."""
        key = f"{_LEASE_NAMESPACE}/{self.name}"
        changed = asyncio.Event()

        def wake(_kind: str, _old: Entry | None, new: Entry | None) -> None:
            if new is None or new.key == key:
                changed.set()

        # The last handler: those that judge nodes have seen what this one sees.
        self._leases.add_handler(wake)
        try:
            await self._client.patch(LEASES, self.name, {"spec": spec}, _LEASE_NAMESPACE)
            while not self._shows(key, spec):
                changed.clear()
                await changed.wait()
        except NotFound:
            pass  # the test has taken the node away
        finally:
            self._leases.remove_handler(wake)

    def _shows(self, key: str, spec: Object) -> bool:
        lease = self._leases.get(key)
        length = "leaseDurationSeconds"
        return lease is None or lease["spec"].get(length) == spec[length]

    def _has(self, pod: Object | None) -> bool:
        return pod is not None and pod["spec"].get("nodeName") == self.name

    async def _reconcile(self, request: Request) -> Done:
        pod = self._pods.get(request.key)
        if pod is None or not self._has(pod):
            return Done()
        try:
            if deleting(pod):
                await self._client.delete(
                    PODS, request.name, request.namespace, uid=uid_of(pod), grace_period_s=0
                )
            elif (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                await self._tell(request, pod)
        except NotFound:
            pass  # somebody else has let it go
        return Done()

    async def _tell(self, request: Request, pod: Object) -> None:
        before = pod.get("status") or {}
        pod_ip = str(self._first_address + next(self._numbers) % (_PODS_EACH - 2))
        status = statuses.pod_status(pod, self.address, pod_ip, self._now())
        if all(before.get(name) == value for name, value in status.items()):
            return
        # The UID makes sure that it is not told of another pod of the same name.
        body = {"metadata": {"uid": uid_of(pod)}, "status": status}
        await self._client.patch(
            PODS,
            request.name,
            body,
            request.namespace,
            how=Patch.STRATEGIC,
            subresource="status",
        )

    async def _renew(self) -> None:
        while True:
            await self._manager.clock.sleep(_RENEW_S)
            body = {"spec": {"renewTime": self._now(micro=True)}}
            await self._client.patch(LEASES, self.name, body, _LEASE_NAMESPACE)

    def _lease(self, node: Object) -> Object:
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": uid_of(node)}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "namespace": _LEASE_NAMESPACE,
                "ownerReferences": [owner],
            },
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": _LEASE_S,
                "renewTime": self._now(micro=True),
            },
        }

    def _now(self, *, micro: bool = False) -> str:
        return rfc3339(self._manager.clock.now(), micro=micro)
