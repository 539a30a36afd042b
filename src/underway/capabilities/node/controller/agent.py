"""The node agent: one worker per pod bound here, and the node's own housekeeping."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable

from underway.api.objects import Object, key_of, name_of, namespace_of, uid_of
from underway.api.resources import PODS
from underway.base.errors import NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.node.backend import log_files
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.controller.registration import Registration
from underway.capabilities.node.controller.services import Services
from underway.capabilities.node.controller.worker import PodWorker
from underway.linux import oci_runtime
from underway.linux.network import PodNetwork
from underway.reconcile.informer import Entry, EventType, Informer

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 30.0
WORKER_RETRY_S = 5.0


class Agent:
    """Runs the pods of one node."""

    def __init__(
        self,
        services: Services,
        layout: Layout,
        network: PodNetwork,
        pods: Informer,
        registration: Registration,
    ) -> None:
        self._services = services
        self._layout = layout
        self._network = network
        self._pods = pods
        self._registration = registration
        self._workers: dict[str, PodWorker] = {}
        self._finished: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self.problem = "the pod network is not ready"

    # -- for the kubelet API ---------------------------------------------------------------

    def pods(self) -> list[Object]:
        """The pods of this node, as last seen."""
        return [worker.pod for worker in self._workers.values()]

    def worker(self, namespace: str, name: str) -> PodWorker:
        """The worker of a pod.

        Raises:
            NotFound: no such pod is on this node.
        """
        found = [
            worker
            for worker in self._workers.values()
            if name_of(worker.pod) == name and namespace_of(worker.pod) == namespace
        ]
        if found:
            # A namesake may take a pod's place before all of that one's remains are gone.
            return min(found, key=lambda worker: worker.is_gone)
        raise NotFound(f'pod "{name}" not found on this node')

    # -- running ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled; containers go on running."""
        services = self._services
        await run_blocking(self._network.ensure)
        self.problem = ""
        node = await self._registration.register()
        await self._pods.synced()
        await services.material.synced()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._take_up()
                self._pods.add_handler(self._pod_changed)
                group.create_task(services.material.references.run(self._refresh))
                group.create_task(self._registration.run())
                group.create_task(self._keep_house())
                await self._registration.renew(node)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._workers.clear()
            self._finished.clear()
            self._pods.remove_handler(self._pod_changed)
            services.exits.close()

    async def _take_up(self) -> None:
        """Account for everything an earlier agent left: pods that are gone, stray containers."""
        services = self._services
        bound = {entry.meta.uid for entry in self._pods.entries()}
        left = await run_blocking(services.containers.records.pods)
        known: set[str] = set()
        for uid in left:
            runs = await run_blocking(services.containers.records.of_pod, uid)
            known |= {run.id for each in runs.values() for run in each}
        strays = await run_blocking(services.containers.remove_orphans, known)
        if strays:
            log.info("ended %d containers that belonged to no pod", len(strays))
        for uid in left:
            if uid in bound:
                continue
            pod = await run_blocking(services.sandboxes.recall, uid)
            if pod is None:
                await run_blocking(services.sandboxes.remove, uid)
            else:
                self._begin(pod, gone=True)
        for uid in await run_blocking(services.sandboxes.attached):
            if uid not in bound and uid not in left:
                await run_blocking(services.sandboxes.release, uid)

    def _pod_changed(self, kind: EventType, old: Entry | None, new: Entry | None) -> None:
        if old is not None and (new is None or new.meta.uid != old.meta.uid):
            self._finished.discard(old.meta.uid)
            if worker := self._workers.get(old.meta.uid):
                worker.vanish()
        if new is None:
            return
        uid = new.meta.uid
        if worker := self._workers.get(uid):
            worker.update(new.object)
        elif uid not in self._finished:
            self._begin(new.object)

    def _begin(self, pod: Object, *, gone: bool = False) -> None:
        pod.setdefault("apiVersion", PODS.api_version)
        pod.setdefault("kind", PODS.kind)
        worker = self._workers[uid_of(pod)] = PodWorker(self._services, pod, gone=gone)
        assert self._group is not None
        self._group.create_task(self._supervise(worker), name=f"pod {name_of(pod)}")

    async def _supervise(self, worker: PodWorker) -> None:
        """Run a worker to its end; one that breaks is made anew from what is on disk."""
        while True:
            try:
                await worker.run()
                self._workers.pop(worker.uid, None)
                self._services.material.references.release(worker.uid)
                if self._pods.entry(_key(worker.pod)) is not None:
                    self._finished.add(worker.uid)
                return
            except Exception:
                log.exception("the worker of pod %s failed", _key(worker.pod))
            await self._services.clock.sleep(WORKER_RETRY_S)
            fresh = PodWorker(self._services, worker.pod, gone=worker.is_gone)
            self._workers[worker.uid] = worker = fresh

    def _refresh(self, kind: str, namespace: str, name: str) -> None:
        for worker in self._workers.values():
            if namespace_of(worker.pod) == namespace and worker.names(kind, name):
                worker.material_changed()

    async def _keep_house(self) -> None:
        """Rotate logs that have grown long."""
        while True:
            await self._services.clock.sleep(HOUSEKEEPING_S)
            try:
                await run_blocking(self._rotate, list(self._workers.values()))
            except (UnderwayError, OSError) as error:
                log.warning("housekeeping: %s", error)

    def _rotate(self, workers: Iterable[PodWorker]) -> None:
        for worker in workers:
            for run in worker.running():
                log_file = self._layout.log(worker.uid, run.name, run.attempt)
                bundle = self._services.containers.bundle(run)
                log_files.rotate(log_file, functools.partial(oci_runtime.reopen_log, bundle))


def _key(pod: Object) -> str:
    return key_of(namespace_of(pod), name_of(pod))
