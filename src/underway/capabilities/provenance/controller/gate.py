"""All policies as they are now, and their verdict on an image, remembered for a while."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from weakref import WeakValueDictionary

from underway.api.objects import Object, uid_of
from underway.base.clock import Clock
from underway.base.threads import run_blocking
from underway.capabilities.provenance.backend.evidence import EvidenceSource
from underway.capabilities.provenance.model import (
    ATTESTATIONAUTHORITIES,
    POLICIES,
    Policy,
    Violation,
)
from underway.capabilities.provenance.rules import compiling, policy
from underway.reconcile import Manager

GOOD_S = 300.0  # how long a yes is believed
BAD_S = 10.0  # and a no, which the user may just have mended
REMEMBERED = 4096

_Key = tuple[str, str, tuple[Policy, ...]]
Verdict = tuple[tuple[Policy, Violation], ...]


class Gate:
    """Judges images by the policies in the manager's caches."""

    def __init__(self, manager: Manager, source: EvidenceSource) -> None:
        self._clock: Clock = manager.clock
        self._source = source
        self._informers = [manager.informer(each) for each in POLICIES]
        self._authorities = manager.informer(ATTESTATIONAUTHORITIES)
        self._compiled: dict[tuple[str, ...], Policy] = {}
        self._known: OrderedDict[_Key, tuple[float, Verdict]] = OrderedDict()
        self._locks: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()

    async def synced(self) -> None:
        """Return once all policies are known."""
        for informer in (*self._informers, self._authorities):
            await informer.synced()

    def objects(self) -> list[Object]:
        """All policies as they were written."""
        return [obj for informer in self._informers for obj in informer.list()]

    def policies(self) -> list[Policy]:
        """All policies, compiled once for each of their versions."""
        authorities = self._authorities.list()
        versions = tuple(sorted(str(_version(each)) for each in authorities))
        found: dict[tuple[str, ...], Policy] = {}
        for obj in self.objects():
            key = (uid_of(obj), str(obj["metadata"].get("generation")), *versions)
            found[key] = self._compiled.get(key) or compiling.compiled(obj, authorities)
        self._compiled = found
        return list(found.values())

    def about(self, image: str, namespace: str, labels: Mapping[str, str]) -> list[Policy]:
        """The policies that are about an image in a namespace with these labels."""
        return [each for each in self.policies() if policy.applies(each, image, namespace, labels)]

    async def resolve(self, image: str) -> str:
        """The digest an image's name stands for now."""
        return await run_blocking(self._source.resolve, image)

    async def judge(self, image: str, digest: str, policies: Sequence[Policy]) -> Verdict:
        """What the policies hold against an image."""
        key, now_s = (image.partition("@")[0], digest, tuple(policies)), self._clock.monotonic()
        # A hundred replicas of one image come at once, and one of them has it looked at.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            until, verdict = self._known.get(key, (0.0, ()))
            if until > now_s:
                self._known.move_to_end(key)
                return verdict
            evidence = await run_blocking(self._source.gather, image, digest, policies)
            verdict = tuple(
                (each, found) for each in policies for found in policy.judge(each, evidence)
            )
            self._known[key] = (now_s + (BAD_S if verdict else GOOD_S), verdict)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return verdict

    def forget(self) -> None:
        """Have everything judged anew."""
        self._known.clear()


def _version(obj: Object) -> tuple[str, str]:
    return uid_of(obj), str(obj["metadata"].get("resourceVersion"))
