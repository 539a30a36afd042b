"""When a schedule is next due.

Source: robfig/cron's six fields as Harbor uses them: second, minute, hour, day of the month, month,
day of the week; and its @hourly, @daily, @weekly, @monthly. Times are UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from underway.base.errors import BadRequest

_NAMED = {"@hourly": "0 0 * * * *", "@daily": "0 0 0 * * *", "@weekly": "0 0 0 * * 0",
          "@monthly": "0 0 0 1 * *"}  # fmt: skip
_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_WORDS = {word: number for numbers in (
    enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
              1),
    enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
) for number, word in numbers}  # fmt: skip
_HORIZON_DAYS = 366 * 5


def next_s(text: str, after_s: float) -> float:
    """The first moment after one that a schedule names, in seconds since 1970.

    Raises:
        BadRequest: it is no schedule, or names no moment.
    """
    seconds, minutes, hours, days, months, weekdays = _fields(text)
    weekdays = {day % 7 for day in weekdays}
    start = datetime.fromtimestamp(int(after_s) + 1, UTC)
    day = start.replace(hour=0, minute=0, second=0)
    free_days, free_weekdays = len(days) == 31, len(weekdays) == 7
    for _ in range(_HORIZON_DAYS):
        by_day, by_weekday = day.day in days, day.isoweekday() % 7 in weekdays
        # Where both are restricted, either will do, as in every cron.
        either = by_day or by_weekday
        fits = by_day and by_weekday if free_days or free_weekdays else either
        if day.month in months and fits:
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    for second in sorted(seconds):
                        found = day.replace(hour=hour, minute=minute, second=second)
                        if found >= start:
                            return found.timestamp()
        day += timedelta(days=1)
    raise BadRequest(f"the schedule {text!r} names no moment")


def check(text: str) -> None:
    """Raise BadRequest unless this is a schedule."""
    next_s(text, 0)


def _fields(text: str) -> list[set[int]]:
    parts = _NAMED.get(text.strip(), text).split()
    if len(parts) != 6:
        raise BadRequest(f"{text!r} is no schedule", hint="six fields, as 0 0 3 * * *")
    return [_field(part, *bounds) for part, bounds in zip(parts, _BOUNDS, strict=True)]


def _field(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        span, slash, step_text = part.partition("/")
        first, dash, last = span.partition("-")
        try:
            step = int(step_text) if slash else 1
            start = low if first in ("*", "?") else _number(first)
            end = _number(last) if dash else (high if slash or first in ("*", "?") else start)
        except ValueError as error:
            raise BadRequest(f"{part!r} is no field of a schedule") from error
        if step < 1 or not low <= start <= end <= high:
            raise BadRequest(f"{part!r} is out of range in a schedule: {low} to {high}")
        found.update(range(start, end + 1, step))
    return found


def _number(text: str) -> int:
    return _WORDS[text] if text in _WORDS else int(text)
