"""Times and durations between JSON and protobuf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.wire.kubeproto_values import (
    duration_nanos,
    duration_text,
    time_parts,
    time_text,
)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (2_000_000, "2ms"),
        (1_000_000_000, "1s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_600_500_000_000, "1h0m0.5s"),
        (-5_000_000_000, "-5s"),
    ],
)
def test_durations_print_as_go_prints_them(nanos: int, text: str) -> None:
    assert duration_text(nanos) == text
    assert duration_nanos(text) == nanos


@given(st.integers(-(2**62), 2**62))
def test_durations_survive_the_round_trip(nanos: int) -> None:
    assert duration_nanos(duration_text(nanos)) == nanos


@given(st.integers(-62135596800, 253402300799), st.integers(0, 999_999))
def test_times_survive_the_round_trip(seconds: int, micros: int) -> None:
    text = time_text(seconds, micros * 1000, micros=True)
    assert time_parts(text) == (seconds, micros * 1000)


def test_times_keep_their_zone_in_mind() -> None:
    assert time_parts("2026-01-02T03:04:05+02:00") == time_parts("2026-01-02T01:04:05Z")
    assert time_text(time_parts("2026-01-02T03:04:05Z")[0]) == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("text", ["", "5", "1x", "-", "s", "1h-1m", "." * 50, "9" * 99 + "s"])
def test_bad_durations_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError):
        duration_nanos(text)


@pytest.mark.parametrize("text", ["", "now", "2026-13-01T00:00:00Z", "2026-01-01", "0" * 40])
def test_bad_times_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError):
        time_parts(text)


def test_times_out_of_range_are_value_errors() -> None:
    for seconds in (1 << 62, -(1 << 62), 1 << 40):
        with pytest.raises(ValueError):
            time_text(seconds)
