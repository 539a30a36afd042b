"""Reading what this machine and its pods use. All calls block."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from underway.api.objects import Object, name_of, namespace_of, uid_of
from underway.base.clock import Clock, parse_rfc3339
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.machine import meminfo
from underway.capabilities.node.model import ContainerRecord, containers_of
from underway.capabilities.node.rules.statistics import ContainerUse, NodeUse, PodUse, Used
from underway.linux.cgroups import Cgroups, Usage

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; guests are part of user


class Pod(Protocol):
    """What is asked of one pod."""

    @property
    def pod(self) -> Object:
        """The pod as last seen."""
        ...

    def runs(self, container: str) -> list[ContainerRecord]:
        """The runs of a container, oldest first."""
        ...


class Statistics:
    """What the pods of a node use, from their control groups."""

    def __init__(self, cgroups: Cgroups, layout: Layout, clock: Clock, node_name: str) -> None:
        self._cgroups = cgroups
        self._layout = layout
        self._clock = clock
        self._name = node_name

    def read(self, pods: Iterable[Pod]) -> NodeUse:
        """The use of the node and of those of the pods that run."""
        found = [use for each in pods if (use := self._pod(each)) is not None]
        busy_ns, booted = _processor()
        memory = meminfo()
        taken = memory.get("MemTotal", 0) - memory.get("MemFree", 0)
        working = max(taken - memory.get("Inactive(file)", 0), 0)
        return NodeUse(
            self._name,
            self._clock.now(),
            datetime.fromtimestamp(booted, UTC),
            Used(busy_ns, taken, working),
            max(memory.get("MemTotal", 0) - working, 0),
            tuple(found),
        )

    def _pod(self, each: Pod) -> PodUse | None:
        pod, uid = each.pod, uid_of(each.pod)
        containers = []
        for container in containers_of(pod):
            runs = each.runs(container.name)
            if not runs or not runs[-1].running:
                continue
            usage = self._cgroups.usage(self._layout.cgroup(uid, runs[-1].id))
            started = parse_rfc3339(runs[-1].started_at)
            containers.append(ContainerUse(container.name, started, _used(usage)))
        if not containers:
            return None
        total = self._cgroups.usage(self._layout.pod_cgroup(uid))
        return PodUse(
            namespace_of(pod),
            name_of(pod),
            uid,
            str((pod.get("status") or {}).get("startTime") or ""),
            _used(total),
            tuple(containers),
        )


def _used(usage: Usage) -> Used:
    return Used(usage.cpu_ns, usage.memory_bytes, usage.working_set_bytes, usage.pids)


def _processor() -> tuple[int, int]:
    """Time that all processors were busy, in nanoseconds, and when the machine started."""
    busy_ns = booted = 0
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    for line in _STAT.read_text().splitlines():
        name, *fields = line.split()
        if name == "cpu":
            busy_ns = sum(int(fields[index]) for index in _BUSY) * tick_ns
        elif name == "btime":
            booted = int(fields[0])
    return busy_ns, booted
