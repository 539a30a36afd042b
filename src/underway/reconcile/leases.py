"""Leader election: of several copies of a program, one acts.

Source: Kubernetes docs, "Leases"; client-go ``tools/leaderelection`` for the timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from underway.api.objects import Object
from underway.api.resources import LEASES
from underway.base.clock import Clock, rfc3339
from underway.base.errors import AlreadyExists, NotFound, ServiceUnavailable, UnderwayError
from underway.client import Client

log = logging.getLogger(__name__)

LEASE_DURATION_S = 15
RENEW_DEADLINE_S = 10
RETRY_PERIOD_S = 2


class LeaderLost(ServiceUnavailable):
    """Another copy may lead now: the lease could not be renewed in time."""


class LeaderElector:
    """Competes for one Lease.

    A lease counts as expired when its holder has not been seen to renew it for its whole
    duration on *this* machine's monotonic clock, so that clocks need not agree.
    """

    def __init__(
        self, client: Client, clock: Clock, *, namespace: str, name: str, identity: str
    ) -> None:
        self._client = client
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: Object = {}
        self._seen_at = 0.0
        self._leading = False

    @property
    def name(self) -> str:
        """The lease's name."""
        return self._name

    @property
    def leading(self) -> bool:
        """Whether this copy holds the lease."""
        return self._leading

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then run ``lead`` while it is held; the lease is given up after.

        Raises:
            LeaderLost: the lease could not be renewed; ``lead`` was cancelled.
        """
        while not await self._try_hold():
            await self._clock.sleep(RETRY_PERIOD_S * random.uniform(1.0, 1.2))  # noqa: S311  # jitter
        log.info("%s leads as holder of the lease %s", self._identity, self._name)
        self._leading = True
        try:
            await self._lead(lead)
        finally:
            self._leading = False

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        try:
            lost = await self._while_held(lead)
        except asyncio.CancelledError:
            # Another copy need not wait for the lease to run out; the time for that is bounded.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_PERIOD_S):
                    await self._give_up()
            raise
        if lost is not None:
            raise lost
        await self._give_up()

    async def _while_held(self, lead: Callable[[], Awaitable[None]]) -> LeaderLost | None:
        lost: LeaderLost | None = None
        async with asyncio.TaskGroup() as group:
            work = group.create_task(_call(lead))
            renewal = group.create_task(self._renew())
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done() and not renewal.cancelled() and renewal.exception() is None:
                lost = renewal.result()
            work.cancel()
            renewal.cancel()
        return lost

    async def _renew(self) -> LeaderLost:
        renewed_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(RETRY_PERIOD_S)
            if await self._try_hold():
                renewed_at = self._clock.monotonic()
            elif self._clock.monotonic() - renewed_at >= RENEW_DEADLINE_S:
                return LeaderLost(f"the lease {self._namespace}/{self._name} was not renewed")

    async def _try_hold(self) -> bool:
        try:
            return await self._hold()
        except UnderwayError as error:
            log.debug("the lease %s: %s", self._name, error)
            return False

    async def _hold(self) -> bool:
        now = rfc3339(self._clock.now(), micro=True)
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except NotFound:
            return await self._create(now)
        spec = lease.get("spec") or {}
        if spec != self._seen:
            self._seen, self._seen_at = dict(spec), self._clock.monotonic()
        holder = spec.get("holderIdentity") or ""
        duration_s = spec.get("leaseDurationSeconds") or LEASE_DURATION_S
        fresh = self._clock.monotonic() - self._seen_at < duration_s
        if holder not in ("", self._identity) and fresh:
            return False
        changed = holder != self._identity
        lease["spec"] = {
            **spec,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_DURATION_S,
            "renewTime": now,
            "acquireTime": now if changed else spec.get("acquireTime", now),
            "leaseTransitions": (spec.get("leaseTransitions") or 0) + int(changed),
        }
        await self._client.replace(LEASES, lease)
        return True

    async def _create(self, now: str) -> bool:
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_DURATION_S,
            "renewTime": now,
            "acquireTime": now,
            "leaseTransitions": 0,
        }
        header = {"name": self._name, "namespace": self._namespace}
        lease = {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": header,
            "spec": spec,
        }
        try:
            await self._client.create(LEASES, lease)
        except AlreadyExists:
            return False
        return True

    async def _give_up(self) -> None:
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"] = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.replace(LEASES, lease)
        except UnderwayError as error:
            log.debug("the lease %s was left to expire: %s", self._name, error)


async def _call(work: Callable[[], Awaitable[None]]) -> None:
    await work()
