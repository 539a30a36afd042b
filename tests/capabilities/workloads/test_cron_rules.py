"""Cron schedules."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.capabilities.workloads.rules import cron

START = datetime(2026, 1, 1, 10, 7, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "following"),
    [
        ("* * * * *", "2026-01-01T10:08"),
        ("*/15 * * * *", "2026-01-01T10:15"),
        ("0 3 * * *", "2026-01-02T03:00"),
        ("30 9 * * mon-fri", "2026-01-02T09:30"),
        ("0 0 29 feb *", "2028-02-29T00:00"),
        ("0 0 13 * 5", "2026-01-02T00:00"),
        ("@monthly", "2026-02-01T00:00"),
        ("5-10/5 10,22 * * 0", "2026-01-04T10:05"),
        ("0 0 * * 7", "2026-01-04T00:00"),
    ],
)
def test_the_next_time(schedule, following):
    found = cron.parse(schedule).after(START)
    assert found == datetime.fromisoformat(following).replace(tzinfo=UTC)


def test_a_date_that_never_comes_has_no_next_time():
    assert cron.parse("0 0 30 2 *").after(START) is None


@pytest.mark.parametrize(
    "schedule", ["", "* * * *", "61 * * * *", "* * * * fri-mon", "*/0 * * * *"]
)
def test_what_is_no_schedule_is_refused_by_name(schedule):
    with pytest.raises(BadRequest, match="schedule"):
        cron.parse(schedule)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 59).map(lambda n: f"*/{n} * * * *"),
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001  # made aware below
)
def test_nothing_is_skipped_between_a_moment_and_the_next_time(schedule, moment):
    moment = moment.replace(tzinfo=UTC)
    parsed = cron.parse(schedule)
    found = parsed.after(moment)
    assert found is not None
    assert found > moment
    assert found.minute in parsed.minutes
    between = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
    while between < found:
        assert between.minute not in parsed.minutes
        between += timedelta(minutes=1)
