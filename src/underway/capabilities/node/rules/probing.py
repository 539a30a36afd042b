"""When a series of probe results becomes a verdict.

Source: Kubernetes documentation "Configure Liveness, Readiness and Startup Probes".
"""

from __future__ import annotations

from dataclasses import dataclass

from underway.api.objects import Object
from underway.base.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Timing:
    """A probe's rhythm, in seconds and counts, with the API's defaults."""

    initial_delay_s: float
    period_s: float
    timeout_s: float
    successes: int
    failures: int
    grace_s: int | None

    @classmethod
    def of(cls, probe: Object) -> Timing:
        """Read a ``Probe``."""
        return cls(
            float(probe.get("initialDelaySeconds") or 0),
            float(probe.get("periodSeconds") or 10),
            float(probe.get("timeoutSeconds") or 1),
            int(probe.get("successThreshold") or 1),
            int(probe.get("failureThreshold") or 3),
            probe.get("terminationGracePeriodSeconds"),
        )


class Tally:
    """Counts results in a row. ``verdict`` stays what it was until a threshold is reached."""

    def __init__(self, timing: Timing, *, verdict: bool) -> None:
        self._timing = timing
        self._last: bool | None = None
        self._streak = 0
        self.verdict = verdict

    def add(self, success: bool) -> bool:
        """Count one result; whether a threshold is reached (again) with it."""
        self._streak = self._streak + 1 if success == self._last else 1
        self._last = success
        needed = self._timing.successes if success else self._timing.failures
        if self._streak < needed:
            return False
        self.verdict = success
        return True


def port_number(port: object, container: Object) -> int:
    """A probe's port: a number, or the name of one of the container's ports.

    Raises:
        BadRequest: the container has no port of that name.
    """
    if isinstance(port, int):
        return port
    text = str(port)
    if text.isdigit():
        return int(text)
    for each in container.get("ports") or ():
        if each.get("name") == text:
            return int(each["containerPort"])
    raise BadRequest(f"container {container.get('name')} has no port named {text}")
