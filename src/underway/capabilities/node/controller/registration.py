"""Keeping the Node object and its Lease: register, heartbeat, tell what has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from underway.api.objects import Object
from underway.api.resources import LEASES, NODES
from underway.base.clock import Clock, rfc3339
from underway.base.errors import AlreadyExists, NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.node.backend import machine as this_machine
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.pulls import Pulls
from underway.capabilities.node.rules import node_object
from underway.capabilities.node.rules.fields import Machine
from underway.client import Client, Patch

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 300.0  # at the latest; sooner where something changed
CHECK_PERIOD_S = 10.0
RETRY_S = 1.0
IMAGES_MAX = 50


class Registration:
    """This machine's Node object.

    Args:
        problem: says why no pod can run now, or gives an empty text.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        layout: Layout,
        machine: Machine,
        pulls: Pulls,
        *,
        runtime_version: str,
        version: str,
        pod_cidr: str,
        port: int,
        problem: Callable[[], str],
    ) -> None:
        self._client = client
        self._clock = clock
        self._layout = layout
        self._machine = machine
        self._pulls = pulls
        self._info = this_machine.system_info(runtime_version, version)
        self._pod_cidr = pod_cidr
        self._port = port
        self._problem = problem
        self._told: Object = {}
        self._told_at = 0.0

    async def register(self) -> Object:
        """Make the Node object, or find it, and tell the status; waits for the API server."""
        while True:
            try:
                node = await self._ensure()
                await self._tell(node)
                return node
            except UnderwayError as error:
                log.debug("the node is not registered yet: %s", error)
                await self._clock.sleep(RETRY_S)

    async def run(self) -> None:
        """Heartbeat until cancelled."""
        while True:
            await self._clock.sleep(CHECK_PERIOD_S)
            try:
                node = await self._ensure()
                await self._tell(node)
                await self._renew(node)
            except UnderwayError as error:
                log.warning("heartbeat of node %s: %s", self._machine.name, error)

    async def renew(self, node: Object) -> None:
        """Renew the Lease once; its namespace may be still to come."""
        try:
            await self._renew(node)
        except UnderwayError as error:
            log.debug("lease of node %s: %s", self._machine.name, error)

    async def _ensure(self) -> Object:
        wanted = node_object.node(self._machine, this_machine.architecture(), self._pod_cidr)
        try:
            node = await self._client.get(NODES, self._machine.name)
        except NotFound:
            try:
                return await self._client.create(NODES, wanted)
            except AlreadyExists:
                return await self._client.get(NODES, self._machine.name)
        labels = node["metadata"].get("labels") or {}
        missing = {
            name: value
            for name, value in wanted["metadata"]["labels"].items()
            if labels.get(name) != value
        }
        if missing:
            body = {"metadata": {"labels": missing}}
            node = await self._client.patch(NODES, self._machine.name, body)
        return node

    async def _tell(self, node: Object) -> None:
        now = self._clock.monotonic()
        status = node_object.node_status(
            node.get("status") or {},
            self._machine,
            self._info,
            await run_blocking(this_machine.pressure, self._layout.root),
            await run_blocking(self._images),
            self._problem(),
            self._port,
            rfc3339(self._clock.now()),
        )
        content = _without_times(status)
        current = content == _without_times(node.get("status") or {})
        if current and content == self._told and now - self._told_at < STATUS_PERIOD_S:
            return
        await self._client.patch(
            NODES,
            self._machine.name,
            {"status": status},
            how=Patch.STRATEGIC,
            subresource="status",
        )
        self._told, self._told_at = content, now

    async def _renew(self, node: Object) -> None:
        moment = rfc3339(self._clock.now(), micro=True)
        body = {"spec": {"renewTime": moment, "holderIdentity": self._machine.name}}
        try:
            await self._client.patch(LEASES, self._machine.name, body, node_object.LEASE_NAMESPACE)
        except NotFound:
            await self._client.create(LEASES, node_object.lease(self._machine, node, moment))

    def _images(self) -> list[Object]:
        found = [
            {
                "names": [image.reference],
                "sizeBytes": sum(int(each.get("size") or 0) for each in image.manifest["layers"]),
            }
            for image in self._pulls.images()
        ]
        return sorted(found, key=lambda each: (-int(str(each["sizeBytes"])), each["names"]))[
            :IMAGES_MAX
        ]


def _without_times(status: Object) -> Object:
    conditions = [
        {k: v for k, v in condition.items() if not k.startswith("last")}
        for condition in status.get("conditions") or ()
    ]
    return {**status, "conditions": sorted(conditions, key=lambda c: str(c.get("type")))}
