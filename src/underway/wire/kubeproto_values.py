"""Kubernetes values whose JSON is unlike their protobuf message: times, durations.

Source: apimachinery ``pkg/apis/meta/v1`` (Time, MicroTime, Duration); Go's ``time.Duration``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def time_text(seconds: int, nanos: int = 0, *, micros: bool = False) -> str:
    """RFC 3339 in UTC, with six decimals when ``micros``.

    Raises:
        ValueError: the year is not in 1 to 9999.
    """
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError(f"the time {seconds} s is out of range") from error
    text = moment.strftime("%m-%dT%H:%M:%S")
    fraction = f".{nanos // 1000:06d}" if micros else ""
    return f"{moment.year:04d}-{text}{fraction}Z"


def time_parts(text: str) -> tuple[int, int]:
    """Seconds since the epoch and nanoseconds of an RFC 3339 time.

    Raises:
        ValueError: it is none.
    """
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no RFC 3339 time")
    zone = match[3].upper().replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(match[1].upper() + zone)
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no RFC 3339 time: {error}") from error
    return seconds, int((match[2] or "").ljust(9, "0"))


def duration_text(nanos: int) -> str:
    """A duration as Go prints it: ``1h0m0.5s``, ``1.5ms``, ``0s``."""
    if nanos == 0:
        return "0s"
    sign, rest = ("-", -nanos) if nanos < 0 else ("", nanos)
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1000:
            return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, rest = divmod(rest, _UNITS_NS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{text}{_decimal(rest, _UNITS_NS['s'])}s"


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    if not fraction:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}.{str(fraction).zfill(digits).rstrip('0')}"


def duration_nanos(text: str) -> int:
    """The nanoseconds of a Go duration.

    Raises:
        ValueError: it is none.
    """
    rest = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    total, position = 0, 0
    while position < len(rest):
        match = _DURATION_PART.match(rest, position)
        if not match or not (match[1] or match[2]) or match.end() - position > 32:
            raise ValueError(f"{text!r} is no duration")
        unit = _UNITS_NS[match[3]]
        fraction = match[2] or ""
        total += int(match[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        position = match.end()
    if not rest:
        raise ValueError(f"{text!r} is no duration")
    return -total if text[0] == "-" else total
