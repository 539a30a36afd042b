"""Ages as people read them.

Source: apimachinery ``pkg/util/duration`` (HumanDuration, ShortHumanDuration).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from underway.base.clock import parse_rfc3339

UNKNOWN = "<unknown>"
_INVALID = "<invalid>"


def human_duration(span: timedelta) -> str:
    """Two to three significant digits: ``45s``, ``3m12s``, ``5h``, ``2d4h``, ``3y``."""
    total_s = int(span.total_seconds())
    if total_s < -1:
        return _INVALID
    if total_s < 0:
        return "0s"
    if total_s < 120:
        return f"{total_s}s"
    minutes, hours = total_s // 60, total_s // 3600
    if minutes < 10:
        return _two(minutes, "m", total_s % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    years = days // 365
    return _two(years, "y", days % 365, "d") if days < 365 * 8 else f"{years}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def since(moment: object, now: datetime) -> str:
    """The time from a ``metav1.Time`` text until now."""
    if not isinstance(moment, str) or not moment:
        return UNKNOWN
    try:
        return human_duration(now - parse_rfc3339(moment))
    except ValueError:
        return UNKNOWN


def between(start: object, end: object) -> str:
    """The time from one ``metav1.Time`` text to another."""
    if not isinstance(end, str) or not end:
        return UNKNOWN
    try:
        return since(start, parse_rfc3339(end))
    except ValueError:
        return UNKNOWN
