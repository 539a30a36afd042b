"""Running commands and samples: wall time, CPU time, medians."""

from __future__ import annotations

import math
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One run: seconds of wall time, and of CPU time of the process and its children."""

    wall_s: float
    cpu_s: float = 0.0


def command(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, cwd: str | None = None
) -> Sample:
    """Run a command to its end; raises with its output when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        arguments, env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(wall_s, cpu_s)


def median(samples: Sequence[Sample]) -> float:
    """The median wall time in seconds."""
    return statistics.median(sample.wall_s for sample in samples)


def p99(samples: Sequence[Sample]) -> float:
    """The 99th percentile of wall time in seconds; of few samples, the largest."""
    ordered = sorted(sample.wall_s for sample in samples)
    return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]


def cpu(samples: Sequence[Sample]) -> float:
    """The median CPU time in seconds."""
    return statistics.median(sample.cpu_s for sample in samples)


def pss_bytes(pid: int) -> int:
    """A process's proportional share of memory."""
    with Path(f"/proc/{pid}/smaps_rollup").open(encoding="ascii") as stream:
        for line in stream:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss for {pid}")


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used so far."""
    with Path(f"/proc/{pid}/stat").open(encoding="utf-8") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
