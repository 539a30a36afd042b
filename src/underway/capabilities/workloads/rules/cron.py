"""Cron schedules: when the next time is.

Source: crontab(5); Kubernetes docs, "CronJob" (Schedule syntax), which adds the @-names and
refuses time zones inside the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from underway.base.errors import BadRequest

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_HORIZON_DAYS = 366 * 5  # a schedule that does not come up in so long (30 February) never does


@dataclass(frozen=True)
class Schedule:
    """The minutes at which something is to happen."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    def matches_day(self, moment: datetime) -> bool:
        """Whether it happens that day; with day and weekday both given, either is enough."""
        if moment.month not in self.months:
            return False
        day = moment.day in self.days
        weekday = moment.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return day and weekday
        return day or weekday

    def after(self, moment: datetime) -> datetime | None:
        """The first time after ``moment`` (which carries its time zone), None if there is none."""
        candidate = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        for _ in range(_HORIZON_DAYS):
            if self.matches_day(candidate):
                found = self._on_day(candidate)
                if found is not None:
                    return found
            candidate = candidate.replace(hour=0, minute=0) + timedelta(days=1)
        return None

    def _on_day(self, start: datetime) -> datetime | None:
        for hour in sorted(each for each in self.hours if each >= start.hour):
            first = start.minute if hour == start.hour else 0
            for minute in sorted(each for each in self.minutes if each >= first):
                return start.replace(hour=hour, minute=minute)
        return None


def parse(text: str) -> Schedule:
    """The schedule five fields stand for: minute, hour, day of month, month, day of week.

    Raises:
        BadRequest: the text is no schedule.
    """
    fields = _MACROS.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise BadRequest(
            f"schedule {text!r}: expected 5 fields, found {len(fields)}",
            hint="minute hour day-of-month month day-of-week, such as '*/5 * * * *'",
        )
    try:
        weekdays = _field(fields[4], 0, 7, _DAYS)
        return Schedule(
            _field(fields[0], 0, 59),
            _field(fields[1], 0, 23),
            _field(fields[2], 1, 31),
            _field(fields[3], 1, 12, _MONTHS),
            frozenset(day % 7 for day in weekdays),
            fields[2].startswith(("*", "?")),
            fields[4].startswith(("*", "?")),
        )
    except ValueError as error:
        raise BadRequest(f"schedule {text!r}: {error}") from error


def _field(text: str, low: int, high: int, names: list[str] | None = None) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        bounds, slash, step_text = part.partition("/")
        step = int(step_text) if slash else 1
        if step < 1:
            raise ValueError(f"{part!r} has no step")
        if bounds in ("*", "?"):
            first, last = low, high if high != 7 else 6
        else:
            start, dash, end = bounds.partition("-")
            first = _number(start, names, low)
            last = _number(end, names, low) if dash else (high if slash else first)
        if not low <= first <= last <= high:
            raise ValueError(f"{part!r} is not within {low}-{high}")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, names: list[str] | None, low: int) -> int:
    lowered = text.lower()
    return names.index(lowered) + low if names and lowered in names else int(text)
