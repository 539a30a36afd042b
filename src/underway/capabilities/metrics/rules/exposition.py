"""Reading what a node agent says of use, in Prometheus' text format.

Source: kubernetes ``pkg/kubelet/metrics/collectors/resource_metrics.go``; Prometheus docs,
"Exposition formats".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LINE = re.compile(
    r"(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>[-+0-9.eE]+)(?: (?P<at>\d+))?"
)
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class Reading:
    """Counters at one moment: ``cpu_s`` of core-seconds so far, the working set in bytes.

    ``at_s`` and ``started_s`` are seconds since 1970; None where nothing was said.
    """

    at_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: float | None = None
    started_s: float | None = None

    @property
    def complete(self) -> bool:
        """Whether it holds what a rate is made from."""
        return self.at_s is not None and self.cpu_s is not None and self.memory_bytes is not None


@dataclass(slots=True)
class Scrape:
    """One node's readings: its own, and those of containers by namespace, pod and name."""

    node: Reading = field(default_factory=Reading)
    containers: dict[tuple[str, str, str], Reading] = field(default_factory=dict)


def parse(text: str) -> Scrape:
    """The readings in a text; lines that say something else are passed over."""
    found = Scrape()
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        what, _, measure = match["name"].partition("_")
        if what == "node":
            reading = found.node
        elif what == "container":
            labels = dict(_LABEL.findall(match["labels"] or ""))
            key = (labels.get("namespace", ""), labels.get("pod", ""), labels.get("container", ""))
            reading = found.containers.setdefault(key, Reading())
        else:
            continue
        _note(reading, measure, float(match["value"]), match["at"])
    return found


def _note(reading: Reading, measure: str, value: float, at: str | None) -> None:
    match measure:
        case "cpu_usage_seconds_total":
            reading.cpu_s = value
            reading.at_s = int(at) / 1000 if at else None
        case "memory_working_set_bytes":
            reading.memory_bytes = value
        case "start_time_seconds":
            reading.started_s = value
