"""Stopping every container of a platform and taking away what outlives its processes. Blocking."""

from __future__ import annotations

import os
import select
import time

import msgspec

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest
from underway.base.home import Home
from underway.capabilities.node.backend.containers import Containers, signal_name
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.model import ContainerRecord
from underway.linux import mounts
from underway.linux.cgroups import Cgroups
from underway.linux.layers import LayerStore
from underway.linux.network import PodNetwork
from underway.linux.oci_runtime import OciRuntime, find_runtime

GRACE_S = 10.0
KILL_WAIT_S = 5.0


def teardown(home: Home, grace_s: float = GRACE_S) -> None:
    """Stop all containers, then remove mounts, links, tables and control groups; files stay.

    Pods that are to run again do so when the platform is started again. Doing it twice is as good
    as once.
    """
    layout, cgroups = Layout(home), Cgroups()
    binary = find_runtime(hybrid=cgroups.unified is None)
    if binary is not None:
        runtime = OciRuntime(binary, layout.runtime, layout.exits)
        layers = LayerStore(home.layers)
        containers = Containers(layout, runtime, cgroups, layers, SystemClock(), 0)
        _stop(containers, grace_s)
        containers.remove_orphans(set())
    cgroups.kill(layout.slice)
    for point in mounts.mounts_below(layout.root):
        mounts.unmount(point)
    PodNetwork(home.id, home.load_settings().pod_cidr).remove()
    cgroups.remove(layout.slice)


def _stop(containers: Containers, grace_s: float) -> None:
    running: list[ContainerRecord] = []
    for uid in containers.records.pods():
        for runs in containers.recover(uid).values():
            running += [run for run in runs if not run.finished]
    for record in running:
        try:
            containers.signal(record, signal_name(record.stop_signal))
        except BadRequest:
            containers.signal(record, "SIGTERM")
    left = _wait(running, grace_s)
    for record in left:
        containers.signal(record, "SIGKILL")
    _wait(left, KILL_WAIT_S)
    for record in running:
        # Stopped on purpose: the next start is not held back.
        containers.records.save(msgspec.structs.replace(containers.settle(record), backoff_s=0))


def _wait(records: list[ContainerRecord], limit_s: float) -> list[ContainerRecord]:
    """Wait for the containers' shims to end; gives those that have not."""
    waiting: dict[int, ContainerRecord] = {}
    poller = select.poll()
    end = time.monotonic() + limit_s
    try:
        for record in records:
            try:
                descriptor = os.pidfd_open(record.shim_pid)
            except OSError:
                continue
            waiting[descriptor] = record
            poller.register(descriptor, select.POLLIN)
        while waiting and (left_s := end - time.monotonic()) > 0:
            for descriptor, _event in poller.poll(left_s * 1000):
                poller.unregister(descriptor)
                os.close(descriptor)
                del waiting[descriptor]
        return list(waiting.values())
    finally:
        for descriptor in waiting:
            os.close(descriptor)
