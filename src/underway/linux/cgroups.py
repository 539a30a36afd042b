"""Control groups: where they are mounted, what a group uses, and taking groups away.

Works on cgroup v2, on v1 and on machines that mount both. Groups are named by their path below the
mounts, such as ``/underway-1a2b3c/podUID``; the OCI runtime makes them.

Source: Linux ``Documentation/admin-guide/cgroup-v2.rst`` and ``cgroup-v1/``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
_GONE_CHECK_S = 0.005


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group uses now; ``working_set_bytes`` leaves out cache that can be dropped."""

    memory_bytes: int = 0
    working_set_bytes: int = 0
    cpu_ns: int = 0
    pids: int = 0


class Cgroups:
    """The control group hierarchies of this machine.

    ``unified`` is the cgroup v2 mount where v2 holds the controllers, else None.
    """

    def __init__(self, mounts: str | None = None) -> None:
        self._controllers: dict[str, Path] = {}
        self._roots: list[Path] = []
        self.unified: Path | None = None
        for line in (mounts if mounts is not None else _MOUNTS.read_text()).splitlines():
            _source, point, kind, options, *_ = line.split(" ")
            if kind == "cgroup":
                self._roots.append(Path(point))
                for option in options.split(","):
                    self._controllers[option] = Path(point)
            elif kind == "cgroup2":
                self._roots.append(Path(point))
                self.unified = Path(point)
        if "memory" in self._controllers:
            self.unified = None  # a hybrid machine: v2 is there, but holds no controllers

    @property
    def available(self) -> bool:
        """Whether memory and CPU of a group can be limited and measured."""
        return self.unified is not None or {"memory", "cpu"} <= set(self._controllers)

    def usage(self, group: str) -> Usage:
        """What a group uses; zero where it does not exist."""
        if self.unified is not None:
            base = self.unified / group.lstrip("/")
            memory = _number(base / "memory.current")
            inactive = _table(base / "memory.stat").get("inactive_file", 0)
            cpu_ns = _table(base / "cpu.stat").get("usage_usec", 0) * 1000
            pids = _number(base / "pids.current")
        else:
            base = self._path("memory", group)
            memory = _number(base / "memory.usage_in_bytes")
            inactive = _table(base / "memory.stat").get("total_inactive_file", 0)
            cpu_ns = _number(self._path("cpuacct", group) / "cpuacct.usage")
            pids = _number(self._path("pids", group) / "pids.current")
        return Usage(memory, max(memory - inactive, 0), cpu_ns, pids)

    def oom_kills(self, group: str) -> int:
        """How many processes of the group the kernel ended because memory ran out."""
        if self.unified is not None:
            return _table(self.unified / group.lstrip("/") / "memory.events").get("oom_kill", 0)
        return _table(self._path("memory", group) / "memory.oom_control").get("oom_kill", 0)

    def processes(self, group: str) -> list[int]:
        """The processes of a group and of all groups below it."""
        found: set[int] = set()
        for base in self._everywhere(group):
            for path in [base, *_below(base)]:
                with contextlib.suppress(OSError, ValueError):
                    found |= {int(pid) for pid in (path / "cgroup.procs").read_text().split()}
        return sorted(found)

    def kill(self, group: str, *, timeout_s: float = 2.0) -> bool:
        """End every process of a group and wait until they are gone; False if some are not."""
        end = time.monotonic() + timeout_s
        while pids := self.processes(group):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                return False
            time.sleep(_GONE_CHECK_S)  # v1 tells nobody when a group becomes empty
        return True

    def remove(self, group: str) -> bool:
        """Take a group and all below it away; False while processes hold any of them."""
        gone = True
        for base in self._everywhere(group):
            for path in [*_below(base), base]:
                try:
                    path.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    gone = False
        return gone

    def _path(self, controller: str, group: str) -> Path:
        return self._controllers.get(controller, Path("/nonexistent")) / group.lstrip("/")

    def _everywhere(self, group: str) -> Iterator[Path]:
        if not group.strip("/"):
            raise ValueError("the root group is not ours")
        for root in self._roots:
            path = root / group.lstrip("/")
            if path.is_dir():
                yield path


def _below(base: Path) -> list[Path]:
    """Groups below a group, innermost first."""
    return [Path(found) for found, _, _ in os.walk(base, topdown=False) if found != str(base)]


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _table(path: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
